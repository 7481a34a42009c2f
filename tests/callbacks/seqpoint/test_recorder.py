import numpy as np
import pytest
import torch

from fulgurite.callbacks.seqpoint.recorder import BatchReader, StepRecorder
from fulgurite.callbacks.seqpoint.shapes import ShapeFinder, UserShape

CPU = torch.device("cpu")


def record(reader, lengths, *, memory=True, traced=()):
    recorder = StepRecorder(reader, CPU, memory=memory)
    recorder.begin()
    for step, length in enumerate(lengths):
        batch = {"source": torch.zeros(4, length), "source_lengths": torch.tensor([length, 1, 1, 1])}
        assert recorder.arrive(batch)[1] == length
        recorder.start()
        recorder.stop(optimizer_step=step % 2 == 1, traced=step in traced)
        recorder.leave()
    return recorder


def test_every_step_is_a_row():
    steps = record(BatchReader(ShapeFinder()), [5, 9, 5], traced=[1]).finish()
    assert steps.sizes.tolist() == [[4, 5, 4], [4, 9, 4], [4, 5, 4]]
    assert steps.optimizer_step.tolist() == [False, True, False]
    assert steps.traced.tolist() == [False, True, False]
    assert steps.real.tolist() == [8, 12, 8]
    assert steps.padded.tolist() == [20, 36, 20]
    assert np.isnan(steps.peak_bytes).all()
    assert (steps.starts >= steps.waits).all()


def test_what_was_seen_before_is_known_in_the_next_epoch():
    reader = BatchReader(ShapeFinder())
    assert record(reader, [5, 9, 5]).finish().known.shape == (0, 4)
    steps = record(reader, [7, 5]).finish()
    assert steps.known.tolist() == [[4, 5, 4, 0], [4, 9, 4, 1]]
    assert len(reader.known) == 4


def test_a_step_without_an_end_is_dropped():
    recorder = record(BatchReader(ShapeFinder()), [5, 9])
    recorder.arrive({"source": torch.zeros(4, 3), "source_lengths": torch.ones(4, dtype=torch.long)})
    recorder.start()
    steps = recorder.finish()
    assert len(recorder) == len(steps.seconds) == len(steps.real) == len(steps.sizes) == 2


def test_nothing_recorded():
    steps = StepRecorder(BatchReader(ShapeFinder()), CPU, memory=True).finish()
    assert len(steps.seconds) == len(steps.sizes) == len(steps.known) == 0


def test_shape_fn_and_padding_go_together():
    steps = record(BatchReader(UserShape(lambda batch: (7, batch["source"].shape[1]))), [5]).finish()
    assert steps.sizes.tolist() == [[7, 5]]
    assert steps.real.tolist() == [8]


def test_few_numbers_are_kept_for_many_steps():
    """Steps of one shape share it: a long epoch costs some bytes a step, not a tuple."""
    recorder = record(BatchReader(ShapeFinder()), [5, 9] * 50)
    assert len(recorder.reader.known) == 2


class FakeEvent:
    """Enough of torch.cuda.Event; the device has never come past it before somebody waits."""

    arrived = False

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.arrived = False

    def query(self):
        return FakeEvent.arrived

    def synchronize(self):
        FakeEvent.arrived = True

    def elapsed_time(self, end_event):
        return 5.0


def test_peak_memory_of_a_device_without_waiting_for_it(monkeypatch):
    """The CUDA path with a stand-in for the device: a peak for every step, and nothing that would wait for it."""
    peak = [0]

    def refuse(*args):
        raise AssertionError("waits for the device")

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 0))
    nested = lambda device: {"allocated_bytes": {"all": {"peak": peak[0]}}}  # noqa: E731
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", nested)
    recorder = StepRecorder(BatchReader(ShapeFinder()), torch.device("cuda"), memory=True)
    recorder.begin()
    for length in (5, 9, 5):
        recorder.arrive({"source": torch.zeros(4, length)})
        recorder.start()
        peak[0] += 100 * length
        recorder.stop(optimizer_step=True, traced=False)
        recorder.leave()
        assert not FakeEvent.arrived
    steps = recorder.finish()
    assert steps.peak_bytes.tolist() == [500.0, 900.0, 500.0]
    assert steps.seconds.tolist() == [0.005] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_step_waits_for_a_real_device():
    device = torch.device("cuda")
    recorder = StepRecorder(BatchReader(ShapeFinder()), device, memory=True)
    batches = [{"x": torch.randn(64, n, 64, device=device), "lengths": torch.full((64,), n).cuda()} for n in (32, 64)]
    recorder.begin()
    try:
        for step, batch in enumerate(batches * 10):
            # The first batch's lengths are read once, to find out what they are about.
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            recorder.arrive(batch)
            recorder.start()
            batch["x"] @ batch["x"].transpose(1, 2)
            recorder.stop(optimizer_step=True, traced=False)
            recorder.leave()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    steps = recorder.finish()
    assert (steps.seconds > 0).all()
    assert (steps.peak_bytes > 0).all()
    assert steps.real.tolist() == [64 * 32, 64 * 64] * 10
