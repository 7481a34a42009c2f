"""One training of the part ``training``: a SoftmaxProbe on real digits by ``dynamic_async`` or by Lightning's DDP.

Started by ``dynamic_async_training.py``, which reads what each process writes down and ends them all. Each process has
a file ``NUMBER-PID.bin`` in the folder: first the time at which its training begins, then after each step the time, the
shard (of DDP always 0, by its first process) and the parameters.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.models.softmax_probe import SoftmaxProbe
from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy

PEERS = 4
FEATURES = 256


class SleepyProbe(SoftmaxProbe):
    """A probe each of whose steps takes longer, as if there were more to compute."""

    def __init__(self, sleep_s: float, **options: Any) -> None:
        super().__init__(10, in_features=64, features=FEATURES, **options)
        self.sleep_s = sleep_s

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sleep between what is read and what is told, as a long computation would."""
        loss = super().training_step(batch, batch_idx)
        time.sleep(self.sleep_s)
        return loss


class Repeated:
    """The same batch over and over: DDP has no epochs to begin here, as little as the other."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            yield self.batch


class Diary(pl.Callback):
    """Write down the parameters after each step."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__()
        self.path, self.file = folder / f"{number}-{os.getpid()}.bin", None
        self.number = number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the file by the time."""
        self.file: BinaryIO | None = self.path.open("wb", buffering=0)
        self.file.write(np.float64(time.time()).tobytes())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Of ``dynamic_async`` what was published of the shard; of DDP, where all have the same, by one process."""
        strategy = trainer.strategy
        if isinstance(strategy, DynamicAsyncStrategy):
            shard = strategy.shard_loader.shard
            if shard not in strategy.peer.hosted:
                return
            value = strategy.peer.blocks()[shard].value
        elif self.number == 0:
            shard = 0
            value = torch.cat([p.detach().flatten() for p in pl_module.parameters() if p.requires_grad]).numpy()
        else:
            return
        self.file.write(np.concatenate([[time.time(), shard], value]).tobytes())


def strategy(options: argparse.Namespace) -> Strategy:
    """Either, over four processes of this machine."""
    if options.strategy == "dynamic_async":
        return DynamicAsyncStrategy(
            shards=PEERS,
            local_peers=PEERS,
            lam=options.lam,
            certify="require",
            heartbeat_s=options.timeout / 8,
            timeout_s=options.timeout,
        )
    # Its buffers are the frozen features, which need not be sent at every step.
    return DDPStrategy(process_group_backend="gloo", broadcast_buffers=False, gradient_as_bucket_view=True)


def main() -> None:
    """Train until somebody ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=("dynamic_async", "ddp"), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="has data.npz; gets what is written down")
    parser.add_argument("--decay", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--lam", type=float, required=True)
    parser.add_argument("--sleep", type=float, required=True, help="seconds of each step")
    parser.add_argument("--slow", type=float, required=True, help="times as many for the last process")
    parser.add_argument("--timeout", type=float, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    number = int(os.environ.get("LOCAL_RANK", "0"))
    sleep_s = options.sleep * (options.slow if number == PEERS - 1 else 1)
    probe = SleepyProbe(sleep_s, weight_decay=options.decay, learning_rate=options.rate)
    with np.load(options.folder / "data.npz") as data:
        images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    own = slice(number, None, PEERS)  # the same rows as of the shard by this number
    loader: Any = (
        DataLoader(TensorDataset(images, labels), batch_size=len(labels))
        if options.strategy == "dynamic_async"
        else Repeated((images[own], labels[own]))
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1 if options.strategy == "dynamic_async" else PEERS,
        strategy=strategy(options),
        precision="64-true",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Diary(options.folder, number)],
    )
    trainer.fit(probe, loader)


if __name__ == "__main__":
    main()
