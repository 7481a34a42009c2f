"""What is learned with RepGraph, and with what it is compared to, over three seeds: for repgraph.py.

A cell is one training: a task, a method and a seed. All methods of a task have the same data, network around them,
options of the layer, optimizer, schedule and steps; nothing but the length of `key` was chosen by results. A
finished cell is kept in a file and never run again, unless its settings have changed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repgraph_training import digest, train_detection, train_far, train_segmentation

SEEDS = (0, 1, 2)
Train = Callable[[Mapping[str, Any], int], dict[str, Any]]

NONE, GC, NL, REPGRAPH = "none", "global context", "non-local, SDPA", "RepGraph"
CONTEXTS: dict[str, dict[str, Any]] = {
    NONE: {"context": "none"},
    GC: {"context": "global_context"},
    NL: {"context": "non_local"},
    REPGRAPH: {"context": "repgraph"},
}
FAR = {
    NONE: CONTEXTS[NONE],
    GC: CONTEXTS[GC],
    NL: CONTEXTS[NL],
    "RepGraph, spread": CONTEXTS[REPGRAPH] | {"options": {"init": "spread"}},
    "RepGraph, grid3": CONTEXTS[REPGRAPH] | {"options": {"init": "grid3"}},
    "RepGraph, zero": CONTEXTS[REPGRAPH] | {"options": {"init": "zero"}},
}
GLOBAL = {"RepGraph, spread, 4 × 4 global nodes": CONTEXTS[REPGRAPH] | {"options": {"global_nodes": 4}}}


@dataclass(frozen=True)
class Task:
    """What is learned, and by which methods.

    Attributes:
        name: of the task.
        title: in the table.
        train: trains one network.
        methods: their settings by name.
        settings: that all of them have.
        metrics: of the table, the first is what counts.
        quick: settings of a trial.
        aims: of the first metric for every seed, by method: at least (positive) or at most (negative).
    """

    name: str
    title: str
    train: Train
    methods: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    metrics: tuple[str, ...]
    quick: Mapping[str, Any] = field(default_factory=dict)
    aims: Mapping[str, float] = field(default_factory=dict)

    def of(self, method: str, quick: bool) -> dict[str, Any]:
        """All that a training depends on, beside its seed."""
        return dict(self.settings) | dict(self.methods[method]) | (dict(self.quick) if quick else {})


_FAR: dict[str, Any] = {"steps": 400, "batch": 8, "side": 32, "width": 32, "rate": 4e-3, "tests": 64}
_PIXELS = ("mIoU", "pixel accuracy")
_SEGMENT: dict[str, Any] = {"batch": 8, "warm_up": 30, "decay": 1e-2}
_SCENES: dict[str, Any] = {
    "data": "scenes", "variant": "scenes", "side": 48, "epochs": 1, "steps": 1000, "tests": 200, "rate": 3e-3,
    "backbone": "tiny_resnet", "output_stride": 2, "head": 48, "dropout": 0.0, "background": 0.3,
}  # fmt: skip
_CAMVID: dict[str, Any] = {
    "data": "camvid", "epochs": 12, "scale": [0.75, 1.5], "crop": [160, 224], "rate": 2e-3,
    "backbone": "small_resnet", "output_stride": 8, "head": 128, "dropout": 0.1,
}  # fmt: skip
TASKS = {
    "region": Task(
        "region", "`region`: the opposite quadrant is full of the answer", train_far, FAR,
        _FAR | {"variant": "region"}, ("pixel accuracy",), {"steps": 4},
        {NL: 0.95, "RepGraph, spread": 0.95, "RepGraph, grid3": -0.3, "RepGraph, zero": -0.3},
    ),
    "key": Task(
        "key", "`key`: the answer is one small digit somewhere in the opposite quadrant", train_far, FAR | GLOBAL,
        _FAR | {"variant": "key", "steps": 800}, ("pixel accuracy",), {"steps": 4},
        {NL: 0.95, "RepGraph, spread": -0.3, "RepGraph, grid3": -0.3, "RepGraph, zero": -0.3},
    ),
    "scenes": Task(
        "scenes", "Digit scenes of 48 × 48, segmentation", train_segmentation, CONTEXTS,
        _SEGMENT | _SCENES, _PIXELS, {"steps": 2, "tests": 4},
    ),
    "camvid": Task(
        "camvid", "CamVid, 240 × 180, 180 training images, 50 held out", train_segmentation, CONTEXTS,
        _SEGMENT | _CAMVID, _PIXELS, {"epochs": 1, "batches": 2},
    ),
    "bccd": Task(
        "bccd", "BCCD, 320 × 240, detection, 160 training images, 50 held out", train_detection,
        {name: CONTEXTS[name] for name in (NONE, REPGRAPH)},
        {
            "data": "bccd", "epochs": 10, "batch": 4, "rate": 1e-3, "warm_up": 50, "decay": 1e-3,
            "min_side": 240, "max_side": 320, "anchors": [16, 32, 48, 72, 110], "width": 64, "head": 256,
            "proposals": 200, "samples": 128,
        },
        ("mAP", "mAP at 0.5"), {"epochs": 1, "batches": 2},
    ),
}  # fmt: skip


class Cells:
    """Results of trainings, kept in a file of one JSON object a line.

    Args:
        path: the file; None keeps nothing.
        may_go_on: asked before each training; False: leave it for another time.
    """

    def __init__(self, path: Path | None, may_go_on: Callable[[], bool]) -> None:
        self.path = path
        self._may_go_on = may_go_on
        self._found: dict[str, dict[str, Any]] = {}
        self._read()

    def __call__(self, task: Task, method: str, seed: int, *, quick: bool, train: bool) -> dict[str, Any] | None:
        """What the training gave, now or before; None where it was not run."""
        settings = task.of(method, quick)
        made = {"scene": digest(settings["variant"], settings["side"])} if "variant" in settings else {}
        known = json.dumps(settings | made | {"seed": seed}, sort_keys=True)
        key = f"{task.name}:{hashlib.sha256(known.encode()).hexdigest()[:16]}"
        if key not in self._found:
            if not train or not self._may_go_on():
                return None
            self._read()  # another run may have trained it meanwhile
        if key not in self._found:
            begun = time.perf_counter()
            result = task.train(settings, seed)
            result |= {"seconds": round(time.perf_counter() - begun, 1)}
            self._found[key] = {"key": key, "task": task.name, "method": method, "seed": seed, **result}
            print("learning", json.dumps(self._found[key]), flush=True)
            if self.path is not None:
                # Added, not written anew: another run may train other tasks at the same time.
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(self._found[key]) + "\n")
        return self._found[key]

    def _read(self) -> None:
        if self.path is not None and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            self._found |= {cell["key"]: cell for cell in map(json.loads, lines)}


def measure(
    tasks: Sequence[str],
    cells: Path | None,
    *,
    quick: bool,
    minutes: float | None = None,
    pause_file: Path | None = None,
) -> dict[str, Any]:
    """Train what is not trained yet, seed by seed, and gather what there is.

    Args:
        tasks: that may be trained; the others give what was found before.
        cells: file of trainings.
        quick: one seed and few steps.
        minutes: after which no training begins.
        pause_file: while it exists none begins.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes

    def may_go_on() -> bool:
        while pause_file is not None and pause_file.exists() and (end is None or time.monotonic() < end):
            time.sleep(5)
        return end is None or time.monotonic() < end

    run = Cells(cells, may_go_on)
    found: dict[str, Any] = {}
    for name, task in TASKS.items():
        rows: dict[str, list[dict[str, Any]]] = {method: [] for method in task.methods}
        for seed, method in _order(task, quick):
            cell = run(task, method, seed, quick=quick, train=name in tasks)
            if cell is not None:
                rows[method].append(cell)
        settings = {key: value for key, value in task.of(NONE, quick).items() if key != "context"}
        found[name] = {"title": task.title, "settings": settings, "metrics": task.metrics, "rows": rows}
        found[name]["aims"] = dict(task.aims)
    return {"tasks": found, "seeds": SEEDS}


def _order(task: Task, quick: bool) -> Iterator[tuple[int, str]]:
    for seed in SEEDS[:1] if quick else SEEDS:
        for method in task.methods:
            yield seed, method
