import dataclasses
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from fulgurite.callbacks.seqpoint.leaves import find_leaves, sizes_of, tokens_of

SOURCE, TARGET = torch.zeros(4, 7, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long)


@dataclasses.dataclass
class DataBatch:
    source: torch.Tensor
    target: torch.Tensor


class PlainBatch:
    def __init__(self) -> None:
        self.source, self.target, self._hidden, self.name = SOURCE, TARGET, torch.zeros(3), "x"


def shapes(batch):
    return {path: sizes_of(leaf) for path, leaf in find_leaves(batch).items()}


@pytest.mark.parametrize(
    "batch",
    [
        {"source": SOURCE, "target": TARGET},
        UserDict({"source": SOURCE, "target": TARGET}),  # as Hugging Face's BatchEncoding is
        namedtuple("Batch", "source target")(SOURCE, TARGET),
        DataBatch(SOURCE, TARGET),
        PlainBatch(),
        {"source": SOURCE.numpy(), "target": TARGET.numpy(), "text": ["a", "b"], "scalar": torch.tensor(1.0)},
    ],
    ids=["dict", "BatchEncoding", "named tuple", "dataclass", "object", "arrays"],
)
def test_whatever_holds_the_tensors(batch):
    assert shapes(batch) == {"source": (4, 7), "target": (4, 9)}


def test_tuples_and_nesting_give_paths():
    assert shapes((SOURCE, {"a": [TARGET, (SOURCE,)]})) == {"0": (4, 7), "1.a.0": (4, 9), "1.a.1.0": (4, 7)}
    assert shapes(SOURCE) == {"": (4, 7)}
    assert shapes([[1, 2], "text", None, 3.0]) == {}


def test_an_object_that_holds_itself_ends():
    batch = PlainBatch()
    batch.me = batch
    assert shapes(batch)["me.source"] == (4, 7)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_packed_and_nested_sequences(layout):
    sequences = [torch.zeros(7, 5), torch.zeros(3, 5)]
    packed, nested = pack_sequence(sequences), torch.nested.nested_tensor(sequences, layout=layout)
    assert shapes({"packed": packed, "nested": nested}) == {"packed": (2, 7, 10), "nested": (2, 7, 10)}
    assert tokens_of(packed) == tokens_of(nested) == 10
    assert tokens_of(SOURCE) is None


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ([torch.zeros(5), torch.zeros(8), torch.zeros(2)], {"": (3, 8)}),
        ([torch.zeros(3, 20, 30), torch.zeros(3, 10, 40)], {"": (2, 3, 20, 40)}),
        ((torch.zeros(3, 20, 30), torch.zeros(3, 10, 40)), {"": (2, 3, 20, 40)}),
        ([torch.zeros(6)] * 9, {"": (9, 6)}),
        ([{"ids": torch.zeros(n)} for n in (4, 6, 5)], {"ids": (3, 6)}),
        ([torch.zeros(8, 5), torch.zeros(8, 6)], {"0": (8, 5), "1": (8, 6)}),
        ((torch.zeros(5, 8), torch.zeros(6, 8)), {"0": (5, 8), "1": (6, 8)}),
        ([torch.zeros(8, 5), torch.zeros(8)], {"0": (8, 5), "1": (8,)}),
    ],
    ids=["sequences", "images", "tuple of images", "many", "dicts", "pair", "pair, time first", "input and label"],
)
def test_a_list_of_samples_is_one_leaf_and_a_list_of_inputs_is_not(batch, expected):
    assert shapes(batch) == expected


def test_a_smaller_last_batch_is_read_like_the_first():
    ragged = {}
    find_leaves([torch.zeros(n) for n in (4, 6, 5)], ragged)
    last = find_leaves([torch.zeros(4)], ragged)
    assert {path: sizes_of(leaf) for path, leaf in last.items()} == {"": (1, 4)}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=6))
def test_dicts_of_arrays_are_read_as_they_are(sizes):
    batch = {f"k{i}": np.zeros(size) for i, size in enumerate(sizes)}
    assert shapes(batch) == {f"k{i}": size for i, size in enumerate(sizes)}
