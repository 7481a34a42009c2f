"""The shape of a step: which of a batch's many sizes vary and matter."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.callbacks.seqpoint.leaves import Leaf, find_leaves, sizes_of

_NAMES = ("batch", "source", "target")
_LENGTHS = 2  # sizes kept beside the batch: a source and a target


class ShapeError(ValueError):
    """A batch whose shape cannot be told."""


@dataclass(frozen=True)
class Dim:
    """One size of one leaf of a batch.

    Args:
        path: the leaf's path in the batch.
        axis: which of its sizes.
        ndim: how many sizes the leaf has.
    """

    path: str
    axis: int
    ndim: int

    def __str__(self) -> str:
        return f"{self.path or 'batch'}.shape[{self.axis}]"


@dataclass(frozen=True)
class Columns:
    """The sizes that make up a step's shape.

    Args:
        names: their names, ``("batch", "source", "target")`` as far as they are there.
        indices: where each stands among the sizes that a reader gives.
        meaning: what each is in the batch, for people.
    """

    names: tuple[str, ...]
    indices: tuple[int, ...]
    meaning: tuple[str, ...]


class ShapeReader(Protocol):
    """Reads whole numbers off a batch, as many from every batch; afterwards says which of them are the shape."""

    def read(self, batch: Any, leaves: Mapping[str, Leaf]) -> tuple[int, ...]:
        """The sizes of one batch."""

    def choose(self, sizes: NDArray[np.int64]) -> Columns:
        """The columns of ``sizes``, (steps, sizes), that are the shape."""


class ShapeFinder:
    """Finds the shape of batches that it knows nothing about.

    Every size of every tensor is read from each batch (:meth:`read`); after an epoch, :meth:`choose` keeps those that
    matter: the batch size, and at most two lengths, those that vary and move the most elements. Sizes that always move
    together (a mask and its tokens, a target and its shifted copy) count once.

    Args:
        dims: the sizes to read, where they are known from before; else those of the first batch.

    Example:
        >>> import torch
        >>> finder = ShapeFinder()
        >>> batches = [{"features": torch.zeros(4, t, 40), "targets": torch.zeros(4, t // 3)} for t in (30, 50, 61)]
        >>> sizes = [finder.read(batch, find_leaves(batch)) for batch in batches]
        >>> finder.choose(np.array(sizes)).meaning
        ('features.shape[0]', 'features.shape[1]', 'targets.shape[1]')
    """

    def __init__(self, dims: tuple[Dim, ...] = ()) -> None:
        self.dims = dims
        self._ndims = {dim.path: dim.ndim for dim in dims}

    def read(self, batch: Any, leaves: Mapping[str, Leaf]) -> tuple[int, ...]:
        """All sizes of a batch, those of the first batch's leaves in their order; a leaf that is missing counts 0.

        Raises:
            ShapeError: the batch holds no tensor of the first one's, or one of another number of dimensions.
        """
        if not self.dims:
            self.dims = tuple(
                Dim(path, axis, len(sizes))
                for path, sizes in ((path, sizes_of(leaf)) for path, leaf in leaves.items())
                for axis in range(len(sizes))
            )
            self._ndims = {dim.path: dim.ndim for dim in self.dims}
        found: list[int] = []
        missing = 0
        for path, ndim in self._ndims.items():
            leaf = leaves.get(path)
            if leaf is None:
                missing += 1
                found.extend([0] * ndim)
                continue
            sizes = sizes_of(leaf)
            if len(sizes) != ndim:
                raise ShapeError(
                    f"the batch's {path!r} has {len(sizes)} sizes, {sizes}, where the first batch's had {ndim}; "
                    "pass shape_fn=, a function from the batch to (batch, source length, target length)"
                )
            found.extend(sizes)
        if missing == len(self._ndims):
            raise ShapeError(
                f"no tensor to read a shape from in a batch of type {type(batch).__name__}; "
                "pass shape_fn=, a function from the batch to (batch, source length, target length)"
            )
        return tuple(found)

    def choose(self, sizes: NDArray[np.int64]) -> Columns:
        """Keep the batch size and at most two lengths.

        Args:
            sizes: (steps, sizes) as :meth:`read` gave them, at least one step.
        """
        moves = sizes - sizes[0]
        varies = moves.any(axis=0)
        batch = self._batch(sizes)
        groups: dict[bytes, list[int]] = {}
        for i in range(len(self.dims)):
            series = moves[:, i] if varies[i] else sizes[:, i]
            alike = moves[:, batch] if varies[i] else sizes[:, batch]
            if not np.array_equal(series, alike):  # what equals the batch size, or moves as it does, says nothing more
                groups.setdefault(series.tobytes(), []).append(i)
        if varies[[group[0] for group in groups.values()]].any():
            elements = self._elements(sizes)
            lengths = [group for group in groups.values() if varies[group[0]]]
            lengths.sort(key=lambda group: max((elements[i], _is_length(self.dims[i])) for i in group), reverse=True)
        else:
            lengths = [group for group in groups.values() if any(_is_length(self.dims[i]) for i in group)]
        indices = (batch, *sorted(group[0] for group in lengths[:_LENGTHS]))
        return Columns(_NAMES[: len(indices)], indices, tuple(str(self.dims[i]) for i in indices))

    def _batch(self, sizes: NDArray[np.int64]) -> int:
        """The size that most leaves share as their first, or second where batches come time first."""
        groups: dict[bytes, list[int]] = {}
        for i, dim in enumerate(self.dims):
            if dim.axis <= 1:
                groups.setdefault(sizes[:, i].tobytes(), []).append(i)
        shared = [
            (len({self.dims[i].path for i in group}), -min(self.dims[i].axis for i in group), group[0])
            for group in groups.values()
        ]
        return max(shared, key=lambda entry: (entry[0], entry[1], -entry[2]))[2]

    def _elements(self, sizes: NDArray[np.int64]) -> list[float]:
        by_path = {
            path: float(np.prod(sizes[:, [i for i, dim in enumerate(self.dims) if dim.path == path]], axis=1).mean())
            for path in self._ndims
        }
        return [by_path[dim.path] for dim in self.dims]


class UserShape:
    """Reads shapes with the user's ``shape_fn`` and holds it to whole numbers, as many from every batch.

    Args:
        shape_fn: from a batch to ``(batch size, source length[, target length, ...])``, or to one length alone.

    Example:
        >>> UserShape(lambda batch: (len(batch), max(map(len, batch)))).read(["one", "three"], {})
        (2, 5)
    """

    def __init__(self, shape_fn: Callable[[Any], int | Sequence[int]]) -> None:
        self.shape_fn = shape_fn
        self._arity: int | None = None

    def read(self, batch: Any, leaves: Mapping[str, Leaf]) -> tuple[int, ...]:
        """What ``shape_fn`` says of the batch.

        Raises:
            ShapeError: it raised, or gave something other than whole numbers ≥ 0, as many as the first time.
        """
        try:
            got = self.shape_fn(batch)
        except Exception as error:
            raise ShapeError(
                f"shape_fn raised {error!r} on a batch of type {type(batch).__name__}; it gets every training batch "
                "as the training step does, and must return (batch, source length[, target length])"
            ) from error
        shape = _whole_numbers(got)
        if self._arity is None:
            self._arity = len(shape)
        if len(shape) != self._arity:
            raise ShapeError(
                f"shape_fn returned {len(shape)} numbers, {got!r}, where it returned {self._arity} before; "
                "it must return as many for every batch"
            )
        return shape

    def choose(self, sizes: NDArray[np.int64]) -> Columns:
        """All of them: the first is the batch size, the others are lengths; one alone is a length."""
        count = sizes.shape[1]
        names = ("source",) if count == 1 else (*_NAMES[:count], *(f"length_{i}" for i in range(3, count)))
        return Columns(names, tuple(range(count)), tuple(f"shape_fn[{i}]" for i in range(count)))


def find_shape(batch: Any) -> tuple[int, ...]:
    """The shape of one batch on its own: its batch size and at most two lengths.

    What varies can only be told from several batches, so that :class:`ShapeFinder` does better during training. From
    one batch the convention decides: (batch, length, ...) for two and three dimensions, and the last two dimensions,
    height and width, for four and more.

    Raises:
        ShapeError: the batch holds no tensor.

    Example:
        >>> import torch
        >>> find_shape({"source": torch.zeros(32, 17), "target": torch.zeros(32, 21), "lengths": torch.zeros(32)})
        (32, 17, 21)
        >>> find_shape((torch.zeros(8, 3, 224, 192), torch.zeros(8)))
        (8, 224, 192)
    """
    finder = ShapeFinder()
    sizes = finder.read(batch, find_leaves(batch))
    return tuple(sizes[i] for i in finder.choose(np.array([sizes], dtype=np.int64)).indices)


def _is_length(dim: Dim) -> bool:
    return dim.axis == 1 if dim.ndim <= 3 else dim.axis >= dim.ndim - 2


def _whole_numbers(got: object) -> tuple[int, ...]:
    if isinstance(got, Integral | np.ndarray):
        got = np.atleast_1d(np.asarray(got)).tolist()
    if isinstance(got, Tensor):
        raise ShapeError(
            f"shape_fn returned a tensor of shape {tuple(got.shape)}; reading its values would wait for the device at "
            "every step: return whole numbers that the host knows, such as batch.shape[1]"
        )
    if not isinstance(got, Sequence) or isinstance(got, str | bytes) or len(got) == 0:
        raise ShapeError(
            f"shape_fn returned {got!r}; it must return (batch, source length[, target length]) as whole numbers"
        )
    for number in got:
        if not isinstance(number, Integral) or number < 0:
            kind = "not a number" if isinstance(number, float) and math.isnan(number) else type(number).__name__
            raise ShapeError(
                f"shape_fn returned {got!r}, of which {number!r} ({kind}) is not a whole number ≥ 0; "
                "it must return (batch, source length[, target length])"
            )
    return tuple(int(number) for number in got)
