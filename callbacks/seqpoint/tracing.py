"""Tracing of chosen steps within an epoch: windows opened and closed, failures survived, traces kept by point."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.choice import Choice
from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.trace import ProfilerBusy, StepTrace, TraceWindows


@dataclass(frozen=True)
class Traced:
    """A trace and what it was taken for.

    Args:
        step: its step in the epoch.
        point: the point's number.
        trace: the trace.
    """

    step: int
    point: int
    trace: StepTrace


class EpochTracing:
    """Traces the steps of one epoch that a choice asks for. No failure of it reaches the training.

    Args:
        windows: the profiler.
        choice: decides before each step.
        columns: names of the shape's columns, for labels.
        epoch: its number, for labels.
    """

    def __init__(self, windows: TraceWindows, choice: Choice, *, columns: Sequence[str], epoch: int) -> None:
        self.traced: list[Traced] = []
        self.notes: list[str] = []
        self._windows = windows
        self._choice = choice
        self._columns = columns
        self._epoch = epoch
        self._asked: tuple[int, tuple[int, ...], int] | None = None  # step, shape and point of the window
        self._open = False

    def open(self) -> None:
        """Start the profiler; before the epoch's first step."""
        try:
            self._windows.open()
            self._open = True
        except Exception as error:
            self._fail(error)

    def wants(self, step: int, shape: tuple[int, ...], *, new: bool) -> bool:
        """Whether to trace the step that is about to begin.

        Args:
            step: its number.
            shape: its shape.
            new: the run has not seen its sizes before.
        """
        point = self._choice.offer(step, shape, new=new) if self._open else None
        if point is not None:
            self._asked = (step, shape, point)
        return point is not None

    def start(self) -> bool:
        """That step begins; whether it is traced, for the profiler may fail."""
        assert self._asked is not None
        step, shape, _ = self._asked
        words = [f"{name}={size}" for name, size in zip(self._columns, shape, strict=True)]
        try:
            self._windows.start(" ".join([f"epoch {self._epoch} batch {step}", *words]), shape=shape)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def stop(self, *, optimizer_step: bool) -> None:
        """The step that is traced has ended."""
        if self._asked is None:
            return
        (step, _, point), self._asked = self._asked, None
        try:
            trace = self._windows.stop(optimizer_step=optimizer_step)
        except Exception as error:
            self._fail(error)
            return
        if trace is not None:
            self.traced.append(Traced(step, point, trace))
        self._choice.settle(point, whole=trace is not None)
        if self._choice.done:
            self.close()

    def close(self) -> None:
        """Give the profiler back; an open window is dropped."""
        self._asked = None
        if self._open:
            self._open = False
            # A foreign profiler may have taken the session; nothing is lost that was not lost already.
            with suppress(Exception):
                self._windows.close()
        for point in self._choice.failed:
            faults = "; ".join(self._windows.faults)
            self.notes.append(f"point {point} has no trace: three were incomplete, at last because {faults}")
        self._choice.failed.clear()

    def by_point(self, plan: Plan, shapes: NDArray[np.int64] | None = None) -> dict[int, list[StepTrace]]:
        """The traces by point.

        Args:
            plan: the plan.
            shapes: (M, C) of the epoch's steps: each trace goes to the point nearest to its step, whatever it was taken
                for. ``None``: to the point that it was taken for.
        """
        numbers = [item.point for item in self.traced]
        if shapes is not None and self.traced:
            numbers = plan.nearest(shapes[[item.step for item in self.traced]]).tolist()
        found: dict[int, list[StepTrace]] = {}
        for number, item in zip(numbers, self.traced, strict=True):
            found.setdefault(number, []).append(item.trace)
        return dict(sorted(found.items()))

    def _fail(self, error: Exception) -> None:
        if isinstance(error, ProfilerBusy):
            reason = f"{error}"
        elif isinstance(error, OSError):
            reason = f"a trace could not be written ({error})"
        else:
            reason = f"the profiler failed ({type(error).__name__}: {error})"
        self.notes.append(f"no further steps were traced: {reason}")
        self.close()
        warnings.warn(f"SeqPoint stops tracing: {reason}; training goes on", stacklevel=2)
