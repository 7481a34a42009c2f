"""What ``seqpoint plan`` and ``seqpoint replay`` take from a recipe: an epoch of its batches, and some of its steps."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader
from typing_extensions import override

from fulgurite.callbacks.seqpoint.clock import StepClock
from fulgurite.callbacks.seqpoint.dry_walk import DryWalk, dry_walk
from fulgurite.callbacks.seqpoint.plan import Plan
from fulgurite.callbacks.seqpoint.replan import replan
from fulgurite.recipes.building import build, train_batches
from fulgurite.recipes.lightning_cli import RecipeCLI, without_notices


def walk_recipe(name: str, overrides: Sequence[str], *, allow_import: Sequence[str] = ()) -> DryWalk:
    """Draw an epoch of the recipe's training batches.

    Raises:
        RecipeError: no such recipe, or a fault in it.
        PlanError: its loader cannot be walked through.
    """
    return _walk(build(name, overrides, allow_import=allow_import), None)[0]


def replay_recipe(
    name: str, overrides: Sequence[str], plan: Plan, *, warmup: int = 5, allow_import: Sequence[str] = ()
) -> Plan:
    """Run only the plan's batches of a fresh epoch, and give the plan with their times.

    The timed steps are in random order, so that drift of the machine falls on all points alike.

    Raises:
        RecipeError: no such recipe, or a fault in it.
        PlanError: the plan is for another data set, batch size or batching policy.
    """
    cli = build(name, overrides, allow_import=allow_import)
    walk, loader = _walk(cli, plan.columns)
    plan = replan(plan, walk.shapes)
    runs = [list(point.runs) for point in plan.points]
    accumulate = cli.trainer.accumulate_grad_batches
    stepping = walk.shapes[:, plan.columns.index("optimizer_step")] if "optimizer_step" in plan.columns else None
    order = schedule([run for point in runs for run in point], stepping, accumulate, warmup)
    batches = [walk.batches[run if run is not None else index % len(walk.batches)] for index, run in enumerate(order)]
    replayed = DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)
    watch = _Stopwatch()
    cli.trainer.callbacks.append(watch)  # type: ignore[attr-defined]  # Lightning sets it without declaring it
    with without_notices():
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`.*")
        cli.trainer.fit(cli.model, replayed)
    seconds = {run: time for run, time in zip(order, watch.clock.finish().seconds, strict=True) if run is not None}
    measured: dict[tuple[int, ...], list[float]] = {}
    for point, mine in zip(plan.points, runs, strict=True):
        measured.setdefault(point.shape, []).extend(float(seconds[run]) for run in mine)
    return plan.with_measured(measured)


def schedule(
    runs: Sequence[int], stepping: np.ndarray[Any, Any] | None, accumulate: int, warmup: int
) -> list[int | None]:
    """The order of a replay; ``None`` is a step whose time is not wanted (warm-up, or a filler).

    Under gradient accumulation the optimizer steps at every ``accumulate``-th position, so runs that were optimizer
    steps are put there and the others elsewhere.

    Example:
        >>> schedule([7], None, 1, 2)
        [None, None, 7]
    """
    rng = np.random.default_rng(0)
    shuffled = [runs[index] for index in rng.permutation(len(runs))]
    order: list[int | None] = [None] * (-(-warmup // accumulate) * accumulate)
    if stepping is None or accumulate == 1:
        return [*order, *shuffled]
    last = deque(run for run in shuffled if stepping[run])
    others = deque(run for run in shuffled if not stepping[run])
    while last or others:
        order += [others.popleft() if others else None for _ in range(accumulate - 1)]
        order.append(last.popleft() if last else None)
    return order


def _walk(cli: RecipeCLI, columns: Sequence[str] | None) -> tuple[DryWalk, DataLoader[Any]]:
    loader = train_batches(cli)
    return dry_walk(loader, accumulate=cli.trainer.accumulate_grad_batches, columns=columns), loader


class _Stopwatch(pl.Callback):
    """Times every step and nothing else."""

    clock: StepClock

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock = StepClock(trainer.strategy.root_device)
        self.clock.begin()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.clock.arrive()
        self.clock.start()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.clock.stop()
        self.clock.leave()
