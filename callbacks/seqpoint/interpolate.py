"""The default selector: points along predicted cost, with weights that interpolate between them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.measured import ends_factor, leave_one_out, merge
from fulgurite.callbacks.seqpoint.ranking import Ranking, knots_of, point_weights
from fulgurite.callbacks.seqpoint.transfer import mixed_error

_REDRAWS = 4096  # point-times-redraws of the replicates behind a foreseen error
_CHOICES = 64  # random choices of the runs that are tried for balance
_NEAR = 0.02  # runs of a point differ from its place by this share of predicted cost at most,
_WINDOW = 8  # and are chosen among this many times as many adjacent steps
_ALIKE = 0.1  # an end whose replicates differ by more, relative to them and to the mean cost, has only itself
_EXACT = 16  # up to here every number of points is tried, then in steps of a fifth
_USUAL_NOISE = 0.03  # of a step's time, where no times were logged


@dataclass(frozen=True)
class Layout:
    """Points laid out along predicted cost.

    Args:
        ranks: of the runs of each point, the representative first, (points, replicates); one over and over where
            a point has a single run.
        knots: predicted cost at which each point stands, ascending, (points,).
        weights: ω, (points,).
        noise: relative standard error of fresh times, foreseen by leaving points out.
        bias: how far redrawn means lie from the logged total on average, relatively.
        imbalance: relative error to expect because the chosen shapes are not quite like the rest.

    Example:
        >>> Layout(np.array([[0]]), np.array([1.0]), np.array([5.0]), 0.003, 0.0, 0.004).error
        0.005
    """

    ranks: NDArray[np.int64]
    knots: NDArray[np.float64]
    weights: NDArray[np.float64]
    noise: float
    bias: float
    imbalance: float

    @property
    def error(self) -> float:
        """Relative error to expect of a projection, root mean square."""
        return math.hypot(self.noise, self.bias, self.imbalance)


def choose(
    ranking: Ranking,
    seconds: NDArray[np.float64] | None,
    warm: NDArray[np.bool_],
    others: NDArray[np.float64],
    *,
    points: int | None,
    most: int,
    replicates: int,
    error: float,
    rng: np.random.Generator,
) -> Layout:
    """The given number of points, or the fewest whose foreseen error is small enough.

    Args:
        ranking: of M iterations.
        seconds: (M,) logged times, or ``None``.
        warm: (M,) the steps whose times count.
        others: (M, K) from :func:`~fulgurite.callbacks.seqpoint.transfer.other_costs`.
        points: how many; ``None``: the fewest (from 2 on) whose ``Layout.error`` is at most ``error``, or ``most``.
        most: largest number tried.
        replicates: runs a point.
        error: see ``points``.
        rng: private source of random draws.

    Example:
        >>> from fulgurite.callbacks.seqpoint.transfer import other_costs
        >>> rng = np.random.default_rng(0)
        >>> shapes = np.stack([np.full(600, 8), rng.integers(5, 80, 600)], axis=1)
        >>> seconds = (10.0 + shapes[:, 1]) * rng.normal(1.0, 0.03, 600)
        >>> ranking = Ranking.of(10.0 + shapes[:, 1], rng)
        >>> others = other_costs(shapes, ranking, ("batch", "source"))
        >>> warm = np.ones(600, bool)
        >>> layout = choose(ranking, seconds, warm, others, points=None, most=10, replicates=3, error=0.01, rng=rng)
        >>> 3 < len(layout.knots) < 10, layout.error < 0.01
        (True, True)
    """

    def lay(count: int) -> Layout:
        ranks = place(ranking, count, replicates, others, rng)
        return _judged(ranking, ranks, seconds, warm, others, rng)

    if points is not None:
        return lay(points)
    failed, count = 1, 2
    while (layout := lay(count)).error > error:
        if count >= most:
            return layout
        failed, count = count, min(most, count + 1 if count < _EXACT else math.ceil(1.2 * count))
    while count - failed > 1:
        middle = (failed + count) // 2
        tried = lay(middle)
        failed, count, layout = (failed, middle, tried) if tried.error <= error else (middle, count, layout)
    return layout


def starts_of(ranking: Ranking, points: int, replicates: int) -> NDArray[np.int64]:
    """First rank of every point's block of ``replicates`` consecutive ranks: points by predicted mass and at both ends.

    With C the running sum of cost and k = points − 2, they stand where C/C_M = (j + ½)/k, j = 0…k−1, and at the two
    ends. A single point stands at the mean cost. Blocks do not overlap.

    Args:
        ranking: of M iterations.
        points: how many, points · replicates ≤ M.
        replicates: runs a point.

    Example:
        >>> starts_of(Ranking.of(np.arange(1.0, 101.0), np.random.default_rng(0)), 3, 3).tolist()
        [0, 69, 97]
    """
    count = len(ranking)
    if points == 1:
        centres = np.searchsorted(ranking.costs, [ranking.sums[-1] / count])
    else:
        inner = (np.arange(points - 2) + 0.5) / max(points - 2, 1) * ranking.sums[-1]
        centres = np.concatenate([[0], np.searchsorted(ranking.sums[1:], inner), [count - 1]])
    step = replicates * np.arange(points)
    starts = np.clip(centres - replicates // 2, 0, count - replicates)
    # Pushed apart, so that no two points share a run, then back from the end.
    starts = np.maximum.accumulate(starts - step) + step
    return np.minimum(starts, count - replicates * points + step)


def place(
    ranking: Ranking, points: int, replicates: int, others: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ranks of every point's runs, (points, replicates), the representative (the median in cost) first.

    An end point whose neighbours differ much (10 %) in predicted cost has one run, repeated in its row.

    Steps of equal predicted cost still have different shapes, a long source here and a long target there, and another
    configuration may tell them apart. So the runs of an inner point are chosen among the steps around its place,
    within 2 % of its predicted cost: of many random choices the one with which the totals of ``others`` come out best.
    Logged times play no part in it, so that it is no fit to them.

    Args:
        ranking: of M iterations.
        points: how many; fewer where the epoch is too short for that many runs.
        replicates: runs a point.
        others: (M, K) from :func:`~fulgurite.callbacks.seqpoint.transfer.other_costs`.
        rng: private source of the choices.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ranking = Ranking.of(np.arange(1.0, 101.0), rng)
        >>> place(ranking, 3, 3, ranking.costs[:, None], rng).tolist()
        [[1, 0, 2], [70, 69, 71], [98, 97, 99]]
    """
    count = len(ranking)
    replicates = min(replicates, count)
    points = min(points, count // replicates)
    starts = starts_of(ranking, points, replicates)
    low, high = _windows(ranking, starts, replicates)
    inside = np.arange(int((high - low).max())) < (high - low)[:, None]
    best, least = starts[:, None], math.inf
    ranks = starts[:, None] + np.arange(replicates)
    for _ in range(_CHOICES):
        if points > 1:
            _hold_ends(ranking, ranks)
        missed = _imbalance(ranking, ranks, others)
        if missed < least:
            best, least = ranks, missed
        keys = np.where(inside, rng.random(inside.shape), 2.0)
        ranks = np.sort(low[:, None] + np.argpartition(keys, replicates - 1, axis=1)[:, :replicates], axis=1)
    distance = np.abs(ranking.costs[best] - np.median(ranking.costs[best], axis=1, keepdims=True))
    return np.take_along_axis(best, np.argsort(distance, axis=1, kind="stable"), axis=1)


def _windows(
    ranking: Ranking, starts: NDArray[np.int64], replicates: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    centres = ranking.costs[starts + replicates // 2]
    borders = (starts[:-1] + replicates + starts[1:]) // 2
    reach = (_WINDOW - 1) * replicates // 2
    low = np.maximum(np.searchsorted(ranking.costs, centres * (1 - _NEAR)), starts - reach)
    high = np.minimum(np.searchsorted(ranking.costs, centres * (1 + _NEAR)), starts + replicates + reach)
    low = np.minimum(np.maximum(low, np.concatenate([[0], borders])), starts)
    high = np.maximum(np.minimum(high, np.concatenate([borders, [len(ranking)]])), starts + replicates)
    if len(starts) > 1:
        # The ends stay at the ends: there is nothing beyond them to balance against.
        low[[0, -1]], high[[0, -1]] = starts[[0, -1]], starts[[0, -1]] + replicates
    return low, high


def _hold_ends(ranking: Ranking, ranks: NDArray[np.int64]) -> None:
    """Let an end that has no neighbours alike stand for itself: a longest batch can cost many times the next."""
    usual = float(ranking.sums[-1]) / len(ranking)
    for row, end in ((ranks[0], 0), (ranks[-1], len(ranking) - 1)):
        costs = ranking.costs[row]
        if np.ptp(costs) > _ALIKE * max(usual, float(costs.max())):
            row[:] = end


def _imbalance(ranking: Ranking, ranks: NDArray[np.int64], others: NDArray[np.float64]) -> float:
    weights = point_weights(ranking, knots_of(ranking, ranks))
    return mixed_error(weights @ others[ranks].mean(axis=1) / len(ranking) - 1)


def _judged(
    ranking: Ranking,
    ranks: NDArray[np.int64],
    seconds: NDArray[np.float64] | None,
    warm: NDArray[np.bool_],
    others: NDArray[np.float64],
    rng: np.random.Generator,
) -> Layout:
    knots = knots_of(ranking, ranks)
    weights = point_weights(ranking, knots)
    imbalance = _imbalance(ranking, ranks, others)
    noise, bias = _USUAL_NOISE / math.sqrt(ranks.size), 0.0
    if seconds is not None:
        noise, bias = foreseen_error(ranking, ranks, seconds, warm, rng)
    return Layout(ranks, knots, weights, noise, bias, imbalance)


def foreseen_error(
    ranking: Ranking,
    ranks: NDArray[np.int64],
    seconds: NDArray[np.float64],
    warm: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[float, float]:
    """What to expect of a projection with fresh replicates, relative to the total: standard error and bias.

    The replicates of one selection are too few to judge by. So each point's are drawn again many times from the logged
    steps around it (each time over its predicted cost, times the point's), and every draw is judged by
    :func:`~fulgurite.callbacks.seqpoint.measured.leave_one_out`: the root of the mean sum of squares is the standard
    error. With fewer than three places no point can be left out, and the spread of the redrawn totals is it. How far
    they lie from the logged total on average is the bias.

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
        >>> ranks = place(ranking, 8, 3, ranking.costs[:, None], rng)
        >>> noise, bias = foreseen_error(ranking, ranks, seconds, np.ones(300, bool), rng)
        >>> 0.004 < noise < 0.012, abs(bias) < 0.005
        (True, True)
    """
    knots = knots_of(ranking, ranks)
    weights = point_weights(ranking, knots)
    points, replicates = ranks.shape
    usable = np.flatnonzero(warm[ranking.order])
    usable = usable if len(usable) >= replicates else np.arange(len(ranking))
    costs, times = ranking.costs[usable], seconds[ranking.order][usable]
    middle = (ranks.min(axis=1) + ranks.max(axis=1)) / 2
    borders = np.concatenate([[0], np.searchsorted(usable, (middle[1:] + middle[:-1]) / 2), [len(usable)]])
    # A stretch with too few usable steps is widened to the nearest ones.
    starts = np.clip(np.minimum(borders[:-1], borders[1:] - replicates), 0, len(usable) - replicates)
    widths = np.maximum(borders[1:] - starts, replicates)[:, None]
    redraws = max(16, _REDRAWS // points)
    picks = starts[:, None] + (rng.random((redraws, points, replicates)) * widths).astype(np.int64)
    values = (times / costs)[picks].mean(axis=2) * knots
    totals = values @ weights
    expected = float(times.sum() / costs.sum() * ranking.sums[-1])
    places, merged, means = merge(knots, weights, values)
    bias = float(totals.mean()) / expected - 1
    if len(places) < 3:
        return float(np.std(totals / expected)), bias
    residuals = leave_one_out(places, merged, means) / totals[:, None]
    return math.sqrt(float((residuals**2).sum(axis=1).mean()) * ends_factor(places, merged)), bias
