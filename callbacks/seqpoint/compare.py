"""Before and after: an epoch's speed-up with an interval, in total and by length band, from two plans."""

import math
from dataclasses import dataclass, replace

import numpy as np

from fulgurite.callbacks.seqpoint.fingerprint import difference
from fulgurite.callbacks.seqpoint.measured import robust_means
from fulgurite.callbacks.seqpoint.paired import paired_spread
from fulgurite.callbacks.seqpoint.plan import Measured, Plan, PlanError, Projection


@dataclass(frozen=True)
class BandSpeedup:
    """The speed-up within one band of lengths.

    Args:
        label: the band's lengths, ``"5-12"``.
        before: projected seconds of an epoch spent on these lengths.
        after: the same after the change.

    Example:
        >>> BandSpeedup("5-12", 3.0, 1.5).speedup
        2.0
    """

    label: str
    before: float
    after: float

    @property
    def speedup(self) -> float:
        """Time before over time after; ``nan`` where neither epoch spent any."""
        return self.before / self.after if self.after > 0 else math.nan


@dataclass(frozen=True)
class Comparison:
    """An epoch before and after a change.

    Args:
        speedup: T̂_before / T̂_after, above 1 where the change helped, with a nominal 95 % interval: an estimate, no
            guarantee; ``nan`` for ``paper``, which has none.
        before: projected epoch before.
        after: projected epoch after.
        paired: whether the same points were measured on both, so that the interval is that of a paired ratio.
        bands: by length, short to long; their seconds add up to the totals.

    Example:
        >>> whole = Projection(2.0, 1.9, 2.1)
        >>> Comparison(Projection(1.0, 0.9, 1.1), whole, whole, True, ()).paired
        True
    """

    speedup: Projection
    before: Projection
    after: Projection
    paired: bool
    bands: tuple[BandSpeedup, ...]


def compare(
    before: Plan,
    after: Plan,
    measured_before: Measured | None = None,
    measured_after: Measured | None = None,
    *,
    bands: int = 4,
    seed: int = 0,
) -> Comparison:
    """The speed-up of an epoch between two configurations, from the points' times on each.

    The speed-up is the ratio of projected totals. Where both plans have the same points, its interval is that of a
    paired ratio: the points' runs are resampled jointly (``interpolate``: deviations from the mean, pooled over the
    points; ``audit``: draws within strata), and leaving points out of the difference of the two shows what a straight
    line misses. Otherwise the intervals of the two totals are put together.

    Args:
        before: plan of the epoch before the change.
        after: plan of the epoch after it, of the same data: it may be the same plan, measured anew.
        measured_before: shape of each point → seconds, as for :meth:`Plan.project`. ``None``: the times kept in the
            plan (:meth:`Plan.with_measured`), or else those seen when its points were selected.
        measured_after: the same for ``after``.
        bands: how many length bands.
        seed: of the private random numbers.

    Raises:
        PlanError: the plans have other columns or are of other data, there are no times, or a plan was refused.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> shapes = np.array([[8, n] for n in range(1, 201)])
        >>> plan = select(shapes, 0.01 * shapes[:, 1], points=5)
        >>> slow = {point.shape: 0.01 * point.shape[1] for point in plan.points}
        >>> fast = {point.shape: 0.004 * point.shape[1] for point in plan.points}
        >>> round(compare(plan, plan, slow, fast).speedup.total, 6)
        2.5
    """
    if before.columns != after.columns or before.length != after.length:
        raise PlanError(
            f"the plans do not describe steps alike: before by {', '.join(before.columns)} (length: "
            f"{before.columns[before.length]}), after by {', '.join(after.columns)} (length: "
            f"{after.columns[after.length]}); select both with the same columns and length"
        )
    found = difference(before.fingerprint, after.fingerprint, before.columns)
    if found is not None:
        raise PlanError(
            f"the plans are of other data: {found} (before, after); a speed-up compares epochs of the same data set, "
            "batch size and batching policy"
        )
    before, after = _timed(before, measured_before, "before"), _timed(after, measured_after, "after")
    totals = before.project(), after.project()
    ratio = totals[0].total / totals[1].total
    paired = _same_points(before, after)
    spread = paired_spread(before, after, seed=seed) if paired else math.nan
    if math.isnan(spread):
        spread = _joint_spread(*totals)
    return Comparison(
        speedup=Projection(ratio, ratio * math.exp(-spread), ratio * math.exp(spread)),
        before=totals[0],
        after=totals[1],
        paired=paired,
        bands=_by_band(before, after, bands),
    )


def _timed(plan: Plan, measured: Measured | None, which: str) -> Plan:
    if measured is not None:
        return plan.with_measured(measured)
    if plan.measured:
        return plan
    seen = tuple((point.seconds,) for point in plan.points)
    if any(math.isnan(seconds) for (seconds,) in seen):
        raise PlanError(f"the plan {which} was made from shapes alone and holds no times: pass measured_{which}")
    return replace(plan, measured=seen)


def _same_points(before: Plan, after: Plan) -> bool:
    return (
        before.selector == after.selector
        and [(p.shape, p.stratum) for p in before.points] == [(p.shape, p.stratum) for p in after.points]
        and bool(np.allclose(before.weights, after.weights, rtol=1e-6))
    )


def _joint_spread(before: Projection, after: Projection) -> float:
    """Half-width of the interval of the log ratio of two totals with intervals of their own."""
    halves = ((total.high - total.low) / 2 / total.total for total in (before, after))
    return math.hypot(*halves)


def _by_band(before: Plan, after: Plan, count: int) -> tuple[BandSpeedup, ...]:
    ours = before.length_bands(count)
    theirs = after.length_bands(edges=[band.high for band in ours[:-1]])
    seconds = [
        [float((plan.weights * robust_means(plan.measured)) @ np.asarray(band.shares)) for band in bands]
        for plan, bands in ((before, ours), (after, theirs))
    ]
    return tuple(BandSpeedup(band.label, first, second) for band, first, second in zip(ours, *seconds, strict=True))
