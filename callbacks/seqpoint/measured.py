"""Fresh times of a plan's points: who gets which, and what they say about the whole epoch."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Samples = tuple[tuple[float, ...], ...]
_FAR = 4.0  # standard deviations


def share_out(
    shapes: Sequence[tuple[int, ...]],
    runs: Sequence[int],
    measured: Mapping[tuple[int, ...], float | Sequence[float]],
    *,
    positive: bool = True,
) -> Samples:
    """Give every point its own values out of a mapping from shape to one value or several.

    Where points share one shape, a list as long as all their runs is dealt out in the points' order, any other multiple
    of their number in equal parts, and anything else (a single value above all) serves each of them.

    Args:
        shapes: the points' shapes.
        runs: how many runs each point has.
        measured: shape → value or values.
        positive: whether zero is an error too (it is for a time, not for a count).

    Raises:
        ValueError: a shape is missing or of no point, or a value is no finite number or too small.

    Example:
        >>> share_out([(8, 5), (8, 5), (8, 9)], [1, 1, 1], {(8, 5): [1.0, 2.0], (8, 9): 3.0})
        ((1.0,), (2.0,), (3.0,))
    """
    given = {tuple(int(n) for n in shape): _values(shape, value, positive) for shape, value in measured.items()}
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(number)
    missing = [shape for shape in groups if shape not in given]
    if missing:
        raise ValueError(f"no value for {_some(missing)}: every point of the plan must be measured")
    strangers = [shape for shape in given if shape not in groups]
    if strangers:
        raise ValueError(f"no point has the shape {_some(strangers)}: was another plan measured?")
    shares: list[tuple[float, ...]] = [()] * len(shapes)
    for shape, members in groups.items():
        values = given[shape]
        counts = [runs[number] for number in members]
        if len(values) != sum(counts):
            part, rest = divmod(len(values), len(members))
            counts = [part] * len(members) if rest == 0 else []
        if not counts:
            for number in members:
                shares[number] = values
            continue
        for number, start, count in zip(members, np.cumsum([0, *counts]).tolist(), counts, strict=False):
            shares[number] = values[start : start + count]
    return tuple(shares)


def robust_means(samples: Samples) -> NDArray[np.float64]:
    """The mean of each point's values, with values far off pulled in, (points,).

    An epoch's total holds its disturbed steps, which a median would leave out; a mean of few values would let a single
    one decide. So values further from their point's median than four standard deviations (relative, as pooled over all
    points by :func:`pooled_spread`) are moved to that distance first.

    Example:
        >>> robust_means(((1.0, 1.01, 9.0), (2.0, 2.02, 2.01), (4.0,))).round(2).tolist()
        [1.02, 2.01, 4.0]
    """
    return np.array([np.mean(values) for values in pulled_in(samples)])


def pulled_in(samples: Samples) -> Samples:
    """The values behind :func:`robust_means`: as measured, but for those far off.

    Example:
        >>> pulled_in(((1.0, 1.0, 9.0), (2.0, 2.0, 2.0)))
        ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    """
    reach = _FAR * pooled_spread(samples)
    middles = [float(np.median(values)) for values in samples]
    return tuple(
        tuple(np.clip(values, middle * (1 - reach), middle * (1 + reach)).tolist())
        for values, middle in zip(samples, middles, strict=True)
    )


def leave_one_out(
    knots: NDArray[np.float64], weights: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each inner point adds to the total beyond what its neighbours foretell, in units of its own noise.

    Point j is left out and put back by linear interpolation between its neighbours, ŷⱼ = (1−λ)y₋ + λy₊. The residual
    ωⱼ(yⱼ − ŷⱼ)/√(1 + λ² + (1−λ)²) has the variance of ωⱼyⱼ if the points lie on a line but for equal noise, and more
    if they do not; so the squares add up to (an upper estimate of) the variance of the projected total.

    Args:
        knots: predicted costs of the points, ascending, (u,).
        weights: ω, (u,).
        values: y, (..., u).

    Returns:
        (..., u − 2) residuals; nothing for fewer than three points.

    Example:
        >>> leave_one_out(np.array([1.0, 2.0, 4.0]), np.ones(3), np.array([1.0, 2.0, 4.0])).tolist()
        [0.0]
    """
    if len(knots) < 3:
        return np.zeros((*values.shape[:-1], 0))
    share = (knots[1:-1] - knots[:-2]) / (knots[2:] - knots[:-2])
    foretold = (1 - share) * values[..., :-2] + share * values[..., 2:]
    return weights[1:-1] * (values[..., 1:-1] - foretold) / np.sqrt(1 + share**2 + (1 - share) ** 2)


def merge(
    costs: NDArray[np.float64], weights: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sort points by cost and put those of equal cost together: costs and weights (u,), mean values (..., u).

    Example:
        >>> [a.tolist() for a in merge(np.array([2.0, 1.0, 2.0]), np.ones(3), np.array([3.0, 1.0, 5.0]))]
        [[1.0, 2.0], [1.0, 2.0], [1.0, 4.0]]
    """
    knots, group = np.unique(costs, return_inverse=True)
    belongs = (group[:, None] == np.arange(len(knots))).astype(float)
    return knots, weights @ belongs, values @ belongs / belongs.sum(axis=0)


def half_width_interpolated(
    costs: NDArray[np.float64], weights: NDArray[np.float64], samples: Samples, *, expected: float
) -> float:
    """Half-width of the nominal 95 % interval of a total projected by interpolation, as far as fresh times show it.

    The variance is the larger of two estimates: from how replicates differ (relative to their means, pooled over all
    points), and from leaving points out, which sees cost that is no straight line in predicted
    cost as well. Both are estimates from few values.

    Args:
        costs: predicted costs of the points, (n,).
        weights: ω, (n,).
        samples: each point's values.
        expected: relative standard error foreseen when the plan was made; stands in where the values give none.

    Example:
        >>> costs = np.array([1.0, 2.0, 3.0])
        >>> half_width_interpolated(costs, np.ones(3), ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)), expected=0.01)
        0.0
    """
    values = robust_means(samples)
    left_out, freedom = left_out_variance(costs, weights, values)
    freedom = sum(len(v) - 1 for v in samples) or freedom
    if not freedom:
        return 1.96 * expected * float(weights @ values)
    counts = np.array([len(v) for v in samples])
    kept = pulled_in(samples)
    squares = sum(float(((np.asarray(v) / mean - 1) ** 2).sum()) for v, mean in zip(kept, values, strict=True))
    repeated = squares / max(int((counts - 1).sum()), 1) * float(((weights * values) ** 2 / counts).sum())
    return float(stdtrit(freedom, 0.975)) * math.sqrt(max(repeated, left_out))


def left_out_variance(
    costs: NDArray[np.float64], weights: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[float, int]:
    """Variance of a projected total by leaving out every inner point in turn, and its degrees of freedom.

    The two end points cannot be left out; they are taken to be as noisy, relatively, as the inner ones.

    Args:
        costs: predicted costs of the points, (n,).
        weights: ω, (n,).
        values: y, (n,).

    Example:
        >>> variance, freedom = left_out_variance(np.arange(1.0, 7.0), np.ones(6), np.array([1.0, 2, 3, 4, 5, 6]))
        >>> round(variance, 9), freedom
        (0.0, 2)
    """
    knots, merged, means = merge(costs, weights, values)
    residuals = leave_one_out(knots, merged, means)
    if not residuals.size:
        return 0.0, 0
    # Residuals of neighbours share points (correlations −2/3 and 1/6), which halves what they are worth.
    return float((residuals**2).sum()) * ends_factor(knots, merged), max(1, residuals.size // 2)


def ends_factor(knots: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Variance of the total over that from the inner points, with the same relative noise everywhere.

    Args:
        knots: predicted costs, ascending, at least three, (u,).
        weights: ω, (u,).

    Example:
        >>> ends_factor(np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0]))
        3.0
    """
    shares = (weights * knots) ** 2
    return float(shares.sum() / max(float(shares[1:-1].sum()), 1e-300))


def pooled_spread(samples: Samples) -> float:
    """Relative standard deviation of a single value, from the differences within points; 0 where none has two values.

    The median over all pairs of one point's values of |y − y′|/median, over that of a normal pair (0.954 σ).

    Example:
        >>> round(pooled_spread(((1.0, 1.1), (2.0, 2.0), (3.0, 3.3))), 3)
        0.1
    """
    pairs = [np.abs(np.subtract.outer(v, v))[np.triu_indices(len(v), 1)] / np.median(v) for v in samples if len(v) > 1]
    return float(np.median(np.concatenate(pairs))) / (0.6745 * math.sqrt(2)) if pairs else 0.0


def half_width_stratified(
    strata: NDArray[np.int64], sizes: NDArray[np.int64], weights: NDArray[np.float64], values: NDArray[np.float64]
) -> float:
    """Half-width t·√Var of the nominal 95 % interval of a stratified total, Σ_h P_h·ū_h.

    Var = Σ_h P_h²·(1 − n_h/N_h)·s_h²/n_h. Since a draw weighs P_h/(n_h·p), ωy = P_h·u/n_h, and the sum needs no p.

    Args:
        strata: stratum of each draw, (n,).
        sizes: N of each draw's stratum, (n,).
        weights: ω, (n,).
        values: times, (n,).

    Example:
        >>> width = half_width_stratified(np.zeros(3, int), np.full(3, 30), np.full(3, 10.0), np.array([1.0, 2.0, 3.0]))
        >>> round(width, 3)
        70.7
    """
    variance, freedom = 0.0, 0
    for stratum in np.unique(strata):
        mine = strata == stratum
        drawn, size = int(mine.sum()), int(sizes[mine][0])
        if drawn >= size or drawn < 2:
            continue
        variance += drawn * (1 - drawn / size) * float(np.var(weights[mine] * values[mine], ddof=1))
        freedom += drawn - 1
    return float(stdtrit(freedom, 0.975)) * math.sqrt(variance) if freedom else 0.0


def _values(shape: tuple[int, ...], value: float | Sequence[float], positive: bool) -> tuple[float, ...]:
    values = tuple(float(v) for v in np.atleast_1d(np.asarray(value, dtype=float)).ravel())
    if not values:
        raise ValueError(f"the shape {tuple(shape)} has an empty list of values")
    bad = [v for v in values if not math.isfinite(v) or v < 0 or (positive and v == 0)]
    if bad:
        raise ValueError(
            f"the shape {tuple(shape)} has the value {bad[0]}; expected finite {'positive ' * positive}numbers"
        )
    return values


def _some(shapes: Sequence[tuple[int, ...]]) -> str:
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return ", ".join(str(shape) for shape in shapes[:3]) + more
