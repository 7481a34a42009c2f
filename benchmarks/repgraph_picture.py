"""A picture of what is learned with each layer, a point a seed: for repgraph.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {"RepGraph": "#c0392b", "non-local": "#2c6fbb", "global": "#7f8c8d", "none": "#b0b0b0"}


def draw(found: dict[str, Any], path: Path) -> None:
    """One panel a task: every seed's score and the mean, by method.

    Args:
        found: what the part learning gave.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    tasks = {name: task for name, task in found["tasks"].items() if any(task["rows"].values())}
    if not tasks:
        return
    counts = [len(task["rows"]) for task in tasks.values()]
    figure = Figure(figsize=(9, 0.9 * len(tasks) + 0.28 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=counts)[:, 0]
    for panel, (name, task) in zip(panels, tasks.items(), strict=True):
        metric = task["metrics"][0]
        for place, (method, cells) in enumerate(task["rows"].items()):
            scores = [cell["test"][metric] for cell in cells]
            colour = next(colour for start, colour in COLOURS.items() if method.startswith(start))
            panel.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.6, markersize=6)
            if scores:
                panel.plot([float(np.mean(scores))], [place], "|", color=colour, markersize=16, markeredgewidth=2)
        panel.set_yticks(range(len(task["rows"])), list(task["rows"]), fontsize=8)
        panel.set_ylim(len(task["rows"]) - 0.5, -0.5)
        if metric == "pixel accuracy":
            panel.set_xlim(0, 1.02)
            panel.axvline(1 / 6, color="#999999", linewidth=0.8, linestyle=":")
        panel.set_title(f"{name}: {metric}", fontsize=9, loc="left")
        panel.grid(axis="x", linewidth=0.3)
        panel.tick_params(axis="x", labelsize=8)
    figure.savefig(path, dpi=110)
