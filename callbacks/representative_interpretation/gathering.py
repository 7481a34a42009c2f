"""Images out of whatever holds them: read once, into one tensor, and nobody's random numbers are drawn for it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_WANTED = (
    "expected images as float tensors of one shape; give the data set a transform that makes them so, as for training, "
    "such as Compose([Resize((224, 224)), ToTensor()])"
)


def gather(source: Any, *, batch_size: int, seed: int) -> tuple[Any, Tensor | None]:
    """All images of a source and, if it has some for each image, their labels.

    Args:
        source: a tensor, a pair of tensors, a ``Dataset`` or a ``DataLoader``.
        batch_size: images of a data set that are put together at a time.
        seed: of a loader's random numbers.

    Raises:
        ValueError: no such thing, an empty one, or one whose images cannot be put together.

    Example:
        >>> images, labels = gather(DataLoader([(torch.ones(1, 2, 2), 7)] * 3), batch_size=2, seed=0)
        >>> images.shape, labels.tolist()
        (torch.Size([3, 1, 2, 2]), [7, 7, 7])
    """
    if isinstance(source, Tensor):
        return source, None
    if isinstance(source, tuple | list) and len(source) == 2 and all(isinstance(item, Tensor) for item in source):
        return source[0], source[1]
    if not isinstance(source, DataLoader):
        if not isinstance(source, Dataset):
            raise ValueError(
                f"got a reference of type {type(source).__name__}; expected a tensor of images, a Dataset or DataLoader"
            )
        source = DataLoader(source, batch_size=batch_size)
    gathered, labels, batches = _Gathered(_most(source)), [], 0
    with private_random(source, seed):
        for batch in _batches(source):
            pixels, truth = _images_and_labels(batch)
            gathered.add(pixels)
            batches += 1
            if truth is not None:
                labels.append(truth)
    if not batches:
        raise ValueError("got a loader without a batch; expected at least one image")
    return gathered.images(), torch.cat(labels) if len(labels) == batches else None


def _batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """What a loader gives; it cannot put pictures together, nor images of several sizes, and does not say what to do.

    Raises:
        ValueError: it could not be read.
    """
    try:
        yield from loader
    except (TypeError, RuntimeError) as error:  # from workers too, with their whole trace in the text
        said = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ValueError(f"the reference could not be read ({said}); {_WANTED}") from error


def _most(loader: DataLoader[Any]) -> int:
    """How many images a loader gives at most, as it says itself; 0 where it does not know."""
    try:
        return len(loader) * (loader.batch_size or 0)
    except TypeError:
        return 0


class _Gathered:
    """Batches put into one tensor as they come: kept in a list, all would be held twice in the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._whole: Tensor | None = None
        self._filled = 0
        self._more: list[Tensor] = []

    def add(self, pixels: Tensor) -> None:
        if self._whole is None:
            shape = (max(self._most, len(pixels)), *pixels.shape[1:])
            self._whole = torch.empty(shape, dtype=pixels.dtype, device=pixels.device)
        if (pixels.shape[1:], pixels.dtype) != (self._whole.shape[1:], self._whole.dtype):
            shapes = " and ".join(f"{one.dtype} {tuple(one.shape[1:])}" for one in (self._whole, pixels))
            raise ValueError(f"got images {shapes} from one loader; {_WANTED}")
        room = min(len(pixels), len(self._whole) - self._filled) if not self._more else 0
        self._whole[self._filled : self._filled + room] = pixels[:room]
        self._filled += room
        if room < len(pixels):
            self._more.append(pixels[room:])

    def images(self) -> Tensor:
        assert self._whole is not None
        filled = self._whole[: self._filled]
        return torch.cat([filled, *self._more]) if self._more else filled


def _images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise ValueError(
            f"got batches of type {type(first).__name__}; expected images or (images, labels, …) as tensors; wrap the "
            "data set in one that gives these"
        )
    second = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    classes = isinstance(second, Tensor) and second.shape == first.shape[:1] and not second.is_floating_point()
    return first, second if classes else None


@contextmanager
def private_random(loader: DataLoader[Any], seed: int) -> Iterator[None]:
    """While a loader is read, let it draw from ``seed``; afterwards every generator stands where it stood.

    Example:
        >>> before = torch.get_rng_state()
        >>> with private_random(DataLoader([1, 2, 3], shuffle=True), 0):
        ...     _ = torch.rand(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    generators = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    states = [(generator, generator.get_state()) for generator in generators.values()]
    own, numbers, default = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numbers)
        torch.set_rng_state(default)
        for generator, state in states:
            generator.set_state(state)
