"""One training step on ranks that are processes of their own, started once and told when: for dynamic_gnn.py."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import lightning.pytorch as pl
import torch
from dynamic_gnn_cases import Size, made, network, options_of
from torch.utils.data import DataLoader

from fulgurite.models.dynamic_gnn import DynamicNodeClassifier
from fulgurite.plugins.snapshot_parallel import SnapshotParallelStrategy


@dataclass(frozen=True)
class Arrangement:
    """So many ranks of so many threads each."""

    ranks: int
    threads: int

    def __str__(self) -> str:
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}, {self.threads} thread{'s' * (self.threads > 1)} each"


class Turns(pl.Callback):
    """Begins a training step when the parent says so, and tells it when the step is done and what the loss was."""

    def __init__(self, parent: Connection) -> None:
        self.parent = parent

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> int | None:
        """Wait to be told."""
        if self.parent.recv() == "go":
            return None
        trainer.should_stop = True
        return -1

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Tell."""
        counters = trainer.strategy.counters()  # type: ignore[attr-defined]
        sent = sum(count for name, count in counters.items() if name.startswith("bytes_"))
        self.parent.send((float(trainer.callback_metrics["train/loss"]), sent))


def rank_main(
    rank: int, arrangement: Arrangement, port: int, model: str, size: Size, layers: int, parent: Connection
) -> None:
    """A rank's life: train one timeline, a step whenever told to."""
    try:
        cores = sorted(os.sched_getaffinity(0))
        first = rank * arrangement.threads
        os.sched_setaffinity(0, [cores[i % len(cores)] for i in range(first, first + arrangement.threads)])
        torch.set_num_threads(arrangement.threads)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(arrangement.ranks), "NODE_RANK": "0"}
        warnings.filterwarnings("ignore")
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        options = options_of(model)
        timeline = made(size, m_window=options.get("window", 1))
        module = DynamicNodeClassifier(network(model, size.channels, layers, **options))
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=arrangement.ranks,
            strategy=SnapshotParallelStrategy(process_group_backend="gloo"),
            max_epochs=-1,
            callbacks=[Turns(parent)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader([timeline], batch_size=None))
    except BaseException:
        parent.send(traceback.format_exc())
        raise


class Ranks:
    """The processes of an arrangement."""

    def __init__(self, arrangement: Arrangement, model: str, size: Size, layers: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.pipes, self.processes = [], []
        for rank in range(arrangement.ranks):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(
                target=rank_main, args=(rank, arrangement, port, model, size, layers, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def step(self) -> tuple[float, float, int]:
        """Seconds of one training step on all ranks, its loss, and the bytes that rank 0 has sent so far."""
        begin = time.perf_counter()
        for pipe in self.pipes:
            pipe.send("go")
        answers = [pipe.recv() for pipe in self.pipes]
        seconds = time.perf_counter() - begin
        for answer in answers:
            if isinstance(answer, str):
                raise SystemExit(answer)
        return seconds, *answers[0]

    def stop(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            with suppress(OSError):  # it has ended by itself
                pipe.send("stop")
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.terminate()


@contextmanager
def started(make: Callable[[], list[Ranks]]) -> Iterator[list[Ranks]]:
    """Ranks that are stopped at the end."""
    groups = make()
    try:
        yield groups
    finally:
        for group in groups:
            group.stop()
