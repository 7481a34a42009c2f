"""What an epoch moved, logged once an epoch through the module's own loggers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from typing_extensions import override


class TrafficLog(Callback):
    """Logs, summed over ranks, how far counters went up in a training epoch, validation left out.

    Args:
        read: gives this rank's counters, which only ever grow.
        prefix: of the logged names.
    """

    def __init__(self, read: Callable[[], Mapping[str, int]], *, prefix: str = "snapshot_parallel") -> None:
        self._read = read
        self._prefix = prefix
        self._began: Counter[str] = Counter()
        self._paused: Counter[str] = Counter()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = Counter(self._read())

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused = Counter(self._read())

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began.update(Counter(self._read()) - self._paused)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        moved = {name: count - self._began[name] for name, count in self._read().items()}
        # A rank without snapshots may have counters that others lack; all log the same names, or their sums would mix.
        names = sorted(moved)
        if trainer.world_size > 1:
            everyone: list[list[str]] = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(everyone, names)
            names = sorted({name for each in everyone for name in each})
        kind = torch.float32 if pl_module.device.type == "mps" else torch.float64
        for name in names:
            value = torch.tensor(moved.get(name, 0), dtype=kind, device=pl_module.device)
            pl_module.log(
                f"{self._prefix}/{name}",
                value,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                reduce_fx="sum",
                batch_size=1,
            )
