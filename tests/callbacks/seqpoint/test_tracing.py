from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fulgurite.callbacks.seqpoint.choice import FixedSteps, LikeSteps
from fulgurite.callbacks.seqpoint.select import select
from fulgurite.callbacks.seqpoint.trace import TraceWindows
from fulgurite.callbacks.seqpoint.tracing import EpochTracing

SHAPES = np.array([[4, length] for length in (3, 9, 5, 8, 3, 9, 6, 4)] * 5)
COLUMNS = ("batch", "source")


@dataclass
class BrokenWindows:
    """Windows that fail where told to."""

    fails_in: str
    error: Exception
    closed: int = 0
    faults: tuple[str, ...] = ("it was torn",)

    def open(self):
        self._fail("open")

    def start(self, label, *, shape=()):
        self._fail("start")

    def stop(self, *, optimizer_step=None):
        self._fail("stop")

    def close(self):
        self.closed += 1
        self._fail("close")

    def _fail(self, where):
        if where == self.fails_in:
            raise self.error


def plan():
    return select(SHAPES, 0.001 * SHAPES[:, 1], columns=COLUMNS, points=2)


def tracing(windows, choice=None):
    made = plan()
    choice = choice or LikeSteps(made, made.cost.predict(SHAPES), steps=len(SHAPES))
    return EpochTracing(windows, choice, columns=COLUMNS, epoch=1)


def run(traced, layer=None):
    count = 0
    traced.open()
    for step, shape in enumerate(map(tuple, SHAPES.tolist())):
        recording = traced.wants(step, shape, new=False) and traced.start()
        count += recording
        if layer is not None:
            layer(torch.ones(shape[1], 4)).sum().backward()
        if recording:
            traced.stop(optimizer_step=False)
    traced.close()
    return count


def test_each_point_is_traced_once(tmp_path):
    layer = nn.Linear(4, 4)
    traced = tracing(TraceWindows(tmp_path, device=torch.device("cpu"), module=layer))
    assert run(traced, layer) == 2
    found = traced.by_point(plan())
    assert {number: len(traces) for number, traces in found.items()} == {0: 1, 1: 1}
    assert traced.notes == []
    (trace,) = found[1]
    assert trace.shape == tuple(SHAPES[traced.traced[-1].step])
    assert "epoch 1 batch" in trace.label
    assert "source=" in trace.label
    assert trace.path.parent == tmp_path


def test_traces_of_fixed_steps_go_to_the_point_that_they_are_like(tmp_path):
    layer = nn.Linear(4, 4)
    made = plan()
    traced = tracing(TraceWindows(tmp_path, device=torch.device("cpu")), FixedSteps(made, runs=1))
    assert run(traced, layer) == 2
    costs = [point.cost for point in made.points]
    other = SHAPES[:, ::-1].copy()
    other[:, 0], other[:, 1] = 4, 3  # the epoch turned out to hold short batches only
    assert costs[0] < costs[1]
    assert set(traced.by_point(made, other)) == {0}


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("open", RuntimeError("no session"), "the profiler failed .RuntimeError: no session"),
        ("start", RuntimeError("no session"), "the profiler failed"),
        ("stop", OSError(28, "No space left on device"), "a trace could not be written .*No space left"),
    ],
)
def test_a_failure_ends_the_tracing_with_one_warning(where, error, message):
    windows = BrokenWindows(where, error)
    traced = tracing(windows)
    with pytest.warns(UserWarning, match=f"SeqPoint stops tracing: {message}.*training goes on") as caught:
        run(traced)
    assert len(caught) == 1
    assert len(traced.notes) == 1
    assert traced.by_point(plan()) == {}


def test_incomplete_traces_are_noted():
    class Torn(BrokenWindows):
        def stop(self, *, optimizer_step=None):
            return None

    traced = tracing(Torn("never", RuntimeError()))
    assert run(traced) == 6
    assert traced.notes == [
        f"point {number} has no trace: three were incomplete, at last because it was torn" for number in (0, 1)
    ]


def test_a_foreign_profiler_is_left_alone(tmp_path):
    traced = tracing(TraceWindows(Path(tmp_path), device=torch.device("cpu")))
    with torch.profiler.profile() as other, pytest.warns(UserWarning, match="another torch profiler is recording"):
        assert run(traced, nn.Linear(4, 4)) == 0
    assert any(event.key == "aten::linear" for event in other.key_averages())
    assert "another torch profiler is recording" in traced.notes[0]


def test_closing_survives_a_lost_session():
    windows = BrokenWindows("close", RuntimeError("gone"))
    traced = tracing(windows)
    traced.open()
    traced.close()
    traced.close()
    assert windows.closed == 1
