"""The randomised selector: strata of equal predicted cost, random draws, and an interval that follows from them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from fulgurite.callbacks.seqpoint.ranking import Ranking

FEWEST = 3  # draws a stratum: two under-cover badly
EXPORT_SECONDS = 0.25  # what writing one trace costs beyond its step; keeps short steps from seeming free


@dataclass(frozen=True)
class Draw:
    """The draws from one stratum.

    Args:
        first: first rank of the stratum.
        size: N_h, how many ranks it has.
        ranks: those drawn, ascending, n_h of them.
        weights: ω of each, P_h/(n_h·p), or 1 where the stratum is taken whole.

    Example:
        >>> Draw(0, 2, (0, 1), (1.0, 1.0)).size
        2
    """

    first: int
    size: int
    ranks: tuple[int, ...]
    weights: tuple[float, ...]


def draw(
    ranking: Ranking,
    seconds: NDArray[np.float64] | None,
    warm: NDArray[np.bool_],
    *,
    strata: int | None,
    most: int,
    replicates: int,
    error: float,
    rng: np.random.Generator,
) -> tuple[tuple[Draw, ...], float]:
    """Draw iterations at random within strata of equal total predicted cost.

    With u = t/p, P_h the predicted cost of stratum h and ū_h the mean over its n_h draws, the epoch is estimated by
    T̂ = Σ_h P_h·ū_h with Var = Σ_h P_h²·(1 − n_h/N_h)·s_h²/n_h. The draws are allotted in proportion to P_h·s_h/√c_h
    (cost-aware Neyman allocation; s_h from the logged residuals, c_h the mean price of a trace, its step and its
    export), at least 3 a stratum. Strata of at most 3 iterations are taken whole, and count as they are.

    Args:
        ranking: of M iterations.
        seconds: (M,) logged times, or ``None``: every stratum then gets as many draws.
        warm: (M,) the steps whose residuals count.
        strata: how many; ``None``: the fewest whose half-width, foreseen from the residuals, is at most ``error`` of
            the total; or ``most``.
        most: largest number of strata tried.
        replicates: draws a stratum on average, at least 3.
        error: see ``strata``.
        rng: private source of the draws.

    Returns:
        The strata from cheap to dear, and the foreseen half-width of the 95 % interval over the total (``nan``
        without times).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ranking = Ranking.of(np.linspace(1.0, 2.0, 90), rng)
        >>> drawn, _ = draw(
        ...     ranking, None, np.ones(90, bool), strata=3, most=3, replicates=3, error=0.01, rng=rng
        ... )
        >>> [len(stratum.ranks) for stratum in drawn]
        [3, 3, 3]
    """
    replicates = max(FEWEST, replicates)
    if strata is None:
        strata = _fewest(ranking, seconds, warm, most=most, replicates=replicates, error=error)
    bounds = _strata(ranking, strata)
    sizes = np.diff(bounds)
    spread = _spread(ranking, seconds, warm, bounds)
    numbers = _allot(ranking, seconds is not None, bounds, spread, strata * replicates)
    drawn = []
    for first, size, number in zip(bounds[:-1].tolist(), sizes.tolist(), numbers.tolist(), strict=True):
        ranks = first + np.sort(rng.choice(size, number, replace=False))
        mass = ranking.sums[first + size] - ranking.sums[first]
        weights = np.ones(size) if number == size else mass / (number * ranking.costs[ranks])
        drawn.append(Draw(first, size, tuple(ranks.tolist()), tuple(weights.tolist())))
    foreseen = math.nan if seconds is None else _half_width(ranking, bounds, spread, numbers)
    return tuple(drawn), foreseen


def _strata(ranking: Ranking, strata: int) -> NDArray[np.int64]:
    """First rank of each stratum of equal Σp, and M at the end; empty ones are left out."""
    middle = (ranking.sums[1:] + ranking.sums[:-1]) / 2 / ranking.sums[-1]
    stratum = np.minimum((middle * strata).astype(np.int64), strata - 1)
    return np.append(np.flatnonzero(np.diff(stratum, prepend=-1)), len(ranking))


def _spread(
    ranking: Ranking, seconds: NDArray[np.float64] | None, warm: NDArray[np.bool_], bounds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """s_h of u = t/p; a stratum's own, but no less than half of what it is on the whole, as few residuals can agree."""
    if seconds is None:
        return np.ones(len(bounds) - 1)
    ratios = seconds[ranking.order] / ranking.costs
    usable = warm[ranking.order]
    stratum = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[usable]
    number = np.bincount(stratum, minlength=len(bounds) - 1)
    mean = np.bincount(stratum, ratios[usable], len(bounds) - 1) / np.maximum(number, 1)
    squares = np.bincount(stratum, (ratios[usable] - mean[stratum]) ** 2, len(bounds) - 1)
    freedom = max(int(np.maximum(number - 1, 0).sum()), 1)
    pooled = math.sqrt(float(squares.sum()) / freedom)
    own = np.sqrt(squares / np.maximum(number - 1, 1))
    return np.maximum(np.where(number > FEWEST, own, pooled), 0.5 * pooled)


def _allot(
    ranking: Ranking, timed: bool, bounds: NDArray[np.int64], spread: NDArray[np.float64], budget: int
) -> NDArray[np.int64]:
    sizes = np.diff(bounds)
    mass = np.diff(ranking.sums[bounds])
    price = mass / sizes + EXPORT_SECONDS if timed else np.ones(len(sizes))
    wish = mass * spread / np.sqrt(price)
    if not wish.any():
        wish = np.ones(len(sizes))
    fewest = np.minimum(FEWEST, sizes)

    def numbers(scale: float) -> NDArray[np.int64]:
        return np.clip(np.floor(scale * wish), fewest, sizes).astype(np.int64)

    # What the floor has given or a small stratum cannot take changes the scale for the others: more scale, more draws.
    low, high = 0.0, float((sizes + 1).max() / wish[wish > 0].min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if numbers(middle).sum() <= budget else (low, middle)
    return numbers(low)


def _half_width(
    ranking: Ranking, bounds: NDArray[np.int64], spread: NDArray[np.float64], numbers: NDArray[np.int64]
) -> float:
    sizes = np.diff(bounds)
    mass = np.diff(ranking.sums[bounds])
    variance = float((mass**2 * (1 - numbers / sizes) * spread**2 / numbers).sum())
    freedom = int((numbers - 1)[numbers < sizes].sum())
    return float(stdtrit(freedom, 0.975)) * math.sqrt(variance) / float(ranking.sums[-1]) if freedom else 0.0


def _fewest(
    ranking: Ranking,
    seconds: NDArray[np.float64] | None,
    warm: NDArray[np.bool_],
    *,
    most: int,
    replicates: int,
    error: float,
) -> int:
    if seconds is None:
        return most

    def enough(strata: int) -> bool:
        bounds = _strata(ranking, strata)
        spread = _spread(ranking, seconds, warm, bounds)
        return _half_width(ranking, bounds, spread, _allot(ranking, True, bounds, spread, strata * replicates)) <= error

    failed, strata = 0, 1
    while not enough(strata):
        if strata >= most:
            return most
        failed, strata = strata, min(most, 2 * strata)
    while strata - failed > 1:
        middle = (failed + strata) // 2
        failed, strata = (failed, middle) if enough(middle) else (middle, strata)
    return strata
