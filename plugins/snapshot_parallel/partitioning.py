"""Who owns what: contiguous runs of snapshots of equal cost, ranges of vertices, blocks of the timeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

Balance = Literal["nnz", "nnz+nodes"]
Range = tuple[int, int]


def snapshot_costs(timeline: TimelineLike, balance: Balance = "nnz") -> npt.NDArray[np.int64]:
    """What a snapshot costs in the spatial phase, by which runs of snapshots are balanced.

    Args:
        timeline: T snapshots over N vertices.
        balance: ``"nnz"`` counts the non-zeros of the windowed adjacency, ``"nnz+nodes"`` adds N for what is done once
            per vertex.

    Returns:
        (T,) int64.
    """
    from fulgurite.plugins.snapshot_parallel.events import windowed_nnz

    costs = np.asarray(windowed_nnz(timeline), dtype=np.int64)
    return costs + timeline.num_nodes if balance == "nnz+nodes" else costs


def balance(costs: npt.ArrayLike, parts: int) -> tuple[int, ...]:
    """Cut a row of costs into contiguous runs so that the dearest run costs as little as possible.

    The minimum is exact, found by bisection on the dearest run's cost. Of the cuts that reach it one is taken in which
    no boundary can move so that the two runs beside it differ less, in cost and then in length. A run is empty only
    where there are fewer costs than parts: the last ones then.

    Args:
        costs: (T,) whole numbers ≥ 0.
        parts: how many runs.

    Returns:
        ``parts + 1`` boundaries, from 0 to T.

    Raises:
        ValueError: a negative or fractional cost, or no part.

    Example:
        >>> balance([5, 1, 1, 1, 4], 3)
        (0, 1, 4, 5)
        >>> balance([7, 7], 3)
        (0, 1, 2, 2)
    """
    values = np.asarray(costs)
    if values.ndim != 1 or (values.size and (values.dtype.kind not in "iu" or values.min() < 0)):
        raise ValueError(f"got costs of shape {values.shape} and type {values.dtype}; expected (T,) whole numbers ≥ 0")
    if parts < 1:
        raise ValueError(f"got {parts} parts; expected 1 or more")
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    steps = len(values)
    cap = _least_cap(total, parts)
    needed = _runs_needed(total, cap)
    bounds = [0]
    for left in range(parts, 1, -1):
        start = bounds[-1]
        # The run may end anywhere in [low, high]: its cost is within the cap, the rest fits into the runs left, and
        # every one of those gets a snapshot if there are enough.
        low = max(min(start + 1, steps), start + int(np.argmax(needed[start:] <= left - 1)))
        high = int(np.searchsorted(total, total[start] + cap, side="right")) - 1
        high = max(low, min(high, steps - (left - 1)))
        ends = np.arange(low, high + 1)
        # Nearest to the mean of what is left; times `left` to stay in whole numbers.
        cost_off = np.abs((total[ends] - total[start]) * left - (total[-1] - total[start]))
        bounds.append(int(ends[np.argmin(cost_off)]))
    return tuple(_evened(total, [*bounds, steps]))


def _evened(total: npt.NDArray[np.int64], bounds: list[int]) -> list[int]:
    """Move boundaries between their neighbours until none moves; no run becomes dearer than the dearer of its two."""
    moved = True
    while moved:
        moved = False
        for place in range(1, len(bounds) - 1):
            low, high = bounds[place - 1], bounds[place + 1]
            ends = np.arange(low + 1, high)
            if not len(ends):
                continue
            cost_off = np.abs(2 * total[ends] - total[low] - total[high])
            length_off = np.abs(2 * ends - low - high)
            best = int(ends[np.lexsort((-ends, length_off, cost_off))[0]])
            moved = moved or best != bounds[place]
            bounds[place] = best
    return bounds


def _least_cap(total: npt.NDArray[np.int64], parts: int) -> int:
    low = max(int(np.diff(total).max(initial=0)), -(-int(total[-1]) // parts))
    high = int(total[-1])
    while low < high:
        middle = (low + high) // 2
        if _fits(total, parts, middle):
            high = middle
        else:
            low = middle + 1
    return low


def _fits(total: npt.NDArray[np.int64], parts: int, cap: int) -> bool:
    end = 0
    for _ in range(parts):
        end = int(np.searchsorted(total, total[end] + cap, side="right")) - 1
        if end == len(total) - 1:
            return True
    return False


def _runs_needed(total: npt.NDArray[np.int64], cap: int) -> npt.NDArray[np.int64]:
    """How many runs within the cap hold everything from each position on; it never grows with the position."""
    needed = np.zeros(len(total), dtype=np.int64)
    ends = np.searchsorted(total, total + cap, side="right") - 1
    for start in range(len(total) - 2, -1, -1):
        needed[start] = 1 + needed[ends[start]]
    return needed


@dataclass(frozen=True)
class Split:
    """One block of the timeline: which snapshots and which vertices each rank owns.

    Attributes:
        steps: per rank the snapshots [start, stop) it owns in the spatial phase, in the timeline's numbering;
            contiguous, in rank order, possibly empty.
        vertices: per rank the vertices [start, stop) it owns in the temporal phase; the same in every block.
        earlier: ``steps`` of the blocks before this one, oldest first: who keeps which past frames.

    Example:
        >>> split = Split(steps=((0, 3), (3, 4)), vertices=((0, 5), (5, 10)))
        >>> split.num_steps, split.num_vertices, split.bytes_to_vertices(0, features=6, itemsize=4)
        (4, 10, 360)
    """

    steps: tuple[Range, ...]
    vertices: tuple[Range, ...]
    earlier: tuple[tuple[Range, ...], ...] = ()

    @property
    def ranks(self) -> int:
        """P."""
        return len(self.steps)

    @property
    def start(self) -> int:
        """The block's first snapshot."""
        return self.steps[0][0]

    @property
    def stop(self) -> int:
        """The snapshot after the block's last."""
        return self.steps[-1][1]

    @property
    def num_steps(self) -> int:
        """T_b, snapshots of the block."""
        return self.stop - self.start

    @property
    def num_vertices(self) -> int:
        """N."""
        return self.vertices[-1][1]

    @property
    def steps_each(self) -> tuple[int, ...]:
        """t_p of every rank."""
        return tuple(stop - start for start, stop in self.steps)

    @property
    def vertices_each(self) -> tuple[int, ...]:
        """n_p of every rank."""
        return tuple(stop - start for start, stop in self.vertices)

    def bytes_to_vertices(self, rank: int, features: int, itemsize: int) -> int:
        r"""Bytes that a rank sends on the way to vertex shards, :math:`t_p (N - n_p) F s`.

        Args:
            rank: the sender p.
            features: F.
            itemsize: s, bytes of an element on the wire.
        """
        return self.steps_each[rank] * (self.num_vertices - self.vertices_each[rank]) * features * itemsize

    def bytes_to_snapshots(self, rank: int, features: int, itemsize: int) -> int:
        r"""Bytes that a rank sends on the way back to snapshots: :math:`n_p (T_b - t_p) F s`.

        Args:
            rank: the sender p.
            features: F.
            itemsize: s, bytes of an element on the wire.
        """
        return self.vertices_each[rank] * (self.num_steps - self.steps_each[rank]) * features * itemsize


@dataclass(frozen=True)
class Partition:
    """A timeline cut into blocks and each block over the ranks.

    Attributes:
        blocks: in time order; together they hold every snapshot once.
        num_snapshots: T.
        num_nodes: N.
        known: answers about it that take long to find, and are asked for in every layer.
    """

    blocks: tuple[Split, ...]
    num_snapshots: int
    num_nodes: int
    known: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def ranks(self) -> int:
        """P."""
        return self.blocks[0].ranks

    def owned(self, rank: int) -> tuple[int, ...]:
        """The snapshots that a rank owns over all blocks, in time order."""
        return tuple(step for split in self.blocks for step in range(*split.steps[rank]))

    def max_over_mean(self, costs: npt.ArrayLike) -> float:
        """How much longer the spatial phase takes than if all ranks had the same cost; 1.0 is perfect.

        Ranks wait for each other in every block: the sum over blocks of the dearest rank's cost, over the mean rank's
        whole cost. With one block that is the usual max/mean.

        Args:
            costs: (T,), as for :func:`partition`.
        """
        values = np.asarray(costs)
        dearest = sum(max(int(values[slice(*run)].sum()) for run in split.steps) for split in self.blocks)
        mean = values.sum() / self.ranks
        return float(dearest / mean) if mean else 1.0


def partition(costs: npt.ArrayLike, num_nodes: int, ranks: int, blocks: int = 1) -> Partition:
    """Cut T snapshots into blocks, and each block's snapshots and vertices over the ranks.

    After "Efficient Scaling of Dynamic Graph Neural Networks" (SC 2021, https://arxiv.org/abs/2109.07893): a rank owns
    snapshots in the spatial phase and vertices in the temporal phase. Boundaries of blocks and of runs are those of
    :func:`balance`; vertices are dealt out evenly.

    Args:
        costs: (T,) whole numbers, one a snapshot (see :func:`snapshot_costs`).
        num_nodes: N.
        ranks: P; ranks beyond a block's snapshots get none of it.
        blocks: how many blocks; at most T.

    Raises:
        ValueError: no snapshot, no vertex, no rank, or more blocks than snapshots.

    Example:
        >>> part = partition([4, 4, 2, 2, 2, 2], num_nodes=5, ranks=2, blocks=2)
        >>> [split.steps for split in part.blocks]
        [((0, 1), (1, 2)), ((2, 4), (4, 6))]
        >>> part.blocks[0].vertices, part.owned(1), part.max_over_mean([4, 4, 2, 2, 2, 2])
        (((0, 3), (3, 5)), (1, 4, 5), 1.0)
    """
    values = np.asarray(costs)
    steps = len(values)
    if not 1 <= blocks <= steps:
        raise ValueError(f"got {blocks} blocks for {steps} snapshots; expected 1 to {steps}; take fewer blocks")
    if num_nodes < 1 or ranks < 1:
        raise ValueError(f"got {num_nodes} vertices and {ranks} ranks; expected 1 or more of each")
    vertices = _runs(tuple(-(-num_nodes * rank // ranks) for rank in range(ranks + 1)))
    bounds = balance(values, blocks)
    splits: list[Split] = []
    for start, stop in _runs(bounds):
        inner = balance(values[start:stop], ranks)
        own = _runs(tuple(start + bound for bound in inner))
        splits.append(Split(steps=own, vertices=vertices, earlier=tuple(split.steps for split in splits)))
    return Partition(tuple(splits), steps, num_nodes)


def _runs(bounds: Sequence[int]) -> tuple[Range, ...]:
    return tuple(pairwise(bounds))
