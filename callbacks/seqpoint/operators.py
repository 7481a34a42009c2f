"""One operator table for the whole epoch, from traces of the few steps that stand for it."""

import csv
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.measured import robust_means
from fulgurite.callbacks.seqpoint.plan import Band, Plan
from fulgurite.callbacks.seqpoint.spans import OperatorTime
from fulgurite.plugins.files import replacing

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace

Kind = Literal["operator", "module", "kernel"]
_Key = tuple[str, str]  # name, phase


@dataclass(frozen=True)
class OperatorRow:
    """One operator, module or kernel over the whole epoch.

    Args:
        kind: which of the three tables it belongs to.
        name: its name; names in parentheses stand for what is left over.
        phase: of a module, ``"forward"`` or ``"backward"``; else empty.
        seconds: its part of the epoch: shares from the traces, times from untraced steps.
        traced_seconds: its part as measured under the profiler, which slows steps down.
        calls: how often it runs in the epoch.
        share: ``seconds`` over the table's total.
        bands: its share of the time of each length band.
    """

    kind: Kind
    name: str
    phase: str
    seconds: float
    traced_seconds: float
    calls: float
    share: float
    bands: tuple[float, ...]


@dataclass(frozen=True)
class OperatorTable:
    """The epoch by operator, by module and, on a GPU, by kernel; each of the three adds up to the same time.

    Args:
        rows: all rows, largest first within a kind.
        bands: the length bands, short to long.
        band_seconds: time of the epoch in each band.
        seconds: T̂ = Σⱼ ωⱼyⱼ, the projected epoch. The ``seconds`` of each kind add up to it.
        traced_seconds: Σⱼ ωⱼ·(mean time of point j under the profiler), to which ``traced_seconds`` adds up.
        borrowed: point without a trace → the point whose trace stands in for it.
        on_device: the times are of a GPU, not of the CPU.

    Example:
        >>> table = OperatorTable((), (), (), 2.0, 2.5, {}, False)
        >>> table.slowdown
        1.25
    """

    rows: tuple[OperatorRow, ...]
    bands: tuple[Band, ...]
    band_seconds: tuple[float, ...]
    seconds: float
    traced_seconds: float
    borrowed: Mapping[int, int]
    on_device: bool

    @property
    def slowdown(self) -> float:
        """How many times longer steps took under the profiler."""
        return self.traced_seconds / self.seconds

    def of(self, kind: Kind) -> tuple[OperatorRow, ...]:
        """The rows of one kind, largest first."""
        return tuple(row for row in self.rows if row.kind == kind)

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row each, with a column for the share in each length band; whole or not at all.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            bands = [f"share at length {band.label}" for band in self.bands]
            writer.writerow(["kind", "name", "phase", "seconds", "traced_seconds", "calls", "share", *bands])
            for row in self.rows:
                numbers = (row.seconds, row.traced_seconds, row.calls, row.share, *row.bands)
                writer.writerow([row.kind, row.name, row.phase, *numbers])


def epoch_table(traces: Mapping[int, Sequence["StepTrace"]], plan: Plan, *, bands: int = 4) -> OperatorTable:
    """Weigh the traces of a plan's points up to the epoch.

    With weight ωⱼ and untraced time yⱼ of point j, and oⱼ the mean time of an operator in its traces, the operator's
    part of the epoch is Σⱼ ωⱼyⱼ·oⱼ/Σoⱼ. The same weights serve every row, so each kind's rows add up to T̂ = Σⱼ ωⱼyⱼ.
    Weights are those of S. Pati et al., "SeqPoint: Identifying Representative Iterations of Sequence-based Neural
    Networks", https://arxiv.org/abs/2007.10459, or of our own selectors.

    Args:
        traces: number of a point → its traces. A point without any borrows those of the traced point nearest in
            predicted cost (see :attr:`OperatorTable.borrowed`).
        plan: the plan; yⱼ are its fresh measurements if it has them, else the times seen when selecting, else (a plan
            made without times) those under the profiler.
        bands: into how many length bands to split the epoch.

    Raises:
        ValueError: there is no trace at all, or one of a point that the plan does not have.

    Example:
        >>> from pathlib import Path
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> from fulgurite.callbacks.seqpoint.trace import StepTrace
        >>> plan = select(np.array([[8, 20]] * 100), np.full(100, 0.5))  # one shape: one point
        >>> rows = (OperatorTime("aten::mm", 0.3, 2), OperatorTime("aten::add", 0.1, 4))
        >>> trace = StepTrace("step", Path("step.json.gz"), rows, (), float("nan"), 0.4, 0)
        >>> table = epoch_table({0: [trace]}, plan)
        >>> [(row.name, row.seconds, row.calls) for row in table.of("operator")]
        [('aten::mm', 37.5, 200.0), ('aten::add', 12.5, 400.0)]
    """
    strangers = [number for number in traces if not 0 <= number < len(plan.points)]
    if strangers:
        raise ValueError(f"got traces of point {strangers[0]}; the plan has points 0 to {len(plan.points) - 1}")
    traced = [number for number, found in traces.items() if found]
    if not traced:
        raise ValueError("got no traces; trace at least one point before asking for a table")
    costs = [point.cost for point in plan.points]
    stand_in = {
        number: number if number in traced else min(traced, key=lambda other: abs(costs[other] - costs[number]))
        for number in range(len(plan.points))
    }
    step_seconds = {number: fmean(trace.seconds for trace in traces[number]) for number in traced}
    untraced = _untraced(plan, [step_seconds[stand_in[number]] for number in range(len(plan.points))])

    length_bands = plan.length_bands(bands)
    in_band = np.array([band.shares for band in length_bands]).T  # (points, bands)
    parts = plan.weights * untraced
    on_device = any(trace.kernels for number in traced for trace in traces[number])
    rows: list[OperatorRow] = []
    kinds: tuple[Kind, ...] = ("operator", "module", "kernel") if on_device else ("operator", "module")
    for kind in kinds:
        means = {number: _mean(kind, traces[number]) for number in traced}
        sums: dict[_Key, _Sums] = {}
        for number, point in enumerate(plan.points):
            mean = means[stand_in[number]]
            whole = sum(time for time, _ in mean.values())
            for key, (time, calls) in mean.items():
                row = sums.setdefault(key, _Sums(bands=np.zeros(len(length_bands))))
                row.seconds += parts[number] * time / whole
                row.bands += parts[number] * time / whole * in_band[number]
                row.traced_seconds += point.weight * time
                row.calls += point.weight * calls
        rows += _rows(kind, sums, float(parts.sum()), parts @ in_band)
    return OperatorTable(
        rows=tuple(rows),
        bands=length_bands,
        band_seconds=tuple((parts @ in_band).tolist()),
        seconds=float(parts.sum()),
        traced_seconds=sum(row.traced_seconds for row in rows if row.kind == "operator"),
        borrowed={number: other for number, other in stand_in.items() if number != other},
        on_device=on_device,
    )


@dataclass
class _Sums:
    """One row while it is added up."""

    bands: NDArray[np.float64]
    seconds: float = 0.0
    traced_seconds: float = 0.0
    calls: float = 0.0


def _untraced(plan: Plan, under_profiler: Sequence[float]) -> NDArray[np.float64]:
    if plan.measured:
        return robust_means(plan.measured)
    seen = np.array([point.seconds for point in plan.points])
    return seen if np.isfinite(seen).all() else np.array(under_profiler)


def _mean(kind: Kind, traces: Sequence["StepTrace"]) -> dict[_Key, tuple[float, float]]:
    """Mean seconds and calls a step; what a trace does not have counts as zero in it."""
    sums: defaultdict[_Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for trace in traces:
        parts: Mapping[Kind, tuple[OperatorTime, ...]] = {
            "operator": trace.operators,
            "module": trace.modules,
            "kernel": trace.kernels,
        }
        for part in parts[kind]:
            sums[part.name, part.phase][0] += part.seconds / len(traces)
            sums[part.name, part.phase][1] += part.calls / len(traces)
    return {key: (time, calls) for key, (time, calls) in sums.items()}


def _rows(
    kind: Kind, sums: Mapping[_Key, _Sums], seconds: float, band_seconds: NDArray[np.float64]
) -> list[OperatorRow]:
    rows = []
    for (name, phase), row in sums.items():
        bands = np.divide(row.bands, band_seconds, out=np.zeros_like(row.bands), where=band_seconds > 0)
        share = float(row.seconds / seconds)
        rows.append(
            OperatorRow(
                kind, name, phase, float(row.seconds), row.traced_seconds, row.calls, share, tuple(bands.tolist())
            )
        )
    return sorted(rows, key=lambda row: (-row.seconds, row.name, row.phase))
