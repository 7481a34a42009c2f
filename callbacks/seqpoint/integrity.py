"""Is a one-step trace whole? Pure checks on a Chrome trace, no torch needed.

Many short profiler sessions lose device records now and then, and work queued before a session leaks into it. A table
made from such a trace is wrong without a sign of it, so every window of SeqPoint (S. Pati et al., "SeqPoint:
Identifying Representative Iterations of Sequence-based Neural Networks", https://arxiv.org/abs/2007.10459) passes
through :func:`find_faults` before it is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

DEVICE_RECORDS = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
RUNTIME_CALLS = frozenset({"cuda_runtime", "cuda_driver"})
STEP = "ProfilerStep#"
OPTIMIZER_STEP = "Optimizer.step#"


def find_faults(
    trace: Mapping[str, Any],
    *,
    on_device: bool = False,
    optimizer_step: bool | None = None,
    slack_us: float = 1.0,
) -> tuple[str, ...]:
    """Say what is missing from, or impossible in, the Chrome trace of one training step.

    Args:
        trace: a parsed Chrome trace as ``torch.profiler`` writes it: ``{"traceEvents": [...]}``, times in microseconds.
        on_device: the step ran on a CUDA device, so that kernels must be there.
        optimizer_step: whether the step was expected to run an optimizer; ``None`` if not known.
        slack_us: how much earlier than its launch, or outside the window, a device record may be. Host and device
            times come from two clocks that are aligned only approximately.

    Returns:
        One sentence a fault; empty for a whole trace.

    Example:
        >>> step = {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 9}
        >>> find_faults({"traceEvents": [step]})
        ('no operator was recorded inside the step',)
        >>> find_faults({"traceEvents": [step, step | {"cat": "cpu_op", "name": "aten::mm", "ts": 2, "dur": 5}]})
        ()
    """
    events = trace.get("traceEvents")
    if not isinstance(events, Sequence) or isinstance(events, str):
        return ("it holds no list of events (traceEvents)",)
    spans = [event for event in events if event.get("ph") == "X"]
    if any(not _sound(span) for span in spans):
        return ("an event has no start, or a negative duration",)
    steps = [span for span in spans if span.get("cat") == "user_annotation" and span["name"].startswith(STEP)]
    if len(steps) != 1:
        return (f"it holds {len(steps)} steps ({STEP}), expected exactly one",)

    faults = []
    begin, end = steps[0]["ts"], steps[0]["ts"] + steps[0]["dur"]
    if not any(span.get("cat") == "cpu_op" and begin <= span["ts"] <= end for span in spans):
        faults.append("no operator was recorded inside the step")
    optimized = any(span["name"].startswith(OPTIMIZER_STEP) for span in spans)
    if optimizer_step is not None and optimizer_step != optimized:
        got, wanted = ("an", "no") if optimized else ("no", "an")
        faults.append(f"it holds {got} optimizer step, expected {wanted} optimizer step")
    return (*faults, *_device_faults(spans, _window(events, begin, end), on_device, slack_us))


def _device_faults(
    spans: Sequence[Mapping[str, Any]], window: tuple[float, float], on_device: bool, slack_us: float
) -> list[str]:
    calls = {
        span["args"]["correlation"]: span
        for span in spans
        if span.get("cat") in RUNTIME_CALLS and "correlation" in span.get("args", {})
    }
    # One graph launch starts many kernels under its own id: the sets of ids are compared, not their numbers.
    launches = {number for number, call in calls.items() if _launches_kernel(call["name"])}
    records = [span for span in spans if span.get("cat") in DEVICE_RECORDS]
    seen = {span.get("args", {}).get("correlation") for span in records}
    faults = []
    if on_device and not any(span["cat"] == "kernel" for span in records):
        faults.append("no kernel was recorded on the device")
    if lost := len(launches - seen):
        faults.append(f"{lost} of {len(launches)} kernel launches have no record on the device")
    if orphans := sum(span.get("args", {}).get("correlation") not in calls for span in records):
        faults.append(f"{orphans} of {len(records)} device records were launched outside the window")
    early = sum(
        span["ts"] < calls[span["args"]["correlation"]]["ts"] - slack_us
        for span in records
        if span.get("args", {}).get("correlation") in calls
    )
    if early:
        faults.append(f"{early} of {len(records)} device records start before their launch")
    outside = sum(
        span["ts"] < window[0] - slack_us or span["ts"] + span["dur"] > window[1] + slack_us for span in records
    )
    if outside:
        faults.append(f"{outside} of {len(records)} device records lie outside the window")
    return faults


def _sound(span: Mapping[str, Any]) -> bool:
    start, duration = span.get("ts"), span.get("dur")
    return (
        isinstance(start, int | float)
        and isinstance(duration, int | float)
        and duration >= 0
        and isinstance(span.get("name"), str)
    )


def _window(events: Sequence[Mapping[str, Any]], begin: float, end: float) -> tuple[float, float]:
    """From the profiler's own marks; a trace without them is held to the step itself."""
    marks = {event.get("name"): event["ts"] for event in events if event.get("ph") == "i" and "ts" in event}
    return marks.get("Iteration Start: PyTorch Profiler", begin), marks.get("Record Window End", end)


def _launches_kernel(name: str) -> bool:
    return "Launch" in name and ("Kernel" in name or "Graph" in name)
