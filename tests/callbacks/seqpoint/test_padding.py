import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from fulgurite.callbacks.seqpoint.leaves import find_leaves
from fulgurite.callbacks.seqpoint.padding import PaddingCounter

LENGTHS = torch.tensor([7, 3, 5])
MASK = torch.arange(7) < LENGTHS[:, None]
IDS = MASK.long()


def counted(*batches):
    counter = PaddingCounter()
    for batch in batches:
        counter.count(find_leaves(batch))
    return [column.tolist() for column in counter.finish()]


@pytest.mark.parametrize(
    "batch",
    [
        {"source": IDS, "source_lengths": LENGTHS},
        {"source_len": LENGTHS, "source": IDS, "target": torch.zeros(3, 50)},
        {"features": torch.zeros(3, 7, 40), "lengths": LENGTHS, "targets": IDS, "target_lengths": LENGTHS - 1},
        {"audio": torch.zeros(3, 40, 7), "lengths": LENGTHS.int()},
        {"input_ids": IDS, "attention_mask": MASK.long()},
        {"input_ids": IDS, "src_key_padding_mask": ~MASK},
    ],
    ids=["lengths", "lengths first", "first input's lengths", "channels first", "mask", "padding mask"],
)
def test_lengths_and_masks_are_found(batch):
    assert counted(batch) == [[15], [21]]


def test_packed_sequences_have_no_padding():
    assert counted({"x": pack_sequence([torch.zeros(4), torch.zeros(2)])}) == [[6], [6]]


@pytest.mark.parametrize(
    "batch",
    [
        {"source": IDS},
        {"source": IDS, "lengths": LENGTHS.float()},
        {"source": IDS, "lengths": LENGTHS * 10},
        {"source": IDS, "lengths": torch.tensor([1])},
        (IDS, LENGTHS),  # may be class labels
        {"text": ["a"]},
    ],
)
def test_what_does_not_fit_is_left_unknown(batch):
    assert counted(batch) == [[-1], [-1]]


def test_lengths_that_turn_out_to_be_something_else_are_dropped():
    good = {"source": IDS, "lengths": LENGTHS}
    assert counted(good, {"source": IDS, "lengths": LENGTHS * 10}) == [[-1, -1], [-1, -1]]


def test_a_batch_without_lengths_is_unknown_on_its_own():
    assert counted({"source": IDS, "lengths": LENGTHS}, {"source": IDS}) == [[15, -1], [21, -1]]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=6))
def test_counts_add_up(batches):
    made = [{"x": torch.zeros(len(ls), max(ls)), "lengths": torch.tensor(ls)} for ls in batches]
    assert counted(*made) == [[sum(ls) for ls in batches], [len(ls) * max(ls) for ls in batches]]


def test_counts_on_a_device_are_fetched_once_at_the_end(monkeypatch):
    """The device's path on the CPU: blocks are filled without reading, fetched by finish(), in the steps' order."""
    counter = PaddingCounter()
    monkeypatch.setattr("fulgurite.callbacks.seqpoint.padding._BLOCK", 4)
    monkeypatch.setattr("fulgurite.callbacks.seqpoint.padding._HOST", frozenset())
    batches = [[n, 2] for n in range(2, 13)]
    for lengths in batches:
        counter.count(find_leaves({"x": torch.zeros(2, max(lengths)), "lengths": torch.tensor(lengths)}))
    assert set(counter._real) == {-1}
    assert [column.tolist() for column in counter.finish()] == [
        [sum(ls) for ls in batches],
        [2 * max(ls) for ls in batches],
    ]
