"""Points from one length alone: bins of equal length range, one representative length each.

After S. Pati et al., "SeqPoint: Identifying Representative Iterations of Sequence-based Neural Networks",
https://arxiv.org/abs/2007.10459: the input's sequence length characterises an iteration, and a few lengths stand for
all. The abstract says so much; how the bins are made, their number and the ties are laid down here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEW_LENGTHS = 10  # so many distinct lengths, and each is a point of its own
_FIRST_BINS = 5
_MOST_BINS = 10_000  # finer than that, every length is a point of its own


@dataclass(frozen=True)
class Bin:
    """One bin of lengths.

    Args:
        length: the representative length.
        weight: how many iterations the bin holds.
        indices: those iterations, ascending.

    Example:
        >>> Bin(20, 3, (0, 4, 7)).weight
        3
    """

    length: int
    weight: int
    indices: tuple[int, ...]


def seqpoints(
    lengths: NDArray[np.int64],
    seconds: NDArray[np.float64],
    *,
    tolerance: float = 0.01,
    points: int | None = None,
) -> tuple[Bin, ...]:
    """Bins of lengths whose representatives' mean times, weighted, add up to the epoch.

    With n(l) and m(l) the count and mean time of the iterations of length l, and k bins of equal width over the range
    of lengths: bin j's representative is the length whose m(l) is nearest to the bin's mean time (ties: the larger
    n(l), then the smaller l), its weight the bin's count. k grows from 5 until |Σⱼ wⱼm(rⱼ) − Σᵢtᵢ| ≤ tolerance · Σᵢtᵢ.
    Where there are at most 10 distinct lengths, all are representatives.

    The tolerance is an in-sample fit: it says nothing of how well the points project another configuration.

    Args:
        lengths: L, (M,) whole numbers that are not negative.
        seconds: t, (M,) positive.
        tolerance: ε.
        points: so many bins (less the empty ones) instead, without the stop test.

    Returns:
        The bins that hold iterations, in ascending order of length.

    Example:
        >>> lengths = np.array([3, 3, 3, 40, 41])
        >>> [(b.length, b.weight) for b in seqpoints(lengths, 0.125 * lengths)]
        [(3, 3), (40, 1), (41, 1)]
        >>> [(b.length, b.weight) for b in seqpoints(lengths, 0.125 * lengths, points=2)]
        [(3, 3), (40, 2)]
    """
    distinct, which, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    means = np.bincount(which, weights=seconds) / counts
    if len(distinct) <= (_FEW_LENGTHS if points is None else points):
        return _bins(distinct, which, np.arange(len(distinct)), np.arange(len(distinct)))
    sums = np.bincount(which, weights=seconds)
    total = float(seconds.sum())
    span = int(distinct[-1]) + 1 - int(distinct[0])
    bins = _FIRST_BINS if points is None else points
    while True:
        # In whole numbers, so that a length on a border is on the right side of it: lo + jΔ ≤ L < lo + (j+1)Δ.
        bin_of = (distinct - distinct[0]) * bins // span
        heads = np.flatnonzero(np.diff(bin_of, prepend=-1))
        number = np.cumsum(np.diff(bin_of, prepend=-1) > 0) - 1
        weights = np.add.reduceat(counts, heads)
        off = np.abs(means - (np.add.reduceat(sums, heads) / weights)[number])
        ranked = np.lexsort((distinct, -counts, off, number))
        chosen = ranked[heads]
        missed = abs(float((weights * means[chosen]).sum()) - total)
        if points is not None or missed <= tolerance * total or bins >= span:
            return _bins(distinct, which, number, chosen)
        if bins >= _MOST_BINS:
            return _bins(distinct, which, np.arange(len(distinct)), np.arange(len(distinct)))
        bins += 1


def _bins(
    distinct: NDArray[np.int64], which: NDArray[np.int64], number: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[Bin, ...]:
    bin_of = number[which]
    order = np.argsort(bin_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(bin_of))[:-1])
    return tuple(
        Bin(int(distinct[pick]), len(mine), tuple(mine.tolist())) for pick, mine in zip(chosen, members, strict=True)
    )
