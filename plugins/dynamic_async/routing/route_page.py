"""A routing run as one HTML page that needs nothing but itself, and as rows of a table."""

from __future__ import annotations

import io
import os
import re
from html import escape
from importlib.resources import files
from string import Template

import matplotlib

from fulgurite.plugins.dynamic_async.routing.experiment import EpochResult, RoutingRun
from fulgurite.plugins.dynamic_async.routing.route_figure import GRID, INK, MUTED, outcome, route_picture
from fulgurite.plugins.files import write_text

_WORDS = {
    "epoch": "From one event to the next; its answer depends on its links and nodes alone, not on what came before.",
    "pseudocycle": "Time in which everybody has dropped what was written before it, and computed since: however late, "
    "lost or out of order messages were, as good as a synchronous round.",
    "used": "Pseudocycles from the epoch's beginning until every route was right, and stayed so.",
    "k*": "The most that it can take, from any routes whatever; known before the run.",
    "certified": "Convergence is proved for this algebra or this network; k* is a bound.",
    "refused": "A counterexample is known: several stable states, none, or costs that grow without end.",
    "empirical": "Neither; what is seen here promises nothing for other runs.",
    "wrong": "Routes that differ from the answer, found without any history: at the epoch's beginning, and at its end.",
}
TEXT_COLUMNS = ("events", "verdict")


def epoch_cells(number: int, epoch: EpochResult) -> dict[str, str]:
    """An epoch in words, by column: what the page's table and the terminal's show."""
    wrong = epoch.wrong
    return {
        "epoch": str(number),
        "ticks": f"{epoch.start}–{epoch.end}",
        "events": ", ".join(epoch.events) or "start",
        "nodes": f"{epoch.participants:,}",
        "verdict": epoch.verdict.verdict,
        "pseudocycles": f"{epoch.pseudocycles:,}",
        "used": outcome(epoch).removesuffix(" used"),
        "k*": "–" if epoch.verdict.k_star is None else f"{epoch.verdict.k_star:,}",
        "settled at": "–" if epoch.settled is None else str(epoch.settled),
        "wrong": "–" if wrong is None else f"{wrong[0]:,} → {wrong[2]:,}" + ("*" if epoch.answer == "none" else ""),
    }


def findings(run: RoutingRun) -> list[str]:
    """What a reader should know of the run, in sentences."""
    held = [epoch for epoch in run.epochs if epoch.bound_kept is not None]
    sentences = []
    if held:
        kept = sum(epoch.bound_kept is True for epoch in held)
        of = "all" if kept == len(held) else f"only {kept}"
        sentences.append(f"Of {len(held)} epochs that held k* pseudocycles, {of} were right by then.")
    never = [n for n, epoch in enumerate(run.epochs) if epoch.used is None and epoch.answer != "none"]
    if never:
        sentences.append(f"Still wrong at its end: epoch {', '.join(map(str, never))}.")
    early = [n for n in never if (k_star := run.epochs[n].verdict.k_star) and run.epochs[n].pseudocycles < k_star]
    if early:
        sentences.append(f"Too short for its bound, so wrong for now: epoch {', '.join(map(str, early))}.")
    if any(epoch.answer == "none" for epoch in run.epochs):
        sentences.append(
            "* Synchronous rounds from nothing never settle, so there is no answer to compare with. Counted are routes "
            "that a round would change."
        )
    reasons = dict.fromkeys(f"{epoch.verdict.verdict}: {epoch.verdict.reason}." for epoch in run.epochs)
    return [*sentences, *(reason[0].upper() + reason[1:] for reason in [*reasons][:6])]


def write_route_page(run: RoutingRun, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render_route_page(run))


def render_route_page(run: RoutingRun) -> str:
    """The page's HTML; every text that comes from outside is escaped."""
    words = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in _WORDS.items())
    notes = "".join(f"<p>{escape(sentence)}</p>" for sentence in findings(run))
    body = [
        _tiles(run),
        f"<figure>{_inline_svg(run)}</figure>",
        f"<h2>What was found</h2>\n{notes}",
        f"<h2>Epochs</h2>\n{_table(run)}",
        f"<h2>Words</h2>\n<dl>{words}</dl>",
    ]
    page = Template(files("fulgurite.plugins.dynamic_async.routing").joinpath("route_page.html").read_text("utf-8"))
    return page.substitute(
        title=escape(f"Routing: {run.topology}"),
        lead=escape(
            f"{run.nodes:,} nodes, routes to {run.destinations:,} of them; algebra {run.algebra}; "
            f"{len(run.wrong) - 1:,} ticks; schedule: {run.schedule}."
        ),
        body="\n".join(body),
        footer="Simulated by Fulgurite, after Daggitt and Griffin, Dynamic Asynchronous Iterations, JPDC 164, 2022, "
        "arXiv:2012.01686.",
    )


def _tiles(run: RoutingRun) -> str:
    settled = [epoch for epoch in run.epochs if epoch.used is not None]
    most = max((epoch.used or 0 for epoch in settled), default=0)
    certified = sum(epoch.verdict.verdict == "certified" for epoch in run.epochs)
    bounds = [epoch.verdict.k_star for epoch in run.epochs if epoch.verdict.k_star is not None]
    tiles = [
        ("Epochs that ended right", f"{len(settled)} of {len(run.epochs)}", "against answers found without history"),
        ("Certified beforehand", f"{certified} of {len(run.epochs)}", "from any routes, under any schedule"),
        ("Most pseudocycles used", str(most) if settled else "–", f"k* up to {max(bounds)}" if bounds else "no k*"),
    ]
    cells = "\n".join(
        f'<div class="tile"><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="more">{escape(more)}</div></div>'
        for name, value, more in tiles
    )
    return f'<div class="tiles">\n{cells}\n</div>'


def _table(run: RoutingRun) -> str:
    rows = [epoch_cells(number, epoch) for number, epoch in enumerate(run.epochs)]

    def cell(name: str, text: str, tag: str) -> str:
        kind = f"text {text}" if name == "verdict" else "text" if name in TEXT_COLUMNS else ""
        return f'<{tag} class="{escape(kind)}">{escape(text)}</{tag}>'

    top = "".join(cell(name, name, "th") for name in rows[0])
    lines = "\n".join("<tr>" + "".join(cell(name, text, "td") for name, text in row.items()) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _inline_svg(run: RoutingRun) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "route", "svg.fonttype": "path"}):
        route_picture(run).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    # The page's own greys follow light and dark.
    for grey, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "line"), ("#ffffff", "page")):
        svg = svg.replace(grey, f"var(--{variable})")
    return svg.replace("<svg", '<svg role="img" aria-label="wrong routes over ticks, and pseudocycles by epoch"', 1)
