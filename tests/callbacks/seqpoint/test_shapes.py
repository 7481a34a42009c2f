from collections import UserDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from fulgurite.callbacks.seqpoint.leaves import find_leaves
from fulgurite.callbacks.seqpoint.shapes import ShapeError, ShapeFinder, UserShape, find_shape

LENGTHS = [(4, 7, 9), (4, 12, 8), (4, 5, 5), (3, 9, 11)]


def found(batches):
    """The shape of every batch, as the finder settles it after an epoch."""
    finder, ragged = ShapeFinder(), {}
    sizes = np.array([finder.read(batch, find_leaves(batch, ragged)) for batch in batches])
    columns = finder.choose(sizes)
    assert columns.names == ("batch", "source", "target")[: len(columns.names)]
    assert len(columns.names) == len(columns.indices) == len(columns.meaning)
    return [tuple(row) for row in sizes[:, list(columns.indices)].tolist()]


def long(*size):
    return torch.zeros(*size, dtype=torch.long)


BATCHES = {
    "translation": lambda b, s, t: {"source": long(b, s), "source_lengths": long(b), "target": long(b, t)},
    "speech": lambda b, s, t: {
        "features": torch.zeros(b, s, 40),
        "lengths": long(b),
        "targets": long(b, t),
        "target_lengths": long(b),
    },
    "BatchEncoding": lambda b, s, t: UserDict(input_ids=long(b, s), attention_mask=long(b, s), labels=long(b, t)),
    "tuple": lambda b, s, t: (long(b, s), long(b, t)),
    "channels first": lambda b, s, t: {"audio": torch.zeros(b, 40, s), "text": long(b, t)},
    "time first": lambda b, s, t: {"source": long(s, b), "target": long(t, b)},
    "shifted copy": lambda b, s, t: {"source": long(b, s), "decoder_in": long(b, t), "decoder_out": long(b, t + 1)},
    "images of any size": lambda b, s, t: (torch.zeros(b, 3, s, t), long(b)),
    "ragged": lambda b, s, t: {"source": [long(s)] * (b - 1) + [long(s - 1)], "target": long(b, t)},
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_batch_source_and_target_are_found(make):
    assert found([make(*shape) for shape in LENGTHS]) == LENGTHS


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda b, s, t: {"input_ids": long(b, s), "labels": long(b, s), "attention_mask": long(b, s)}, (4, 7)),
        (lambda b, s, t: (torch.zeros(b, s, 40), long(b)), (4, 7)),
        (lambda b, s, t: pack_sequence([torch.zeros(s)] + [torch.zeros(2)] * (b - 1)), (4, 7, 13)),
    ],
    ids=["language model", "classifier", "packed: longest and tokens"],
)
def test_what_moves_together_counts_once(make, expected):
    assert found([make(*shape) for shape in LENGTHS])[0] == expected


def test_of_many_lengths_those_that_move_the_most_elements_stay():
    batches = [
        {"boxes": torch.zeros(4, n, 4), "source": torch.zeros(4, s, 99), "target": torch.zeros(4, t, 99)}
        for n, s, t in [(2, 20, 30), (7, 22, 28), (1, 35, 44)]
    ]
    assert found(batches) == [(4, 20, 30), (4, 22, 28), (4, 35, 44)]


def test_fixed_shapes_follow_the_convention():
    image = (torch.zeros(8, 3, 32, 48), long(8))
    assert found([image] * 3) == [(8, 32, 48)] * 3
    assert found([long(8)] * 2) == [(8,)] * 2


def test_a_missing_leaf_counts_zero_and_a_new_one_nothing():
    batches = [{"a": long(2, 3), "b": long(2, 4)}, {"a": long(2, 5), "c": long(2, 2)}]
    assert found(batches) == [(2, 3, 4), (2, 5, 0)]


def test_batches_that_cannot_be_read():
    finder = ShapeFinder()
    finder.read(None, find_leaves({"a": long(2, 3)}))
    with pytest.raises(ShapeError, match=r"'a' has 3 sizes, \(2, 3, 4\), where the first batch's had 2"):
        finder.read(None, find_leaves({"a": long(2, 3, 4)}))
    with pytest.raises(ShapeError, match=r"no tensor to read a shape from in a batch of type list.*shape_fn="):
        find_shape(["only", "text"])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(2, 5), st.integers(6, 30), st.integers(6, 30)), min_size=2, max_size=8))
def test_the_shape_tells_steps_apart_as_far_as_they_differ(shapes):
    """Two batches of different sizes never get the same shape, whatever coincides."""
    rows = found([{"source": long(b, s), "lengths": long(b), "target": long(b, t)} for b, s, t in shapes])
    assert len(set(rows)) == len(set(shapes))


def test_find_shape_reads_one_batch():
    assert find_shape(BATCHES["translation"](4, 7, 9)) == (4, 7, 9)
    assert find_shape(BATCHES["speech"](4, 70, 9)) == (4, 70, 9)
    assert find_shape(torch.zeros(8, 3, 32, 48)) == (8, 32, 48)


@pytest.mark.parametrize(("got", "expected"), [((2, 5), (2, 5)), (7, (7,)), (torch.Size([2, 5, 6]), (2, 5, 6))])
def test_shape_fn_may_return(got, expected):
    assert UserShape(lambda _: got).read(None, {}) == expected
    assert UserShape(lambda _: np.array(got)).read(None, {}) == expected


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (None, "returned None; it must return"),
        ("12", "returned '12'; it must return"),
        ((), r"returned \(\); it must return"),
        ((2, float("nan")), r"nan \(not a number\) is not a whole number"),
        ((2, 3.5), r"3.5 \(float\) is not a whole number"),
        ((2, -1), "-1 .* is not a whole number"),
        ((2, None), "None .* is not a whole number"),
        (torch.zeros(2), "a tensor of shape .* would wait for the device"),
    ],
)
def test_junk_from_shape_fn_is_refused(got, message):
    with pytest.raises(ShapeError, match=message):
        UserShape(lambda _: got).read(None, {})


def test_shape_fn_that_raises_or_changes_its_mind():
    with pytest.raises(ShapeError, match=r"shape_fn raised KeyError.*on a batch of type dict"):
        UserShape(lambda batch: batch["no"]).read({}, {})
    reader = UserShape(lambda batch: (1,) * batch)
    reader.read(2, {})
    with pytest.raises(ShapeError, match=r"returned 3 numbers, .* where it returned 2 before"):
        reader.read(3, {})


def test_columns_of_shape_fn():
    names = [UserShape(lambda _: 1).choose(np.zeros((3, count), dtype=np.int64)).names for count in (1, 2, 5)]
    assert names == [("source",), ("batch", "source"), ("batch", "source", "target", "length_3", "length_4")]
