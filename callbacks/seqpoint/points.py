"""From a selector's choice of iterations to the points of a plan."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.audit import FEWEST, draw
from fulgurite.callbacks.seqpoint.cost import CostModel, length_model, work_model
from fulgurite.callbacks.seqpoint.epoch import Epoch
from fulgurite.callbacks.seqpoint.interpolate import Layout, choose
from fulgurite.callbacks.seqpoint.paper import seqpoints
from fulgurite.callbacks.seqpoint.plan import PlanError, Point
from fulgurite.callbacks.seqpoint.ranking import Ranking, nearest_knot
from fulgurite.callbacks.seqpoint.transfer import other_costs

EXPLAINED = 0.5  # below this R², shape is not what step time follows


@dataclass(frozen=True)
class Options:
    """What was asked for; see :func:`~fulgurite.callbacks.seqpoint.select.select`, where the values are checked.

    Example:
        >>> Options(points=8, replicates=3, max_share=0.05, error=0.01, iterations=1000, seed=0).points
        8
    """

    points: int | None
    replicates: int
    max_share: float
    error: float
    iterations: int
    seed: int


@dataclass(frozen=True)
class Chosen:
    """What a selector chose.

    Args:
        points: in ascending order of predicted cost.
        error: foreseen, as in :class:`~fulgurite.callbacks.seqpoint.plan.Plan`.
        systematic: likewise.
        cost: the proxy by which the points stand in order.

    Example:
        >>> Chosen((), 0.01, 0.0, CostModel(("source",), ((1,),), (1.0,), 0.5)).error
        0.01
    """

    points: tuple[Point, ...]
    error: float
    systematic: float
    cost: CostModel


def layout_of(epoch: Epoch, options: Options, points: int | None) -> tuple[Layout, Ranking, CostModel]:
    """Lay out points for interpolation: one where all shapes are equal, else as many as given or needed.

    Args:
        epoch: the epoch.
        options: all but its ``points``.
        points: how many, ``None`` to find out.

    Returns:
        The layout, the ranking that its ranks refer to, and the cost proxy behind that.

    Example:
        >>> epoch = Epoch.of([[8, n] for n in range(1, 101)], [0.01 * n for n in range(1, 101)])
        >>> options = Options(points=4, replicates=3, max_share=0.05, error=0.01, iterations=100, seed=0)
        >>> layout_of(epoch, options, 4)[0].ranks.shape
        (4, 3)
    """
    model = epoch.model
    if epoch.explained < EXPLAINED:
        # A proxy fitted to noise would put the steps in no order at all; the work in them is an order at least.
        model = work_model(epoch.shapes, epoch.columns, seconds=epoch.seconds)
    rng = np.random.default_rng(options.seed)
    ranking = Ranking.of(model.predict(epoch.shapes), rng)
    layout = choose(
        ranking,
        epoch.seconds,
        epoch.warm,
        other_costs(epoch.shapes, ranking, epoch.columns),
        points=points if epoch.varies else 1,
        most=max(2, int(options.max_share * options.iterations / options.replicates)),
        replicates=options.replicates,
        error=options.error,
        rng=rng,
    )
    return layout, ranking, model


def interpolated(epoch: Epoch, options: Options) -> Chosen:
    """Points of ``selector="interpolate"``, each standing for the iterations nearest in predicted cost.

    Example:
        >>> epoch = Epoch.of([[8, n] for n in range(1, 101)], [0.01 * n for n in range(1, 101)])
        >>> options = Options(points=4, replicates=3, max_share=0.05, error=0.01, iterations=100, seed=0)
        >>> len(interpolated(epoch, options).points)
        4
    """
    layout, ranking, model = layout_of(epoch, options, options.points)
    stands_for = np.empty(len(ranking), dtype=np.int64)
    stands_for[ranking.order] = nearest_knot(ranking.costs, layout.knots)
    members = members_of(stands_for, len(layout.knots))
    scale = options.iterations / len(ranking)
    rows = zip(ranking.order[layout.ranks], layout.weights.tolist(), members, layout.knots.tolist(), strict=True)
    points = []
    for number, (ranked, weight, mine, knot) in enumerate(rows):
        runs = ranked[np.sort(np.unique(ranked, return_index=True)[1])]
        points.append(_point(epoch, runs, weight * scale, mine, number, knot))
    error = math.nan if epoch.seconds is None else layout.error
    return Chosen(tuple(points), error, math.hypot(layout.bias, layout.imbalance), model)


def audited(epoch: Epoch, options: Options) -> Chosen:
    """Points of ``selector="audit"``: one a draw, standing for the iterations of its stratum nearest in cost.

    Example:
        >>> epoch = Epoch.of([[8, n] for n in range(1, 101)], [0.01 * n for n in range(1, 101)])
        >>> options = Options(points=4, replicates=3, max_share=0.05, error=0.01, iterations=100, seed=0)
        >>> len(audited(epoch, options).points)
        12
    """
    rng = np.random.default_rng(options.seed)
    ranking = Ranking.of(epoch.model.predict(epoch.shapes), rng)
    each = max(FEWEST, options.replicates)
    drawn, error = draw(
        ranking,
        epoch.seconds,
        epoch.warm,
        strata=options.points,
        most=max(1, int(options.max_share * options.iterations / each)),
        replicates=each,
        error=options.error,
        rng=rng,
    )
    scale = options.iterations / len(ranking)
    points = []
    for number, stratum in enumerate(drawn):
        ranks = np.asarray(stratum.ranks)
        own = np.arange(stratum.first, stratum.first + stratum.size)
        members = members_of(nearest_knot(own.astype(float), ranks.astype(float)), len(ranks))
        for rank, weight, mine in zip(stratum.ranks, stratum.weights, members, strict=True):
            runs = ranking.order[rank : rank + 1]
            stands_for = np.sort(ranking.order[own[mine]])
            points.append(_point(epoch, runs, weight * scale, stands_for, number, float(ranking.costs[rank])))
    return Chosen(tuple(points), error, 0.0, epoch.model)


def papered(epoch: Epoch, options: Options) -> Chosen:
    """Points of ``selector="paper"``: one a bin, its runs the first iterations of the representative length.

    Raises:
        PlanError: the epoch has no times.

    Example:
        >>> epoch = Epoch.of([[8, n] for n in range(1, 101)], [0.01 * n for n in range(1, 101)])
        >>> options = Options(points=4, replicates=3, max_share=0.05, error=0.01, iterations=100, seed=0)
        >>> [point.weight for point in papered(epoch, options).points]
        [25.0, 25.0, 25.0, 25.0]
    """
    if epoch.seconds is None:
        raise PlanError('selector="paper" chooses by step time: pass seconds, or use "interpolate"')
    lengths = epoch.shapes[:, epoch.length]
    scale = options.iterations / len(lengths)
    points = []
    for number, found in enumerate(seqpoints(lengths, epoch.seconds, tolerance=options.error, points=options.points)):
        members = np.asarray(found.indices)
        runs = members[lengths[members] == found.length][: options.replicates]
        points.append(_point(epoch, runs, found.weight * scale, members, number, max(float(found.length), 0.5)))
    return Chosen(tuple(points), math.nan, 0.0, length_model(epoch.columns, epoch.length))


def _point(
    epoch: Epoch, runs: NDArray[np.int64], weight: float, members: NDArray[np.int64], stratum: int, cost: float
) -> Point:
    seconds = math.nan
    if epoch.seconds is not None:
        trusted = runs[epoch.warm[runs]] if epoch.warm[runs].any() else runs
        seconds = float(np.median(epoch.seconds[trusted]))
    return Point(
        shape=tuple(epoch.shapes[runs[0]].tolist()),
        weight=weight,
        seconds=seconds,
        indices=tuple(members.tolist()),
        runs=tuple(runs.tolist()),
        stratum=stratum,
        cost=cost,
    )


def members_of(number: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """For each of ``count`` points the positions that hold its number, ascending.

    Example:
        >>> [mine.tolist() for mine in members_of(np.array([1, 0, 1]), 3)]
        [[1], [0, 2], []]
    """
    order = np.argsort(number, kind="stable")
    return np.split(order, np.cumsum(np.bincount(number, minlength=count))[:-1])
