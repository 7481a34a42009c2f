"""Timestamped edge lists: CSV and TSV with a header, SNAP's and KONECT's files; checked line by line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from fulgurite.data.number_table import (
    Delimiter,
    Kind,
    first_line,
    is_number,
    line_of_row,
    parse_columns,
    read_bytes,
)

Layout = Literal["auto", "header", "snap", "konect"]
Unordered = Literal["refuse", "sort"]
EmptySteps = Literal["refuse", "keep", "drop"]

_MEANINGS = ("source", "target", "time", "weight", "label")
_ALIASES = {
    "source": ("source", "src", "from", "sourcenodeid", "source_id", "sender", "u", "source_node"),
    "target": ("target", "dst", "to", "targetnodeid", "target_id", "destination", "receiver", "v", "i", "target_node"),
    "time": ("time", "timestamp", "ts", "t", "unixtime", "unixts", "step"),
    "weight": ("weight", "rating", "value", "amount", "w"),
    "label": ("label", "class", "is_fraud", "isfraud", "fraud", "state_label"),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class TemporalEdges:
    """Events with their times, in order of time.

    Attributes:
        source: (E,) int64, 0 … N − 1.
        target: (E,) int64.
        time: (E,) float64, as the file says.
        vertices: (N,) int64: the file's number of each vertex, ascending.
        weight: (E,) float64, or None where the file has none.
        label: (E,) int64 classes of the events, or None.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    time: NDArray[np.float64]
    vertices: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None
    label: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.vertices)

    def take(self, events: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Some of the events, over the same vertices.

        Example:
            >>> edges = TemporalEdges(source=np.array([0, 1]), target=np.array([1, 0]), time=np.array([2.0, 1.0]),
            ...     vertices=np.array([7, 9]))
            >>> edges.take(np.argsort(edges.time)).source.tolist()
            [1, 0]
        """
        return replace(
            self,
            source=self.source[events],
            target=self.target[events],
            time=self.time[events],
            weight=None if self.weight is None else self.weight[events],
            label=None if self.label is None else self.label[events],
        )


def read_temporal_edges(
    path: str | Path,
    *,
    layout: Layout = "auto",
    columns: Sequence[str] | None = None,
    delimiter: Delimiter | None = None,
    unordered: Unordered = "refuse",
    until: float | None = None,
    num_nodes: int | None = None,
) -> TemporalEdges:
    r"""Read events from a text file, plain or gzip.

    - ``header``: CSV or TSV whose first line names the columns (``source``, ``src``, ``from`` …; ``time``,
      ``timestamp`` …; ``weight``, ``amount`` …; ``label``); others are passed over.
    - ``snap``: no header, ``#`` comments; ``src dst unixtime`` or ``src,dst,rating,time``
      (https://snap.stanford.edu/data/#temporal).
    - ``konect``: ``%`` comments, then ``src dst weight time``, numbered from 1, tabs and spaces mixed
      (http://konect.cc).

    Vertices are numbered 0 … N − 1 in the order of the file's numbers, which ``vertices`` keeps; with ``num_nodes`` the
    file's numbers are taken as they are.

    Args:
        path: the file.
        layout: one of the above; ``auto`` takes ``konect`` for a name ``out.*`` or a first line with ``%``, ``header``
            where the first line has names, else ``snap``.
        columns: what the columns hold, of ``source``, ``target``, ``time``, ``weight``, ``label`` and ``-`` for what is
            passed over; in the place of the header's names or the layout's order.
        delimiter: " " is any run of spaces and tabs; None looks at the first line.
        unordered: ``refuse`` says which line is earlier than the one before; ``sort`` sorts, events of one time staying
            in the file's order. SNAP's files are often unordered.
        until: the latest time that there can be, say the moment of the dump; later ones are refused.
        num_nodes: N, where the file's numbers are 0 … N − 1 already.

    Raises:
        ValueError: a file that is missing or empty, columns missing or named twice, a line with too few or too many
            columns or what is no number, a negative vertex or one beyond ``num_nodes``, a time or weight that is not
            finite, times out of order or beyond ``until``; with the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "out.trust").write_text("% sym weighted\n1 9\t-1 100\n9 4 1\t160.5\n")
        ...     edges = read_temporal_edges(f"{folder}/out.trust")
        >>> edges.source.tolist(), edges.target.tolist(), edges.vertices.tolist(), edges.time.tolist()
        ([0, 2], [2, 1], [1, 4, 9], [100.0, 160.5])
    """
    path = Path(path)
    data = read_bytes(path)
    layout, comment = _layout(path, data, layout)
    number, line = first_line(data, comment=comment)
    if not line:
        raise ValueError(f"{path} holds nothing but comments; expected one event a line")
    divide: Delimiter = delimiter or cast(Delimiter, next((sign for sign in ",;\t" if sign in line), " "))
    if layout == "konect" and delimiter is None:
        divide = " "
    fields = [field.strip().strip('"') for field in (line.split() if divide == " " else line.split(divide))]
    header = layout == "header"
    meanings = _meanings(path, number, fields, layout, columns)
    kinds = [cast(Kind, {"-": "skip", "time": "real", "weight": "real"}.get(name, "whole")) for name in meanings]
    parsed = parse_columns(data, kinds, delimiter=divide, comment=comment, header=header, where=str(path))
    table = dict(zip([name for name in meanings if name != "-"], parsed, strict=True))
    if not len(table["source"]):
        raise ValueError(f"{path} has a header and no events; expected one event a line")

    def refuse(bad: NDArray[np.bool_], told: str, expected: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            where = line_of_row(data, row, comment=comment, header=header)
            value = "" if told not in table else f" {table[told][row]}"
            raise ValueError(f"{path}, line {where}: got {told}{value}; expected {expected}")

    for end in ("source", "target"):
        refuse(table[end] < 0, end, "a vertex, 0 or more")
        if num_nodes is not None:
            refuse(table[end] >= num_nodes, end, f"0 … {num_nodes - 1}, num_nodes is {num_nodes}")
    for name in ("time", "weight"):
        if name in table:
            refuse(~np.isfinite(table[name]), name, "a finite number")
    if until is not None:
        refuse(table["time"] > until, "time", f"{until} or earlier (until)")
    late = np.diff(table["time"], prepend=-np.inf) < 0
    if unordered == "refuse":
        refuse(late, "time", "times in ascending order; sort the file, or give unordered: sort")
    source, target, vertices = compacted(table["source"], table["target"], num_nodes=num_nodes)
    edges = TemporalEdges(
        source=source,
        target=target,
        time=table["time"],
        vertices=vertices,
        weight=table.get("weight"),
        label=table.get("label"),
    )
    return edges.take(np.argsort(edges.time, kind="stable")) if late.any() else edges


def compacted(
    source: NDArray[np.int64], target: NDArray[np.int64], *, num_nodes: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Number vertices 0 … N − 1 in the order of their numbers; with ``num_nodes`` they are numbered so already.

    Returns:
        Sources, targets, and (N,) the number that each vertex had.

    Example:
        >>> compacted(np.array([70, 5]), np.array([5, 9]))
        (array([2, 0]), array([0, 1]), array([ 5,  9, 70]))
    """
    if num_nodes is not None:
        return source, target, np.arange(num_nodes)
    largest = int(max(source.max(), target.max()))
    if largest < 8 * len(source) + 1024:
        # A table over all numbers takes a pass; sorting for the distinct ones takes ten times longer.
        seen = np.zeros(largest + 1, dtype=bool)
        seen[source] = True
        seen[target] = True
        place = np.cumsum(seen) - 1
        return place[source], place[target], np.flatnonzero(seen)
    vertices, place = np.unique(np.concatenate([source, target]), return_inverse=True)
    return place[: len(source)], place[len(source) :], vertices


@dataclass(frozen=True, eq=False)
class Steps:
    """Which step each event falls into.

    Attributes:
        of_event: (E,) int64, 0 … T − 1.
        starts: (T,) float64; a step holds the times from its start up to the next one's.
        empty: how many steps have no event.
        slack: times so little before a start count as the start itself: what rounding makes of decimal numbers.
        dropped: (D,) float64 starts of the steps that were dropped.
    """

    of_event: NDArray[np.int64]
    starts: NDArray[np.float64]
    empty: int
    slack: float = 0.0
    dropped: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def count(self) -> int:
        """T."""
        return len(self.starts)

    def of(self, time: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The steps of other times, such as those of labels, by the rule of the events.

        A time before the first step belongs to it, one after the last step to that. Of a step that was dropped it is
        the next one that is kept: nothing is known before its time.

        Example:
            >>> steps = binned(np.array([10.0, 12.0, 19.0]), width=4.0, empty="drop")
            >>> steps.of_event.tolist(), steps.of(np.array([12, 15, 18])).tolist()
            ([0, 0, 1], [0, 1, 1])
        """
        if not len(self.dropped):
            return np.maximum(_last_start(self.starts, time, self.slack), 0)
        starts = np.concatenate([self.starts, self.dropped])
        order = np.argsort(starts)
        kept = order < self.count
        # The number of kept steps before each: its own place where it is kept, else that of the next one kept.
        place = np.minimum(np.cumsum(kept) - kept, self.count - 1)
        return place[np.maximum(_last_start(starts[order], time, self.slack), 0)]


def binned(
    time: NDArray[np.float64],
    *,
    steps: int | None = None,
    width: float | None = None,
    empty: EmptySteps = "refuse",
) -> Steps:
    """Cut time into steps of equal width, the first beginning at the earliest event.

    Args:
        time: (E,) finite times.
        steps: how many.
        width: of each, in the unit of the times; instead of ``steps``.
        empty: steps without events are refused, kept as snapshots without edges, or dropped from the timeline.

    Raises:
        ValueError: neither or both of ``steps`` and ``width``, or one out of range; fewer than two steps, which are no
            timeline; empty steps where they are refused.

    Example:
        >>> binned(np.array([10.0, 12.0, 19.0]), steps=2).of_event.tolist()
        [0, 0, 1]
        >>> binned(np.array([10.0, 12.0, 19.0]), steps=3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: got 1 empty steps of 3, the first is step 1 from time 13.0; ...
        >>> binned(np.array([10.0, 12.0, 19.0]), width=4.0, empty="drop").starts.tolist()
        [10.0, 18.0]
    """
    if (steps is None) == (width is None):
        raise ValueError(f"got steps={steps} and width={width}; expected one of the two")
    first, last = float(time.min()), float(time.max())
    if steps is not None:
        if steps < 2:
            raise ValueError(f"got steps={steps}; expected 2 or more: one snapshot is no timeline")
        if first == last:
            raise ValueError(f"got {len(time)} events, all at time {first}; one snapshot is no timeline")
        width = (last - first) / steps
    assert width is not None
    if not 0 < width < np.inf:
        raise ValueError(f"got width={width}; expected a number above 0, in the unit of the times")
    if (last - first) / width > 10_000_000:
        raise ValueError(
            f"got width={width}, which makes {(last - first) / width:.0f} steps from {first} to {last}; "
            "give a larger one"
        )
    # 0.3 is less than 3 · 0.1 by the last bit; it begins step 3 all the same.
    slack = min(4 * float(np.spacing(max(abs(first), abs(last)))), width / 4)
    # With a count of steps the latest event is at the end of the last one.
    starts = first + width * np.arange(steps or int((last - first) / width) + 2, dtype=np.float64)
    starts = starts[starts - slack <= last]
    count = len(starts)
    if count < 2:
        raise ValueError(
            f"got width={width}, and all events lie from {first} to {last}: one snapshot, which is no timeline; "
            "give a smaller width"
        )
    of_event = _last_start(starts, time, slack)
    events = np.bincount(of_event, minlength=count)
    vacant = np.flatnonzero(events == 0)
    if len(vacant) and empty == "refuse":
        raise ValueError(
            f"got {len(vacant)} empty steps of {count}, the first is step {vacant[0]} from time {starts[vacant[0]]}; "
            "expected events in each: give wider or fewer steps, or empty_steps: keep or drop"
        )
    if len(vacant) and empty == "drop":
        of_event = (np.cumsum(events > 0) - 1)[of_event]
        return Steps(of_event, starts[events > 0], len(vacant), slack, starts[vacant])
    return Steps(of_event, starts, len(vacant), slack)


def _last_start(
    starts: NDArray[np.float64], time: NDArray[np.float64] | NDArray[np.int64], slack: float
) -> NDArray[np.int64]:
    """Which start, of ascending ones, is the last that is not after a time; -1 before the first."""
    return np.searchsorted(starts - slack, time, side="right") - 1


def _layout(path: Path, data: bytes, layout: Layout) -> tuple[Layout, str]:
    if layout == "auto":
        _, line = first_line(data, comment="#")
        if path.name.startswith("out.") or line.startswith("%"):
            return "konect", "%"
        fields = line.replace(",", " ").replace(";", " ").split()
        return ("snap" if all(is_number(field) for field in fields[:2]) else "header"), "#"
    return layout, "%" if layout == "konect" else "#"


def _meanings(path: Path, number: int, fields: list[str], layout: Layout, columns: Sequence[str] | None) -> list[str]:
    """What each column holds: one of _MEANINGS, or "-"."""
    count = len(fields)
    if columns is not None:
        meanings = list(columns)
        if len(meanings) != count:
            raise ValueError(f"{path}, line {number}: got {count} columns; expected {len(meanings)}, as columns says")
        unknown = [name for name in meanings if name not in (*_MEANINGS, "-")]
        if unknown:
            raise ValueError(
                f"got {unknown[0]!r} in columns; expected {', '.join(_MEANINGS)}, or - for what is passed over"
            )
    elif layout == "header":
        known = {alias: meaning for meaning, aliases in _ALIASES.items() for alias in aliases}
        meanings = [known.get(field.lower(), "-") for field in fields]
    else:
        order: tuple[str, ...] = ("source", "target", "weight", "time")
        if count == 3 and layout == "snap":
            order = ("source", "target", "time")
        if count != len(order):
            advice = "say what they hold by columns, e.g. [source, target, time]"
            if count == 2 or (count == 3 and layout == "konect"):
                # KONECT's own order: what is missing is at the end.
                advice = "a graph without times cannot be cut into snapshots, take a temporal one" + (
                    "; if the third are times, say so by columns: [source, target, time]" if count == 3 else ""
                )
            raise ValueError(
                f"{path}, line {number}: got {count} columns; expected {' '.join(order)} in the layout {layout!r}: "
                + advice
            )
        meanings = list(order)
    for name in _MEANINGS:
        if meanings.count(name) > 1:
            raise ValueError(
                f"{path}, line {number}: got {meanings.count(name)} columns for {name}; expected one: give columns"
            )
    missing = [name for name in ("source", "target", "time") if name not in meanings]
    if missing:
        raise ValueError(
            f"{path}, line {number}: no column for {' and '.join(missing)} among {', '.join(fields)[:80]}; "
            "expected such names, or columns that say what is what"
        )
    return meanings
