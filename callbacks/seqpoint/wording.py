"""What the report says in words, for a reader who has never heard of SeqPoint."""

import math
from collections.abc import Mapping, Sequence

from fulgurite.callbacks.seqpoint.figures import name_shape
from fulgurite.callbacks.seqpoint.headline import duration, size
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import OperatorTable
from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.summary import Summary

TITLE = "What this epoch costs"
FOOTER = (
    "Made by fulgurite. After S. Pati, S. Aga, M. D. Sinclair, N. Jayasena, SeqPoint: Identifying Representative "
    "Iterations of Sequence-based Neural Networks, arXiv:2007.10459."
)
ALT = {
    "step_time": "Step time against length and against predicted cost, with the points marked",
    "timeline": "Step time and input wait along the epoch",
    "operators": "Share of each operator in the epoch and in each length band",
    "memory": "Peak memory against batch size with padding",
}
ABOUT_PLAN = (
    "plan.json holds the points and their weights. Run only these steps with another setting (machine, precision, "
    "width) and it projects that setting's whole epoch; the data, the batch size and the batching must stay the same."
)
COMMANDS = """\
fulgurite seqpoint replay RECIPE --plan plan.json     # run only the plan's batches, project the epoch
fulgurite seqpoint compare before.json after.json     # the speed-up of the epoch, by length band

from fulgurite.callbacks.seqpoint import Plan
plan = Plan.load("plan.json")
plan.project({point.shape: my_seconds(point.shape) for point in plan.points})"""
WORDS = {
    "step": "one training batch: forward, backward and, unless gradients are accumulated, the optimizer",
    "point": "a step chosen to stand for others; it is run several times, on steps of nearly the same cost",
    "counts for": "the point's weight: how many steps of the epoch its time stands for",
    "predicted cost": "step time as a function of the shape alone (batch size and padded lengths), fitted to the "
    "logged epoch; it ranks steps, and is never used as their time",
    "logged epoch": "the epoch that was only timed; the points were chosen on it",
    "new shape": "a step whose shape the run had not seen before; it may pay for tuning, compiling or memory",
    "input wait": "time between steps in which the next batch was not there yet",
}


def lead(plan: Plan, summary: Summary) -> str:
    """The page in one sentence."""
    steps = f"{summary.runs:,} of {summary.iterations:,} steps"
    if summary.projection is None:
        return f"An epoch of {summary.iterations:,} training steps; {steps} were picked by their shape to look inside."
    return f"An epoch of {summary.iterations:,} training steps, projected from {steps} that were picked by their shape."


def about_shape(plan: Plan) -> str:
    """What the shape explains, and how the points were chosen."""
    chosen = {
        "interpolate": "Points are spread evenly along predicted cost, both ends included; between them the cost is "
        "interpolated.",
        "paper": "Points are chosen by length alone, one for each range of lengths.",
        "audit": "Points are drawn at random within strata of predicted cost, which gives an interval.",
    }[plan.selector]
    if not math.isfinite(plan.explained):
        return f"The shape of the batches explains nothing here: it never changes, or no times were logged. {chosen}"
    foreseen = ""
    if math.isfinite(plan.error):
        how = "leaving points out" if plan.selector == "interpolate" else "the interval's half-width"
        foreseen = f" Foreseen error of a projection, from {how}: {plan.error:.1%}."
    return (
        f"The shape of a batch (its size and padded lengths) explains {plan.explained:.0%} of the variance of step "
        f"time. {chosen}{foreseen}"
    )


def about_operators(table: OperatorTable | None) -> str:
    """What the operator table holds."""
    if table is None:
        return (
            "No step was traced, so there is no operator table. Steps are traced in the epoch after the logged one: "
            "train for two epochs or more, or look for the reason in the notes."
        )
    place = "GPU" if table.on_device else "CPU"
    text = (
        f"{place} time of each operator by itself, without those that it calls, over the whole epoch. Shares come from "
        f"the traced steps, times from untraced ones; all rows add up to {duration(table.seconds)}. "
        f"Under the profiler steps took {table.slowdown:.2f} times as long."
    )
    if table.borrowed:
        points = ", ".join(str(number) for number in sorted(table.borrowed))
        text += f" No trace was kept for point {points}: the nearest traced point stands in."
    return text


def about_modules(table: OperatorTable | None) -> str:
    """What the module table holds."""
    if table is None:
        return ""
    return (
        "The same time by the innermost module in which it was spent. Backward time goes to the module whose forward "
        "pass made the autograd node. Outside modules are the loss, gradient accumulation, and code that was compiled."
    )


def about_epoch(summary: Summary) -> str:
    """What the timeline shows."""
    text = "Each bar is a step, with the wait for its batch on top; marks show steps of a new shape and traced steps."
    if math.isfinite(summary.padding):
        text += f" Padding makes up {summary.padding:.1%} of the tokens: batches of more equal lengths would save it."
    return text


def about_memory(log: EpochLog, summary: Summary) -> str:
    """Which batch is most likely to run out of memory, and how that is known."""
    risk = summary.memory
    batch = (
        f"Most likely to run out of memory: step {risk.step} of the logged epoch, {name_shape(log.columns, risk.shape)}"
    )
    if risk.basis == "size":
        return f"{batch}, the largest batch with its padding. Memory itself was not measured."
    if risk.basis == "measured":
        return f"{batch}, with a measured peak of {size(risk.peak_bytes)}."
    return (
        f"{batch}, with a predicted peak of {size(risk.peak_bytes)}. The peaks of the traced steps (what each of them "
        "allocated, without what was there before) are carried over to the other steps by shape."
    )


def about_traces(traces: Mapping[int, Sequence[object]]) -> str:
    """How to open the traces."""
    if not any(traces.values()):
        return ""
    return (
        "One file a traced step. Open them at ui.perfetto.dev or chrome://tracing, or with Holistic Trace Analysis "
        "(one file a rank at a time, include_last_profiler_step=True)."
    )
