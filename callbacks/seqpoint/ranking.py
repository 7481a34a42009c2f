"""Iterations ranked by predicted cost, and the weights with which a few of them interpolate the rest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    def __len__(self) -> int:
        return len(self.order)


def knots_of(ranking: Ranking, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where each point stands: the median cost of its runs, (points,); costs closer than 1e-4 are made one.

    Args:
        ranking: of M iterations.
        ranks: of each point's runs, points in ascending order of cost, (points, replicates).

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 2.0, 2.0]), np.random.default_rng(0))
        >>> knots_of(ranking, np.array([[0], [1], [2]])).tolist()
        [1.0, 2.0, 2.0]
    """
    knots = np.median(ranking.costs[ranks], axis=1)
    fresh = np.concatenate([[True], np.diff(knots) > 1e-4 * knots[1:]])
    return knots[np.maximum.accumulate(np.where(fresh, np.arange(len(knots)), 0))]


def point_weights(ranking: Ranking, knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """ω of every point, by interpolation; points that stand at one place share its weight equally.

    Args:
        ranking: of M iterations.
        knots: where the points stand, ascending, (points,).

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 2.0, 2.0]), np.random.default_rng(0))
        >>> point_weights(ranking, np.array([1.0, 2.0, 2.0])).tolist()
        [1.0, 1.0, 1.0]
    """
    distinct, group, members = np.unique(knots, return_inverse=True, return_counts=True)
    return (interpolation_weights(ranking, distinct) / members)[group]


def nearest_knot(costs: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.int64]:
    """The point nearest to each cost; those nearest to several points at one place are dealt out to them in turn.

    Args:
        costs: (steps,).
        knots: where the points stand, in any order, (points,).

    Returns:
        (steps,) numbers of points.

    Example:
        >>> nearest_knot(np.array([1.0, 2.0, 1.1, 0.9]), np.array([1.0, 1.0, 3.0])).tolist()
        [0, 1, 0, 1]
    """
    places, group, members = np.unique(knots, return_inverse=True, return_counts=True)
    place = np.searchsorted((places[1:] + places[:-1]) / 2, costs)
    points = np.argsort(group, kind="stable")
    steps = np.argsort(place, kind="stable")
    # How many steps of the same place came before each step.
    turn = np.empty(len(costs), dtype=np.int64)
    turn[steps] = np.arange(len(costs)) - np.searchsorted(place[steps], place[steps])
    return points[(np.cumsum(members) - members)[place] + turn % members[place]]


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
        return np.array([float(len(ranking))])
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
    below, above = float(ends[0]), float(len(ranking) - ends[1])
    number[0] += below
    mass[0] += below * low
    number[-1] += above
    mass[-1] += above * high
    upper = (mass - number * knots[:-1]) / gaps
    weights = np.zeros(len(knots))
    # As number − upper, not from mass again, so that Σω = M to the last digit.
    weights[:-1] += number - upper
    weights[1:] += upper
    return weights
