import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from fulgurite.plugins.dynamic_async.shard_loader import ShardError, ShardLoader


def numbers(samples, **options):
    return DataLoader(TensorDataset(torch.arange(samples)), **options)


def never():
    raise AssertionError("nobody has to wait here")


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 40),
    shards=st.integers(1, 8),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    full=st.booleans(),
)
def test_every_sample_is_in_its_own_shard_once_a_pass(samples, shards, batch_size, shuffle, full):
    shards = min(shards, samples)
    loader = numbers(samples, batch_size=batch_size, shuffle=shuffle)
    for shard in range(shards):
        own = ShardLoader(loader, shards, lambda shard=shard: [shard], never, full_batch=full)
        expected = list(range(shard, samples, shards))
        seen = []
        while len(seen) < len(expected):
            for (batch,) in own:
                seen += batch.tolist()
                assert own.shard == shard
        assert sorted(seen[: len(expected)]) == expected
        if full or not shuffle:
            assert seen[: len(expected)] == expected


def test_orders_do_not_depend_on_who_hosts_what():
    loader = numbers(40, batch_size=4, shuffle=True)
    alone = ShardLoader(loader, 4, lambda: [2], never, full_batch=False, seed=5)
    beside = ShardLoader(loader, 4, lambda: [0, 1, 2, 3], never, full_batch=False, seed=5)
    first = [batch.tolist() for (batch,) in alone]
    second = [batch.tolist() for _ in range(4) for (batch,) in beside if beside.shard == 2]
    assert first == second
    assert sorted(first[0] + first[1] + first[2]) == list(range(2, 40, 4))
    other = ShardLoader(loader, 4, lambda: [2], never, full_batch=False, seed=6)
    assert first != [batch.tolist() for (batch,) in other]


def test_the_whole_shard_is_the_same_tensors_again():
    loader = ShardLoader(numbers(9, batch_size=2, shuffle=True), 3, lambda: [1], never, full_batch=True)
    batches = [batch for (batch,) in loader]
    assert len(batches) == len(loader) == 3
    assert all(batch is batches[0] for batch in batches)


def test_hosting_may_change_between_two_batches():
    hosted = [0, 3]
    loader = ShardLoader(numbers(8, batch_size=9), 4, lambda: hosted, never, full_batch=True)
    seen = []
    for _ in loader:
        seen.append(loader.shard)
        hosted[:] = [1, 2]
    assert seen == [0, 1, 2, 1]


def test_who_hosts_nothing_waits_and_ends_when_told():
    hosted, waits = [], []

    def wait():
        waits.append(None)
        if len(waits) == 2:
            hosted.append(1)
        return len(waits) < 5

    loader = ShardLoader(numbers(4, batch_size=1), 2, lambda: hosted, wait, full_batch=True)
    for _ in loader:
        hosted.clear()
    assert (loader.shard, len(waits)) == (1, 5)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(10))


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([1, 2, 3], "got a list to train from"),
        (DataLoader(Endless()), "_InfiniteConstantSampler"),
        (numbers(5, sampler=WeightedRandomSampler([1.0] * 5, 5)), "WeightedRandomSampler"),
        (numbers(5, batch_size=None), "no sampler"),
        (numbers(3), "3 samples for 4 shards"),
    ],
)
def test_what_cannot_be_cut_is_refused(loader, words):
    with pytest.raises(ShardError, match=words):
        ShardLoader(loader, 4, list, never, full_batch=True)


def test_the_identity_is_of_the_data_however_a_dataset_gives_them():
    class Rows(torch.utils.data.Dataset):
        """Gives a batch at once; its single labels have no dimension."""

        def __init__(self, label):
            self.x, self.labels = torch.arange(10.0).view(5, 2), torch.full((5,), label)

        def __len__(self):
            return 5

        def __getitem__(self, k):
            return self.x[k], self.labels[k]

        def __getitems__(self, indices):
            return self.x[indices], self.labels[indices]

    def identity(dataset, collate=None):
        loader = DataLoader(dataset, batch_size=2, collate_fn=collate)
        return ShardLoader(loader, 2, lambda: [0], lambda: False, full_batch=True).identity()

    state = torch.get_rng_state()
    given = [identity(Rows(label), lambda batch: batch) for label in (1, 1, 2)]
    assert given[0] == given[1] != given[2]
    assert identity([Rows(1)[k] for k in range(5)]) == given[0]
    assert torch.equal(torch.get_rng_state(), state)
