"""What a Trainer and a module must be like to be trained by shards, and what more a certificate needs."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from fulgurite.plugins.dynamic_async.objective import ObjectiveError, ObjectiveWatch


class Obstacle(ValueError):
    """Why an answer cannot be certified, and what to change."""


def check_choice(name: str, value: str, *choices: str) -> None:
    """Refuse an option that is none of these.

    Raises:
        ValueError: so it is.
    """
    if value not in choices:
        raise ValueError(f"got {name}={value!r}; choose from {', '.join(map(repr, choices))}")


def check_number(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Refuse an option out of range, or infinite.

    Raises:
        ValueError: so it is.
    """
    if not least <= value <= most or value == float("inf"):
        raise ValueError(f"got {name}={value}; expected {least} or more" + (f", up to {most}" if most < 1e300 else ""))


def timed_out(trainer: pl.Trainer) -> bool:
    """Whether this process's own ``max_time`` is over."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return any(left is not None and left <= 0 for left in (timer.time_remaining() for timer in timers))


def check_trainer(trainer: pl.Trainer, module: pl.LightningModule, optimizers: Sequence[Optimizer]) -> None:
    """Refuse what cannot be trained by shards at all.

    Raises:
        ValueError: manual optimization, several optimizers, accumulated gradients, several devices in one process.
    """
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimizes by hand; the strategy dynamic_async steps the optimizer itself: set "
            "automatic_optimization = True"
        )
    if len(optimizers) != 1:
        raise ValueError(f"got {len(optimizers)} optimizers; the strategy dynamic_async expects one for all parameters")
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"got accumulate_grad_batches={trainer.accumulate_grad_batches}; a step of a shard is one batch here: "
            "take larger batches, or full_batch: true"
        )
    if trainer.num_devices != 1 or trainer.num_nodes != 1:
        raise ValueError(
            f"got devices={trainer.num_devices}, num_nodes={trainer.num_nodes}; each peer is a process with "
            "one device: set devices: 1 and the strategy's local_peers, and start more elsewhere with join:"
        )
    tracked = [
        name
        for name, part in module.named_modules()
        if isinstance(part, _NormBase) and part.track_running_stats and part.training
    ]
    if tracked:
        rank_zero_warn(
            f"the running statistics of {tracked[0]!r}{' and others' if len(tracked) > 1 else ''} stay with each "
            "process, of the shards that it hosts, while parameters are averaged: validation and checkpoints have the "
            "leader's; take GroupNorm or LayerNorm"
        )


def find_watch(
    trainer: pl.Trainer, module: pl.LightningModule | None, optimizer: Optimizer, coupling: float, *, full_batch: bool
) -> ObjectiveWatch:
    """What checks the loss at every step, where all else that a certificate needs is given.

    Raises:
        Obstacle: something is not.
    """
    stated = getattr(module, "objective_bounds", None)
    if stated is None:
        raise Obstacle(
            f"{type(module).__name__} has no objective_bounds() -> (mu, L); a loss that is strongly convex in what "
            "trains states them, as SoftmaxProbe does"
        )
    if not full_batch:
        raise Obstacle("full_batch: false draws the gradient by chance; take full batches")
    assert module is not None
    try:
        watch = ObjectiveWatch(module, stated())
    except ObjectiveError as error:
        raise Obstacle(str(error)) from None
    _check_optimizer(optimizer, watch, coupling)
    if module.trainer.lr_scheduler_configs:
        raise Obstacle("the learning rate is scheduled; a constant one is certified")
    if trainer.gradient_clip_val:
        raise Obstacle(f"gradients are clipped at {trainer.gradient_clip_val}; take gradient_clip_val: null")
    if trainer.precision not in ("32-true", "64-true"):
        raise Obstacle(f"precision {trainer.precision} rounds without a bound that is known; take 64-true or 32-true")
    if trainer.precision == "32-true" and (kind := torch.get_float32_matmul_precision()) != "highest":
        raise Obstacle(
            f"products of float32 are of precision {kind!r}; set torch.set_float32_matmul_precision: highest"
        )
    return watch


def _check_optimizer(optimizer: Optimizer, watch: ObjectiveWatch, coupling: float) -> None:
    if type(optimizer) is not torch.optim.SGD:
        raise Obstacle(f"{type(optimizer).__name__} is not plain gradient descent; take torch.optim.SGD")
    groups = optimizer.param_groups
    for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize"):
        if any(group[name] for group in groups):
            value = next(group[name] for group in groups if group[name])
            where = "; put it into the loss" if name == "weight_decay" else ""
            raise Obstacle(f"SGD has {name}={value}; plain steps are certified{where}")
    rates = {float(group["lr"]) for group in groups}
    longest = 2.0 / (sum(watch.bounds) + 2.0 * coupling)
    if len(rates) > 1 or max(rates) > longest:
        raise Obstacle(
            f"the learning rate is {max(rates):g}; at most 2/(L + mu + 2 lam) = {longest:.6g} is certified with "
            f"L = {watch.lipschitz:g}, mu = {watch.mu:g}, lam = {coupling:g}"
        )
