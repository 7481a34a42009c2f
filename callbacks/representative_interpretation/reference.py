"""The images that an interpretation is found on: read once through the net, their feature maps kept where they fit."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.answers import answers
from fulgurite.callbacks.representative_interpretation.classifier import check_images
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow
from fulgurite.callbacks.representative_interpretation.gathering import gather
from fulgurite.callbacks.representative_interpretation.untouched import untouched
from fulgurite.callbacks.representative_interpretation.weights import Marks, fingerprint, marks

_ONE_AT_A_TIME = threading.RLock()
Source = tuple[nn.Module, Any, str]  # a model, what takes the logits out of its output, and the cut

MOST_BYTES = 256 * 2**20  # feature maps up to this size stay in memory; larger ones are computed again for each pass


class Reference:
    """Unlabelled images R, with what one net says of them.

    Of P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks",
    https://arxiv.org/abs/2108.06384: an interpretation of one image is the group of reference images that lie in one
    polytope with it. Interpreting many images over one ``Reference`` reads it through the net once.

    Args:
        images: (N, …) floating tensor; or a pair of it and labels (N,); or a ``Dataset`` or ``DataLoader`` of images or
            of (image, label, …). A loader is read once, and all images are held in memory; random numbers that it draws
            come from ``seed``, and no generator of anybody else advances.
        labels: (N,) true classes, whole numbers; only for what is reported, never for the method.
        batch_size: images that go through the net together.
        most_bytes: feature maps are kept if all of them take no more than this; else they are streamed: computed anew,
            batch by batch, in every pass.
        seed: of a loader's random numbers.

    Raises:
        ValueError: no images; not a floating tensor of two or more dimensions; a value that is not finite; labels of
            another number or that are no whole numbers.

    Attributes:
        cuts: what was measured of the net's cuts, where one was chosen automatically.
        warned: whether a warning about the cut was given since these images were read last.

    Shape:
        - images (N, …), labels (N,), logits (N, C), predicted (N,); all but the images on the CPU.

    Example:
        >>> reference = Reference(torch.zeros(10, 1, 4, 4), labels=torch.arange(10) % 2)
        >>> len(reference), reference.labels.tolist()[:3], reference.is_read
        (10, [0, 1, 0], False)
    """

    def __init__(
        self,
        images: Any,
        *,
        labels: Tensor | None = None,
        batch_size: int = 256,
        most_bytes: int = MOST_BYTES,
        seed: int = 0,
    ) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"got batch_size={batch_size!r}; expected a whole number from 1 on")
        pixels, found = gather(images, batch_size=batch_size, seed=seed)
        self.images = checked_images(pixels, "reference images")
        self.labels = checked_labels(found if labels is None else labels, len(self.images))
        self.batch_size = batch_size
        self.most_bytes = most_bytes
        self.cuts: tuple[CutRow, ...] = ()
        self.warned = False
        self._split: Split | None = None
        self._source: Source | None = None
        self._fingerprint = ""
        self._marks: Marks | None = None
        self._features: Tensor | None = None
        self._logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_read(self) -> bool:
        """Whether a net has said something of these images yet."""
        return self._logits is not None

    @property
    def streams(self) -> bool:
        """Whether feature maps are computed anew in every pass, as they would take too much memory."""
        return self.is_read and self._features is None

    @property
    def fingerprint(self) -> str:
        """Of the net and the cut that read these images last."""
        return self._fingerprint

    @property
    def logits(self) -> Tensor:
        """(N, C), of the net that read these images last; of one in half precision, its head's in full precision."""
        if self._logits is None:
            raise RuntimeError("no net has read this reference yet; call read(split) first")
        return self._logits

    @property
    def predicted(self) -> Tensor:
        """(N,) predicted classes."""
        return self.logits.argmax(dim=1)

    @property
    def counts(self) -> dict[int, int]:
        """How many images each predicted class has, by class."""
        return dict(sorted(Counter(self.predicted.tolist()).items()))

    def split_for(self, source: Source) -> Split | None:
        """The split of this source at which these images were read last; ``None`` if its weights have changed since."""
        if self._split is None or self._source is None:
            return None
        # By ==: a bound method is another object each time that it is looked up.
        same = self._source == source and fingerprint(self._split) == self._fingerprint
        return self._split if same else None

    def read(self, split: Split, *, source: Source | None = None) -> None:
        """Send all images through the net, unless this very split has done so.

        Of another cut of the same net the logits are known already, and only feature maps that are kept are computed.

        Args:
            split: of the net; its weights are those that it was made with.
            source: what it was made from, for :meth:`split_for`.

        Raises:
            ValueError: logits that are not finite; which images have them.
        """
        if self._split is split:
            self._source = source or self._source
            return
        known, weights = self._logits if self._answered_by(split) else None, marks(split.model)
        self._split, self._source, self._features, self._logits, self.warned = None, None, None, None, False
        one = split.features(self.images[:1])
        fits = one.numel() * one.element_size() * len(self) <= self.most_bytes
        kept = one.new_empty((len(self), *one.shape[1:])) if fits else None
        logits = known
        for part in self._parts() if fits or known is None else ():
            if known is None:
                features, scores = answers(split, self.images[part], what="reference images", first=part.start)
                if logits is None:
                    logits = scores.new_empty((len(self), scores.shape[1]), device="cpu")
                logits[part] = scores.cpu()
            else:
                features = split.features(self.images[part])
            if kept is not None:
                kept[part] = features
        self._split, self._source, self._fingerprint, self._marks = split, source, fingerprint(split), weights
        self._features, self._logits = kept, logits

    def features(self, split: Split) -> Iterator[tuple[slice, Tensor]]:
        """Go through the feature maps ψ in batches: which images they belong to, and (B, K, H, W)."""
        self.read(split)
        for part in self._parts():
            kept = self._features
            yield part, split.features(self.images[part]) if kept is None else kept[part]

    def take(self, split: Split, index: Tensor) -> Tensor:
        """Feature maps (M, K, H, W) of the images at ``index`` (M,)."""
        self.read(split)
        if self._features is not None:
            return self._features[index.to(self._features.device)]
        images = self.images[index.to(self.images.device)]
        return torch.cat([split.features(part) for part in images.split(self.batch_size)])

    def _answered_by(self, split: Split) -> bool:
        """Whether the logits that are known are those of this split's net, whose cut does not matter then."""
        if self._split is None or self._split.model is not split.model or self._split.logits_of != split.logits_of:
            return False
        # In half precision the head behind the cut has the last word.
        full = all(weight.element_size() > 2 for weight in split.model.parameters() if weight.is_floating_point())
        return full and self._marks == marks(split.model)

    def _parts(self) -> Iterator[slice]:
        for start in range(0, len(self), self.batch_size):
            yield slice(start, min(start + self.batch_size, len(self)))

    def __repr__(self) -> str:
        return f"Reference({len(self)} images {tuple(self.images.shape[1:])}, read={self.is_read})"


def as_reference(
    images: Any, *, labels: Tensor | None, batch_size: int, seed: int, most_bytes: int = MOST_BYTES
) -> Reference:
    """A reference as it is, or one made of images.

    Raises:
        ValueError: labels beside a reference, which has its own.

    Example:
        >>> len(as_reference(torch.zeros(3, 1, 2, 2), labels=None, batch_size=8, seed=0))
        3
    """
    if not isinstance(images, Reference):
        return Reference(images, labels=labels, batch_size=batch_size, most_bytes=most_bytes, seed=seed)
    if labels is not None:
        raise ValueError("got labels beside a Reference; expected them in it: Reference(images, labels=labels)")
    return images


@contextmanager
def looking_into(model: nn.Module) -> Iterator[None]:
    """Leave the model untouched, and let one thread at a time look: two would restore each other's changes.

    Raises:
        ValueError: it is no module, or a scripted one.

    Example:
        >>> model = nn.Dropout()
        >>> with looking_into(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"got a model of type {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("got a scripted model, which has no modules to cut at; expected the one that it was made from")
    with _ONE_AT_A_TIME, untouched(model):
        yield


def at_home(images: Tensor, model: nn.Module) -> Tensor:
    """The images where the model's weights are, in their precision.

    Example:
        >>> at_home(torch.zeros(1, 2), torch.nn.Linear(2, 2).double()).dtype
        torch.float64
    """
    weight = next((weight for weight in model.parameters() if weight.is_floating_point()), None)
    return images if weight is None else images.to(weight.device, weight.dtype)


def checked_images(images: Any, what: str) -> Tensor:
    """The images as an ordinary tensor that carries no gradient.

    Raises:
        ValueError: not a floating tensor (N, …), none of them, or a value that is not finite.

    Example:
        >>> checked_images(torch.zeros(3, 8, 8, requires_grad=True), "images").requires_grad
        False
    """
    check_images(images, what)
    with torch.inference_mode(False):  # tensors made in inference mode cannot take part in a gradient
        return images.clone() if images.is_inference() else images.detach()


def checked_labels(labels: Tensor | None, images: int) -> Tensor | None:
    """True classes as int64 on the CPU; ``None`` stays.

    Raises:
        ValueError: not a whole number for each image.

    Example:
        >>> checked_labels(torch.tensor([1, 0], dtype=torch.uint8), 2)
        tensor([1, 0])
    """
    if labels is None:
        return None
    labels = torch.as_tensor(labels)
    if labels.shape != (images,) or labels.is_floating_point():
        raise ValueError(
            f"got labels {tuple(labels.shape)} of {labels.dtype} for {images} images; expected a whole number for each"
        )
    return labels.detach().clone().long().cpu()
