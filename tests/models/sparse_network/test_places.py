import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import SparseNetwork
from fulgurite.models.sparse_network.places import find_places, node_ranks, summing_nodes


def random_dag(seed, *, inputs=4, others=9, share=0.3, aggregation="sum"):
    """A random network whose ids say nothing about its order."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.arange(inputs), inputs + torch.randperm(others, generator=generator)]).tolist()
    pairs = [
        (order[i], order[j])
        for i, j in itertools.combinations(range(inputs + others), 2)
        if j >= inputs and torch.rand(1, generator=generator) < share
    ]
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return SparseNetwork(
        edges, num_inputs=inputs, outputs=[order[-1]], num_nodes=inputs + others, aggregation=aggregation
    )


def as_set(pairs):
    return {tuple(pair) for pair in pairs.tolist()}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3, 0.8]))
def test_acyclic_places_are_all_pairs_that_go_up(seed, share):
    network = random_dag(seed, share=share)
    rank = node_ranks(network)
    (places,) = find_places(network, "acyclic")
    nodes = range(network.num_nodes)
    wanted = {(u, v) for u in nodes for v in nodes if v >= network.num_inputs and rank[u] < rank[v]}
    every = places.pairs(torch.arange(places.total))
    assert as_set(every) == wanted
    assert len(every) == len(wanted)
    assert places.numbers(every).tolist() == list(range(places.total))
    assert as_set(network.edges) <= wanted


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.8]))
def test_places_of_layers_are_the_matrices_between_connected_ranks(seed, share):
    network = random_dag(seed, share=share)
    rank = node_ranks(network).tolist()
    present = as_set(network.edges)
    wanted = {(rank[u], rank[v]) for u, v in present}
    found = find_places(network, "layers")
    assert len(found) == len(wanted)
    covered = set()
    for places in found:
        pairs = as_set(places.pairs(torch.arange(places.total)))
        (ranks,) = {(rank[u], rank[v]) for u, v in pairs}
        assert len(pairs) == rank.count(ranks[0]) * rank.count(ranks[1])
        assert not covered & pairs
        covered |= pairs
    assert present <= covered


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_free_places_are_free_and_each_once(seed, limit):
    network = random_dag(seed)
    (places,) = find_places(network, "acyclic")
    free = places.free(network.edges, limit=limit, generator=torch.Generator().manual_seed(seed))
    everything = as_set(places.pairs(torch.arange(places.total)))
    assert len(as_set(free)) == len(free) <= limit
    assert as_set(free) <= everything - as_set(network.edges)
    if limit >= places.total:
        assert as_set(free) == everything - as_set(network.edges)
    # Together with the present edges they still make a network: no cycle.
    SparseNetwork(
        torch.cat([network.edges, free]), num_inputs=network.num_inputs, outputs=[5], num_nodes=network.num_nodes
    )


def test_a_sample_of_very_many_places_is_drawn_without_listing_them():
    network = SparseNetwork([[0, 30_000], [0, 59_999]], num_inputs=30_000, outputs=[59_999], num_nodes=60_000)
    (places,) = find_places(network, "acyclic")
    assert places.total == 30_000**2
    free = places.free(network.edges, limit=1000, generator=torch.Generator().manual_seed(0))
    assert 990 <= len(free) <= 1000
    assert (free[:, 0] < 30_000).all()
    assert (free[:, 1] >= 30_000).all()


def test_a_unit_that_pruning_left_without_edges_stays_in_its_layer():
    # Two inputs, layers {2, 3} and {4, 5}, output 6; nothing feeds node 5, nothing feeds or reads node 3.
    network = SparseNetwork([[0, 2], [2, 4], [4, 6], [5, 6]], num_inputs=2, outputs=[6], num_nodes=7)
    assert node_ranks(network).tolist() == [0, 0, 1, 1, 2, 2, 3]
    matrices = [as_set(places.pairs(torch.arange(places.total))) for places in find_places(network, "layers")]
    assert matrices == [{(0, 2), (1, 2), (0, 3), (1, 3)}, {(2, 4), (3, 4), (2, 5), (3, 5)}, {(4, 6), (5, 6)}]


def test_only_nodes_that_sum_take_edges():
    network = SparseNetwork(
        [[0, 2], [1, 3], [2, 4], [3, 4]], num_inputs=2, outputs=[4], aggregation={3: "max"}, num_nodes=5
    )
    assert summing_nodes(network).tolist() == [False, False, True, False, True]
    for rule in ("layers", "acyclic"):
        for places in find_places(network, rule):
            assert (places.pairs(torch.arange(places.total))[:, 1] != 3).all()


def test_ranks_of_the_beginning_can_be_kept():
    network = SparseNetwork([[0, 2], [2, 3], [1, 3]], num_inputs=2, outputs=[3])
    ranks = node_ranks(network)
    network.replace_edges(torch.tensor([[0, 3], [1, 3]]), torch.ones(2))
    assert [places.total for places in find_places(network, "acyclic", ranks)] == [2 + 3]
    assert [places.total for places in find_places(network, "acyclic")] == [4]


def test_recurrent_networks_and_unknown_rules_are_refused():
    network = SparseNetwork([[0, 1], [1, 1]], num_inputs=1, outputs=[1], steps=2)
    with pytest.raises(ValueError, match=r"unrolled over steps=2.*steps=None"):
        find_places(network, "layers")
    with pytest.raises(ValueError, match=r"'ring'.*choose from layers, acyclic"):
        find_places(random_dag(0), "ring")
