"""The headline numbers of a profiled epoch, each with what it is measured against. NumPy and SciPy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

from fulgurite.callbacks.seqpoint.cost import candidate_terms, features
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import Plan, Projection

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace

_NEIGHBOURS = 5


@dataclass(frozen=True)
class MemoryRisk:
    """The batch most likely to run out of memory.

    Args:
        step: its number in the epoch.
        shape: its shape.
        peak_bytes: its peak, NaN if memory was measured nowhere.
        basis: where that comes from: ``"measured"`` at every step, ``"predicted"`` from traced steps by shape, or
            ``"size"``: not measured, it is only the largest batch with padding.
        peaks: (M,) the peak of every step, measured or predicted; NaN where unknown.
    """

    step: int
    shape: tuple[int, ...]
    peak_bytes: float
    basis: str
    peaks: NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """What the report opens with.

    Args:
        projection: the projected epoch; ``None`` where shape cannot project this run.
        logged: seconds of all steps of the logged epoch, on which the points were selected.
        actual: seconds of all steps of the following epoch; a traced step counts as much as untraced steps of like
            cost. NaN if there is no such epoch.
        iterations: steps of the logged epoch.
        points: points of the plan.
        runs: steps run or traced for them.
        serial: logged epoch over the time of all runs one after another.
        critical: logged epoch over its longest single run (all runs at once).
        padding: share of the tokens that is padding; NaN if unknown.
        waiting: share of the logged epoch, its input wait counted in, that is input wait.
        cold_steps: steps whose shape was new to the run.
        cold_seconds: what these took beyond warm steps of like cost.
        straggler: share of the step time in which ranks wait for the one with the longest batch; NaN if not known.
        trace_bytes: size of all trace files.
        memory: the batch most likely to run out of memory.
    """

    projection: Projection | None
    logged: float
    actual: float
    iterations: int
    points: int
    runs: int
    serial: float
    critical: float
    padding: float
    waiting: float
    cold_steps: int
    cold_seconds: float
    straggler: float
    trace_bytes: int
    memory: MemoryRisk

    @property
    def error(self) -> float:
        """Projected over actual epoch, less one; NaN without either."""
        return self.projection.total / self.actual - 1.0 if self.projection is not None else math.nan


def summarize(
    *,
    plan: Plan,
    log: EpochLog,
    following: EpochLog | None,
    projection: Projection | None,
    traces: Mapping[int, Sequence["StepTrace"]],
    straggler: float = math.nan,
) -> Summary:
    """Work out the headline numbers.

    Args:
        plan: the plan, selected on ``log``.
        log: the logged epoch.
        following: the epoch in which the points were traced, if there was one.
        projection: the projected epoch, if there is one.
        traces: number of a point → its traces.
        straggler: see :class:`Summary`.

    Raises:
        ValueError: the plan was not made from this log.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> lengths = np.arange(10, 210)
        >>> shapes = np.stack([np.full(200, 8), lengths], axis=1)
        >>> no, zero, unknown = np.zeros(200, dtype=bool), np.zeros(200), np.full(200, -1)
        >>> log = EpochLog(
        ...     0, ("batch", "source"), shapes, 1e-4 * lengths, zero, zero, no, no, unknown, unknown, zero + np.nan
        ... )
        >>> plan = select(shapes, log.seconds, points=4, columns=log.columns)
        >>> found = summarize(plan=plan, log=log, following=None, projection=None, traces={})
        >>> found.iterations, found.runs, found.memory.shape
        (200, 12, (8, 209))
        >>> found.critical > found.serial
        True
    """
    if plan.iterations != len(log):
        raise ValueError(f"got a plan for {plan.iterations} steps and a log of {len(log)}; expected the plan's own log")
    runs = np.array([run for point in plan.points for run in point.runs])
    logged, waits = float(log.seconds.sum()), float(log.waits.sum())
    warm = ~log.cold & ~log.traced
    cold_seconds = float(log.seconds[log.cold].sum() - like(log, plan, ~warm)[log.cold].sum())
    return Summary(
        projection=projection,
        logged=logged,
        actual=float(like(following, plan, following.traced).sum()) if following is not None else math.nan,
        iterations=len(log),
        points=len(plan.points),
        runs=len(runs),
        serial=logged / float(log.seconds[runs].sum()),
        critical=logged / float(log.seconds[runs].max()),
        padding=log.padding,
        waiting=waits / (waits + logged),
        cold_steps=int(log.cold.sum()),
        cold_seconds=cold_seconds,
        straggler=straggler,
        trace_bytes=sum(trace.bytes_on_disk for found in traces.values() for trace in found),
        memory=find_memory_risk(log, traces),
    )


def like(log: EpochLog, plan: Plan, replaced: ArrayLike) -> NDArray[np.float64]:
    """Step times in which some are replaced by the median of the steps nearest to them in predicted cost.

    Args:
        log: the steps.
        plan: knows what a shape costs.
        replaced: (M,) mask. If it holds for all steps, all times stay as they are.

    Returns:
        (M,) seconds.
    """
    seconds, mask = log.seconds.copy(), np.asarray(replaced, dtype=bool)
    if mask.all() or not mask.any():
        return seconds
    costs = plan.cost.predict(log.shapes)
    order = np.argsort(costs[~mask], kind="stable")
    ranked, times = costs[~mask][order], log.seconds[~mask][order]
    places = np.searchsorted(ranked, costs[mask])
    count = min(_NEIGHBOURS, len(times))
    starts = np.clip(places - count // 2, 0, len(times) - count)
    seconds[mask] = np.median(times[starts[:, None] + np.arange(count)], axis=1)
    return seconds


def padded_size(log: EpochLog) -> NDArray[np.float64]:
    """Positions in each batch with its padding, batch × the sum of its lengths; (M,)."""
    lengths = [c for c, name in enumerate(log.columns) if name not in ("batch", "optimizer_step")]
    size = log.shapes[:, lengths].sum(axis=1).astype(float) if lengths else np.ones(len(log))
    return size * log.shapes[:, log.columns.index("batch")] if "batch" in log.columns else size


def find_memory_risk(log: EpochLog, traces: Mapping[int, Sequence["StepTrace"]]) -> MemoryRisk:
    """The batch with the highest peak memory: measured, else predicted from the traced steps, else the largest.

    Predicted peaks are a non-negative combination of products of the shape's columns (batch·source, …), fitted to the
    traced steps: activations that a step keeps for its backward pass grow with these.
    """
    peaks, basis = log.peak_bytes, "measured"
    seen = [
        (trace.shape, trace.peak_bytes)
        for found in traces.values()
        for trace in found
        if len(trace.shape) == len(log.columns) and math.isfinite(trace.peak_bytes)
    ]
    if not np.isfinite(peaks).any() and seen:
        shapes, values = np.array([shape for shape, _ in seen]), np.array([peak for _, peak in seen])
        terms = candidate_terms(log.columns)[: max(1, len(np.unique(shapes, axis=0)) // 2)]
        scale = features(log.shapes, terms).max(axis=0)
        scale[scale == 0] = 1.0
        coefficients, _ = nnls(features(shapes, terms) / scale, values)
        peaks, basis = features(log.shapes, terms) / scale @ coefficients, "predicted"
    if not np.isfinite(peaks).any():
        basis = "size"
    # Among equal peaks, as of a model that memory barely depends on, the largest batch.
    size = padded_size(log)
    order = np.lexsort((size, np.where(np.isfinite(peaks), peaks, -1.0)))
    step = int(order[-1])
    return MemoryRisk(step, tuple(log.shapes[step].tolist()), float(peaks[step]), basis, peaks)
