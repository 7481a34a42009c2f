import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.training_map import ShardFacts
from fulgurite.plugins.dynamic_async.training_note import MOST_SHARDS, TrainingNote

GOOD = {
    "counts": {"0": 3, "1": 4},
    "facts": {"1": ["cross_entropy", 0.5, 1.0, 9, "ab"]},
    "losses": {"0": -0.5},
    "data": "9 samples",
    "since": 2,
    "reach": 0.25,
    "conflict": "so",
}


def test_what_is_written_is_read():
    note = TrainingNote(
        {0: 3, 1: 4}, {1: ShardFacts("cross_entropy", 0.5, 1.0, 9, "ab")}, {0: -0.5}, "9 samples", 2, 0.25, "so"
    )
    assert json.loads(note.write()) == GOOD
    assert TrainingNote.read(note.write(), shards=2) == note


def test_a_loss_that_is_not_finite_is_left_out():
    assert TrainingNote.read(TrainingNote(losses={0: float("nan"), 1: 1.0}).write(), shards=2).losses == {1: 1.0}


@pytest.mark.parametrize(
    "changed",
    [
        {"counts": {"2": 1}},
        {"counts": {"-1": 1}},
        {"counts": {"0": -1}},
        {"counts": {"0": 2**70}},
        {"counts": {"0": "many"}},
        {"counts": [1]},
        {"facts": {"99": ["cross_entropy", 0.5, 1.0, 9, "ab"]}},
        {"facts": {"0": ["cross_entropy", 0.5, 1.0]}},
        {"facts": {"0": ["cross_entropy", float("nan"), 1.0, 9, "ab"]}},
        {"facts": {"0": ["cross_entropy", -0.5, 1.0, 9, "ab"]}},
        {"facts": {"0": None}},
        {"losses": {"0": float("inf")}},
        {"reach": -1.0},
        {"reach": None},
        {"since": {}},
    ],
)
def test_of_anything_else_nothing_is_read(changed):
    assert TrainingNote.read(json.dumps(GOOD), shards=2) is not None
    assert TrainingNote.read(json.dumps(GOOD | changed), shards=2) is None


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, "0", "1"]), inner),
    )
)
def test_whatever_comes_nothing_breaks(said):
    for text in (said, json.dumps(said), json.dumps(GOOD | said) if isinstance(said, dict) else ""):
        TrainingNote.read(text, shards=2)


def test_the_most_shards_fit_into_a_bulletin():
    from fulgurite.plugins.dynamic_async.engine.frames import MAX_NOTE_BYTES

    shards = range(MOST_SHARDS)
    facts = dict.fromkeys(
        shards, ShardFacts("binary_cross_entropy_with_logits", 0.1234567890123456789, 1 / 3, 10**6, "f" * 32)
    )
    note = TrainingNote(dict.fromkeys(shards, 10**6), facts, dict.fromkeys(shards, 1 / 3), "x" * 40, 10**9, 1 / 3)
    # Quoted once more, with the lives of every shard beside it.
    assert len(json.dumps(note.write())) + 64 * MOST_SHARDS <= MAX_NOTE_BYTES
