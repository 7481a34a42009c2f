"""What a run has told so far, from the logged epoch to the weighted table, and its form in a checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fulgurite.callbacks.seqpoint.following import drift, measure, start_up
from fulgurite.callbacks.seqpoint.gather import RankSteps, merge, straggler_share
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import OperatorTable, epoch_table
from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Projection
from fulgurite.callbacks.seqpoint.plan_file import from_json, to_json
from fulgurite.callbacks.seqpoint.select import select
from fulgurite.callbacks.seqpoint.shapes import Columns, Dim, ShapeFinder, ShapeReader

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace

VERSION = 1

_DRIFT = 0.05  # a change of step time between two epochs that a reader should know of


@dataclass
class Findings:
    """Everything that is known about one run; filled in from epoch to epoch.

    Args:
        columns: which sizes of a batch are its shape.
        dims: all sizes that are read from a batch; empty with a ``shape_fn``.
        log: the logged epoch.
        plan: the points selected on it; with fresh times once the following epoch is over.
        following: the epoch after it.
        traces: number of a point → its traces.
        projection: of the epoch's step time, from fresh times.
        table: the weighted operator table.
        straggler: share of the step time in which ranks wait for the one with the longest batch, nan for one process.
        notes: what a reader of the report must know.
        finished: nothing is left to do in this run.
    """

    columns: Columns | None = None
    dims: tuple[Dim, ...] = ()
    log: EpochLog | None = None
    plan: Plan | None = None
    following: EpochLog | None = None
    traces: dict[int, list["StepTrace"]] = field(default_factory=dict)
    projection: Projection | None = None
    table: OperatorTable | None = None
    straggler: float = math.nan
    notes: list[str] = field(default_factory=list)
    finished: bool = False

    def select(
        self, ranks: Sequence[RankSteps], shape: ShapeReader, *, epoch: int, length: int | str, **options: Any
    ) -> None:
        """Put the logged epoch together and select its points.

        Args:
            ranks: each rank's steps, at least one of each.
            shape: what read them.
            epoch: its number.
            length: the column that is the length, by number or name.
            options: of :func:`~fulgurite.callbacks.seqpoint.select.select`.

        Raises:
            PlanError: no points can be selected, see there; or there is no such length.
        """
        widths = {rank.sizes.shape[1] for rank in ranks}
        if len(widths) > 1:
            raise PlanError(
                f"the ranks read different numbers of sizes from their batches, {sorted(widths)}: pass shape_fn="
            )
        steps = min(len(rank.sizes) for rank in ranks)
        self.dims = shape.dims if isinstance(shape, ShapeFinder) else ()
        self.columns = shape.choose(np.maximum.reduce([rank.sizes[:steps] for rank in ranks]))
        self.log = merge(ranks, self.columns, epoch=epoch)
        cold = start_up(self.log)
        self.plan = select(
            self.log.shapes,
            self.log.seconds,
            columns=self.log.columns,
            length=find_length(self.log.columns, length),
            cold=cold,
            **options,
        )
        if len(ranks) > 1:
            self.straggler = straggler_share(
                np.stack([self.plan.cost.predict(rank.shapes(self.columns)[:steps]) for rank in ranks])
            )
        self.notes.append(
            "shape of a step: "
            + ", ".join(f"{n} = {m}" for n, m in zip(self.columns.names, self.columns.meaning, strict=True))
        )
        if cold.sum() < self.log.cold.sum():
            self.notes.append(
                f"{self.log.cold.mean():.0%} of the steps had a shape that the run had not seen before; "
                "they count as ordinary steps"
            )

    def conclude(
        self, following: EpochLog | None, traces: Mapping[int, Sequence["StepTrace"]], *, seed: int = 0
    ) -> None:
        """Measure the points in the following epoch, project, and weigh the traces.

        Args:
            following: the epoch after the logged one, ``None`` if there was none.
            traces: number of a point → its traces.
            seed: of the private random numbers.
        """
        assert self.plan is not None
        assert self.log is not None
        self.following, self.traces = following, {number: list(found) for number, found in traces.items()}
        if self.plan.refusal is not None:
            self.notes.append(self.plan.refusal)
        if following is not None:
            self._measure(following, seed)
        if self.traces:
            self.table = epoch_table(self.traces, self.plan)
            for number, other in sorted(self.table.borrowed.items()):
                self.notes.append(f"point {number} was not traced: the trace of point {other} stands in for it")

    def _measure(self, following: EpochLog, seed: int) -> None:
        assert self.plan is not None
        assert self.log is not None
        try:
            self.plan.check(following.shapes)
            self.plan = self.plan.with_measured(measure(self.plan, following, seed=seed))
            if self.plan.refusal is None:
                self.projection = self.plan.project()
        except PlanError as error:
            self.notes.append(f"nothing was projected: {error}")
        change = drift(self.plan, self.log, following)
        if abs(change) > _DRIFT:
            self.notes.append(
                f"untraced steps took {abs(change):.0%} {'longer' if change > 0 else 'less'} in epoch "
                f"{following.epoch} than like steps in epoch {self.log.epoch}: the machine was busier or freer, or "
                "tracing slows down the steps behind it"
            )

    def state(self) -> dict[str, Any]:
        """As plain types and tensors; empty before there is a plan."""
        if self.plan is None or self.log is None or self.columns is None:
            return {}
        columns = {name: list(getattr(self.columns, name)) for name in ("names", "indices", "meaning")}
        return {
            "version": VERSION,
            "columns": columns,
            "dims": [[dim.path, dim.axis, dim.ndim] for dim in self.dims],
            "log": {
                f.name: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
                for f, value in ((f, getattr(self.log, f.name)) for f in fields(EpochLog))
            },
            "plan": to_json(self.plan),
            "straggler": self.straggler,
            "notes": list(self.notes),
            "finished": self.finished,
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> "Findings":
        """The findings behind :meth:`state`.

        Raises:
            ValueError: the state is of another version.

        Example:
            >>> Findings.restore({}).plan is None
            True
        """
        if not state:
            return cls()
        if state.get("version") != VERSION:
            raise ValueError(
                f"a checkpoint with SeqPoint state of version {state.get('version')}, but this release reads version "
                f"{VERSION}: update fulgurite"
            )
        log: dict[str, Any] = {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in state["log"].items()}
        return cls(
            columns=Columns(**{name: tuple(values) for name, values in state["columns"].items()}),
            dims=tuple(Dim(*dim) for dim in state["dims"]),
            log=EpochLog(**log | {"columns": tuple(log["columns"])}),
            plan=from_json(state["plan"]),
            straggler=state["straggler"],
            notes=list(state["notes"]),
            finished=state["finished"],
        )


def find_length(columns: Sequence[str], length: int | str) -> int:
    """The number of the column that is the length.

    Raises:
        PlanError: there is no such column.

    Example:
        >>> find_length(("batch", "source", "target"), "target")
        2
        >>> find_length(("source", "optimizer_step"), 1)
        0
    """
    lengths = [number for number, name in enumerate(columns) if name not in ("batch", "optimizer_step")]
    if isinstance(length, str) and length in columns:
        return list(columns).index(length)
    if length == 1:  # the default: the first length there is, and the batch size where there is none
        return lengths[0] if lengths else 0
    if isinstance(length, int) and 0 <= length < len(columns):
        return length
    raise PlanError(f"no column {length!r} to take as length; the shape has {', '.join(columns)}")
