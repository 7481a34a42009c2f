"""Small fits under the strategy, in this process or in forked ones that are watched, told what to do, and killed."""

import multiprocessing
import os
import signal
import time
import traceback
import warnings
from contextlib import contextmanager, suppress

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.models.softmax_probe import SoftmaxProbe
from fulgurite.plugins.dynamic_async.direct_solution import solve_directly
from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy

KEY = "k" * 40
SHARDS, LAM, MU = 4, 0.5, 0.2
# The longest that is certified, nearly; γ = 1 − 0.64 · 0.2.
RATE = 0.64
LIMIT_S = 90  # for anything that is waited for; a machine may be busy


def data():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(42, 6, generator=generator)
    labels = (x @ torch.randn(6, 3, generator=generator)).argmax(dim=1)
    return TensorDataset(x, labels)


def loader(**options):
    return DataLoader(data(), batch_size=7, shuffle=True, **options)


def probe(**changes):
    return SoftmaxProbe(3, in_features=6, features=8, weight_decay=MU, learning_rate=RATE, **changes)


def strategy(**changes):
    options = {"shards": SHARDS, "lam": LAM, "heartbeat_s": 0.2, "timeout_s": 4.0, "certify": "require"}
    return DynamicAsyncStrategy(**options | changes)


def trainer(chosen=None, **changes):
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "precision": "64-true",
        "max_epochs": 3,
    }
    return pl.Trainer(strategy=chosen or strategy(), **options | changes)


def answer(view=range(SHARDS), topology="complete"):
    """(n, d) by the direct solution, for those present; of float64."""
    from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
    from fulgurite.plugins.dynamic_async.training_map import TrainingMap

    module = probe().double()
    coupled = TrainingMap(FlatParameters(module).read(), shards=SHARDS, coupling=LAM, topology=topology)
    rows = data()
    batches = {i: rows[i::SHARDS] for i in range(SHARDS)}
    present = np.isin(np.arange(coupled.num_participants), list(view))
    found = solve_directly(module, batches, coupled, present, mu=MU)
    assert found.error <= 1e-10
    return found.states


class Told(pl.Callback):
    """Says after every step how it stands, and does what it is told; stops when the test says so."""

    def __init__(self, pipe, slow_s=0.0):
        super().__init__()
        self.pipe, self.slow_s = pipe, slow_s
        self.next = 0.0

    def on_train_batch_end(self, trainer, *_):
        while self.pipe.poll():
            command = self.pipe.recv()
            if command == "stop":
                trainer.should_stop = True
                trainer.strategy.peer.stop()
            elif command == "leave":
                trainer.fit_loop.epoch_loop.max_steps = trainer.global_step
            elif command == "fail":
                raise RuntimeError("told to")
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + 0.05
            self.say(trainer)
        time.sleep(self.slow_s)

    def say(self, trainer):
        chosen, peer = trainer.strategy, trainer.strategy.peer
        before, blocks = peer.rounds(), peer.blocks()
        rounds = min(before, peer.rounds())
        certificate = chosen.certificate()
        self.pipe.send(
            {
                "address": peer.address,
                "hosted": peer.hosted,
                "view": sorted(blocks),
                "states": {i: block.value.copy() for i, block in blocks.items()},
                "lives": {i: block.incarnation.number for i, block in blocks.items()},
                "rounds": rounds,
                "counts": dict(chosen.training.counts),
                "bound": certificate.bound(rounds) if certificate else float("inf"),
                "verdict": chosen.verdict[0],
                "leads": trainer.is_global_zero,
                "rejected": dict(peer.rejected),
            }
        )

    def on_train_end(self, trainer, *_):
        self.say(trainer)


def _work(pipe, make, folder):
    """In a forked process."""
    os.chdir(folder)
    with (folder / f"{os.getpid()}.txt").open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    warnings.simplefilter("ignore")
    try:
        make(pipe)
        pipe.send({"end": "well"})
    except BaseException as error:
        traceback.print_exc()
        pipe.send({"end": f"{type(error).__name__}: {error}"})
    finally:
        pipe.close()
        os._exit(0)


class Fits:
    """Forked processes that each run ``make(pipe)``; use as a context, so that none is left."""

    def __init__(self, folder):
        self.folder, self.processes, self.pipes, self.said, self.ends = folder, [], [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.join(30)
        for pipe in self.pipes:
            pipe.close()

    def start(self, make):
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, make, self.folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self.processes.append(process)
        self.pipes.append(mine)
        self.said.append({})
        self.ends.append(None)
        return len(self.processes) - 1

    def hear(self):
        for k, pipe in enumerate(self.pipes):
            with suppress(EOFError, OSError):
                while pipe.poll():
                    said = pipe.recv()
                    if "end" in said:
                        self.ends[k] = said["end"]
                    else:
                        self.said[k] = said

    def until(self, reached, limit_s=LIMIT_S):
        end = time.monotonic() + limit_s
        while True:
            self.hear()
            if reached():
                return
            if time.monotonic() >= end:
                raise TimeoutError("\n".join(self.report()))
            time.sleep(0.02)

    def report(self):
        for k, process in enumerate(self.processes):
            brief = {name: value for name, value in self.said[k].items() if name != "states"}
            yield f"{k}: {brief}, end {self.ends[k]}, exit {process.exitcode}"
            yield from (path.read_text()[-1500:] for path in self.folder.glob(f"{process.pid}.txt"))

    def tell(self, k, command):
        self.pipes[k].send(command)

    def kill(self, k, number=signal.SIGKILL):
        os.kill(self.processes[k].pid, number)
        if number == signal.SIGKILL:
            self.processes[k].join(30)

    def whole(self, *numbers, rounds=1):
        """These host every shard once, see all, and are certified for so many rounds."""

        def reached():
            said = [self.said[k] for k in numbers]
            if any(self.ends[k] for k in numbers):
                raise AssertionError("\n".join(self.report()))
            if not all(one and one["view"] == list(range(SHARDS)) and one["rounds"] >= rounds for one in said):
                return False
            return sorted(shard for one in said for shard in one["hosted"]) == list(range(SHARDS))

        return reached

    def finish(self, *numbers):
        """Stop the iteration through the first of these, and wait for the end of all."""
        self.tell(numbers[0], "stop")
        self.until(lambda: all(self.ends[k] for k in numbers))
        assert [self.ends[k] for k in numbers] == ["well"] * len(numbers), "\n".join(self.report())


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
