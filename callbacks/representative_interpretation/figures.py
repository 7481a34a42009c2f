"""Pictures of a pass, as Matplotlib figures that leave pyplot's global state alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.pixels import coloured, contrast, over
from fulgurite.callbacks.seqpoint.figures import GRID, INK, MUTED

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.survey import Survey
    from fulgurite.callbacks.representative_interpretation.views import Shown, View

ALARM = "#cf222e"
_LINES = (
    ("coverage", "own covered", "#3f72b5"),
    ("held_out_purity", "held-out purity", "#1a8f6f"),
    ("certificate", "exact planes", "#8250df"),
    ("label_purity", "least label purity", ALARM),
)
_MOST_ROWS = 24  # more groups make a picture that nobody scrolls through; the page holds all
_CELL, _STEP, _ROW = 0.94, 1.0, 1.06  # inches
_NAMED, _TOP = 1.75, 0.3
_SMALL = 64  # images up to this side are shown with their pixels as they are


def draw_groups(survey: "Survey", *, members: int = 7) -> Figure:
    """One row a group: what its members have in common, then members with the group's map over them.

    Args:
        survey: the pass.
        members: images in a row; those of another true class than most, if there are some, take the last places.
    """
    views = survey.views[:_MOST_ROWS]
    clues = {(clue.label, clue.number) for clue in survey.clues}
    width, height = _NAMED + _STEP * (3 + members) + 0.1, _TOP + _ROW * max(1, len(views))
    figure = _figure(width, height, layout=None)
    if not views:
        figure.text(0.5, 0.5, "no group was found", ha="center", color=MUTED)
        return figure
    # All of it in one Axes, in inches: hundreds of Axes would take seconds to lay out.
    axis = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    for column, head in enumerate(("members' mean", "mean map", "rest of class", "members, nearest first")):
        axis.text(_NAMED + _STEP * column, height - _TOP + 0.07, head, fontsize=8, color=MUTED, va="bottom")
    for row, view in enumerate(views):
        top = height - _TOP - _ROW * row
        _describe(axis, survey, view, top, alarmed=(view.found.label, view.number) in clues)
        common = [view.mean_members, _on_grey(view), view.mean_rest]
        line = _line(view, members)
        cells = [*common, *(over(shown.pixels, coloured(shown.heat)) for shown in line)]
        for column, pixels in enumerate(cells):
            if pixels is not None:
                left = _NAMED + _STEP * column
                small = max(pixels.shape[:2]) <= _SMALL
                extent = (left, left + _CELL, top - _CELL, top)
                axis.imshow(pixels, extent=extent, interpolation="nearest" if small else "antialiased")
        for column, shown in enumerate(line, start=3):
            if shown.role == "odd":
                _mark(axis, survey, shown, _NAMED + _STEP * column, top)
    axis.set_aspect("auto")
    axis.set_xlim(0, width)
    axis.set_ylim(0, height)
    return figure


def draw_history(history: Sequence[Snapshot]) -> Figure:
    """Shares, drift and planes, pass by pass.

    Example:
        >>> passes = [Snapshot(n, n, "light", "conv", "", (), {"coverage": n / 4, "planes": 5.0}) for n in range(3)]
        >>> [axis.get_title(loc="left") for axis in draw_history(passes).axes]
        ['Shares', 'Groups kept since the pass before', 'Planes a group']
    """
    figure = _figure(9.6, 2.7)
    axes = figure.subplots(1, 3, width_ratios=[1.4, 1, 1])
    places = np.arange(len(history))
    for key, name, colour in _LINES:
        _line_of(axes[0], history, key, colour, name)
    axes[0].set_title("Shares", loc="left", fontsize=10, color=INK)
    _line_of(axes[1], history, "jaccard", "#d9480f", "")
    axes[1].set_title("Groups kept since the pass before", loc="left", fontsize=10, color=INK)
    _line_of(axes[2], history, "planes", "#3f72b5", "")
    axes[2].set_title("Planes a group", loc="left", fontsize=10, color=INK)
    for axis in axes[:2]:
        axis.set_ylim(-0.03, 1.03)
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        _style(axis)
        _ticks(axis, history, places)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, labelcolor=INK, fontsize=8.5, loc="lower right")
    return figure


def picture(figure: Figure) -> NDArray[np.uint8]:
    """A figure as pixels (H, W, 3).

    Example:
        >>> picture(_figure(1, 1)).shape
        (150, 150, 3)
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _line(view: "View", count: int) -> list["Shown"]:
    near = [shown for shown in view.shown if shown.role in ("centre", "member")]
    odd = [shown for shown in view.shown if shown.role == "odd"][: max(1, count // 3)]
    return [*near[: count - len(odd)], *odd]


def _describe(axis: Axes, survey: "Survey", view: "View", top: float, *, alarmed: bool) -> None:
    found = view.found
    axis.text(0.1, top, _short(survey.name(found.label), 18), fontsize=10, weight="bold", color=INK, va="top")
    lines = (
        f"group {view.number + 1}: {len(found.members)} images\ncovers {found.coverage:.0%}, purity {found.purity:.0%}"
    )
    axis.text(0.1, top - 0.25, lines, fontsize=8, color=MUTED, va="top", linespacing=1.35)
    if alarmed:
        axis.text(0.1, top - 0.67, "look at this one", fontsize=8, weight="bold", color=ALARM, va="top")


def _mark(axis: Axes, survey: "Survey", shown: "Shown", left: float, top: float) -> None:
    axis.add_patch(Rectangle((left, top - _CELL), _CELL, _CELL, fill=False, edgecolor=ALARM, linewidth=2, zorder=3))
    truth = "" if shown.truth is None else f"true: {_short(survey.name(shown.truth), 12)}"
    box = {"facecolor": ALARM, "edgecolor": "none", "pad": 1.2}
    place = (left + _CELL / 2, top - _CELL + 0.05)
    axis.text(*place, truth, fontsize=6.5, color="white", ha="center", va="bottom", bbox=box, zorder=4)


def _on_grey(view: "View") -> NDArray[np.uint8]:
    """The mean map over the members' mean in faint grey, so that one sees where it lies."""
    grey = (36 + view.mean_members.mean(-1, keepdims=True) * 0.35).astype(np.uint8).repeat(3, axis=-1)
    return over(grey, coloured(contrast(view.mean_map)))


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _line_of(axis: Axes, history: Sequence[Snapshot], key: str, colour: str, name: str) -> None:
    known = [(place, one.values[key]) for place, one in enumerate(history) if key in one.values]
    if known:
        x, y = zip(*known, strict=True)
        axis.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.6, label=name)


def _ticks(axis: Axes, history: Sequence[Snapshot], places: NDArray[np.int64]) -> None:
    every = max(1, len(places) // 6)
    names = [f"{one.epoch}" if one.kind == "light" else f"{one.epoch}\nfull" for one in history]
    axis.set_xticks(places[::every], names[::every])
    axis.set_xlim(-0.4, max(len(places) - 0.6, 0.4))
    axis.set_xlabel("epoch")


def _style(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)
    axis.xaxis.label.set_color(INK)
    axis.grid(True, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.yaxis.set_major_locator(MaxNLocator(5))
