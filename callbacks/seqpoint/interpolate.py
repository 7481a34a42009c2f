"""The default selector: points along predicted cost, and weights that interpolate between them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.measured import leave_one_out, merge

_REDRAWS = 4096  # point-times-redraws of the replicates behind a foreseen error


@dataclass(frozen=True)
class Ranking:
    """An epoch's iterations in ascending order of predicted cost.

    Args:
        order: the iteration at each rank, (M,).
        costs: predicted cost at each rank, ascending, (M,).
        sums: sums[i] is the cost of the first i ranks together, (M + 1,).

    Example:
        >>> Ranking.of(np.array([3.0, 1.0, 2.0]), np.random.default_rng(0)).sums.tolist()
        [0.0, 1.0, 3.0, 6.0]
    """

    order: NDArray[np.int64]
    costs: NDArray[np.float64]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, costs: NDArray[np.float64], rng: np.random.Generator) -> "Ranking":
        """Rank (M,) costs; equal ones in random order, lest replicates be neighbours in time too."""
        order = np.lexsort((rng.permutation(len(costs)), costs))
        return cls(order, costs[order], np.concatenate([[0.0], np.cumsum(costs[order])]))


def place(ranking: Ranking, points: int, replicates: int) -> NDArray[np.int64]:
    """Ranks of every point's runs: points by predicted mass and at both ends.

    With C the running sum of cost and k = points − 2, they stand where C/C_M = (j + ½)/k, j = 0…k−1, and at the two
    ends. A single point stands at the mean cost. Each has ``replicates`` consecutive ranks to itself.

    Args:
        ranking: of M iterations.
        points: how many; fewer where the epoch is too short for that many runs.
        replicates: runs a point.

    Returns:
        (points, replicates) ranks, the representative first.

    Example:
        >>> place(Ranking.of(np.arange(1.0, 101.0), np.random.default_rng(0)), 3, 3).tolist()
        [[1, 0, 2], [70, 69, 71], [98, 97, 99]]
    """
    count = len(ranking.order)
    replicates = min(replicates, count)
    points = min(points, count // replicates)
    if points == 1:
        centres = np.searchsorted(ranking.costs, [ranking.sums[-1] / count])
    else:
        inner = (np.arange(points - 2) + 0.5) / max(points - 2, 1) * ranking.sums[-1]
        centres = np.concatenate([[0], np.searchsorted(ranking.sums[1:], inner), [count - 1]])
    step = replicates * np.arange(points)
    starts = np.clip(centres - replicates // 2, 0, count - replicates)
    # Pushed apart, so that no two points share a run, then back from the end.
    starts = np.maximum.accumulate(starts - step) + step
    starts = np.minimum(starts, count - replicates * points + step)
    middle = replicates // 2
    offsets = np.array(sorted(range(replicates), key=lambda offset: (abs(offset - middle), offset)))
    return starts[:, None] + offsets


def interpolation_weights(ranking: Ranking, knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω of every knot: with g piecewise linear through (knots, y), Σᵢ g(pᵢ) = Σⱼ ωⱼyⱼ for any y, and Σω = M.

    Beyond the outermost knots g goes on in a straight line for at most one more gap, then stays level; level at once
    where that would make a weight negative.

    Args:
        ranking: of M iterations.
        knots: ascending, distinct, (u,).

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 2.0, 3.0, 4.0]), np.random.default_rng(0))
        >>> interpolation_weights(ranking, np.array([1.0, 4.0])).tolist()
        [2.0, 2.0]
    """
    if len(knots) == 1:
        return np.array([float(len(ranking.order))])
    weights = _weights(ranking, knots, beyond=1.0)
    return weights if (weights >= 0).all() else _weights(ranking, knots, beyond=0.0)


def _weights(ranking: Ranking, knots: NDArray[np.float64], *, beyond: float) -> NDArray[np.float64]:
    gaps = np.diff(knots)
    low, high = knots[0] - beyond * gaps[0], knots[-1] + beyond * gaps[-1]
    # Steps further out count as if they stood at low or high; the rest is sums over each gap between two knots.
    ends = np.searchsorted(ranking.costs, [low, high])
    cuts = np.concatenate([ends[:1], np.searchsorted(ranking.costs, knots[1:-1]), ends[1:]])
    number = np.diff(cuts).astype(float)
    mass = np.diff(ranking.sums[cuts])
    outside = np.array([ends[0], len(ranking.order) - ends[1]], dtype=float)
    number[0] += outside[0]
    mass[0] += outside[0] * low
    number[-1] += outside[1]
    mass[-1] += outside[1] * high
    upper = (mass - number * knots[:-1]) / gaps
    weights = np.zeros(len(knots))
    # As number − upper, not from mass again, so that Σω = M to the last digit.
    weights[:-1] += number - upper
    weights[1:] += upper
    return weights


def knots_of(ranking: Ranking, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each point stands: the median cost of its runs, (points,); costs closer than 1e-4 are made one.

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 2.0, 2.0]), np.random.default_rng(0))
        >>> knots_of(ranking, np.array([[0], [1], [2]])).tolist()
        [1.0, 2.0, 2.0]
    """
    knots = np.median(ranking.costs[ranks], axis=1)
    fresh = np.concatenate([[True], np.diff(knots) > 1e-4 * knots[1:]])
    return knots[np.maximum.accumulate(np.where(fresh, np.arange(len(knots)), 0))]


def point_weights(ranking: Ranking, knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω of points that may stand at one place, where they share its weight equally.

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 2.0, 2.0]), np.random.default_rng(0))
        >>> point_weights(ranking, np.array([1.0, 2.0, 2.0])).tolist()
        [1.0, 1.0, 1.0]
    """
    distinct, group, members = np.unique(knots, return_inverse=True, return_counts=True)
    return (interpolation_weights(ranking, distinct) / members)[group]


def foreseen_error(
    ranking: Ranking,
    ranks: NDArray[np.int64],
    seconds: NDArray[np.float64],
    warm: NDArray[np.bool_],
    rng: np.random.Generator,
) -> float:
    """Relative standard error to expect of a projection with fresh replicates, by leaving points out.

    The replicates of one selection are too few to judge by. So each point's are drawn again many times from the logged
    steps around it (each time over its predicted cost, times the point's), and every draw is judged by
    :func:`~fulgurite.callbacks.seqpoint.measured.leave_one_out`. The root of the mean of their squares is returned.

    Args:
        ranking: of M iterations.
        ranks: (points, replicates) from :func:`place`.
        seconds: (M,) logged times, in the order logged.
        warm: (M,) the steps whose times may be drawn.
        rng: private source of the draws.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> costs = np.linspace(1.0, 2.0, 300)
        >>> ranking = Ranking.of(costs, rng)
        >>> seconds = costs * rng.normal(1.0, 0.03, 300)
        >>> 0.002 < foreseen_error(ranking, place(ranking, 8, 3), seconds, np.ones(300, bool), rng) < 0.012
        True
    """
    knots = knots_of(ranking, ranks)
    weights = point_weights(ranking, knots)
    points, replicates = ranks.shape
    usable = np.flatnonzero(warm[ranking.order])
    usable = usable if len(usable) >= replicates else np.arange(len(ranking.order))
    ratios = (seconds[ranking.order] / ranking.costs)[usable]
    middle = (ranks.min(axis=1) + ranks.max(axis=1)) / 2
    borders = np.concatenate([[0], np.searchsorted(usable, (middle[1:] + middle[:-1]) / 2), [len(usable)]])
    # A window with too few usable steps is widened to the nearest ones.
    starts = np.clip(np.minimum(borders[:-1], borders[1:] - replicates), 0, len(usable) - replicates)
    widths = np.maximum(borders[1:] - starts, replicates)
    redraws = max(16, _REDRAWS // points)
    picks = starts[:, None] + (rng.random((redraws, points, replicates)) * widths[:, None]).astype(np.int64)
    values = np.median(ratios[np.minimum(picks, len(usable) - 1)], axis=2) * knots
    totals = values @ weights
    residuals = leave_one_out(*merge(knots, weights, values)) / totals[:, None]
    if residuals.shape[1]:
        return float(np.sqrt((residuals**2).sum(axis=1).mean()))
    logged = float(seconds.sum()) if math.isfinite(seconds.sum()) else math.nan
    return float(np.sqrt(((totals / logged - 1) ** 2).mean()))
