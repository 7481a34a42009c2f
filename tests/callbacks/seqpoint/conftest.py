"""Small made-up epochs for tests of what comes after selection; numbers are chosen, not measured."""

from pathlib import Path

import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.cost import CostModel
from fulgurite.callbacks.seqpoint.fingerprint import fingerprint
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import Plan, Point
from fulgurite.callbacks.seqpoint.spans import OperatorTime
from fulgurite.callbacks.seqpoint.trace import StepTrace

COLUMNS = ("batch", "source", "optimizer_step")


@pytest.fixture(scope="session")
def make_log():
    """An epoch of given lengths; a step takes 1 ms a length unless told otherwise."""

    def make(lengths, *, seconds=None, epoch=0, **columns):
        steps = len(lengths)
        shapes = np.stack([np.full(steps, 4), np.asarray(lengths), np.ones(steps, int)], axis=1)
        values = {
            "waits": np.full(steps, 1e-4),
            "starts": np.zeros(steps),
            "cold": np.zeros(steps, bool),
            "traced": np.zeros(steps, bool),
            "real": np.full(steps, -1),
            "padded": np.full(steps, -1),
            "peak_bytes": np.full(steps, np.nan),
        }
        seconds = 1e-3 * np.asarray(lengths) if seconds is None else np.asarray(seconds)
        return EpochLog(epoch, COLUMNS, shapes, seconds, **(values | columns))

    return make


@pytest.fixture(scope="session")
def make_plan():
    """A plan whose points stand, in order of length, for equal parts of a log."""

    def make(log, points=3, *, replicates=1, selector="interpolate", **changes):
        parts = np.array_split(np.argsort(log.shapes[:, 1], kind="stable"), points)
        model = CostModel(COLUMNS, ((0, 1, 0),), (1e-3,), 1e-6)
        chosen = []
        for number, part in enumerate(parts):
            runs = tuple(part[len(part) // 2 :][:replicates].tolist())
            shape = tuple(log.shapes[runs[0]].tolist())
            cost = float(model.predict(np.array([shape]))[0])
            seconds = float(np.median(log.seconds[list(runs)]))
            chosen.append(Point(shape, float(len(part)), seconds, tuple(part.tolist()), runs, number, cost))
        values = {
            "selector": selector,
            "columns": COLUMNS,
            "points": tuple(chosen),
            "iterations": len(log),
            "seconds": float(log.seconds.sum()),
            "explained": 0.97,
            "error": 0.012,
            "refusal": None,
            "fingerprint": fingerprint(log.shapes),
            "length": 1,
            "cost": model,
            "lengths": tuple(log.shapes[:, 1].tolist()),
        }
        return Plan(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_trace():
    """A trace with given operator times in seconds; its modules are the same times under other names."""

    def make(operators, *, label="step", shape=(4, 10, 1), peak=float("nan"), kernels=(), path=None):
        rows = tuple(OperatorTime(name, seconds, 2) for name, seconds in operators.items())
        modules = tuple(OperatorTime(f"net.{row.name}", row.seconds, 1, "forward") for row in rows)
        total = sum(operators.values())
        where = Path(f"/nowhere/{label}.json.gz") if path is None else path
        return StepTrace(label, where, rows, modules, peak, total, 1000, tuple(kernels), shape)

    return make
