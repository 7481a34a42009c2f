import numpy as np
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
