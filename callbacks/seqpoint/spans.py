"""Where one traced training step spent its time: by operator, by module and, on a GPU, by kernel.

Read from the Chrome trace itself, so that the file which people open and the tables made from it cannot disagree.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fulgurite.callbacks.seqpoint.integrity import DEVICE_RECORDS, OPTIMIZER_STEP, RUNTIME_CALLS, STEP

MODULE = "module "
BETWEEN = "(Python between operators)"
IDLE = "(device idle)"
OUTSIDE = "(outside modules)"
OPTIMIZER = "(optimizer)"
_BACKWARD = "autograd::engine::evaluate_function: "
# Times are rounded to a nanosecond when written: neighbours may overlap, and children outlive parents, by that much.
_ROUNDING = 0.002

Span = Mapping[str, Any]


@dataclass(frozen=True)
class OperatorTime:
    """Time of one operator, module or kernel in one step.

    Args:
        name: as the profiler or ``named_modules()`` calls it; names in parentheses stand for what is left over.
        seconds: time that belongs to this name alone, so that the times of a step add up.
        calls: how often it ran (of a module's backward pass: its autograd nodes).
        phase: of a module, ``"forward"`` or ``"backward"``; else empty.
    """

    name: str
    seconds: float
    calls: int
    phase: str = ""


@dataclass(frozen=True)
class StepTimes:
    """One step taken apart; each of the three lists adds up by itself.

    Args:
        seconds: duration of the step, from its ``ProfilerStep`` mark.
        operators: on the CPU each operator's self time on the step's own thread, plus Python between operators:
            together ``seconds``. On a GPU the device time of what each operator launched, plus the time it stood idle.
        modules: the same time by the innermost module; backward time goes to the module whose forward made the node.
        kernels: device records by name; empty on the CPU.
    """

    seconds: float
    operators: tuple[OperatorTime, ...]
    modules: tuple[OperatorTime, ...]
    kernels: tuple[OperatorTime, ...] = ()


class _Context(NamedTuple):
    """What a moment of a thread belongs to."""

    operator: str = ""
    started: tuple[object, float] = ("", 0.0)  # which call of the operator: its thread and start
    module: str = ""
    phase: str = ""
    optimizer_from: float = float(
        "inf"
    )  # an optimizer step that runs a closure is an optimizer only after its backward
    forward: bool = True  # operators here make autograd nodes

    def place(self, moment: float) -> tuple[str, str]:
        if not self.module and not self.phase and moment >= self.optimizer_from:
            return OPTIMIZER, ""
        return self.module or OUTSIDE, self.phase


@dataclass
class _Tally:
    """Sums while a trace is read."""

    seconds: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    calls: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def rows(self) -> tuple[OperatorTime, ...]:
        rows = (OperatorTime(name, s, self.calls[name, phase], phase) for (name, phase), s in self.seconds.items())
        return tuple(sorted(rows, key=lambda row: (-row.seconds, row.name, row.phase)))


def take_apart(trace: Mapping[str, Any]) -> StepTimes:
    """Attribute the time of a whole one-step trace (see :func:`~fulgurite.callbacks.seqpoint.integrity.find_faults`).

    Autograd numbers its nodes: an operator of the forward pass and the node that undoes it carry one sequence number,
    which gives backward time to modules. Where modules ran inside compiled code no labels exist, and their time is
    listed outside modules.

    Args:
        trace: a parsed Chrome trace with exactly one ``ProfilerStep``; module labels start with ``"module "``.

    Returns:
        The times. Threads beside the step's own (loaders, communication) do not lengthen it and are left out.

    Example:
        >>> mark = {"ph": "X", "pid": 1, "tid": 1}
        >>> step = mark | {"cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0.0, "dur": 10.0}
        >>> product = mark | {"cat": "cpu_op", "name": "aten::mm", "ts": 2.0, "dur": 6.0}
        >>> [(row.name, round(row.seconds * 1e6, 3)) for row in take_apart({"traceEvents": [step, product]}).operators]
        [('aten::mm', 6.0), ('(Python between operators)', 4.0)]
    """
    spans = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    step = next(s for s in spans if s.get("cat") == "user_annotation" and s["name"].startswith(STEP))
    begin, end = step["ts"], step["ts"] + step["dur"]
    records = [span for span in spans if span.get("cat") in DEVICE_RECORDS]
    threads: defaultdict[object, list[Span]] = defaultdict(list)
    for span in spans:
        timed = span.get("cat") in ("cpu_op", "user_annotation") or (span.get("cat") in RUNTIME_CALLS and bool(records))
        if timed and begin <= span["ts"] <= end:
            threads[span["pid"], span["tid"]].append(span)

    own = (step["pid"], step["tid"])
    sweep = _Sweep(_ends_of_backward(spans))
    sweep.read(own, threads.pop(own))
    if not records:
        return StepTimes(step["dur"] * 1e-6, sweep.operators.rows(), sweep.modules.rows())
    for thread, waiting in threads.items():  # on a GPU the backward pass is launched from another thread
        sweep.read(thread, waiting)
    return _device_times(records, sweep.launches, begin, end)


def peak_allocated(trace: Mapping[str, Any]) -> float:
    """The most host memory that a step itself had allocated at once, in bytes; NaN without memory events.

    What was allocated before the profiler started is unknown to it, and so is its release.

    Example:
        >>> moves = [(1, 100), (2, 50), (3, -100), (4, 20)]
        >>> args = [{"ts": t, "args": {"Device Type": 0, "Bytes": b}} for t, b in moves]
        >>> peak_allocated({"traceEvents": [{"name": "[memory]", "ph": "i"} | event for event in args]})
        150.0
    """
    moves = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in trace["traceEvents"]
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    )
    if not moves:
        return float("nan")
    level = peak = 0
    for _, change in moves:
        level += change
        peak = max(peak, level)
    return float(peak)


class _Sweep:
    """Goes along the threads of a step with a stack of what is open."""

    def __init__(self, backward_ends: Sequence[float]) -> None:
        self.operators, self.modules = _Tally(), _Tally()
        self.launches: dict[object, tuple[_Context, float]] = {}
        self._backward_ends = backward_ends
        self._module_of: dict[int, str] = {}

    def read(self, thread: object, spans: Iterable[Span]) -> None:
        stack: list[tuple[float, _Context]] = []
        cursor = 0.0
        for span in sorted(spans, key=lambda s: (s["ts"], -s["dur"])):
            start, end = span["ts"], span["ts"] + span["dur"]
            while stack and stack[-1][0] <= start + _ROUNDING:
                cursor = self._close(stack, cursor)
            context = stack[-1][1] if stack else _Context()
            if span["cat"] in RUNTIME_CALLS:
                if "correlation" in span.get("args", {}):
                    self.launches[span["args"]["correlation"]] = (context, start)
                continue
            if stack:
                self._spend(context, cursor, start)
                cursor = max(cursor, start)
                end = min(end, stack[-1][0])
            else:
                cursor = start
            stack.append((end, self._enter(context, span, thread)))
        while stack:
            cursor = self._close(stack, cursor)

    def _close(self, stack: list[tuple[float, _Context]], cursor: float) -> float:
        end, context = stack.pop()
        self._spend(context, cursor, end)
        return max(cursor, end)

    def _spend(self, context: _Context, start: float, end: float) -> None:
        if end > start:
            self.operators.seconds[context.operator or BETWEEN, ""] += (end - start) * 1e-6
            self.modules.seconds[context.place(start)] += (end - start) * 1e-6

    def _enter(self, outer: _Context, span: Span, thread: object) -> _Context:
        name, started = span["name"], (thread, span["ts"])
        if span["cat"] == "cpu_op":
            self.operators.calls[name, ""] += 1
            number = span.get("args", {}).get("Sequence number")
            if name.startswith(_BACKWARD):
                module = self._module_of.get(number, "") if number is not None else ""
                self.modules.calls[module or OUTSIDE, "backward"] += 1
                return _Context(name, started, module, "backward", forward=False)
            # Of operators with one number the innermost, which starts last, made the autograd node.
            if number is not None and outer.forward:
                self._module_of[number] = outer.module
            return _Context(name, started, outer.module, outer.phase, outer.optimizer_from, outer.forward)
        if name.startswith(MODULE):
            module = name.removeprefix(MODULE)
            phase = outer.phase or "forward"  # a checkpointed module runs again inside the backward pass
            self.modules.calls[module, phase] += 1
            return _Context(outer.operator, outer.started, module, phase)  # its operators make nodes again
        if name.startswith(OPTIMIZER_STEP):
            end = span["ts"] + span["dur"]
            inside = [moment for moment in self._backward_ends if span["ts"] <= moment <= end]
            self.modules.calls[OPTIMIZER, ""] += 1
            return outer._replace(optimizer_from=max(inside, default=span["ts"]))
        return outer


def _ends_of_backward(spans: Iterable[Span]) -> list[float]:
    return [span["ts"] + span["dur"] for span in spans if span["name"].startswith(_BACKWARD)]


def _device_times(
    records: Sequence[Span], launches: Mapping[object, tuple[_Context, float]], begin: float, end: float
) -> StepTimes:
    operators, modules, kernels = _Tally(), _Tally(), _Tally()
    calls = set()
    for record in records:
        number, seconds = record.get("args", {}).get("correlation"), record["dur"] * 1e-6
        context, launched = launches.get(number, (_Context(), begin))
        operators.seconds[context.operator or BETWEEN, ""] += seconds
        calls.add((context.operator or BETWEEN, context.started if context.operator else number))
        place = context.place(launched)
        modules.seconds[place] += seconds
        modules.calls[place] += 1
        kernels.seconds[record["name"], ""] += seconds
        kernels.calls[record["name"], ""] += 1
    for operator, _ in calls:
        operators.calls[operator, ""] += 1
    idle = (end - begin - _busy(records, begin, end)) * 1e-6
    for tally in (operators, modules, kernels):
        tally.seconds[IDLE, ""] += idle
    return StepTimes((end - begin) * 1e-6, operators.rows(), modules.rows(), kernels.rows())


def _busy(records: Iterable[Span], begin: float, end: float) -> float:
    """Time in which at least one stream works: streams overlap, so durations cannot simply be added."""
    busy, reached = 0.0, begin
    for start, stop in sorted((record["ts"], record["ts"] + record["dur"]) for record in records):
        start, stop = max(start, reached), min(stop, end)
        if stop > start:
            busy += stop - start
            reached = stop
    return busy
