"""A picture of a run's convergence, as a Matplotlib figure that leaves pyplot's global state alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fulgurite.callbacks.convergence_record import Point

INK, MUTED, GRID, BOUND, MEASURED, ABSENT = "#24292f", "#6e7781", "#d8dee4", "#d9480f", "#3f72b5", "#f3f0e8"


def draw_convergence(points: Sequence[Point], title: str, *, eps: float | None = None) -> Figure:
    """The certified bound and the measured distance, over evaluations; without a bound, the observed contraction.

    Where somebody was missing the background is shaded. There, bound and distance are about the answer of those that
    were present; after each change of view the count of certified rounds, and so the bound, begins anew.

    Args:
        points: ascending.
        title: one line.
        eps: the error at which training stops.

    Example:
        >>> points = [Point(k, 0.1 * k, rounds=k, bound=0.5**k, view=(0, 1), distance=0.4**k) for k in range(9)]
        >>> draw_convergence(points, "2 shards").axes[0].get_yscale()
        'log'
    """
    figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    places = [point.evaluations for point in points]
    bounded = [point for point in points if math.isfinite(point.bound)]
    if bounded:
        whole = max(len(point.view) for point in points)
        for before, after in pairwise(points):
            if len(before.view) < whole:
                axis.axvspan(before.evaluations, after.evaluations, color=ABSENT, linewidth=0, zorder=0)
        bounds = [point.bound if math.isfinite(point.bound) else math.nan for point in points]
        distances = [point.distance if point.distance > 0 else math.nan for point in points]
        axis.plot(places, bounds, color=BOUND, linewidth=1.6, drawstyle="steps-post", label="certified bound")
        if any(math.isfinite(distance) for distance in distances):
            axis.plot(
                places, distances, color=MEASURED, linewidth=1.6, label="measured distance to the direct solution"
            )
        if eps is not None:
            axis.axhline(eps, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"eps = {eps:g}")
        axis.set_yscale("log")
        axis.set_ylabel("greatest distance of a shard to the answer")
    else:
        ratios = [point.contraction for point in points]
        axis.plot(places, ratios, color=MEASURED, linewidth=1.2, label="observed ratio of successive steps")
        axis.axhline(1.0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="1: no contraction")
        axis.set_ylabel("ratio of lengths")
    axis.set_xlabel("evaluations of every shard" if bounded or any(point.view for point in points) else "epochs")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.legend(frameon=False, labelcolor=INK, fontsize=9)
    axis.set_title(title, loc="left", color=INK, fontsize=10)
    return figure
