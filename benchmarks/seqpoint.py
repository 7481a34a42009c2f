"""SeqPoint out of sample: select on one configuration, project another from fresh runs of the points, count the error.

    python benchmarks/seqpoint.py                 everything, about half an hour on two cores
    python benchmarks/seqpoint.py --quick         a small run that shows that it works; writes no page

Configuration A is logged three times (the noise floor) and selections are made from re-sampled logs of A. For each
configuration B some rounds are timed. In a round two passes over the epoch take turns step by step: one in the epoch's
order, which is the truth, and one in random order, of which a projection takes the times of its points. So the drift of
a shared machine falls on both alike. The same projections are also held against the epochs of the other rounds, as a
user would meet them: minutes apart. All methods get as many runs.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from seqpoint_page import report
from tables import machine, write_section

from fulgurite.callbacks.seqpoint.plan import Plan, PlanError
from fulgurite.callbacks.seqpoint.replan import replan
from fulgurite.callbacks.seqpoint.select import select
from fulgurite.data import GettextTranslation, SpeechFolder
from fulgurite.models import GNMT, DeepSpeech2, SpeechRecognizer, Translator

Array = NDArray[Any]
ROUNDS = 3  # of each configuration B
PARTS = ("workloads", "overhead", "traces")
COLUMNS = ("batch", "source", "target")


@dataclass(frozen=True)
class Configuration:
    """What the steps run on."""

    name: str
    threads: int = 2
    hidden: int = 128
    bf16: bool = False
    epoch_seed: int = 0


A = Configuration("A: 2 threads, fp32, hidden 128")
OTHERS = (
    Configuration("1 thread", threads=1),
    Configuration("hidden size × 1.5", hidden=192),
    Configuration("bf16", bf16=True),
    Configuration("reshuffled epoch", epoch_seed=1),
)


@dataclass
class Workload:
    """A network, its data, and its batches in memory, so that only the step is timed."""

    name: str
    data: Any
    make: Callable[[int], Any]
    limit: int | None = None
    overhead_steps: int = 150
    _epochs: dict[int, tuple[list[Any], Array]] = field(default_factory=dict)

    def epoch(self, seed: int) -> tuple[list[Any], Array]:
        """The batches of an epoch, and their shapes (M, 3)."""
        if seed not in self._epochs:
            torch.manual_seed(seed)
            batches = list(self.data.train_dataloader())[: self.limit]
            shapes = []
            for batch in batches:
                first = batch["source"] if "source" in batch else batch["features"]
                second = batch["target"] if "target" in batch else batch["targets"]
                shapes.append((first.shape[0], first.shape[1], second.shape[1]))
            self._epochs[seed] = batches, np.array(shapes)
        return self._epochs[seed]

    def stepper(self, configuration: Configuration) -> Callable[[Any], float]:
        """A function that takes one training step and gives its seconds."""
        torch.manual_seed(0)
        torch.set_num_threads(configuration.threads)
        module = self.make(configuration.hidden)
        module.train()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

        def step(batch: Any) -> float:
            begin = time.perf_counter()
            context = torch.autocast("cpu", dtype=torch.bfloat16) if configuration.bf16 else nullcontext()
            with context:
                loss = module.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            return time.perf_counter() - begin

        return step


def time_rounds(workload: Workload, configuration: Configuration, rounds: int) -> tuple[Array, Array]:
    """Seconds of each step in the epoch's order and in random order, taking turns, each (rounds, M).

    One pass comes first that is not kept: whatever is paid when a shape is met for the first time (memory, compiled
    primitives) is paid there.
    """
    batches, _ = workload.epoch(configuration.epoch_seed)
    step = workload.stepper(configuration)
    rng = np.random.default_rng(1)
    epochs, fresh = np.empty((2, rounds, len(batches)))
    for batch in batches:
        step(batch)
    for number in range(rounds):
        for ordered, drawn in enumerate(rng.permutation(len(batches))):
            epochs[number, ordered] = step(batches[ordered])
            fresh[number, drawn] = step(batches[drawn])
    return epochs, fresh


def time_passes(workload: Workload, configuration: Configuration, orders: Sequence[Array]) -> Array:
    """(passes, M) seconds of each step, in each order."""
    batches, _ = workload.epoch(configuration.epoch_seed)
    step = workload.stepper(configuration)
    for index in np.linspace(0, len(batches) - 1, 25).astype(int):  # warm up: allocator, thread pool, primitives
        step(batches[index])
    seconds = np.empty((len(orders), len(batches)))
    for row, order in zip(seconds, orders, strict=True):
        for index in order:
            row[index] = step(batches[index])
    return seconds


@dataclass(frozen=True)
class Choice:
    """What a method wants to run, and how it projects from those times."""

    runs: list[int]  # steps of A's epoch
    project: Callable[[Array], tuple[float, float, float]]  # times of the runs → total, low, high
    plan: Plan | None = None


def plan_choice(plan: Plan) -> Choice:
    """A plan's points, one entry a run."""
    runs = [run for point in plan.points for run in point.runs]

    def project(times: Array) -> tuple[float, float, float]:
        measured: dict[tuple[int, ...], list[float]] = {}
        start = 0
        for point in plan.points:
            measured.setdefault(point.shape, []).extend(times[start : start + len(point.runs)].tolist())
            start += len(point.runs)
        result = plan.project(measured)
        return result.total, result.low, result.high

    return Choice(runs, project, plan)


def mean_choice(runs: Sequence[int], iterations: int) -> Choice:
    """The mean of some steps, times the number of iterations."""
    return Choice(list(runs), lambda times: (float(times.mean()) * iterations, np.nan, np.nan))


def choices(shapes: Array, seconds: Array, share: float, seed: int) -> dict[str, Choice]:
    """Every method's choice from one log of A, all at the cost of the default's."""
    rng = np.random.default_rng(seed)
    count = len(shapes)
    lengths = shapes[:, 1]
    options: dict[str, Any] = {"columns": COLUMNS, "max_share": share, "seed": seed}
    default = select(shapes, seconds, **options)
    found = {"interpolate (default)": plan_choice(default)}
    budget = default.runs
    single = select(shapes, seconds, points=max(2, budget - 2), replicates=1, **options)
    found["interpolate, one run a point"] = plan_choice(single)
    by_length = {**options, "columns": COLUMNS[:2]}
    found["interpolate, length alone"] = plan_choice(
        select(shapes[:, :2], seconds, points=len(default.points), replicates=3, **by_length)
    )
    strata = max(1, budget // 3)  # three draws in each
    found["audit"] = plan_choice(select(shapes, seconds, selector="audit", points=strata, **options))
    # Not every length occurs often: as many replicates as give at least the default's runs in all.
    faithful = [select(shapes, seconds, selector="paper", replicates=r, **options) for r in range(1, budget + 1)]
    found["paper"] = plan_choice(next((plan for plan in faithful if plan.runs >= budget), faithful[-1]))
    found["first k after warm-up"] = mean_choice(range(5, 5 + budget), count)
    found["random k"] = mean_choice(rng.choice(count, budget, replace=False), count)

    def of_length(length: int) -> Choice:
        alike = np.flatnonzero(lengths == length)
        return mean_choice(rng.choice(alike, budget, replace=len(alike) < budget), count)

    values, counts = np.unique(lengths, return_counts=True)
    found["frequent"] = of_length(int(values[counts.argmax()]))
    found["median"] = of_length(int(lengths[np.argsort(seconds)[count // 2]]))
    found["worst"] = of_length(int(lengths.max()))
    return found


def counterparts(runs: Sequence[int], shapes: Array, other: Array) -> Array:
    """For steps of A's epoch, the most alike steps of a reshuffled one, each used once as long as there are others."""
    free = np.ones(len(other), dtype=bool)
    result = []
    for run in runs:
        distance = np.abs(other[:, 1:] - shapes[run, 1:]).sum(axis=1) + 1000 * np.abs(other[:, 0] - shapes[run, 0])
        best = int(np.where(free, distance, distance + 10_000).argmin())
        free[best] = False
        result.append(best)
    return np.array(result)


def measure_workload(
    workload: Workload, *, selections: int, rounds: int, share: float, chosen: Sequence[str] | None = None
) -> dict[str, Any]:
    """The table's rows for one workload."""
    _, shapes = workload.epoch(0)
    ordered = np.arange(len(shapes))
    logs = time_passes(workload, A, [ordered] * 3)
    totals = logs.sum(axis=1)
    floor = float(np.abs(totals / totals.mean() - 1).max())
    print(f"{workload.name}: {len(shapes)} iterations, A {totals.mean():.1f} s, noise floor {floor:.2%}", flush=True)
    cells: dict[str, dict[str, Any]] = {}
    rng = np.random.default_rng(1)
    for configuration in (cell for cell in OTHERS if chosen is None or cell.name in chosen):
        _, other_shapes = workload.epoch(configuration.epoch_seed)
        epoch_steps, fresh = time_rounds(workload, configuration, rounds)
        epochs = epoch_steps.sum(axis=1)
        spread = float(np.ptp(epochs) / epochs.mean())
        errors: dict[str, list[float]] = {}
        apart: dict[str, list[float]] = {}
        covered: dict[str, list[bool]] = {}
        costs: dict[str, list[tuple[float, float, float]]] = {}
        for number in range(selections):
            mixture = logs[rng.integers(0, len(logs), len(shapes)), ordered]  # a log re-sampled from the three
            for name, choice in choices(shapes, mixture, share, seed=number).items():
                if configuration.epoch_seed and choice.plan is not None:
                    width = len(choice.plan.columns)
                    choice = plan_choice(replan(choice.plan, other_shapes[:, :width]))
                    runs = np.array(choice.runs)
                elif configuration.epoch_seed:
                    runs = counterparts(choice.runs, shapes, other_shapes)
                else:
                    runs = np.array(choice.runs)
                turn = number % rounds
                seconds, truth = fresh[turn][runs], float(epochs[turn])
                try:
                    total, low, high = choice.project(seconds)
                except PlanError as refusal:
                    print(f"  {name} refused: {refusal}")
                    continue
                errors.setdefault(name, []).append(total / truth - 1)
                apart.setdefault(name, []).extend(abs(total / np.delete(epochs, turn) - 1))
                if low == low:
                    covered.setdefault(name, []).append(low <= truth <= high)
                costs.setdefault(name, []).append(
                    (len(runs) / len(shapes), truth / seconds.sum(), truth / seconds.max())
                )
        cells[configuration.name] = {
            "truth": float(epochs.mean()),
            "spread": spread,
            "methods": {
                name: {
                    "mean": float(np.mean(np.abs(values))),
                    "p95": float(np.quantile(np.abs(values), 0.95)),
                    "max": float(np.max(np.abs(values))),
                    "bias": float(np.mean(values)),
                    "apart": float(np.mean(apart[name])),
                    "covered": float(np.mean(covered[name])) if name in covered else None,
                    "share": float(np.mean([cost[0] for cost in costs[name]])),
                    "serial": float(np.median([cost[1] for cost in costs[name]])),
                    "critical": float(np.median([cost[2] for cost in costs[name]])),
                    "n": len(values),
                }
                for name, values in errors.items()
            },
        }
        best = cells[configuration.name]["methods"]
        print(
            f"  {configuration.name}: truth {epochs.mean():.1f} s ± {spread / 2:.2%}; "
            + "; ".join(f"{name} {row['mean']:.2%}" for name, row in best.items()),
            flush=True,
        )
    return {"iterations": len(shapes), "seconds_A": float(totals.mean()), "noise_floor": floor, "cells": cells}


def measure_overhead(workload: Workload, steps: int, repeats: int) -> dict[str, float]:
    """What logging costs: time inside the callback's own hooks, and paired interleaved runs with and without it."""
    import lightning.pytorch as pl

    from fulgurite.callbacks import SeqPoint

    torch.set_num_threads(2)
    batches = workload.epoch(0)[0][:steps]
    inside: list[list[float]] = []  # a step's hooks

    class Stopwatch(pl.Callback):
        """Notes when each step begins; the end of the last, where an epoch is closed and reported, is left out."""

        def on_train_start(self, *args: Any) -> None:
            self.starts: list[float] = []

        def on_train_batch_start(self, *args: Any) -> None:
            self.starts.append(time.perf_counter())

    class Timed(SeqPoint):
        """Adds up the time spent in the hooks that run at every step."""

    def timed(name: str) -> Callable[..., None]:
        hook = getattr(SeqPoint, name)

        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            begin = time.perf_counter()
            hook(self, *args, **kwargs)
            if name == "on_train_batch_start":
                inside.append([])
            inside[-1].append(time.perf_counter() - begin)

        return run

    for name in ("on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step"):
        if name in vars(SeqPoint):
            setattr(Timed, name, timed(name))

    def run(callbacks: list[Any]) -> float:
        torch.manual_seed(0)
        module = workload.make(128)
        stopwatch = Stopwatch()
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, stopwatch],
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        trainer.fit(module, loader)
        return stopwatch.starts[-1] - stopwatch.starts[0]

    import tempfile

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        run([])
        pairs = [(run([]), run([SeqPoint(folder=folder, trace=False)])) for _ in range(repeats)]
        with_it = run([Timed(folder=folder, trace=False)])
    hooks = [sum(step) for step in inside[:-1]]
    ratios = [b / a - 1 for a, b in pairs]
    return {
        "hooks_us": float(np.mean(hooks)) * 1e6,
        "step_ms": float(np.median([a for a, _ in pairs])) / steps * 1e3,
        "hooks_share": sum(hooks) / with_it,
        "paired_median": float(np.median(ratios)),
        "paired_low": float(np.min(ratios)),
        "paired_high": float(np.max(ratios)),
    }


def measure_traces(workload: Workload, share: float) -> dict[str, float]:
    """Bytes of one trace a point, against one profile of the whole epoch; memory recording off in both."""
    import gzip
    import tempfile

    from fulgurite.callbacks.seqpoint.trace import TraceWindows

    batches, shapes = workload.epoch(0)
    seconds = time_passes(workload, A, [np.arange(len(shapes))])[0]
    plan = select(shapes, seconds, columns=COLUMNS, max_share=share)
    step = workload.stepper(A)
    for batch in batches[:25]:
        step(batch)
    with tempfile.TemporaryDirectory() as folder:
        windows = TraceWindows(Path(folder), device=torch.device("cpu"), memory=False)
        windows.open()
        size = 0
        for number, point in enumerate(plan.points):
            windows.start(f"point {number}")
            step(batches[point.runs[0]])
            trace = windows.stop()
            assert trace is not None, windows.faults
            size += trace.bytes_on_disk
        windows.close()
        begin = time.perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as whole:
            for batch in batches:
                step(batch)
        whole.export_chrome_trace(f"{folder}/whole.json")
        raw = Path(folder, "whole.json").read_bytes()
        return {
            "points": len(plan.points),
            "bytes": size,
            "whole": len(gzip.compress(raw, 6)),
            "whole_raw": len(raw),
            "seconds": time.perf_counter() - begin,
        }


def main() -> None:
    """Measure, print, write JSON and the page's section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--selections", type=int, default=30)
    parser.add_argument("--share", type=float, default=0.05, help="most of the epoch's iterations that may be run")
    parser.add_argument("--only", choices=("translation", "speech"))
    parser.add_argument(
        "--cells", nargs="+", choices=[cell.name for cell in OTHERS], help="some of the configurations B"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="others are kept from --json")
    parser.add_argument("--json", type=Path, default=Path("seqpoint_benchmark.json"))
    options = parser.parse_args()
    limit = 60 if options.quick else None
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")

    def translation(hidden: int) -> Translator:
        return Translator(GNMT(source_vocab_size=8000, target_vocab_size=8000, hidden_size=hidden))

    def speech(hidden: int) -> SpeechRecognizer:
        return SpeechRecognizer(DeepSpeech2(hidden_size=hidden * 3 // 4, conv_channels=8))

    texts, sounds = GettextTranslation(batching="bucket"), SpeechFolder()
    workloads = [
        Workload("translation", texts, translation, limit, overhead_steps=150),
        Workload("speech", sounds, speech, limit, overhead_steps=60),
    ]
    chosen = [workload for workload in workloads if options.only in (None, workload.name)]
    for workload in chosen:
        workload.data.setup("fit")
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "selections": 3 if options.quick else options.selections,
        **{part: {} for part in PARTS},
        "gpu": "Not measured on a GPU yet."
        if not torch.cuda.is_available()
        else "These figures are the CPU's of a machine with a GPU; the GPU has not been measured.",
    }
    if options.json.exists() and (options.only or set(options.parts) != set(PARTS)):
        results = {**results, **json.loads(options.json.read_text())}
    for workload in chosen:
        measure_parts(workload, results, options)
        options.json.write_text(json.dumps(results, indent=1))
    text = report(results)
    print(text)
    if not options.quick:
        write_section("seqpoint", text)


def measure_parts(workload: Workload, results: dict[str, Any], options: argparse.Namespace) -> None:
    """Fill in the parts that were asked for."""
    share = 0.5 if options.quick else options.share
    if "overhead" in options.parts:
        results["overhead"][workload.name] = measure_overhead(
            workload, 40 if options.quick else workload.overhead_steps, 2 if options.quick else 7
        )
    if "workloads" in options.parts:
        results["workloads"][workload.name] = measure_workload(
            workload,
            selections=results["selections"],
            rounds=2 if options.quick else ROUNDS,
            share=share,
            chosen=options.cells,
        )
    if "traces" in options.parts:
        results["traces"][workload.name] = measure_traces(workload, share)


if __name__ == "__main__":
    main()
