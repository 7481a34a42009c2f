import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.variable_length import RaggedIds, VariableLengthData


@settings(deadline=None)
@given(sequences=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=9))
def test_ragged_ids_are_a_list_of_sequences(sequences):
    ids = RaggedIds(sequences)
    assert [sequence.tolist() for sequence in ids] == sequences
    assert len(ids) == len(sequences)
    assert ids.lengths.tolist() == [len(sequence) for sequence in sequences]
    with pytest.raises(IndexError):
        ids[len(sequences)]


def test_a_subclass_says_how_to_load():
    data = VariableLengthData(collate=dict, batch_size=2, batching="shuffle", max_tokens=None, num_workers=0)
    with pytest.raises(NotImplementedError, match=r"VariableLengthData has to say .* load\(\)"):
        data.setup()
