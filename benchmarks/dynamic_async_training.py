"""Training by ``dynamic_async`` against Lightning's DDP over gloo: one process slow, none slow, and one that is killed.

Both train a softmax head on random features of scikit-learn's 1,797 real digits, in four processes of one thread, each
with a quarter of the training images, the same for both, by full-batch gradient steps in float64. A step also sleeps,
so that four processes on fewer cores do not slow each other down; the slow one sleeps ten times as long.

They minimise different things: DDP the mean loss of all images, ``dynamic_async`` the losses of four shards, each with
parameters of its own that are drawn to the others', and whose mean is the model. So each is measured by its own limit,
found by Newton's method: seconds until the model's validation loss is within 1e-3 of the limit's, for good. Each takes
the largest step that plain gradient descent on its objective is sure to converge with. Then one process (not the first,
not the slow one) is killed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from dynamic_async_trainee import FEATURES, PEERS

Name = Literal["dynamic_async", "ddp"]
NAMES: tuple[Name, ...] = ("dynamic_async", "ddp")
TOLERANCE = 1e-3
TIMEOUT_S = 2.0
KILLED = 1
LIMIT_S = 120.0
TRAINEE = Path(__file__).with_name("dynamic_async_trainee.py")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Setup:
    """What is trained; ``limits`` holds the model's parameters, its validation loss and accuracy in the limit."""

    decay: float
    lam: float
    sleep_s: float
    features: Array  # (B, D + 1) of the validation images, the last column 1
    labels: Array
    limits: dict[Name, tuple[Array, float, float]]

    def rate(self, name: Name) -> float:
        """2/(L + μ), with λ 2/(L + μ + 2λ), but for what a certificate adds to be sure."""
        return (2 - 1e-3) / (1 + 2 * self.decay + (2 * self.lam if name == "dynamic_async" else 0))

    def validate(self, model: Array) -> tuple[float, float]:
        """Validation loss and accuracy of a head's parameters, weights first."""
        return validate(self.features, self.labels, model)


def validate(features: Array, labels: Array, model: Array) -> tuple[float, float]:
    """Mean cross-entropy, and the share that is right."""
    weights = model[: 10 * FEATURES].reshape(10, FEATURES)
    logits = features[:, :FEATURES] @ weights.T + model[10 * FEATURES :]
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(labels)), labels]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).mean()), float((logits.argmax(1) == labels).mean())


def prepare(folder: Path, *, decay: float, lam: float, sleep_s: float) -> Setup:
    """Write the training images, and solve both objectives directly."""
    import torch

    from fulgurite.data import Digits
    from fulgurite.models.softmax_probe import SoftmaxProbe
    from fulgurite.plugins.dynamic_async.direct_solution import solve_directly
    from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
    from fulgurite.plugins.dynamic_async.training_map import TrainingMap

    data = Digits()
    data.setup("fit")
    parts = {name: data.part(name) for name in ("train", "val")}
    (images, labels), (val_images, val_labels) = (part.__getitems__(list(range(len(part)))) for part in parts.values())
    whole = len(labels) // PEERS * PEERS  # shards of equal size: DDP's mean over ranks is then the mean over images
    images, labels = images[:whole].double(), labels[:whole]
    np.savez(folder / "data.npz", images=images.numpy(), labels=labels.numpy())
    probe = SoftmaxProbe(10, in_features=64, features=FEATURES, weight_decay=decay).double()
    start = FlatParameters(probe).read()
    with torch.no_grad():
        features = probe.body(val_images.double()).numpy()
    limits: dict[Name, tuple[Array, float, float]] = {}
    for name, shards, coupling in (("dynamic_async", PEERS, lam), ("ddp", 1, 0.0)):
        batches = {i: (images[i::shards], labels[i::shards]) for i in range(shards)}
        shared = TrainingMap(start, shards=shards, coupling=coupling)
        found = solve_directly(probe, batches, shared, np.ones(shards, bool), mu=decay)
        model = np.mean(list(found.states.values()), axis=0)
        limits[name] = model, *validate(features, val_labels.numpy(), model)  # type: ignore[index]
    return Setup(decay, lam, sleep_s, features, val_labels.numpy(), limits)


class Watched:
    """Four processes that train, and what they have written down so far."""

    def __init__(self, setup: Setup, name: Name, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.setup, self.name, self.folder, self.process = setup, name, folder, process
        self.shards = PEERS if name == "dynamic_async" else 1

    def pids(self) -> dict[int, int]:
        """Process numbers of those that train, by their number."""
        names = (path.stem.split("-") for path in self.folder.glob("*-*.bin"))
        return {int(number): int(pid) for number, pid in names}

    def began(self) -> float:
        """When the first of them began."""
        return min(float(np.fromfile(path, count=1)[0]) for path in self.folder.glob("*-*.bin"))

    def gaps(self, *, without: int | None = None, since: float = 0.0) -> Iterator[tuple[float, float]]:
        """(time, distance of the model's validation loss from the limit's) after each step.

        Args:
            without: a process that was killed.
            since: when; the others' values of its shards are counted from then on, and nothing before all are there.
        """
        width = 2 + 10 * FEATURES + 10
        rows = []
        for path in self.folder.glob("*-*.bin"):
            if int(path.stem.split("-")[0]) == without:
                continue
            numbers = np.fromfile(path, offset=8)
            rows.append(numbers[: len(numbers) // width * width].reshape(-1, width))
        merged = np.concatenate(rows) if rows else np.zeros((0, width))
        start = None if since else np.zeros(width - 2)
        latest = dict.fromkeys(range(self.shards), start)
        for row in merged[np.argsort(merged[:, 0], kind="stable")]:
            if row[0] < since:
                continue
            latest[int(row[1])] = row[2:]
            values = list(latest.values())
            if all(value is not None for value in values):
                loss, _ = self.setup.validate(np.mean(values, axis=0))
                yield row[0], abs(loss - self.setup.limits[self.name][1])

    def arrival(self, **options: Any) -> float | None:
        """Since when the distance has been within the tolerance, if it has been for a second."""
        found = settled(list(self.gaps(**options)))
        return found if found is not None and time.time() - found > 1 else None

    def until_arrival(self, **options: Any) -> float:
        """Wait for it."""
        end = time.monotonic() + LIMIT_S
        while (found := self.arrival(**options)) is None:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} did not get there: {self.said()[-1500:]}")
            time.sleep(0.5)
        return found

    def kill(self) -> float:
        """Kill one, and say when."""
        os.kill(self.pids()[KILLED], signal.SIGKILL)
        return time.time()

    def until_failure(self) -> str:
        """What the first process says at its end; DDP does not go on."""
        try:
            self.process.wait(LIMIT_S / 2)
        except subprocess.TimeoutExpired:
            return f"hangs, for {LIMIT_S / 2:.0f} s at least"
        pattern = r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception): .*)"
        errors = re.findall(pattern, self.said(), flags=re.MULTILINE)
        # Its first sentence, without the place in the library and the port.
        text = re.sub(r"\[[^\]]*\.cc:\d+\] | \[[\d.]+\]:\d+", "", errors[-1] if errors else "no message")
        return f"exit code {self.process.returncode}: {text.partition('. ')[0][:160]}"

    def said(self) -> str:
        """Whatever all of them wrote to the terminal."""
        return (self.folder / "said.txt").read_text(errors="replace")


def settled(gaps: list[tuple[float, float]]) -> float | None:
    """The time from which on all distances are within the tolerance; None if the last is not."""
    found = None
    for moment, gap in gaps:
        if gap > TOLERANCE:
            found = None
        elif found is None:
            found = moment
    return found


@contextmanager
def training(setup: Setup, name: Name, data: Path, *, slow: float) -> Iterator[Watched]:
    """Start four processes; end whatever is left of them."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "data.npz").symlink_to(data / "data.npz")
        options = {"strategy": name, "folder": folder, "decay": setup.decay, "rate": setup.rate(name)}
        options |= {"lam": setup.lam, "sleep": setup.sleep_s, "slow": slow, "timeout": TIMEOUT_S}
        command = [sys.executable, str(TRAINEE), *(f"--{key}={value}" for key, value in options.items())]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with (folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            yield Watched(setup, name, folder, process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """All of it; the two take turns within a round."""
    # Times that the slow one is slower, and whether one is killed afterwards.
    cases = {"one of four 10 times slower": (10.0, False), "equal speeds": (1.0, True)}
    if quick:
        cases = {"one of four 2 times slower": (2.0, True)}
    seconds: dict[str, dict[Name, list[float]]] = {case: {name: [] for name in NAMES} for case in cases}
    recovery: list[float] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        numbers = {"decay": 0.2, "sleep_s": 0.01} if quick else {"decay": 0.05, "sleep_s": 0.02}
        setup = prepare(folder, lam=0.1, **numbers)
        for _ in range(rounds):
            for case, (slow, kills) in cases.items():
                for name in NAMES:
                    with training(setup, name, folder, slow=slow) as watched:
                        taken = float(watched.until_arrival() - watched.began())
                        seconds[case][name].append(taken)
                        print(f"{case}, {name}: {taken:.2f} s", flush=True)
                        if not kills:
                            continue
                        killed = watched.kill()
                        if name == "dynamic_async":
                            found = watched.until_arrival(without=KILLED, since=killed)
                            recovery.append(float(found - killed - TIMEOUT_S))
                            print(f"recovery: {recovery[-1]:.2f} s beyond the time-out", flush=True)
                        else:
                            failures.append(watched.until_failure())
                            print(f"killed: {failures[-1]}", flush=True)
    return {
        "seconds": seconds,
        "recovery_s": recovery,
        "failures": failures,
        "timeout_s": TIMEOUT_S,
        "limits": {name: {"loss": loss, "accuracy": right} for name, (_, loss, right) in setup.limits.items()},
        "apart": float(np.linalg.norm(setup.limits["ddp"][0] - setup.limits["dynamic_async"][0])),
        "setup": {**numbers, "lam": setup.lam, "rates": {name: setup.rate(name) for name in NAMES}},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(measure(options.quick, 1 if options.quick else options.rounds))


if __name__ == "__main__":
    main()
