"""RepGraph's part of docs/benchmarks.md, from the figures that benchmarks/repgraph.py measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tables import markdown

# Aims: by size, how much faster than non-local by SDPA the tied bottleneck should train, on the CPU and on a GPU.
AIMS = {"cpu": {(64, 64): 1.0, (97, 97): 3.0, (128, 256): 7.0}, "gpu": {(97, 97): 3.0, (128, 256): 8.0}}
OURS = {"cpu": "RepGraph, bag", "gpu": "RepGraph, Triton"}
SDPA, MATMUL = "non-local, SDPA", "non-local, matmul"
PAPERS = (
    "The paper's own figures, by its authors' README: “around 17 times smaller in computation complexity and over 5 "
    "times faster than Non-local with a 256x128 input”; mIoU of 45.8 on ADE20K, 81.5 on Cityscapes, 53.9 on "
    "PASCAL-Context; on COCO 39.6 box and 36.0 mask AP (non-local: 39.0 and 35.5). None of these was reproduced here: "
    "small networks on small data say nothing about ADE20K or COCO."
)


def report(results: dict[str, Any]) -> str:
    """The page's section, with the parts that there are."""
    parts = [
        "## RepGraph",
        f"`python benchmarks/repgraph.py`, {results['date']}. {results['machine']}.",
        PAPERS,
    ]
    for name, write in SECTIONS.items():
        if name in results:
            parts += write(results[name])
    return "\n\n".join(parts)


def _cost(found: dict[str, Any]) -> list[str]:
    dense = found["without_output"]
    rows = [
        (row["layer"], *(f"{value / 1e9:,.1f}" for value in row["counted"]), f"{dense / row['counted'][-1]:.1f}×")
        for row in found["rows"]
    ]
    apart = max(abs(a - b) / b for row in found["rows"] for a, b in zip(row["counted"], row["closed"], strict=True))
    equal = "equal to the closed form" if not apart else f"within {apart:.1e} of the closed form"
    head = ("GMAC", *found["sizes"], "fewer")
    return [
        "### Multiply-adds",
        f"C' = 256, 9 nodes. Counted while the layers run on the meta device, {equal}. *Fewer*: at the last size, than "
        f"the non-local layer without its output projection, {dense / 1e9:,.1f} GMAC; that ratio is near the quoted 17 "
        "if one embedding is query, key and value, which is why it is so by default.",
        markdown(head, rows),
    ]


def _speed(found: dict[str, Any]) -> list[str]:
    parts = ["### Time and peak memory on the CPU"]
    parts += [
        "float32, batch 1, C = 512, C' = 256, 9 nodes, contiguous maps, batch normalisation in training mode. Every "
        "layer in a process of its own, all taking turns in every round; median (quartiles) of seconds. *Memory*: by "
        "how much the process's resident memory rose in the first call, which is not among those timed unless a call "
        "takes so long that it is the only one. *Gain*: non-local by SDPA over it. Layers are no identity, nodes "
        "lie some pixels off their start, irregularly."
    ]
    parts += _tables(found["cpu"], "cpu")
    if isinstance(found["gpu"], str):
        return [*parts, f"**Not measured on a GPU**: {found['gpu']}."]
    parts += ["### Time and peak memory on a GPU", "bf16 under autocast, channels-last, otherwise the same."]
    return parts + _tables(found["gpu"], "gpu")


def _tables(tables: Sequence[dict[str, Any]], device: str) -> list[str]:
    parts = []
    for table in tables:
        rows, lost = [], []
        every = table["rows"]
        for name, row in every.items():
            cells: list[str] = []
            for direction in ("forward", "training"):
                mine, control = row[direction], every[SDPA][direction]
                if "skipped" in mine:
                    cells += [f"skipped: {mine['skipped']}", "–", "–"]
                    continue
                gain = "–" if "skipped" in control else f"{_median(control) / _median(mine):.2f}×"
                if name == OURS[device] and gain != "–":
                    lost += _lost(mine, every, direction)
                    gain = f"**{gain}**"
                cells += [_seconds(mine), gain, f"{mine['bytes'] / 2**20:,.0f}"]
            rows.append((name, *cells))
        height, width = table["size"]
        aim = AIMS[device].get((height, width)) if table["variant"] == "tied bottleneck" else None
        title = f"**{height} × {width}, {table['variant']}**, {table['rounds']} rounds"
        if aim is not None:
            title += f"; aim in training: {'not slower' if aim == 1 else f'≥ {aim:g}×'}"
        head = ("layer", "forward", "gain", "MiB", "forward and backward", "gain", "MiB")
        parts += [title, markdown(head, rows)]
        if lost:
            parts.append("RepGraph loses here: " + "; ".join(lost) + ".")
    return parts


def _lost(mine: dict[str, Any], every: dict[str, dict[str, Any]], direction: str) -> list[str]:
    said = []
    for name in (SDPA, MATMUL):
        other = every[name][direction]
        if "skipped" in other:
            continue
        if _median(mine) > _median(other):
            said.append(f"{direction}, slower than {name}")
        if mine["bytes"] > other["bytes"]:
            said.append(f"{direction}, {mine['bytes'] / other['bytes']:.1f}× the memory of {name}")
    return said


def _times(row: dict[str, Any]) -> list[float]:
    return row["seconds"] or [row["first"]]


def _median(row: dict[str, Any]) -> float:
    return float(np.median(_times(row)))


def _seconds(row: dict[str, Any]) -> str:
    values = np.quantile(_times(row), [0.5, 0.25, 0.75])
    milli = values[0] < 1
    scale, unit = (1e3, "ms") if milli else (1, "s")
    digits = 0 if milli and values[0] >= 0.1 else 2
    median, low, high = (f"{value * scale:,.{digits}f}" for value in values)
    if len(_times(row)) == 1:
        return f"{median} {unit}, once"
    return f"{median} ({low}–{high}) {unit}"


def _learning(found: dict[str, Any]) -> list[str]:
    seeds = len(found["seeds"])
    parts = [
        "### What is learned",
        f"Mean ± standard deviation over {seeds} seeds, of initial weights, of the order, and of generated data. The "
        "same network, options of the layer, optimizer, schedule and steps for all methods of a task; nothing was "
        "tuned for any but the length of `key`: it is 800 steps because after 400 and 600 the non-local layer did not "
        "solve it with every seed (0.57 with one). With 600 steps, of single seeds, spread nodes reached 0.60 and with "
        "global nodes 0.47: scores on `key` hang on the seed and the length. Networks start from "
        "random weights and are trained for minutes, on one CPU thread: compare rows, not with what others report for "
        "these data. Seconds are as they came, also beside other work on the machine: the table of times is another.",
        "![Every seed's score by method](images/repgraph_learning.png)",
    ]
    for task in found["tasks"].values():
        rows = []
        for method, cells in task["rows"].items():
            if not cells:
                rows.append((method, *["not run yet"] * len(task["metrics"]), "", "", ""))
                continue
            scores = [[cell["test"][metric] for cell in cells] for metric in task["metrics"]]
            seconds = float(np.median([cell["seconds"] for cell in cells]))
            each = " ".join(f"{value:.3f}" for value in scores[0])
            rows.append((method, *map(_mean_spread, scores), each, f"{cells[0]['parameters']:,}", f"{seconds:,.0f}"))
        head = ("layer", *task["metrics"], f"{task['metrics'][0]}, each seed", "parameters", "seconds a training")
        parts += [
            f"**{task['title']}** ({_settings(task['settings'])})",
            markdown(head, rows),
            *_said(task),
            *_aims(task),
        ]
    return parts


def _mean_spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}, one seed"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    )


def _said(task: dict[str, Any]) -> list[str]:
    """Whether RepGraph is ahead, and by how many standard errors, as far as so few seeds can tell."""
    scores = {
        method: [cell["test"][task["metrics"][0]] for cell in cells]
        for method, cells in task["rows"].items()
        if len(cells) > 1
    }
    ours = next((method for method in scores if method.startswith("RepGraph")), None)
    others = [method for method in scores if not method.startswith("RepGraph")]
    if ours is None or not others:
        return []
    said = []
    for method in others:
        apart = float(np.mean(scores[ours]) - np.mean(scores[method]))
        noise = float(np.sqrt(sum(np.var(scores[name], ddof=1) / len(scores[name]) for name in (ours, method))))
        clear = "more" if abs(apart) > 2 * noise else "less"
        said.append(f"{apart:+.3f} against {method} ({clear} than two standard errors of {noise:.3f})")
    return [f"{ours}: " + "; ".join(said) + "."]


def _aims(task: dict[str, Any]) -> list[str]:
    """What every seed was expected to give, and which did not."""
    said = []
    for method, aim in task["aims"].items():
        scores = [cell["test"][task["metrics"][0]] for cell in task["rows"][method]]
        missed = [score for score in scores if (score < aim if aim > 0 else score > -aim)]
        verdict = f"**missed by {len(missed)} of {len(scores)} seeds**" if missed else "held"
        said.append(f"{method} {'≥' if aim > 0 else '≤'} {abs(aim):g}: {verdict if scores else 'not run yet'}")
    return ["Expected of every seed: " + "; ".join(said) + "."] if said else []


SECTIONS = {"cost": _cost, "speed": _speed, "learning": _learning}
