"""Batches of variable-length samples: shuffled, bucketed by length or sorted, by count or by token budget."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DistributedSampler, Sampler

Batching = Literal["shuffle", "bucket", "sorted"]


class LengthBatchSampler(BatchSampler):
    """Cuts an epoch into batches of indices, knowing how long each sample is.

    ``"shuffle"`` mixes lengths; ``"bucket"`` puts samples of like length together, so that little is padded, and
    shuffles the batches; ``"sorted"`` leaves those in order, shortest first. Every sample comes once an epoch, and
    the number of batches is the same in every epoch.

    All randomness comes from ``sampler``: a ``RandomSampler`` draws one permutation from torch's global RNG, as in any
    ``DataLoader``, so a run resumed with that RNG state sees the same batches. A ``SequentialSampler`` gives the same
    batches every time. Where lengths decide what a batch holds (all but plain ``"shuffle"``), each place in a batch
    belongs to a length, and the permutation says which of the samples of that length takes it.

    Lightning rebuilds this object with a ``DistributedSampler`` when there are several ranks. The epoch is then cut
    into the same batches on every rank (from that sampler's seed and epoch), each rank takes its share, and all have
    the same number: where the batches do not divide, some are repeated, as ``DistributedSampler`` repeats samples.
    Under ``"bucket"`` and ``"sorted"`` the ranks' batches of one step are neighbours in length: no rank waits long.

    Args:
        sampler: the order of the samples; it must give every index of ``lengths`` once.
        batch_size: samples in a batch; the last may be smaller. Not used when ``max_tokens`` is given.
        drop_last: only ``False``; here because Lightning rebuilds batch samplers by this signature.
        lengths: (N,) or (N, C) lengths of each sample, e.g. of source and target; sorted by the first, then the next.
        batching: see above.
        max_tokens: the most tokens in a batch with its padding: count times the longest of any of the C lengths.

    Raises:
        ValueError: no samples, an unknown ``batching``, a sample that alone exceeds ``max_tokens``.

    Example:
        >>> from torch.utils.data import SequentialSampler
        >>> lengths = [5, 1, 4, 2]
        >>> list(LengthBatchSampler(SequentialSampler(lengths), 2, lengths=lengths, batching="sorted"))
        [[1, 3], [2, 0]]
    """

    def __init__(
        self,
        sampler: Sampler[int],
        batch_size: int,
        drop_last: bool = False,
        *,
        lengths: Sequence[int] | NDArray[np.int64],
        batching: Batching = "shuffle",
        max_tokens: int | None = None,
    ) -> None:
        check_batching(batch_size=batch_size, batching=batching, max_tokens=max_tokens)
        if drop_last:
            raise ValueError("got drop_last=True; every sample belongs to a batch here: leave drop_last out")
        super().__init__(sampler, batch_size, drop_last)
        self.lengths = _as_columns(lengths)
        self.batching = batching
        self.max_tokens = max_tokens
        count = len(self.lengths)
        self._slots: NDArray[np.int64] | None = None  # None: batches are cut from the sampler's order as it comes
        if batching != "shuffle":
            self._slots = np.lexsort(self.lengths.T[::-1]).astype(np.int64)
        elif max_tokens is not None:
            # One fixed order of lengths: if it changed, so would the number of batches, which Lightning asks only once.
            self._slots = np.random.default_rng(0).permutation(count)
        if max_tokens is None or self._slots is None:
            self._bounds = np.append(np.arange(0, count, batch_size), count)
        else:
            self._bounds = _budget_bounds(self.lengths, self._slots, max_tokens)

    def __len__(self) -> int:
        """Batches of an epoch on one rank."""
        return math.ceil((len(self._bounds) - 1) / self._ranks()[0])

    def __iter__(self) -> Iterator[list[int]]:
        """Draw the order of an epoch and give this rank's batches of it."""
        order = self._order()
        world, rank = self._ranks()
        filled = order if self._slots is None else self._fill(self._slots, order)
        for batch in self._share(order, world)[:, rank]:
            yield filled[self._bounds[batch] : self._bounds[batch + 1]].tolist()

    def _ranks(self) -> tuple[int, int]:
        sampler = self.sampler
        return (sampler.num_replicas, sampler.rank) if isinstance(sampler, DistributedSampler) else (1, 0)

    def _order(self) -> NDArray[np.int64]:
        """The epoch's order of all samples, the same on every rank."""
        sampler, count = self.sampler, len(self.lengths)
        if isinstance(sampler, DistributedSampler):
            if not sampler.shuffle:
                return np.arange(count)
            generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
            return torch.randperm(count, generator=generator).numpy()
        order = np.fromiter(sampler, dtype=np.int64)
        if not np.array_equal(np.sort(order), np.arange(count)):
            raise ValueError(
                f"{type(sampler).__name__} must give each of the {count} samples once; it gave {len(order)}"
            )
        return order

    def _fill(self, slots: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put samples into the slots of their own lengths, in the order in which they come."""
        kind = np.unique(self.lengths, axis=0, return_inverse=True)[1].reshape(-1)
        filled = np.empty_like(order)
        filled[np.argsort(kind[slots], kind="stable")] = order[np.argsort(kind[order], kind="stable")]
        return filled

    def _share(self, order: NDArray[np.int64], world: int) -> NDArray[np.int64]:
        """Number of the batch that each rank takes in each step: (steps, ranks)."""
        batches = len(self._bounds) - 1
        places = np.arange(math.ceil(batches / world) * world)
        # Neighbours stay together: what is repeated at the end is as long as the batch that it runs beside.
        table = (places % batches if self._slots is None else np.minimum(places, batches - 1)).reshape(-1, world)
        if self._slots is None or self.batching == "sorted":
            return table
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        # One sample stands for each step, whatever the step holds; its place in the epoch's order is uniform.
        return table[np.argsort(position[self._slots[self._bounds[table[:, 0]]]])]


def padded_shapes(
    batches: Iterable[Sequence[int]], lengths: Sequence[int] | NDArray[np.int64], *, padding: bool = True
) -> NDArray[np.int64]:
    """Shapes of batches, from lengths alone.

    Args:
        batches: the indices of each batch, as a batch sampler gives them.
        lengths: (N,) or (N, C) lengths of each sample.
        padding: ``False`` sums the lengths where ``True`` gives the longest: real tokens rather than padded width.

    Returns:
        (M, 1 + C): samples in each batch, then for each of the C lengths the longest (or, without padding, the sum).

    Example:
        >>> padded_shapes([[0, 2], [1]], [5, 1, 4]).tolist()
        [[2, 5], [1, 1]]
    """
    columns = _as_columns(lengths)
    listed = [np.asarray(batch, dtype=np.int64) for batch in batches]
    counts = np.array([len(batch) for batch in listed], dtype=np.int64)
    if not len(counts) or not counts.all():
        raise ValueError(
            f"got {len(counts)} batches, {int((counts == 0).sum())} of them empty; every batch needs a sample"
        )
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    reduce = np.maximum if padding else np.add
    return np.column_stack([counts, reduce.reduceat(columns[np.concatenate(listed)], starts, axis=0)])


def check_batching(*, batch_size: int, batching: str, max_tokens: int | None) -> None:
    """Raise ``ValueError`` for options that no sampler can follow.

    Example:
        >>> check_batching(batch_size=16, batching="bucket", max_tokens=None)
    """
    if batching not in get_args(Batching):
        raise ValueError(f"got batching={batching!r}; it is one of {', '.join(map(repr, get_args(Batching)))}")
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"got {name}={value!r}; it must be an integer of at least 1")


def _as_columns(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    array = np.asarray(lengths)
    if array.ndim not in (1, 2) or not array.size or array.dtype.kind not in "iu":
        raise ValueError(
            f"got lengths of shape {array.shape} and type {array.dtype}; want integers (N,) or (N, C), N of at least 1"
        )
    return array.astype(np.int64).reshape(len(array), -1)


def _budget_bounds(lengths: NDArray[np.int64], slots: NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """Cut ``slots`` greedily: a batch is closed when one more sample would take it over the budget."""
    longest = lengths.max(axis=1)
    worst = int(longest.argmax())
    if longest[worst] > max_tokens:
        raise ValueError(
            f"sample {worst} alone has {longest[worst]} tokens, more than max_tokens={max_tokens}; "
            "raise max_tokens or leave such samples out"
        )
    bounds, start, width = [0], 0, 0
    for place, length in enumerate(longest[slots].tolist()):
        width = max(width, length)
        if (place - start + 1) * width > max_tokens:
            bounds.append(place)
            start, width = place, length
    return np.array([*bounds, len(slots)], dtype=np.int64)
