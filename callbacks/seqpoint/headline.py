"""The numbers that a report opens with, in words: the page and the terminal show the same ones."""

import math
from dataclasses import dataclass

from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.summary import Summary


@dataclass(frozen=True)
class Tile:
    """One headline number.

    Args:
        name: what it is.
        value: the number with its unit.
        more: what it is measured against.
    """

    name: str
    value: str
    more: str


def headline(plan: Plan, summary: Summary) -> list[Tile]:
    """The headline numbers, the most important first; what is not known is left out.

    Args:
        plan: the plan.
        summary: the numbers.
    """
    tiles = [*_epochs(plan, summary), *_reductions(summary)]
    if math.isfinite(summary.padding):
        tiles.append(Tile("Padding", f"{summary.padding:.1%}", "of all tokens in the batches"))
    tiles.append(Tile("Input wait", f"{summary.waiting:.1%}", "of the logged epoch"))
    if summary.cold_steps:
        extra = f"{'+' if summary.cold_seconds >= 0 else '-'}{duration(abs(summary.cold_seconds))}"
        more = f"{_count(summary.cold_steps, 'step')} of a shape new to the run, against like steps"
        tiles.append(Tile("New shapes", extra, more))
    if math.isfinite(summary.straggler):
        tiles.append(Tile("Straggling ranks", f"{summary.straggler:.1%}", "of step time: unequal lengths over ranks"))
    if math.isfinite(summary.memory.peak_bytes):
        more = f"{summary.memory.basis}, in step {summary.memory.step} of the logged epoch"
        tiles.append(Tile("Highest peak memory", size(summary.memory.peak_bytes), more))
    return tiles


def duration(seconds: float) -> str:
    """A time as people write it.

    Example:
        >>> duration(0.0123), duration(83.4), duration(7260)
        ('12.3 ms', '83.4 s', '2 h 01 min')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{_three_digits(seconds * 1e3)} ms"
    if seconds < 99.95:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """A number of bytes as people write it.

    Example:
        >>> size(1.5e9), size(220)
        ('1.50 GB', '220 B')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{_three_digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def _epochs(plan: Plan, summary: Summary) -> list[Tile]:
    if summary.projection is None:
        tiles = [Tile("Projected epoch", "none", "shape explains too little of the step times")]
    else:
        low, high = summary.projection.low, summary.projection.high
        interval = f"{duration(low)} to {duration(high)}, nominal 95% interval"
        if not math.isfinite(low):
            interval = f"without an interval: the selector {plan.selector} gives none"
        tiles = [Tile("Projected epoch", duration(summary.projection.total), interval)]
    if math.isfinite(summary.actual):
        more = "all steps of the epoch after the logged one"
        if summary.projection is not None:
            more += f"; the projection is {abs(summary.error):.1%} {'above' if summary.error >= 0 else 'below'}"
        tiles.append(Tile("Actual epoch", duration(summary.actual), more))
    more = f"{_count(summary.iterations, 'step')}; the points were chosen on it"
    return [*tiles, Tile("Logged epoch", duration(summary.logged), more)]


def _reductions(summary: Summary) -> list[Tile]:
    share = f"{summary.runs / summary.iterations:.1%} of the epoch's steps, for {_count(summary.points, 'point')}"
    return [
        Tile("To run for a projection", _count(summary.runs, "step"), share),
        Tile("Serial reduction", _factor(summary.serial), "against the logged epoch: all of these steps in a row"),
        Tile(
            "Critical-path reduction", _factor(summary.critical), "against the logged epoch: the longest of them alone"
        ),
    ]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _three_digits(number: float) -> str:
    whole = len(str(int(abs(number)))) if abs(number) >= 1 else 1
    return f"{number:.{max(3 - whole, 0)}f}"


def _factor(number: float) -> str:
    return f"{_three_digits(number)}\N{MULTIPLICATION SIGN}"
