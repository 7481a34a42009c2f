"""The report as one HTML page that needs nothing but itself: no script, no link, no image file."""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from string import Template
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from fulgurite.callbacks.seqpoint import wording
from fulgurite.callbacks.seqpoint.figures import GRID, INK, MUTED
from fulgurite.callbacks.seqpoint.headline import duration, headline, size
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.operators import OperatorRow, OperatorTable
from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.summary import Summary

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.trace import StepTrace

_ROWS_SHOWN = 15
_Traces = Mapping[int, Sequence["StepTrace"]]


def render(
    *,
    plan: Plan,
    log: EpochLog,
    summary: Summary,
    table: OperatorTable | None,
    traces: _Traces,
    figures: Mapping[str, Figure],
    notes: Sequence[str],
    folder: Path,
) -> str:
    """The page's HTML; every text that comes from outside is escaped.

    Args:
        plan: the plan.
        log: the epoch that it was selected on.
        summary: the headline numbers.
        table: the weighted operator table, if there are traces.
        traces: number of a point → its traces.
        figures: the pictures, by the names of :func:`fulgurite.callbacks.seqpoint.figures.figures`.
        notes: what the reader must know before trusting a number, in plain text.
        folder: where the page will lie; trace files are named relative to it.
    """
    sections = [
        ("Step time and shape", wording.about_shape(plan), _picture(figures, "step_time") + _points(plan)),
        ("Where the time goes", wording.about_operators(table), _operators(table, figures)),
        ("By module", wording.about_modules(table), _modules(table)),
        ("The epoch, step by step", wording.about_epoch(summary), _picture(figures, "timeline")),
        ("Memory", wording.about_memory(log, summary), _picture(figures, "memory")),
        ("Traces", wording.about_traces(traces), _trace_files(traces, folder)),
        ("Use the plan elsewhere", wording.ABOUT_PLAN, f"<pre>{escape(wording.COMMANDS)}</pre>"),
        ("Words", "", _words()),
    ]
    body = [_tiles(plan, summary), _notes(list(dict.fromkeys([plan.refusal, *notes] if plan.refusal else notes)))]
    body += [f"<h2>{title}</h2>\n{_paragraph(text)}\n{content}" for title, text, content in sections if text or content]
    page = Template(files("fulgurite.callbacks.seqpoint").joinpath("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(wording.TITLE),
        lead=escape(wording.lead(plan, summary)),
        body="\n".join(body),
        footer=escape(wording.FOOTER),
    )


def inline_svg(figure: Figure, name: str) -> str:
    """A figure as SVG for the page, with its greys exchanged for the page's own, which follow light and dark.

    Args:
        figure: drawn on white with the greys of :mod:`fulgurite.callbacks.seqpoint.figures`.
        name: read out in place of the picture; it also keeps the ids of figures apart.

    Example:
        >>> drawing = Figure(figsize=(1, 1), facecolor="white")
        >>> inline_svg(drawing, "nothing").startswith('<svg role="img" aria-label="nothing"')
        True
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure, and nothing refers to them
    for grey, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), ("#ffffff", "page")):
        svg = svg.replace(grey, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)


def _tiles(plan: Plan, summary: Summary) -> str:
    tiles = "\n".join(
        f'<div class="tile"><div class="name">{escape(tile.name)}</div><div class="value">{escape(tile.value)}</div>'
        f'<div class="more">{escape(tile.more)}</div></div>'
        for tile in headline(plan, summary)
    )
    return f'<div class="tiles">\n{tiles}\n</div>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<div class="notes"><p>What to know about these numbers</p><ul>{items}</ul></div>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _picture(figures: Mapping[str, Figure], name: str) -> str:
    return f"<figure>{inline_svg(figures[name], wording.ALT[name])}</figure>" if name in figures else ""


def _points(plan: Plan) -> str:
    parts = [point.weight * point.seconds for point in plan.points]
    shares = [part / sum(parts) for part in parts]
    head = ["point", *plan.columns, "counts for (steps)", "share of the epoch", "logged step", "runs"]
    if plan.measured:
        head.insert(-1, "measured step")
    rows = []
    for number, point in enumerate(plan.points):
        row = [str(number), *map(str, point.shape), f"{point.weight:.1f}"]
        row += [_meter(shares[number], max(shares)), duration(point.seconds)]
        if plan.measured:
            row.append(duration(median(plan.measured[number])))
        rows.append([*row, str(len(point.runs))])
    return _table(head, rows)


def _operators(table: OperatorTable | None, figures: Mapping[str, Figure]) -> str:
    if table is None:
        return ""
    kernels = table.of("kernel")
    listed = _times(table, table.of("operator"), "operator")
    return _picture(figures, "operators") + listed + (_times(table, kernels, "kernel") if kernels else "")


def _times(table: OperatorTable, rows: Sequence[OperatorRow], kind: str) -> str:
    bands = table.bands if len(table.bands) > 1 else ()
    head = [kind, "time in the epoch", "share", "calls", *(f"at length {band.label}" for band in bands)]
    cells = [
        [
            _name(row.name),
            duration(row.seconds),
            _meter(row.share, rows[0].share),
            f"{row.calls:,.0f}" if row.calls else "",
            *(map(_percent, row.bands) if bands else ()),
        ]
        for row in rows
    ]
    shown = _table(head, cells[:_ROWS_SHOWN])
    if len(rows) <= _ROWS_SHOWN:
        return shown
    rest = sum(row.share for row in rows[_ROWS_SHOWN:])
    label = f"{len(rows) - _ROWS_SHOWN} more, together {_percent(rest)}"
    return f"{shown}<details><summary>{label}</summary>{_table(head, cells[_ROWS_SHOWN:])}</details>"


def _modules(table: OperatorTable | None) -> str:
    if table is None:
        return ""
    by_name: dict[str, dict[str, float]] = {}
    for row in table.of("module"):
        by_name.setdefault(row.name, {})[row.phase] = row.seconds
    shares = {name: sum(phases.values()) / table.seconds for name, phases in by_name.items()}
    rows = []
    for name in sorted(shares, key=lambda name: -shares[name]):
        phases = by_name[name]
        parts = [duration(phases[phase]) if phase in phases else "" for phase in ("forward", "backward", "")]
        rows.append([_name(name), *parts, _meter(shares[name], max(shares.values()))])
    return _table(["module", "forward", "backward", "other", "share"], rows)


def _trace_files(traces: _Traces, folder: Path) -> str:
    rows = []
    for number, found in sorted(traces.items()):
        for trace in found:
            path = trace.path.relative_to(folder) if trace.path.is_relative_to(folder) else trace.path
            peak = size(trace.peak_bytes) if math.isfinite(trace.peak_bytes) else ""
            rows.append(
                [
                    f"<code>{escape(str(path))}</code>",
                    str(number),
                    duration(trace.seconds),
                    peak,
                    size(trace.bytes_on_disk),
                ]
            )
    return _table(["file", "point", "step, under the profiler", "peak memory", "size"], rows) if rows else ""


def _words() -> str:
    return "<dl>" + "".join(f"<dt>{escape(w)}</dt><dd>{escape(m)}</dd>" for w, m in wording.WORDS.items()) + "</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; the first column is text where it does not hold numbers."""
    rows = list(rows)
    text = bool(rows) and not rows[0][0].isdigit()
    kinds = [' class="text"' if text and column == 0 else "" for column in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _name(name: str) -> str:
    if name.startswith("("):
        return f'<span class="left-over">{escape(name.strip("()"))}</span>'
    return f'<code title="{escape(name)}">{escape(name)}</code>'


def _meter(share: float, longest: float) -> str:
    if not math.isfinite(share):
        return ""
    width = share / longest if longest > 0 else 0.0
    return (
        f'<span class="meter"><span style="width:{width:.1%}"></span></span><span class="of">{_percent(share)}</span>'
    )


def _percent(share: float) -> str:
    return f"{share:.1%}"
