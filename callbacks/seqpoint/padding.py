"""How many of a batch's tokens are real, counted without waiting for the device."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.callbacks.seqpoint.leaves import Leaf, sizes_of, tokens_of

_BLOCK = 1024  # counts kept on a device are fetched this many at a time, at the end of the epoch

_HOST = frozenset({"cpu"})  # devices whose values are read without waiting

UNKNOWN = -1


class PaddingCounter:
    """Counts real and padded tokens of the batches of an epoch.

    What tells them apart is looked for in the first batch: a packed or nested sequence (no padding at all), a vector of
    lengths (a name with ``len`` in it, beside a padded tensor), or a mask (a name with ``mask`` in it; one with ``pad``
    too marks the padding rather than the tokens). Where several inputs have lengths, the first one counts: frames and
    characters do not add up. Counts on a device stay there until :meth:`finish`.

    Example:
        >>> counter = PaddingCounter()
        >>> counter.count({"source": torch.ones(2, 5), "source_lengths": torch.tensor([5, 3])})
        >>> [column.tolist() for column in counter.finish()]
        [[8], [10]]
    """

    def __init__(self) -> None:
        self._source: tuple[str, str] | None = (
            None  # what says how many tokens are real, and the tensor that it is about
        )
        self._axis = 1
        self._chosen = False
        self._real: list[int] = []
        self._padded: list[int] = []
        self._blocks: list[Tensor] = []
        self._on_device: list[int] = []  # the steps whose counts lie in the blocks

    def count(self, leaves: Mapping[str, Leaf]) -> None:
        """Count one batch, given by its leaves (see :func:`~fulgurite.callbacks.seqpoint.leaves.find_leaves`)."""
        if not self._chosen:
            self._choose(leaves)
        real = padded = UNKNOWN
        if self._source is not None:
            told, about = self._source
            teller, tensor = leaves.get(told), leaves.get(about)
            if isinstance(teller, Tensor) and not teller.is_nested and isinstance(tensor, Tensor | np.ndarray):
                padded = teller.numel() if told == about else teller.numel() * tensor.shape[self._axis]
                real = self._sum(teller)
            elif teller is not None and (tokens := tokens_of(teller)) is not None:
                real = padded = tokens
        self._real.append(real)
        self._padded.append(padded)

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Real and padded tokens of every batch counted, -1 where unknown. Waits for the device, once."""
        real, padded = np.array(self._real, dtype=np.int64), np.array(self._padded, dtype=np.int64)
        if self._on_device:
            fetched = torch.cat(self._blocks).cpu().numpy()[: len(self._on_device)]
            real[self._on_device] = fetched
        if self._source is not None and "mask" in self._name() and "pad" in self._name():
            real = np.where(real == UNKNOWN, UNKNOWN, padded - real)
        if (real > padded).any() or (real < UNKNOWN).any():
            # More tokens than places: what looked like lengths was something else.
            real[:] = padded[:] = UNKNOWN
        return real, padded

    def _name(self) -> str:
        return "" if self._source is None else _last(self._source[0])

    def _choose(self, leaves: Mapping[str, Leaf]) -> None:
        self._chosen = True
        sequences = [path for path, leaf in leaves.items() if len(sizes_of(leaf)) > 1]
        if sequences and tokens_of(leaves[sequences[0]]) is not None:
            self._source = (sequences[0], sequences[0])
            return
        for path, leaf in leaves.items():
            if not isinstance(leaf, Tensor) or leaf.is_nested or leaf.is_floating_point() or leaf.is_complex():
                continue
            name = _last(path)
            if "mask" in name and leaf.ndim == 2:
                self._source = (path, path)
                return
            if (
                "len" in name
                and leaf.ndim == 1
                and leaf.dtype != torch.bool
                and self._pair(path, leaf, sequences, leaves)
            ):
                return

    def _pair(self, path: str, lengths: Tensor, sequences: list[str], leaves: Mapping[str, Leaf]) -> bool:
        """Find the tensor that the lengths are about: the best match by name, long enough along one of its axes."""
        longest = int(lengths.max()) if lengths.numel() else 0  # one wait, in the first batch only
        for about in sorted(sequences, key=lambda other: -_common(path, other)):
            sizes = sizes_of(leaves[about])
            if isinstance(leaves[about], list) or len(lengths) not in sizes:
                continue
            batch = sizes.index(len(lengths))
            axes = [axis for axis, size in enumerate(sizes) if axis != batch and size >= longest]
            if axes:
                # The axis that is exactly as long as the longest; where padded to a multiple, the tightest.
                self._source, self._axis = (path, about), min(axes, key=lambda axis: (sizes[axis] - longest, axis))
                return True
        return False

    def _sum(self, teller: Tensor) -> int:
        if teller.device.type in _HOST:
            return int(teller.sum())
        place = len(self._on_device) % _BLOCK
        if place == 0:
            self._blocks.append(torch.zeros(_BLOCK, dtype=torch.int64, device=teller.device))
        torch.sum(teller, dim=tuple(range(teller.ndim)), dtype=torch.int64, out=self._blocks[-1][place])
        self._on_device.append(len(self._real))
        return UNKNOWN


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1].lower()


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
