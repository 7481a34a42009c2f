"""Runs of snapshots against brute force; who owns what; the bytes that a redistribution takes."""

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.partitioning import Split, balance, partition, snapshot_costs

costs_lists = st.lists(st.integers(0, 9) | st.integers(0, 10**12), min_size=0, max_size=9)


def dearest(costs, bounds):
    return max(sum(costs[start:stop]) for start, stop in pairwise(bounds))


def brute_force(costs, parts):
    cuts = combinations_with_replacement(range(len(costs) + 1), parts - 1)
    return min(dearest(costs, (0, *cut, len(costs))) for cut in cuts)


@settings(deadline=None)
@given(costs=costs_lists, parts=st.integers(1, 5))
def test_the_dearest_run_is_as_cheap_as_brute_force_makes_it(costs, parts):
    bounds = balance(np.array(costs, dtype=np.int64), parts)
    assert bounds[0] == 0
    assert bounds[-1] == len(costs)
    assert len(bounds) == parts + 1
    assert list(bounds) == sorted(bounds)
    assert dearest(costs, bounds) == brute_force(costs, parts)
    lengths = np.diff(bounds)
    assert (lengths > 0).sum() == min(parts, len(costs))
    if len(costs) < parts:  # the last ranks are the idle ones
        assert lengths.tolist() == [1] * len(costs) + [0] * (parts - len(costs))


@settings(deadline=None)
@given(steps=st.integers(1, 60), parts=st.integers(1, 12), cost=st.integers(0, 7))
def test_equal_costs_give_runs_of_equal_length(steps, parts, cost):
    lengths = np.diff(balance([cost] * steps, parts))
    assert lengths.max() - lengths.min() <= 1


def test_runs_beside_a_dear_one_are_even_too():
    # 100 alone is the least maximum; greedy filling would give the first run all ten ones.
    assert balance([1] * 10 + [100], 3) == (0, 5, 10, 11)


@pytest.mark.parametrize(("costs", "parts"), [([1, -1], 1), ([0.5], 1), ([[1]], 1), ([1], 0)])
def test_what_is_no_cost_is_refused(costs, parts):
    with pytest.raises(ValueError, match="expected"):
        balance(costs, parts)


@settings(deadline=None)
@given(
    costs=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    nodes=st.integers(1, 9),
    ranks=st.integers(1, 5),
    data=st.data(),
)
def test_a_partition_deals_out_every_snapshot_and_vertex_once(costs, nodes, ranks, data):
    blocks = data.draw(st.integers(1, len(costs)))
    part = partition(costs, nodes, ranks, blocks)
    assert sorted(step for rank in range(ranks) for step in part.owned(rank)) == list(range(len(costs)))
    assert (part.ranks, part.num_snapshots, part.num_nodes, len(part.blocks)) == (ranks, len(costs), nodes, blocks)
    ends = [0, *(split.stop for split in part.blocks)]
    for number, split in enumerate(part.blocks):
        assert split.start == ends[number]
        assert sum(split.steps_each) == split.num_steps > 0
        assert sum(split.vertices_each) == split.num_vertices == nodes
        assert max(split.vertices_each) - min(split.vertices_each) <= 1
        assert split.vertices == part.blocks[0].vertices
        assert split.earlier == tuple(before.steps for before in part.blocks[:number])
    assert part.max_over_mean(costs) >= 1.0 or sum(costs) == 0


def test_all_ranks_together_send_the_papers_volume():
    split = partition([1] * 12, 20, ranks=4).blocks[0]
    sent = sum(split.bytes_to_vertices(p, 6, 8) + split.bytes_to_snapshots(p, 6, 8) for p in range(4))
    assert sent == 3 / 4 * 12 * 20 * (6 + 6) * 8


def test_max_over_mean_waits_in_every_block():
    part = partition([4, 2, 2, 4], 3, ranks=2, blocks=2)
    assert [split.steps for split in part.blocks] == [((0, 1), (1, 2)), ((2, 3), (3, 4))]
    assert part.max_over_mean([4, 2, 2, 4]) == (4 + 4) / 6
    assert part.max_over_mean([0, 0, 0, 0]) == 1.0


def test_a_bad_partition_is_refused():
    for arguments in ([], 3, 2, 1), ([1, 1], 3, 2, 3), ([1, 1], 3, 2, 0), ([1, 1], 0, 2, 1), ([1, 1], 3, 0, 1):
        with pytest.raises(ValueError, match="expected"):
            partition(*arguments)


def test_costs_count_the_windowed_graph():
    timeline = Timeline.from_events([0, 1, 0], [1, 2, 1], [0, 1, 2], num_nodes=4, window=2)
    assert snapshot_costs(timeline, "nnz").tolist() == [1, 2, 2]
    assert snapshot_costs(timeline, "nnz+nodes").tolist() == [5, 6, 6]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), ranks=st.integers(2, 4))
def test_growing_graphs_are_dealt_out_within_a_tenth(seed, ranks):
    # Costs of a windowed graph change slowly from snapshot to snapshot.
    costs = np.random.default_rng(seed).integers(90, 110, 150) * np.minimum(np.arange(1, 151), 20)
    part = partition(costs, 100, ranks)
    assert part.max_over_mean(costs) <= 1.1
    even = Split(steps=tuple((150 * p // ranks, 150 * (p + 1) // ranks) for p in range(ranks)), vertices=((0, 100),))
    even_dearest = dearest(costs.tolist(), [s for s, _ in even.steps] + [150])
    assert part.max_over_mean(costs) <= even_dearest * ranks / costs.sum()
