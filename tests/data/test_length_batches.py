import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

from fulgurite.data.length_batches import LengthBatchSampler, padded_shapes

MODES = ["shuffle", "bucket", "sorted"]
some_lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=60).map(np.array)


def ranks_of(lengths, world, *, epoch=0, **options):
    """The batches of each rank, as Lightning would build them."""
    ranks = []
    for rank in range(world):
        shards = DistributedSampler(lengths, num_replicas=world, rank=rank, shuffle=True, seed=5)
        shards.set_epoch(epoch)
        ranks.append(LengthBatchSampler(shards, lengths=lengths, **options))
    return ranks


@settings(deadline=None)
@given(
    lengths=some_lengths,
    batch_size=st.integers(1, 9),
    batching=st.sampled_from(MODES),
    budget=st.none() | st.integers(12, 60),
    seed=st.integers(0, 2**31),
)
def test_an_epoch_has_every_sample_once_and_always_as_many_batches(lengths, batch_size, batching, budget, seed):
    torch.manual_seed(seed)
    sampler = LengthBatchSampler(
        RandomSampler(lengths), batch_size, lengths=lengths, batching=batching, max_tokens=budget
    )
    for _ in range(2):
        batches = list(sampler)
        assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
        assert len(batches) == len(sampler)
        if budget is None:
            assert all(len(batch) <= batch_size for batch in batches)
        else:
            assert all(len(batch) * lengths[batch].max() <= budget for batch in batches)


@settings(deadline=None)
@given(
    lengths=some_lengths,
    world=st.integers(1, 5),
    batch_size=st.integers(1, 9),
    batching=st.sampled_from(MODES),
    budget=st.none() | st.integers(12, 60),
    epoch=st.integers(0, 3),
)
def test_ranks_share_an_epoch_in_equal_numbers(lengths, world, batch_size, batching, budget, epoch):
    ranks = ranks_of(lengths, world, epoch=epoch, batch_size=batch_size, batching=batching, max_tokens=budget)
    batches = [list(rank) for rank in ranks]
    assert {len(mine) for mine in batches} == {len(rank) for rank in ranks} == {len(batches[0])}
    everything = [tuple(batch) for mine in batches for batch in mine]
    assert set(itertools.chain(*everything)) == set(range(len(lengths)))
    repeated = len(everything) - len(set(everything))
    assert repeated < world, "only what does not divide is repeated"
    assert sum(map(len, set(everything))) == len(lengths), "batches of different ranks do not overlap"


def test_ranks_run_batches_of_like_length_side_by_side():
    lengths = np.random.default_rng(0).integers(1, 1000, 320)
    ranks = [np.concatenate([lengths[batch] for batch in rank]).reshape(-1, 4) for rank in bucketed(lengths)]
    apart = np.abs(ranks[0].max(axis=1) - ranks[1].max(axis=1))
    assert apart.max() < 100, "of 999, with 80 batches: neighbours"


def bucketed(lengths):
    return ranks_of(lengths, 2, batch_size=4, batching="bucket")


def test_ranks_see_another_order_in_another_epoch_and_the_same_one_again():
    lengths = np.arange(1, 41)
    for batching in ("shuffle", "bucket"):
        first, again, later = (
            list(ranks_of(lengths, 2, batch_size=4, batching=batching, epoch=epoch)[0]) for epoch in (0, 0, 1)
        )
        assert first == again != later


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=6, max_size=6).map(np.array), batch_size=st.sampled_from([1, 2, 3, 6])
)
def test_no_order_pads_less_than_full_buckets(lengths, batch_size):
    def padded(order):
        return sum(batch_size * lengths[list(order[i : i + batch_size])].max() for i in range(0, 6, batch_size))

    batches = LengthBatchSampler(SequentialSampler(lengths), batch_size, lengths=lengths, batching="bucket")
    ours = padded(list(itertools.chain(*batches)))
    assert ours == min(padded(order) for order in itertools.permutations(range(6)))


@settings(deadline=None)
@given(batching=st.sampled_from(MODES), budget=st.none() | st.just(30), seed=st.integers(0, 2**31))
def test_batches_follow_from_torchs_random_state_which_is_used_as_by_any_loader(batching, budget, seed):
    lengths = np.random.default_rng(seed).integers(1, 9, 50)
    torch.manual_seed(seed)
    sampler = LengthBatchSampler(RandomSampler(lengths), 4, lengths=lengths, batching=batching, max_tokens=budget)
    first = list(sampler)
    state = torch.get_rng_state()
    second = list(sampler)
    torch.manual_seed(seed)
    assert list(sampler) == first
    torch.set_rng_state(state)
    resumed = LengthBatchSampler(RandomSampler(lengths), 4, lengths=lengths, batching=batching, max_tokens=budget)
    assert list(resumed) == second
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    list(RandomSampler(lengths))
    assert torch.equal(torch.get_rng_state(), after)


def test_buckets_are_reshuffled_but_keep_their_shapes():
    lengths = np.random.default_rng(0).integers(1, 30, (200, 2))
    torch.manual_seed(0)
    sampler = LengthBatchSampler(RandomSampler(lengths), 8, lengths=lengths, batching="bucket")
    epochs = [list(sampler) for _ in range(2)]
    shapes = [padded_shapes(batches, lengths) for batches in epochs]
    assert shapes[0].tolist() != shapes[1].tolist()
    assert sorted(shapes[0].tolist()) == sorted(shapes[1].tolist())


def test_samples_of_equal_length_change_places_in_buckets():
    lengths = np.full(64, 3)
    torch.manual_seed(0)
    sampler = LengthBatchSampler(RandomSampler(lengths), 8, lengths=lengths, batching="bucket")
    first, second = (set(map(frozenset, sampler)) for _ in range(2))
    assert first != second


def test_every_bucket_may_come_at_any_time_of_the_epoch():
    lengths = np.arange(1, 41)
    sampler = LengthBatchSampler(RandomSampler(lengths), 4, lengths=lengths, batching="bucket")
    torch.manual_seed(0)
    places = np.zeros((10, 10))
    for _ in range(2000):
        for place, batch in enumerate(sampler):
            places[min(batch) // 4, place] += 1
    # 200 expected in each; five standard deviations of a binomial
    assert np.abs(places - 200).max() < 5 * np.sqrt(200 * 0.9)


def test_sorted_batches_get_longer_whatever_the_sampler():
    lengths = np.random.default_rng(0).integers(1, 30, 100)
    for rank in ranks_of(lengths, 2, batch_size=8, batching="sorted"):
        widths = padded_shapes(rank, lengths)[:, 1]
        assert (np.diff(widths) >= 0).all()


def test_shapes_are_the_longest_of_each_batch():
    lengths = np.array([[1, 9], [5, 2], [3, 3]])
    assert padded_shapes([[0, 1], [2]], lengths).tolist() == [[2, 5, 9], [1, 3, 3]]
    assert padded_shapes([[0, 1], [2]], lengths, padding=False).tolist() == [[2, 6, 11], [1, 3, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "random"}, "'shuffle', 'bucket', 'sorted'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"max_tokens": 8}, "sample 2 alone has 9 tokens, more than max_tokens=8"),
        ({"drop_last": True}, "leave drop_last out"),
        ({"lengths": []}, "shape"),
        ({"lengths": [0.5]}, "float64"),
    ],
)
def test_options_that_cannot_be_followed_are_named(options, message):
    arguments = {"batch_size": 2, "lengths": [3, 1, 9], **options}
    with pytest.raises(ValueError, match=message):
        LengthBatchSampler(SequentialSampler([3, 1, 9]), **arguments)


def test_a_sampler_that_leaves_samples_out_is_refused():
    sampler = LengthBatchSampler(SubsetRandomSampler([0, 2]), 2, lengths=[3, 1, 9])
    with pytest.raises(ValueError, match="each of the 3 samples once; it gave 2"):
        list(sampler)


def test_empty_batches_have_no_shape():
    with pytest.raises(ValueError, match="2 batches, 1 of them empty"):
        padded_shapes([[0], []], [1])
