import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.splits import split_by_hash

keys = st.lists(st.text(), min_size=3, max_size=80, unique=True)
shares = st.sampled_from([0, 0.05, 0.3])


@settings(deadline=None)
@given(keys=keys, val=shares, test=shares)
def test_no_part_that_is_wanted_is_empty_and_no_other_is_used(keys, val, test):
    parts = split_by_hash(keys, val_share=val, test_share=test)
    assert list(parts) == keys
    assert set(parts.values()) == {"train", *(["val"] if val else []), *(["test"] if test else [])}
    assert parts == {key: split_by_hash(reversed(keys), val_share=val, test_share=test)[key] for key in keys}


def test_a_key_stays_in_its_part_whatever_other_keys_there_are():
    many = [f"message {number}" for number in range(2000)]
    parts = split_by_hash(many, val_share=0.1, test_share=0.05)
    some = split_by_hash(many[::3], val_share=0.1, test_share=0.05)
    assert all(parts[key] == part for key, part in some.items())
    sizes = [list(parts.values()).count(part) for part in ("val", "test")]
    assert 150 < sizes[0] < 250
    assert 70 < sizes[1] < 130


@pytest.mark.parametrize(
    ("count", "val", "test", "message"),
    [
        (9, 0.5, 0.5, "less than 1"),
        (9, -0.1, 0, "at least 0"),
        (9, float("nan"), 0, "at least 0"),
        (2, 0.1, 0.1, "2 different texts, too few for train and val and test"),
        (0, 0, 0, "too few for train"),
    ],
)
def test_shares_and_texts_that_leave_a_part_empty_are_refused(count, val, test, message):
    with pytest.raises(ValueError, match=message):
        split_by_hash(map(str, range(count)), val_share=val, test_share=test)
