"""Choosing the few iterations that stand for an epoch: checks what comes in and hands it to a selector."""

import difflib
import math
import warnings
from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.callbacks.seqpoint import interpolate
from fulgurite.callbacks.seqpoint.cost import CostModel, fit_cost, work_model
from fulgurite.callbacks.seqpoint.fingerprint import fingerprint
from fulgurite.callbacks.seqpoint.plan import (
    DEFAULT_COLUMNS,
    Plan,
    PlanError,
    Point,
    Selector,
    ShapeWarning,
    as_shapes,
)

_EXPLAINED = 0.5  # below this R², shape is not what step time follows


def select(
    shapes: ArrayLike,
    seconds: ArrayLike | None,
    *,
    selector: Selector = "interpolate",
    length: int = 1,
    points: int | None = None,
    replicates: int = 3,
    max_share: float = 0.05,
    error: float = 0.01,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    cold: ArrayLike | None = None,
) -> Plan:
    """Choose the few weighted iterations that stand for an epoch.

    Args:
        shapes: (M, C) whole numbers, one row an iteration.
        seconds: (M,) step times, or ``None`` for a plan from shapes alone.
        selector: ``"interpolate"``.
        length: the column used as length.
        points: how many points; ``None``: the fewest whose leave-one-out error is at most ``error``.
        replicates: runs a point.
        max_share: most runs as a share of the iterations, when ``points`` is ``None``.
        error: relative error aimed at, when ``points`` is ``None``.
        seed: of the private random numbers.
        columns: names of the columns.
        cold: (M,) steps to keep out of the fit.

    Raises:
        PlanError: bad input.

    Example:
        >>> lengths = np.arange(10, 210)
        >>> len(select(np.stack([np.full(200, 32), lengths], axis=1), 0.001 * lengths, points=4).points)
        4
    """
    x = as_shapes(shapes)
    names = tuple(columns) if columns is not None else _default_columns(x.shape[1])
    times = _as_seconds(seconds, len(x))
    mask = np.zeros(len(x), dtype=bool) if cold is None else np.asarray(cold, dtype=bool)
    if selector not in get_args(Selector):
        close = difflib.get_close_matches(str(selector), get_args(Selector), n=1, cutoff=0.0)
        raise PlanError(f"no selector {selector!r}: did you mean {close[0]!r}?")
    if selector != "interpolate":
        raise PlanError(f"selector {selector!r} is not available")
    rng = np.random.default_rng(seed)
    model, explained = work_model(x, names), math.nan
    if times is not None:
        model, explained = fit_cost(x, times, names, keep=~mask)
        if explained < _EXPLAINED:
            model = work_model(x, names, seconds=times)
    costs = model.predict(x)
    ranking = interpolate.Ranking.of(costs, rng)
    varies = bool((x != x[0]).any())
    most = max(2, int(max_share * len(x) / replicates))
    foreseen = math.nan
    if not varies:
        ranks = interpolate.place(ranking, 1, replicates)
    elif points is not None:
        ranks = interpolate.place(ranking, points, replicates)
    else:
        for count in range(2, most + 1):
            ranks = interpolate.place(ranking, count, replicates)
            if times is not None and interpolate.foreseen_error(ranking, ranks, times, ~mask, rng) <= error:
                break
    if times is not None:
        foreseen = interpolate.foreseen_error(ranking, ranks, times, ~mask, rng)
    refusal = None
    if len(x) >= 10 and varies and explained < _EXPLAINED and foreseen > 2 * error:
        refusal = (
            f"shape explains only {explained:.0%} of the variance of step time: no projection from shapes can be "
            'trusted here; use selector="audit", which draws steps at random and needs no such link'
        )
        warnings.warn(refusal, ShapeWarning, stacklevel=2)
    knots = interpolate.knots_of(ranking, ranks)
    weights = interpolate.point_weights(ranking, knots)
    runs = ranking.order[ranks]
    stands = _nearest(costs, knots)
    made = tuple(
        Point(
            tuple(x[run[0]].tolist()),
            float(weights[j]),
            float(np.median(times[run])) if times is not None else math.nan,
            tuple(np.flatnonzero(stands == j).tolist()),
            tuple(run.tolist()),
            j,
            float(knots[j]),
        )
        for j, run in enumerate(runs)
    )
    total = float(times.sum()) if times is not None else math.nan
    return Plan(
        selector,
        names,
        made,
        len(x),
        total,
        explained,
        foreseen,
        refusal,
        fingerprint(x),
        length,
        model,
        tuple(x[:, length].tolist()),
    )


def _nearest(costs: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.int64]:
    distinct, group = np.unique(knots, return_inverse=True)
    chosen = np.searchsorted((distinct[1:] + distinct[:-1]) / 2, costs)
    number = np.empty(len(costs), dtype=np.int64)
    for knot in range(len(distinct)):
        members, steps = np.flatnonzero(group == knot), np.flatnonzero(chosen == knot)
        number[steps] = members[np.arange(len(steps)) % len(members)]
    return number


def _default_columns(width: int) -> tuple[str, ...]:
    if width > len(DEFAULT_COLUMNS):
        raise PlanError(f"got {width} columns without names; pass columns=(...)")
    return DEFAULT_COLUMNS[:width]


def _as_seconds(seconds: ArrayLike | None, count: int) -> NDArray[np.float64] | None:
    if seconds is None:
        return None
    times = np.asarray(seconds, dtype=float)
    if times.shape != (count,):
        raise PlanError(f"got seconds of dimensions {times.shape}; expected ({count},)")
    bad = np.flatnonzero(~(np.isfinite(times) & (times > 0)))
    if bad.size:
        raise PlanError(f"iteration {bad[0]} took {times[bad[0]]} s; expected a finite time above zero")
    return times


__all__ = ["CostModel", "select"]
