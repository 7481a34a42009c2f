"""The plan: which few iterations stand for an epoch, with what weight, and what their times say about the whole."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.callbacks.seqpoint.cost import CostModel
from fulgurite.callbacks.seqpoint.fingerprint import difference, fingerprint
from fulgurite.callbacks.seqpoint.measured import (
    Samples,
    half_width_interpolated,
    half_width_stratified,
    robust_means,
    share_out,
)
from fulgurite.callbacks.seqpoint.ranking import nearest_knot

Selector = Literal["interpolate", "paper", "audit"]
Measured = Mapping[tuple[int, ...], float | Sequence[float]]

_LARGEST = 2**31  # of a size; beyond it products of sizes would leave the exact range of float64

DEFAULT_COLUMNS = ("batch", "source", "target", "optimizer_step")


class PlanError(ValueError):
    """A plan cannot be made, read or applied; the message says what was got, what was expected and what to do."""


class ShapeWarning(UserWarning):
    """The shape of a step explains too little of its cost for a projection from a few steps to be trusted."""


@dataclass(frozen=True)
class Point:
    """One representative iteration.

    Args:
        shape: the columns given to :func:`~fulgurite.callbacks.seqpoint.select.select`, of the representative.
        weight: ω, how many iterations its time counts for. The weights of a plan add up to the number of iterations
            (for ``audit``: in expectation).
        seconds: the time seen when selecting, the median over ``runs``; ``nan`` in a plan made without times.
        indices: the logged iterations that it stands for; those of all points are the whole log, each once.
        runs: the iterations to run or trace for it, adjacent in predicted cost, the representative first.
        stratum: its stratum for ``audit``, else the point's own number.
        cost: predicted cost at which it stands, the median over ``runs``.

    Example:
        >>> Point((32, 20), 10.0, 0.5, (0, 1), (1,), 0, 0.48).weight
        10.0
    """

    shape: tuple[int, ...]
    weight: float
    seconds: float
    indices: tuple[int, ...]
    runs: tuple[int, ...]
    stratum: int
    cost: float


@dataclass(frozen=True)
class Projection:
    """A projected total (or rate) with a nominal 95 % interval, an estimate and no guarantee.

    ``low`` and ``high`` are ``nan`` where no honest interval exists, as for the ``paper`` selector.

    Example:
        >>> Projection(10.0, 9.5, 10.5).total
        10.0
    """

    total: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """A range of lengths, and how much of each point's weight lies in it.

    Args:
        label: the range in words, ``"5-12"``.
        low: smallest length in it.
        high: largest length in it.
        shares: a number in [0, 1] for each point; over all bands they add up to 1 for every point.

    Example:
        >>> Band("5-12", 5, 12, (1.0, 0.25)).label
        '5-12'
    """

    label: str
    low: int
    high: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """A few weighted iterations that stand for an epoch. Made by :func:`~fulgurite.callbacks.seqpoint.select.select`.

    After S. Pati et al., "SeqPoint: Identifying Representative Iterations of Sequence-based Neural Networks",
    https://arxiv.org/abs/2007.10459. Any total over the epoch is projected as T̂ = Σⱼ ωⱼyⱼ from a value yⱼ at each
    point, with the same weights ω for time, operators, bytes or counters, so tables add up.

    Args:
        selector: how the points were chosen.
        columns: names of the shape's columns.
        points: the points, in order of predicted cost.
        iterations: M, the number of iterations of the epoch.
        seconds: total time logged; ``nan`` in a plan made without times.
        explained: R² of the cost proxy, the share of the variance of step time that shape explains; ``nan`` where shape
            does not vary or no times were given.
        error: relative error to expect of a projection. ``interpolate``: root mean square, from leaving points out,
            from how far redrawn means lie from the logged total, and from trying the points on other costs; ``audit``:
            foreseen half-width of the interval; ``nan`` for ``paper``, and without times. Never an in-sample fit.
        refusal: why this run cannot be projected from shape, else ``None``.
        fingerprint: of the shapes, for :meth:`check`.
        length: the column used as length.
        cost: the cost proxy, for :meth:`nearest`.
        lengths: the length of each logged iteration.
        systematic: relative standard error that fresh times of the points cannot show, and that their interval takes
            from here: how unlike the rest their shapes are, how far their means lie from the logged total, and
            iterations that were not logged.
        measured: fresh seconds per point, filled by :meth:`with_measured`, else empty.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> lengths = np.arange(10, 210)
        >>> plan = select(np.stack([np.full(200, 32), lengths], axis=1), 0.001 * lengths, points=4)
        >>> float(plan.weights.sum())
        200.0
        >>> doubled = {point.shape: 0.002 * point.shape[1] for point in plan.points}
        >>> round(plan.project(doubled).total / plan.seconds, 6)
        2.0
    """

    selector: Selector
    columns: tuple[str, ...]
    points: tuple[Point, ...]
    iterations: int
    seconds: float
    explained: float
    error: float
    refusal: str | None
    fingerprint: str
    length: int
    cost: CostModel
    lengths: tuple[int, ...]
    systematic: float = 0.0
    measured: Samples = field(default=())

    @property
    def weights(self) -> NDArray[np.float64]:
        """ω of every point, (points,)."""
        return np.array([point.weight for point in self.points])

    @property
    def runs(self) -> int:
        """How many iterations there are to run or trace, over all points."""
        return sum(len(point.runs) for point in self.points)

    def project(self, measured: Measured | None = None) -> Projection:
        """The epoch's total from fresh values of the points: T̂ = Σⱼ ωⱼyⱼ, yⱼ the mean of a point's values.

        Values far off are pulled in first, so that no single disturbed step decides.

        Args:
            measured: shape of each point → its seconds (or bytes, counts), one value or several. Where points share a
                shape, a list as long as all their runs is dealt out in order, any other multiple of their number in
                equal parts, and a single value serves all of them. ``None``: the values kept in :attr:`measured`.

        Returns:
            The total and a nominal 95 % interval: for ``interpolate`` from the spread of the replicates and from
            leaving points out, for ``audit`` the t-interval of stratified sampling (no narrower, relatively, than
            the logged residuals foresaw), for ``paper`` ``nan``. An estimate, no guarantee: in simulation (200 epochs
            each of 500, 1,000 and 1,489 shuffled iterations with real sentence lengths, 3 % noise, 1 % of steps slowed
            by half, projected on seven cost models) it held the total in 94 to 100 % of epochs for ``interpolate``
            and in 93 to 99 % for ``audit``.

        Raises:
            PlanError: the plan was refused, a point has no value, a shape is of no point, a value is not positive.
        """
        return self._project(self._samples(measured))

    def project_rate(self, amount: float | Measured, measured: Measured | None = None) -> Projection:
        """A rate of the whole epoch, such as tokens a second: the ratio of totals, never a mean of rates.

        Args:
            amount: the epoch's total where it is known, or shape of each point → amount in one such step.
            measured: as in :meth:`project`.

        Raises:
            PlanError: as :meth:`project`, or an amount that is negative or not finite.

        Example:
            >>> from fulgurite.callbacks.seqpoint.select import select
            >>> plan = select(np.array([[32, 20]] * 50), np.full(50, 0.5))
            >>> plan.project_rate({(32, 20): 640}, {(32, 20): 0.5}).total
            1280.0
        """
        if isinstance(amount, Mapping):
            amount = float(self.weights @ robust_means(self._shares(amount, positive=False)))
        if not math.isfinite(amount) or amount < 0:
            raise PlanError(f"got an amount of {amount}; expected a finite number that is not negative")
        time = self.project(measured)
        return Projection(amount / time.total, amount / time.high, amount / time.low if not time.low <= 0 else math.inf)

    def with_measured(self, measured: Measured) -> "Plan":
        """This plan with fresh seconds kept in it, for a later comparison.

        Raises:
            PlanError: as for :meth:`project`.
        """
        return replace(self, measured=self._shares(measured))

    def nearest(self, shapes: ArrayLike) -> NDArray[np.int64]:
        """For steps of another epoch, the number of the point that stands for each: the one nearest in predicted cost.

        Steps nearest to several points of equal cost are dealt out to them in turn.

        Args:
            shapes: (steps, C) whole numbers.

        Returns:
            (steps,) indices into :attr:`points`.

        Raises:
            PlanError: the shapes have the wrong dimensions or are not whole numbers.

        Example:
            >>> from fulgurite.callbacks.seqpoint.select import select
            >>> shapes = np.array([[8, n] for n in range(1, 101)])
            >>> plan = select(shapes, 0.01 * shapes[:, 1], points=2)
            >>> plan.nearest([[8, 5], [8, 90]]).tolist()
            [0, 1]
        """
        costs = self.cost.predict(as_shapes(shapes, columns=self.columns))
        return nearest_knot(costs, np.array([point.cost for point in self.points]))

    def batch_sampler(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """The epoch in small: the batches to run for the points, in the points' order, each with its replicates.

        Args:
            batches: the epoch's batches of sample indices, in the order in which they were logged.

        Returns:
            The batches of all :attr:`Point.runs`; usable as a ``batch_sampler``.

        Raises:
            PlanError: not as many batches as the epoch has iterations.

        Example:
            >>> from fulgurite.callbacks.seqpoint.select import select
            >>> plan = select(np.array([[2, 9]] * 3), np.full(3, 0.1), replicates=1)
            >>> len(plan.batch_sampler([[0, 1], [2, 3], [4, 5]]))
            1
        """
        if len(batches) != self.iterations:
            raise PlanError(
                f"got {len(batches)} batches, but this plan is for an epoch of {self.iterations}: "
                "pass the batches of the same data set, batch size and batching policy, or select anew"
            )
        return [list(batches[run]) for point in self.points for run in point.runs]

    def check(self, shapes: ArrayLike) -> None:
        """Make sure that these shapes can come from the data, batch size and batching policy that were selected on.

        Args:
            shapes: (M, C), a whole epoch's shapes in any order.

        Raises:
            PlanError: they come from something else, or have other columns.
        """
        other = fingerprint(as_shapes(shapes, columns=self.columns))
        found = difference(self.fingerprint, other, self.columns)
        if found is not None:
            raise PlanError(
                f"this plan is for other data: {found} (plan, given); a plan holds for one data set, batch size and "
                "batching policy, so select anew for these"
            )

    def length_bands(self, count: int = 4, *, edges: Sequence[int] | None = None) -> tuple[Band, ...]:
        """Split the epoch by length, for tables by length band.

        Args:
            count: how many bands, of about equally many iterations each (fewer where lengths repeat).
            edges: the largest length of each band but the last, ascending, instead of ``count``.

        Returns:
            The bands, short to long, each with every point's share of weight in it.

        Raises:
            PlanError: ``count`` is below 1.

        Example:
            >>> from fulgurite.callbacks.seqpoint.select import select
            >>> shapes = np.array([[8, n] for n in range(1, 101)])
            >>> [band.label for band in select(shapes, 0.01 * shapes[:, 1]).length_bands(2)]
            ['1-50', '51-100']
        """
        if count < 1:
            raise PlanError(f"got {count} length bands; expected at least 1")
        lengths = np.asarray(self.lengths)
        if edges is None:
            cuts = np.unique(np.quantile(lengths, np.arange(1, count) / count, method="lower"))
            inner = cuts[cuts < lengths.max()].tolist()
        else:
            inner = sorted(edges)
        lows = [min([int(lengths.min()), *inner]), *(edge + 1 for edge in inner)]
        highs = [*inner, max([int(lengths.max()), *inner])]
        band = np.searchsorted(inner, lengths)
        shares = np.zeros((len(self.points), len(highs)))
        for row, point in zip(shares, self.points, strict=True):
            # A point between others may stand for no step of its own; its weight then lies at its own length.
            members = band[list(point.indices)] if point.indices else np.searchsorted(inner, [point.shape[self.length]])
            row += np.bincount(members, minlength=len(highs)) / len(members)
        return tuple(
            Band(str(low) if low == high else f"{low}-{high}", low, high, tuple(column))
            for low, high, column in zip(lows, highs, shares.T.tolist(), strict=True)
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        from fulgurite.callbacks.seqpoint.plan_file import write_plan

        write_plan(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plan":
        """Read a plan written by :meth:`save`.

        Raises:
            PlanError: no such file, not JSON, not a plan, a newer version, or numbers that cannot be.
        """
        from fulgurite.callbacks.seqpoint.plan_file import read_plan

        return read_plan(path)

    def _shares(self, measured: Measured, *, positive: bool = True) -> Samples:
        shapes = [point.shape for point in self.points]
        try:
            return share_out(shapes, [len(point.runs) for point in self.points], measured, positive=positive)
        except (TypeError, ValueError) as error:
            raise PlanError(str(error)) from None

    def _samples(self, measured: Measured | None) -> Samples:
        if measured is not None:
            return self._shares(measured)
        if not self.measured:
            raise PlanError("this plan holds no measured times: pass measured={shape: seconds, ...}")
        return self.measured

    def _project(self, samples: Samples) -> Projection:
        if self.refusal is not None:
            raise PlanError(self.refusal)
        values = robust_means(samples)
        total = float(self.weights @ values)
        if self.selector == "paper":
            return Projection(total, math.nan, math.nan)
        if self.selector == "audit":
            strata = np.array([point.stratum for point in self.points])
            held = np.bincount(strata, weights=[len(point.indices) for point in self.points]).astype(np.int64)
            half = half_width_stratified(strata, held[strata], self.weights, values)
            # A disturbed step is rare: draws that met none know too little of their own spread. The whole log does not.
            half = max(half, 0.0 if math.isnan(self.error) else self.error * total)
        else:
            costs = np.array([point.cost for point in self.points])
            half = half_width_interpolated(costs, self.weights, samples, expected=self.error)
        half = math.hypot(half, 1.96 * self.systematic * total)
        return Projection(total, total - half, total + half)


def as_shapes(shapes: ArrayLike, *, columns: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Shapes as an (M, C) array of int64, checked.

    Args:
        shapes: anything that NumPy reads as (M, C) whole numbers that are not negative.
        columns: names of the columns expected, if known.

    Raises:
        PlanError: empty, wrong dimensions, not whole, negative, or another number of columns.

    Example:
        >>> as_shapes([[8.0, 5.0]]).tolist()
        [[8, 5]]
    """
    try:
        array = np.asarray(shapes)
    except ValueError as error:
        raise PlanError(f"shapes are no rectangular array: {error}") from None
    if array.ndim > 0 and len(array) == 0:
        raise PlanError("got an empty epoch: expected at least one iteration")
    if array.ndim != 2 or array.shape[1] == 0:
        raise PlanError(
            f"got shapes of dimensions {array.shape}; expected (iterations, columns), "
            "for one column of lengths use lengths[:, None]"
        )
    if array.dtype.kind not in "biuf":
        raise PlanError(f"got shapes of type {array.dtype}; expected whole numbers")
    # NaN fails every comparison, so it is among the bad ones.
    bad = ~((array >= 0) & (array < _LARGEST) & (array == np.floor(array)))
    if bad.any():
        raise PlanError(
            f"iteration {int(bad.any(axis=1).argmax())} has the shape {array[bad.any(axis=1)][0].tolist()}; "
            "expected whole numbers that are not negative"
        )
    whole = array.astype(np.int64)
    if columns is not None and whole.shape[1] != len(columns):
        raise PlanError(f"got {whole.shape[1]} columns; expected {len(columns)}: {', '.join(columns)}")
    return whole
