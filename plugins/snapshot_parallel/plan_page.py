"""A plan to look at: the picture, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

from fulgurite.plugins.files import replacing, write_text
from fulgurite.plugins.snapshot_parallel.plan import Plan, PlanRow, duration, size

INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dee4"
_CHOSEN = "#d9480f"
_TIMES = {"compute": "#3f72b5", "transfer": "#4d9f71", "communication": "#e0813d"}
_BYTES = {
    "parameters": ("parameters, gradients, optimizer", "#8a6cb3"),
    "topology": ("graphs", "#4d9f71"),
    "features": ("features", "#52a5b5"),
    "activations": ("activations", "#3f72b5"),
    "carries": ("carries and kept results", "#e8a33d"),
    "saved": ("saved collectives", "#c5525a"),
}
_WORDS = {
    "ranks": "Processes that each own a run of snapshots; one a GPU, or one a CPU thread.",
    "blocks": "The timeline is worked through in so many pieces. Only what is handed from piece to piece is kept; each "
    "piece is computed a second time for its gradients. 1 block with collectives none computes nothing twice.",
    "collectives": "save: what came from other ranks is kept for the second computation; resend: it is sent again.",
    "exchange": "What the temporal phase moves: everything to whoever owns the vertex and back (all-to-all), the "
    "frames before one's own (halo), summaries (gather), or nothing.",
    "replayed": "This very shard ran on this machine, with the other ranks' answers made up.",
    "scaled": "The shard ran with fewer vertices, at two sizes, and a line through the two gives the time.",
    "fitted": "The shard did not run: its time follows from the shards of other numbers of ranks.",
    "efficiency": "The predicted time of one rank, over ranks times their time. 100 % would be perfect.",
}


def write_page(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Args:
        plan: what it shows.
        path: the HTML file.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(plan))


def write_picture(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the picture as PNG (or what the suffix says).

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        picture(plan).savefig(temporary)


def render(plan: Plan) -> str:
    """The page's HTML; every text that comes from outside is escaped."""
    row = plan.recommended
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in _WORDS.items())
    body = [_tiles(plan, row)]
    body.append(_notes([_basis(plan), *plan.notes]))
    sections = [
        ("Why", plan.reason, "" if row is None else f"<pre>{escape(settings(plan))}</pre>"),
        ("Step time and memory", "", f"<figure>{_inline_svg(picture(plan))}</figure>"),
        ("All numbers of ranks", "", _table(plan)),
        ("Words", "", f"<dl>{words}</dl>"),
    ]
    body += [f"<h2>{title}</h2>\n{_paragraph(text)}\n{content}" for title, text, content in sections]
    page = Template(files("fulgurite.plugins.snapshot_parallel").joinpath("plan_page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(f"Plan: {plan.network} on several ranks"),
        lead=escape(_lead(plan)),
        body="\n".join(body),
        footer="Predicted by Fulgurite, after Chakaravarthy et al., Efficient Scaling of Dynamic Graph Neural "
        "Networks, SC 2021, arXiv:2109.07893. No number on this page is the paper's.",
    )


def settings(plan: Plan) -> str:
    """The recommended row as lines of a recipe."""
    row = plan.recommended
    if row is None:
        return ""
    collectives = row.memory.collectives if row.memory.collectives != "none" else "auto"
    return (
        f"trainer:\n  devices: {row.ranks}\n  strategy:\n    class_path: SnapshotParallelStrategy\n    init_args:\n"
        f"      balance: {plan.balance}\n      blocks: {row.memory.blocks}\n      collectives: {collectives}"
    )


def picture(plan: Plan) -> Figure:
    """Step time and memory of a rank over numbers of ranks, drawn without pyplot.

    Args:
        plan: with at least one row.
    """
    figure = Figure(figsize=(10.4, 7.2), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    names = [f"{row.ranks:,}" for row in plan.rows]
    for axis in (upper, lower):
        _style(axis)
        axis.set_xticks(range(len(names)), names)
        if plan.recommended is not None:
            place = plan.rows.index(plan.recommended)
            axis.axvspan(place - 0.46, place + 0.46, color=_CHOSEN, alpha=0.13, linewidth=0, zorder=0)
    _draw_times(upper, plan)
    _draw_memory(lower, plan)
    figure.align_ylabels()
    lower.set_xlabel("ranks (the recommended number is shaded)")
    return figure


def _draw_times(axis: Axes, plan: Plan) -> None:
    unit, scale = ("s", 1.0) if max(row.step for row in plan.rows) >= 1 else ("ms", 1e-3)
    places = range(len(plan.rows))
    for kind, color in _TIMES.items():
        values = [getattr(row, kind) / scale or math.nan for row in plan.rows]
        if not all(map(math.isnan, values)):
            axis.plot(places, values, color=color, marker="o", markersize=4, linewidth=1.4, label=kind)
    steps = [row.step / scale for row in plan.rows]
    axis.plot(places, steps, color=INK, marker="o", markersize=5, linewidth=2, label="step")
    ideal = [row.step * row.speedup / row.ranks / scale for row in plan.rows]
    axis.plot(places, ideal, color=MUTED, linewidth=1, linestyle=":", label="step of one rank, divided by ranks")
    for place, (row, step) in enumerate(zip(plan.rows, steps, strict=True)):
        axis.annotate(
            f"{row.efficiency:.0%}",
            (place, step),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=8.5,
            path_effects=[withStroke(linewidth=3, foreground="#ffffff")],  # where the dotted line runs behind
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(f"{unit}, predicted")
    axis.margins(y=0.12)
    axis.set_title("Time of a step, slowest rank; at each step its efficiency", loc="left", color=INK, fontsize=10)
    axis.legend(frameon=False, labelcolor=INK, fontsize=9)


def _draw_memory(axis: Axes, plan: Plan) -> None:
    top = max(row.memory.total for row in plan.rows)
    unit, scale = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if top >= s or s == 1.0)
    base = [0.0] * len(plan.rows)
    for kind, (label, color) in _BYTES.items():
        heights = [getattr(row.memory.worst, kind) / scale for row in plan.rows]
        if any(heights):
            axis.bar(range(len(heights)), heights, 0.62, bottom=base, color=color, label=label)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    for place, (row, summit) in enumerate(zip(plan.rows, base, strict=True)):
        axis.annotate(
            _blocks(row), (place, summit), (0, 3), textcoords="offset points", ha="center", color=INK, fontsize=8.5
        )
    # The device's limit belongs into the picture where it is near what is needed, and would flatten it elsewhere.
    high = max(base)
    limit = plan.memory_bytes / scale
    if limit < 3 * high:
        high = max(high, limit)
        axis.axhline(limit, color=_CHOSEN, linewidth=1.2, linestyle="--")
        axis.annotate(
            f"a rank's memory, {size(plan.memory_bytes)}",
            (len(plan.rows) - 0.55, limit),
            (0, 3),
            textcoords="offset points",
            ha="right",
            color=_CHOSEN,
            fontsize=9,
        )
    axis.set_ylim(0, high * 1.15)
    axis.set_ylabel(f"memory of a rank, {unit} (predicted)")
    axis.set_title("Memory of the rank that needs most; above each bar its blocks", loc="left", color=INK, fontsize=10)
    axis.legend(frameon=False, labelcolor=INK, fontsize=9)


def _style(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.grid(True, axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))


def _inline_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "plan", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    # The page's own greys follow light and dark.
    for grey, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), ("#ffffff", "page")):
        svg = svg.replace(grey, f"var(--{variable})")
    return svg.replace("<svg", '<svg role="img" aria-label="step time and memory over numbers of ranks"', 1)


def _lead(plan: Plan) -> str:
    s = plan.statistics
    return (
        f"{s.snapshots:,} snapshots of {s.nodes:,} vertices, {s.total_nnz:,} entries in all, {s.features} features, "
        f"{s.dtype}. Compute measured on {plan.device}; link: {plan.link.name}, {plan.link.source} "
        f"(α {duration(plan.link.alpha)}, β {size(plan.link.beta)}/s)."
    )


def _basis(plan: Plan) -> str:
    kinds = {row.basis for row in plan.rows}
    text = "Every number here is predicted. Each shard ran alone, without waiting for others"
    if kinds == {"replayed"}:
        return f"{text}; communication is modelled."
    return f"{text}, or was scaled or fitted from shards that ran (see the table); communication is modelled."


def _tiles(plan: Plan, row: PlanRow | None) -> str:
    if row is None:
        tiles = [("Recommended", "nothing fits", f"a rank has {size(plan.memory_bytes)}")]
    else:
        mode = f"{_blocks(row)}, {row.memory.collectives}" if row.memory.blocks > 1 else "no re-computation"
        tiles = [
            ("Recommended", f"{row.ranks:,} {'rank' if row.ranks == 1 else 'ranks'}", f"{mode}; {row.exchange}"),
            ("Step, predicted", duration(row.step), f"{row.speedup:.1f} × one rank, efficiency {row.efficiency:.0%}"),
            ("Memory of a rank", size(row.memory.total), f"of {size(plan.memory_bytes)}"),
            ("Sent by a rank", size(row.sent), f"in {row.calls} collectives a step"),
        ]
    cells = "\n".join(
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="more">{escape(more)}</div></div>'
        for name, value, more in tiles
    )
    return f'<div class="tiles">\n{cells}\n</div>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    return f'<div class="notes"><p>What to know about these numbers</p><ul>{items}</ul></div>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def cells(row: PlanRow) -> dict[str, str]:
    """A row in words, by column: what the page's table and the terminal's show."""
    kept = row.memory.collectives
    return {
        "ranks": f"{row.ranks:,}",
        "blocks": str(row.memory.blocks) + ("" if kept == "none" else f", {kept}"),
        "exchange": row.exchange,
        "memory": size(row.memory.total) + ("" if row.fits else ", too much"),
        "compute": duration(row.compute),
        "transfer": duration(row.transfer) if row.transfer else "–",
        "sending": duration(row.communication) if row.communication else "–",
        "step": duration(row.step),
        "efficiency": f"{row.efficiency:.0%}",
        "sent by all": size(row.total_sent),
        "compute is": row.basis,
        "idle ranks": str(row.idle or "–"),
    }


def columns(plan: Plan) -> list[str]:
    """The columns of :func:`cells` that say something in this plan."""
    spare = {"transfer": "–", "idle ranks": "–"}
    found = [cells(row) for row in plan.rows]
    return [name for name in found[0] if any(row[name] != spare.get(name) for row in found)]


def _table(plan: Plan) -> str:
    rows = [(row, cells(row)) for row in plan.rows]
    shown = columns(plan)
    top = "".join(f"<th>{escape(name)}</th>" for name in shown)
    lines = "\n".join(
        f"<tr{' class=chosen' if row is plan.recommended else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in (words[name] for name in shown))
        + "</tr>"
        for row, words in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _blocks(row: PlanRow) -> str:
    return f"{row.memory.blocks} {'block' if row.memory.blocks == 1 else 'blocks'}"
