"""One gather an epoch: the ranks' steps put together, the costliest rank's shape standing for each step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.distributed
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.shapes import Columns


@dataclass(frozen=True)
class RankSteps:
    """What one rank saw of an epoch; M steps, D sizes of its batches.

    Args:
        sizes: (M, D) every size read from the batches, see :class:`~fulgurite.callbacks.seqpoint.shapes.ShapeFinder`.
        optimizer_step: (M,) the step ran an optimizer.
        known: (K, D + 1) sizes and optimizer flag of every shape seen before the epoch.
        seconds: (M,) and so on, as in :class:`~fulgurite.callbacks.seqpoint.log.EpochLog`.
        waits: (M,)
        starts: (M,)
        outside: (M,)
        traced: (M,)
        real: (M,)
        padded: (M,)
        peak_bytes: (M,)
    """

    sizes: NDArray[np.int64]
    optimizer_step: NDArray[np.bool_]
    known: NDArray[np.int64]
    seconds: NDArray[np.float64]
    waits: NDArray[np.float64]
    starts: NDArray[np.float64]
    outside: NDArray[np.float64]
    traced: NDArray[np.bool_]
    real: NDArray[np.int64]
    padded: NDArray[np.int64]
    peak_bytes: NDArray[np.float64]

    def shapes(self, columns: Columns) -> NDArray[np.int64]:
        """The shape of each step: the chosen columns, then the optimizer flag."""
        return np.column_stack([self.sizes[:, list(columns.indices)], self.optimizer_step.astype(np.int64)])


def gather(mine: RankSteps | str) -> list[RankSteps | str]:
    """Everybody's, in the order of ranks; a rank that could not log hands in the reason instead. One collective call.

    Example:
        >>> gather("alone, so that nothing is gathered")
        ['alone, so that nothing is gathered']
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everybody: list[RankSteps | str] = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybody, mine)
    return everybody


def merge(ranks: Sequence[RankSteps], columns: Columns, *, epoch: int) -> EpochLog:
    """Put the ranks' steps together, as many as the shortest has.

    A step's shape, time and peak memory are the largest over the ranks, column by column: ranks wait for the slowest.
    Tokens add up. A step is cold if its shape is new to any rank. Times from start to start are the first rank's, so
    that they still add up.

    Args:
        ranks: each rank's steps, at least one.
        columns: which sizes make up the shape.
        epoch: its number.
    """
    steps = min(len(rank.seconds) for rank in ranks)

    def over(name: str, how: np.ufunc) -> NDArray:
        return how.reduce([getattr(rank, name)[:steps] for rank in ranks])

    return EpochLog(
        epoch=epoch,
        columns=(*columns.names, "optimizer_step"),
        shapes=np.maximum.reduce([rank.shapes(columns)[:steps] for rank in ranks]),
        seconds=over("seconds", np.maximum),
        waits=over("waits", np.maximum),
        starts=ranks[0].starts[:steps],
        cold=np.logical_or.reduce([_first_seen(rank, columns)[:steps] for rank in ranks]),
        traced=over("traced", np.logical_or),
        real=_sum_known([rank.real[:steps] for rank in ranks]),
        padded=_sum_known([rank.padded[:steps] for rank in ranks]),
        peak_bytes=over("peak_bytes", np.fmax),
        outside=ranks[0].outside[:steps],
    )


def straggler_share(costs: NDArray[np.float64]) -> float:
    """How much of the step time is spent waiting for the rank with the longest batch: 1 − Σᵢ meanᵣ cᵣᵢ / Σᵢ maxᵣ cᵣᵢ.

    Args:
        costs: (ranks, steps) predicted cost of each rank's own batch.

    Example:
        >>> straggler_share(np.array([[1.0, 3.0], [1.0, 1.0]]))
        0.25
    """
    return 1.0 - float(costs.mean(axis=0).sum() / costs.max(axis=0).sum())


def _first_seen(rank: RankSteps, columns: Columns) -> NDArray[np.bool_]:
    before = np.column_stack([rank.known[:, list(columns.indices)], rank.known[:, -1]])
    rows = np.concatenate([before, rank.shapes(columns)])
    first = np.zeros(len(rows), dtype=bool)
    first[np.unique(rows, axis=0, return_index=True)[1]] = True
    return first[len(before) :]


def _sum_known(columns: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    stacked = np.stack(columns)
    return np.where((stacked < 0).any(axis=0), -1, stacked.sum(axis=0))
