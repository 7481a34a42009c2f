"""The interval of a ratio of two projections from the same points: resampling, and leaving points out."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fulgurite.callbacks.seqpoint.measured import Samples, left_out_variance, robust_means
from fulgurite.callbacks.seqpoint.plan import Plan

_RESAMPLES = 2000


def paired_spread(before: Plan, after: Plan, *, seed: int) -> float:
    """Half-width of the nominal 95 % interval of log(T̂_before/T̂_after), both plans having the same points.

    Replicates (``interpolate``) or draws (``audit``) are resampled, those of one batch together on both sides. For
    ``interpolate`` the variance is at least what leaving points out of the difference of the two shows.

    Args:
        before: a plan with measured times.
        after: another with the same points.
        seed: of the private random numbers.

    Returns:
        The half-width; ``nan`` where the times cannot show one (``paper``, or too few points and single runs).

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> shapes = np.array([[8, n] for n in range(1, 201)])
        >>> plan = select(shapes, 0.01 * shapes[:, 1], points=5)
        >>> slow = plan.with_measured({point.shape: 0.01 * point.shape[1] for point in plan.points})
        >>> fast = plan.with_measured({point.shape: 0.005 * point.shape[1] for point in plan.points})
        >>> paired_spread(slow, fast, seed=0) < 1e-6
        True
    """
    if before.selector == "paper":
        return math.nan
    rng = np.random.default_rng(seed)
    weights = before.weights
    values = robust_means(before.measured), robust_means(after.measured)
    totals = float(weights @ values[0]), float(weights @ values[1])
    if before.selector == "audit":
        resampled, freedom = _resampled_draws(before, values, rng)
        left_out = 0.0
    else:
        resampled, freedom = _resampled_runs(before.measured, after.measured, values, rng)
        # Shares of the total, so that a point that gained as much as the whole epoch adds nothing.
        gained = values[0] / totals[0] - values[1] / totals[1]
        costs = np.array([point.cost for point in before.points])
        left_out, left_out_freedom = left_out_variance(costs, weights, gained)
        freedom = freedom or left_out_freedom
        if not freedom:
            return math.nan
    ratios = np.log((resampled[0] @ weights) / (resampled[1] @ weights))
    variance = max(float(np.var(ratios)), left_out)
    return float(stdtrit(freedom, 0.975)) * math.sqrt(variance) if freedom else 0.0


def _resampled_runs(
    before: Samples, after: Samples, values: tuple[NDArray[np.float64], NDArray[np.float64]], rng: np.random.Generator
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], int]:
    """Means of resampled replicates, (resamples, points) for each side, and degrees of freedom."""
    deviations = _deviations(before), _deviations(after)
    # The k-th run of a point is the same batch on both sides: drawn together where the runs match one to one.
    matched = [len(v) for v in before] == [len(v) for v in after]
    drawn: list[NDArray[np.float64]] = []
    state = rng.bit_generator.state
    for samples, pool, value in zip((before, after), deviations, values, strict=True):
        if matched:
            rng.bit_generator.state = state
        made = np.tile(value, (_RESAMPLES, 1))
        for number, mine in enumerate(samples):
            if pool.size:
                made[:, number] *= 1 + rng.choice(pool, (_RESAMPLES, len(mine))).mean(axis=1)
        drawn.append(np.maximum(made, 1e-3 * value))
    freedom = max(sum(len(v) - 1 for v in before), sum(len(v) - 1 for v in after))
    return (drawn[0], drawn[1]), freedom


def _deviations(samples: Samples) -> NDArray[np.float64]:
    """Relative deviations from each point's mean, scaled up for the degree of freedom that the mean took."""
    parts = [(np.asarray(v) / np.mean(v) - 1) * math.sqrt(len(v) / (len(v) - 1)) for v in samples if len(v) > 1]
    return np.concatenate(parts) if parts else np.zeros(0)


def _resampled_draws(
    plan: Plan, values: tuple[NDArray[np.float64], NDArray[np.float64]], rng: np.random.Generator
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], int]:
    """Strata resampled with the variance of drawing without replacement, the same draws on both sides."""
    strata = np.array([point.stratum for point in plan.points])
    sizes = np.bincount(strata, weights=[len(point.indices) for point in plan.points])
    made = tuple(np.tile(value, (_RESAMPLES, 1)) for value in values)
    freedom = 0
    for stratum in np.unique(strata):
        mine = np.flatnonzero(strata == stratum)
        drawn = len(mine)
        if drawn >= sizes[stratum] or drawn < 2:
            continue
        freedom += drawn - 1
        picks = rng.integers(drawn, size=(_RESAMPLES, drawn))
        scale = math.sqrt(drawn / (drawn - 1) * (1 - drawn / sizes[stratum]))
        for value, resampled in zip(values, made, strict=True):
            # ω·y is what counts in the total, and ω differs from draw to draw.
            counted = plan.weights[mine] * value[mine]
            centred = (counted - counted.mean()) * scale
            resampled[:, mine] = (counted.mean() + centred[picks]) / plan.weights[mine]
    return (made[0], made[1]), freedom
