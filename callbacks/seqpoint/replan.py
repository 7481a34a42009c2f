"""The same plan for another epoch of the same data: batches drawn anew, nothing fitted again."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.callbacks.seqpoint.epoch import Epoch
from fulgurite.callbacks.seqpoint.fingerprint import fingerprint
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Point, as_shapes
from fulgurite.callbacks.seqpoint.points import Options, audited, interpolated, members_of
from fulgurite.callbacks.seqpoint.ranking import Ranking, nearest_knot, point_weights


def replan(plan: Plan, shapes: ArrayLike, *, usable: ArrayLike | None = None, seed: int = 0) -> Plan:
    """Move a plan to another epoch of the same data, of which only the shapes are known.

    Shuffled anew, an epoch has other batches and another total, by a per cent or so, and its shapes tell how they
    differ. The plan's cost proxy places as many points among them as the plan has, by the rule of its selector, with
    weights for this epoch. ``paper`` keeps its bins and lengths, and counts anew.

    Args:
        plan: as selected on one epoch.
        shapes: (M, C), the other epoch's.
        usable: (M,) false for steps that must not be run or measured, such as traced ones; they still count.
        seed: of the private random numbers.

    Returns:
        A plan whose indices and runs are the other epoch's. Its ``seconds`` and its points' are ``nan``: nothing was
        timed.

    Raises:
        PlanError: the shapes are of other data, or fewer steps are usable than the plan has runs.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> lengths = np.arange(10, 210)
        >>> shapes = np.stack([np.full(200, 32), lengths], axis=1)
        >>> plan = select(shapes, 0.001 * lengths, points=4)
        >>> later = replan(plan, shapes[::-1])
        >>> later.points[0].shape == plan.points[0].shape, later.points[0].runs == plan.points[0].runs
        (True, False)
    """
    x = as_shapes(shapes, columns=plan.columns)
    plan.check(x)
    allowed = np.ones(len(x), dtype=bool) if usable is None else np.asarray(usable)
    if allowed.shape != (len(x),) or allowed.dtype != np.bool_:
        raise PlanError(
            f"got usable of type {allowed.dtype} and dimensions {allowed.shape}; "
            f"expected one bool for each of {len(x)} steps"
        )
    steps = np.flatnonzero(allowed)
    if len(steps) < plan.runs:
        raise PlanError(
            f"{len(steps)} usable steps are too few for the {plan.runs} runs of the plan: "
            "select fewer points or replicates, or use an epoch of more steps"
        )
    systematic = plan.systematic
    if plan.selector == "paper":
        points = _same_lengths(plan, x, steps)
    else:
        points, imbalance = _placed(plan, x, steps, seed)
        systematic = max(systematic, imbalance)
    return replace(
        plan,
        points=points,
        iterations=len(x),
        seconds=math.nan,
        fingerprint=fingerprint(x),
        lengths=tuple(x[:, plan.length].tolist()),
        systematic=systematic,
        measured=(),
    )


def _placed(
    plan: Plan, shapes: NDArray[np.int64], steps: NDArray[np.int64], seed: int
) -> tuple[tuple[Point, ...], float]:
    audit = plan.selector == "audit"
    strata = len({point.stratum for point in plan.points})
    options = Options(
        points=strata,
        replicates=math.ceil(len(plan.points) / strata) if audit else max(len(point.runs) for point in plan.points),
        max_share=1.0,
        error=1.0,
        iterations=len(shapes),
        seed=seed,
    )
    everything = np.ones(len(steps), dtype=bool)
    epoch = Epoch(shapes[steps], None, everything, plan.columns, plan.length, plan.cost, math.nan)
    chosen = audited(epoch, options) if audit else interpolated(epoch, options)
    costs = plan.cost.predict(shapes)
    knots = np.array([point.cost for point in chosen.points])
    weights = np.array([point.weight for point in chosen.points])
    if not audit:
        # Weights for all steps: those that are not usable are no random part of the epoch.
        weights = point_weights(Ranking.of(costs, np.random.default_rng(seed)), knots)
    members = members_of(nearest_knot(costs, knots), len(knots))
    points = tuple(
        replace(point, weight=weight, indices=tuple(mine.tolist()), runs=tuple(steps[list(point.runs)].tolist()))
        for point, weight, mine in zip(chosen.points, weights.tolist(), members, strict=True)
    )
    return points, chosen.systematic


def _same_lengths(plan: Plan, shapes: NDArray[np.int64], steps: NDArray[np.int64]) -> tuple[Point, ...]:
    lengths, logged = shapes[:, plan.length], np.asarray(plan.lengths)
    # A bin ends half-way between its longest step and the next bin's shortest.
    bins = [logged[list(point.indices)] for point in plan.points]
    borders = [(int(a.max()) + int(b.min())) / 2 for a, b in pairwise(bins)]
    members = members_of(np.searchsorted(borders, lengths), len(plan.points))
    apart = np.full(len(shapes), np.inf)
    points = []
    for point, mine in zip(plan.points, members, strict=True):
        apart[steps] = np.abs(lengths[steps] - point.shape[plan.length])
        runs = np.argsort(apart, kind="stable")[: len(point.runs)]
        steps = np.setdiff1d(steps, runs)
        apart[runs] = np.inf
        points.append(
            replace(
                point,
                shape=tuple(shapes[runs[0]].tolist()),
                weight=float(len(mine)),
                seconds=math.nan,
                indices=tuple(mine.tolist()),
                runs=tuple(runs.tolist()),
            )
        )
    return tuple(points)
