import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.classification import ClassificationData, stratified_split


class Numbers:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.full((2,), float(index)), self.labels[index]


class Counted(ClassificationData):
    def __init__(self, **options):
        shares = {"batch_size": 3, "val_share": 0.2, "test_share": 0.0, "seed": 0, "num_workers": 0}
        super().__init__(**{**shares, **options})
        self.made = 0

    def make_parts(self):
        self.made += 1
        return {"train": Numbers(torch.arange(7)), "val": Numbers(torch.arange(4))}


def test_rows_are_stacked_where_no_collate_is_given_and_made_once():
    data = Counted()
    batches = list(data.val_dataloader())
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2], [3]]
    assert batches[0][0].tolist() == [[0, 0], [1, 1], [2, 2]]
    seen = [label for _, labels in data.train_dataloader() for label in labels.tolist()]
    assert sorted(seen) == list(range(7))
    assert data.made == 1
    assert data.class_names is None


def test_a_part_that_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"no test part; test_share is 0.0: raise it"):
        Counted().test_dataloader()


def test_bad_options():
    with pytest.raises(ValueError, match="batch_size=0"):
        Counted(batch_size=0)
    with pytest.raises(ValueError, match=r"val_share=-0.1 and test_share=0.5; want at least 0 each"):
        Counted(val_share=-0.1, test_share=0.5)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 2**32)
)
def test_every_row_is_in_one_part_and_classes_keep_their_shares(labels, val, test, seed):
    labels = torch.tensor(labels)
    rows = stratified_split(labels, val_share=val, test_share=test, seed=seed)
    assert torch.cat(list(rows.values())).sort().values.tolist() == list(range(len(labels)))
    for label in labels.unique():
        count = int((labels == label).sum())
        for part, share in (("val", val), ("test", test)):
            assert abs(int((labels[rows[part]] == label).sum()) - share * count) <= 1


def test_the_split_follows_its_seed_alone():
    first = stratified_split(torch.arange(50) % 2, val_share=0.3, test_share=0.3, seed=1)
    torch.manual_seed(9)
    again = stratified_split(torch.arange(50) % 2, val_share=0.3, test_share=0.3, seed=1)
    other = stratified_split(torch.arange(50) % 2, val_share=0.3, test_share=0.3, seed=2)
    assert all(torch.equal(first[part], again[part]) for part in first)
    assert not torch.equal(first["val"], other["val"])
