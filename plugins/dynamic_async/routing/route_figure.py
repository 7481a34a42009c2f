"""A routing run as a picture: wrong routes over time, epoch by epoch, and pseudocycles used beside their bound."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from fulgurite.plugins.dynamic_async.routing.experiment import EpochResult, RoutingRun
from fulgurite.plugins.files import replacing

INK, MUTED, GRID = "#24292f", "#6e7781", "#d8dee4"
WRONG, BOUND, USED, BAD = "#3f72b5", "#d9480f", "#4d9f71", "#b3261e"
_NAMED = 14  # epochs whose events find room in the picture
_CLOSE = 8  # epochs that are shown from near


def write_route_picture(run: RoutingRun, path: str | os.PathLike[str]) -> None:
    """Write the picture as PNG (or what the suffix says).

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        route_picture(run).savefig(temporary)


def route_picture(run: RoutingRun) -> Figure:
    """Wrong routes over ticks with each epoch's events; its beginning from near; pseudocycles used, held, and k*."""
    named = len(run.epochs) <= _NAMED and len(run.epochs) > 1
    lines = max((len(epoch.events) for epoch in run.epochs), default=0) if named else 0
    close = [epoch for epoch in run.epochs if epoch.settled is not None] if len(run.epochs) <= _CLOSE else []
    height = (9 if close else 7) + 0.16 * min(lines, 8)
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(3 if close else 2, 1, height_ratios=(3, 2, 2) if close else (3, 2))
    upper, lower = figure.add_subplot(rows[0]), figure.add_subplot(rows[-1])
    for axis in (upper, lower):
        _style(axis)
    if close:
        longest = max(epoch.settled - epoch.start for epoch in close if epoch.settled is not None)
        places = rows[1].subgridspec(1, len(run.epochs), wspace=0.05)
        for number in range(len(run.epochs)):
            axis = figure.add_subplot(places[number])
            _style(axis)
            _draw_close(axis, run, number, max(12, round(1.3 * longest)))
    _draw_ticks(upper, run, named)
    _draw_pseudocycles(lower, run)
    return figure


def _draw_ticks(axis: Axes, run: RoutingRun, named: bool) -> None:
    ticks = np.arange(len(run.wrong))
    known = np.where(run.wrong < 0, 0, run.wrong)
    top = max(1, int(known.max()))
    for number, epoch in enumerate(run.epochs):
        span = slice(epoch.start, epoch.end + 1)
        color = WRONG if epoch.answer != "none" else BAD
        if number % 2:
            axis.axvspan(epoch.start, epoch.end + 1, color=MUTED, alpha=0.07, linewidth=0, zorder=0)
        axis.fill_between(ticks[span], known[span], step="post", color=color, alpha=0.2, linewidth=0)
        axis.step(ticks[span], known[span], where="post", color=color, linewidth=1.4)
        if epoch.events:
            axis.axvline(epoch.start, color=INK, linewidth=0.9, linestyle=":")
        _draw_settled(axis, epoch, top)
        if named:
            axis.annotate(
                "\n".join(_events(epoch)),
                (epoch.start, 1),
                (2, 4),
                xycoords=axis.get_xaxis_transform(),
                textcoords="offset points",
                fontsize=7.5,
                color=INK,
                va="bottom",
                linespacing=1.15,
            )
    axis.set_ylim(0, top * 1.22)
    axis.set_xlim(0, len(run.wrong) - 1)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_xlabel("tick")
    axis.set_ylabel("routes")
    handles: list[Patch | Line2D] = []
    if any(epoch.answer != "none" for epoch in run.epochs):
        handles.append(Patch(facecolor=WRONG, alpha=0.4, label="wrong routes, against the epoch's own answer"))
    if any(epoch.answer == "none" for epoch in run.epochs):
        handles.append(
            Patch(facecolor=BAD, alpha=0.4, label="unstable routes: there is no answer to hold them against")
        )
    if any(epoch.settled is not None for epoch in run.epochs):
        handles.append(Line2D([], [], color=USED, marker="v", linestyle="", label="all right from here on"))
    if len(run.epochs) > 1:
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=0.9, label="events: a new epoch"))
    axis.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=8.5, loc="upper right", ncols=len(handles))


def _draw_close(axis: Axes, run: RoutingRun, number: int, ticks: int) -> None:
    epoch = run.epochs[number]
    last = min(epoch.end, epoch.start + ticks)
    values = np.maximum(run.wrong[epoch.start : last + 1], 0)
    color = WRONG if epoch.answer != "none" else BAD
    for end in run.ends:
        if epoch.start < end <= last:
            axis.axvline(end - epoch.start, color=GRID, linewidth=0.8)
    axis.fill_between(range(len(values)), values, step="post", color=color, alpha=0.2, linewidth=0)
    axis.step(range(len(values)), values, where="post", color=color, linewidth=1.4)
    if epoch.settled is not None:
        axis.plot([epoch.settled - epoch.start], [0], marker="v", color=USED, markersize=6, zorder=3, clip_on=False)
    axis.set_xlim(0, ticks)
    axis.set_ylim(0, max(1, int(run.wrong.max())) * 1.05)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axis.grid(False)
    axis.set_title(f"epoch {number}: {outcome(epoch)}", fontsize=9, color=INK, loc="left")
    if number:
        axis.tick_params(labelleft=False)
    else:
        axis.set_ylabel("routes")
    if number == len(run.epochs) // 2:
        axis.set_xlabel("ticks from the epoch's beginning; each line ends a pseudocycle")


def _draw_settled(axis: Axes, epoch: EpochResult, top: int) -> None:
    middle = (epoch.start + epoch.end + 1) / 2
    if epoch.settled is not None:
        axis.plot([epoch.settled], [top * 0.035], marker="v", color=USED, markersize=6, zorder=3)
        return
    if epoch.wrong is not None and epoch.answer != "none":
        text = f"{epoch.wrong[2]:,} still wrong"
        axis.annotate(text, (middle, top * 1.04), ha="center", fontsize=8, color=BAD)


def outcome(epoch: EpochResult) -> str:
    """In two words, when an epoch was right."""
    if epoch.answer == "none":
        return "no answer"
    return "still wrong" if epoch.used is None else f"{epoch.used:,} used"


def _events(epoch: EpochResult) -> list[str]:
    events = [*epoch.events] or ["start"]
    said = [event.replace(" capacity ", " cap. ") for event in events]
    short = [event if len(event) <= 26 else event[:25] + "…" for event in said]
    return short if len(short) <= 4 else [*short[:3], f"and {len(short) - 3} more"]


def _draw_pseudocycles(axis: Axes, run: RoutingRun) -> None:
    places = range(len(run.epochs))
    values = [1.0]
    small = len(run.epochs) <= 30
    for place, epoch in zip(places, run.epochs, strict=True):
        k_star, used = epoch.verdict.k_star, epoch.used
        axis.bar(place, epoch.pseudocycles + 0.5, 0.62, color=MUTED, alpha=0.16, linewidth=0)
        values += [epoch.pseudocycles]
        if used is not None:
            axis.bar(place, used + 0.5, 0.62, color=USED)
        words = outcome(epoch)
        if k_star is not None:
            axis.plot([place - 0.36, place + 0.36], [k_star + 0.5] * 2, color=BOUND, linewidth=2.2)
            values.append(k_star)
            words += f", k* {k_star}"
        else:
            words += f"\n{epoch.verdict.verdict}"
        if small:
            highest = max(epoch.pseudocycles, k_star or 0) + 0.5
            color = INK if used is not None else BAD
            axis.annotate(
                words, (place, highest), (0, 4), textcoords="offset points", ha="center", fontsize=8, color=color
            )
    axis.set_yscale("log")
    axis.set_ylim(0.4, max(values) * (3.2 if small else 1.5))
    room = max(0.0, (5 - len(run.epochs)) / 2)  # a few bars need not fill the picture
    axis.set_xlim(-0.6 - room, len(run.epochs) - 0.4 + room)
    # Half a pseudocycle is added everywhere, so that none shows on a logarithmic axis.
    marks = [mark for mark in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10**5) if mark <= 2 * max(values)]
    axis.set_yticks([mark + 0.5 for mark in marks], [f"{mark:,}" for mark in marks])
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.set_xticks(list(places)[:: 1 + len(run.epochs) // 30])
    axis.set_xlabel("epoch")
    axis.set_ylabel("pseudocycles")
    handles: list[Patch | Line2D] = [Patch(facecolor=MUTED, alpha=0.25, label="held by the epoch")]
    if any(epoch.used is not None for epoch in run.epochs):
        handles.append(Patch(facecolor=USED, label="used until all was right"))
    if any(epoch.verdict.k_star is not None for epoch in run.epochs):
        handles.append(
            Line2D([], [], color=BOUND, linewidth=2.2, label="k*: all is right by then, whatever came before")
        )
    axis.legend(
        handles=handles,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
    )


def _style(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.grid(True, axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
