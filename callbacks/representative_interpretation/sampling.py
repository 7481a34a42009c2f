"""The images that the callback looks at: a fair sample of the batches that pass by, with random numbers of its own."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IMAGES = ("image", "images", "pixel_values", "img", "input", "inputs", "x", "data")
_LABELS = ("label", "labels", "target", "targets", "y", "class")


@dataclass(frozen=True, eq=False)
class Sample:
    """Images that were drawn, in the order in which they came.

    Attributes:
        images: (N, …) as the module got them, on the CPU.
        labels: (N,) true classes, or ``None`` where the batches have none.
        seen: how many images passed by.
    """

    images: Tensor
    labels: Tensor | None
    seen: int

    def __len__(self) -> int:
        return len(self.images)

    def part(self, index: Tensor) -> "Sample":
        """The images with these indices."""
        with torch.inference_mode(False):  # tensors of inference mode cannot take part in a gradient later
            return Sample(self.images[index], None if self.labels is None else self.labels[index], self.seen)

    def split(self, first: int, *, seed: int) -> tuple["Sample", "Sample"]:
        """Two samples: ``first`` images drawn at random, and the rest; order is kept in both.

        Example:
            >>> sample = Sample(torch.arange(10.0)[:, None], None, 10)
            >>> [len(part) for part in sample.split(7, seed=0)]
            [7, 3]
        """
        order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(self)))
        return self.part(order[:first].sort().values), self.part(order[first:].sort().values)

    def fingerprint(self) -> str:
        """A hash of the images: indices into two samples mean the same only where it is the same."""
        digest = hashlib.sha256(str((tuple(self.images.shape), self.images.dtype)).encode())
        digest.update(self.images.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


class Reservoir:
    """A uniform sample, without replacement, of images that come batch by batch.

    Each image draws a random key when it passes; those with the largest keys stay. So a set that is sorted by class is
    sampled evenly, nobody's loader is read a second time, and no global random number is used. Only images that stay
    are copied.

    Args:
        size: how many images to keep; all, where fewer come.
        seed: of the private random numbers.

    Example:
        >>> reservoir = Reservoir(4, seed=0)
        >>> for start in range(0, 100, 10):
        ...     reservoir.offer(torch.arange(start, start + 10.0).reshape(10, 1, 1, 1), torch.arange(start, start + 10))
        >>> sample = reservoir.sample()
        >>> tuple(sample.images.shape), sample.seen, bool((sample.images.flatten() == sample.labels).all())
        ((4, 1, 1, 1), 100, True)
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self.size = size
        self._random = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self._places = np.empty(0, dtype=np.int64)  # the how-manieth image of all lies in each slot
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        self._labelled = True
        self.seen = 0

    def offer(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Take what the sample wants of a batch.

        Args:
            images: (B, …).
            labels: (B,) true classes, or ``None``.

        Raises:
            ValueError: the images are of another size than those before.
        """
        if self._images is not None and images.shape[1:] != self._images.shape[1:]:
            raise ValueError(
                f"got images of shape {tuple(images.shape[1:])} after {tuple(self._images.shape[1:])}; expected one "
                "size: resize them in the data set, or pass images_fn"
            )
        if not len(images):
            return
        keys = self._random.random(len(images))
        everything = np.concatenate([self._keys, keys])
        kept = np.sort(np.argsort(-everything, kind="stable")[: self.size])
        old = len(self._keys)
        chosen = kept[kept >= old] - old
        free = np.setdiff1d(np.arange(old), kept)
        slots = np.concatenate([free, np.arange(old, old + len(chosen) - len(free))]).astype(np.int64)
        self._labelled &= labels is not None
        self._make_room(images, len(kept))
        assert self._images is not None
        assert self._labels is not None
        rows = torch.from_numpy(chosen)
        self._images[slots] = images.detach()[rows.to(images.device)].to("cpu", self._images.dtype)
        if labels is not None:
            self._labels[slots] = labels.detach()[rows.to(labels.device)].to("cpu", torch.int64)
        self._keys = np.concatenate([self._keys, np.empty(len(kept) - old)])
        self._places = np.concatenate([self._places, np.empty(len(kept) - old, dtype=np.int64)])
        self._keys[slots] = keys[chosen]
        self._places[slots] = self.seen + chosen
        self.seen += len(images)

    def sample(self) -> Sample | None:
        """What is kept so far, in the order in which it came; ``None`` before the first image."""
        if self._images is None or not len(self._keys):
            return None
        order = torch.from_numpy(np.argsort(self._places))
        return Sample(self._images, self._labels if self._labelled else None, self.seen).part(order)

    def _make_room(self, images: Tensor, rows: int) -> None:
        have = 0 if self._images is None else len(self._images)
        if rows <= have:
            return
        # Ordinary tensors, not inference ones, which could not be used for gradients or be written to later.
        with torch.inference_mode(False):
            grown = torch.empty(min(self.size, max(rows, 2 * have)), *images.shape[1:], dtype=images.dtype)
            labels = torch.zeros(len(grown), dtype=torch.int64)
            if self._images is not None and self._labels is not None:
                grown[:have], labels[:have] = self._images, self._labels
        self._images, self._labels = grown, labels


def read_batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Images and true classes of a batch, as they lie in the usual kinds of batch.

    A tensor; a tuple or list whose first part is the images and whose second, if it is whole numbers of shape (B,), the
    labels; a mapping with names such as ``image`` and ``label``.

    Args:
        batch: as the module's step gets it.

    Raises:
        ValueError: no floating-point images (B, …) of two or more dimensions can be found.

    Example:
        >>> images, labels = read_batch({"image": torch.zeros(2, 3, 8, 8), "label": torch.tensor([0, 1])})
        >>> tuple(images.shape), labels.tolist()
        ((2, 3, 8, 8), [0, 1])
    """
    images, labels = batch, None
    if isinstance(batch, Mapping):
        images = next((batch[name] for name in _IMAGES if name in batch), None)
        labels = next((batch[name] for name in _LABELS if name in batch), None)
        what = f"a mapping with {', '.join(map(str, batch)) or 'nothing'}"
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        images = batch[0] if len(batch) else None
        labels = batch[1] if len(batch) > 1 else None
        what = f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch) or 'nothing'}"
    else:
        what = f"a {type(batch).__name__}"
    return check_images(images, labels, what)


def check_images(images: Any, labels: Any, what: str) -> tuple[Tensor, Tensor | None]:
    """Images and labels, if they are some; labels of another form than (B,) whole numbers count as none.

    Args:
        images: what should be (B, …) floating point.
        labels: what should be (B,) whole numbers.
        what: where they come from, for the error.

    Raises:
        ValueError: the images are none.

    Example:
        >>> check_images(torch.zeros(2, 1, 4, 4), torch.ones(2, 10), "a batch")[1] is None
        True
    """
    if not isinstance(images, Tensor) or images.ndim < 2 or not images.is_floating_point():
        got = f"{tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"got {got} as images from {what}; expected floating-point images (B, …): pass images_fn, from a batch to "
            "its images, or to (images, labels)"
        )
    good = (
        isinstance(labels, Tensor)
        and labels.shape == images.shape[:1]
        and not labels.is_floating_point()
        and not labels.is_complex()
        and labels.dtype != torch.bool
    )
    return images, labels if good else None
