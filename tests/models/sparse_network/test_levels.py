import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.levels import (
    count_sources,
    counting_sort,
    find_cycle,
    longest_path_levels,
    sort_edges,
)


def plain(function):
    """The function as Python runs it, without the compiler."""
    return getattr(function, "py_func", function)


@st.composite
def graphs(draw, max_nodes=9):
    """Edges of any graph, cycles and self-loops too: (src, dst, number of nodes)."""
    num_nodes = draw(st.integers(1, max_nodes))
    node = st.integers(0, num_nodes - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=24))
    pairs = np.array(edges, dtype=np.int32).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy(), num_nodes


def adjacency(src, dst, num_nodes):
    ptr, order = counting_sort(src, num_nodes)
    return ptr, dst[order], np.bincount(dst, minlength=num_nodes).astype(np.int32)


@pytest.mark.parametrize("sort", [counting_sort, plain(counting_sort)])
@hypothesis_settings(deadline=None)
@given(keys=st.lists(st.integers(0, 6), max_size=30))
def test_counting_sort_is_a_stable_sort(sort, keys):
    keys = np.array(keys, dtype=np.int32)
    ptr, order = sort(keys, 7)
    assert order.tolist() == np.argsort(keys, kind="stable").tolist()
    assert ptr.tolist() == [int((keys < i).sum()) for i in range(8)]


@hypothesis_settings(deadline=None)
@given(graph=graphs())
def test_edges_are_sorted_by_target_then_source_then_place(graph):
    src, dst, num_nodes = graph
    expected = sorted(range(len(src)), key=lambda i: (dst[i], src[i], i))
    assert sort_edges(src, dst, num_nodes).tolist() == expected


@pytest.mark.parametrize("levels", [longest_path_levels, plain(longest_path_levels)])
@hypothesis_settings(deadline=None)
@given(graph=graphs(), num_inputs=st.integers(1, 3))
def test_levels_are_longest_paths(levels, graph, num_inputs):
    src, dst, num_nodes = graph
    num_inputs = min(num_inputs, num_nodes)
    forward = (src < dst) & (dst >= num_inputs)
    src, dst = src[forward], dst[forward]
    level, waiting = levels(*adjacency(src, dst, num_nodes), num_inputs)
    assert not waiting.any()

    network = networkx.DiGraph()
    network.add_nodes_from(range(num_nodes))
    network.add_weighted_edges_from((u, v, 1) for u, v in zip(src.tolist(), dst.tolist(), strict=True))
    roots = [v for v in range(num_nodes) if network.in_degree(v) == 0]
    network.add_weighted_edges_from(("start", v, 0 if v < num_inputs else 1) for v in roots)
    for v in range(num_nodes):
        above = network.subgraph(networkx.ancestors(network, v) | {v})
        assert level[v] == networkx.dag_longest_path_length(above)


@pytest.mark.parametrize("compiled", [True, False])
@hypothesis_settings(deadline=None)
@given(graph=graphs())
def test_a_cycle_is_found_where_there_is_one(compiled, graph):
    src, dst, num_nodes = graph
    levels, cycle_of = longest_path_levels, find_cycle
    if not compiled:
        levels, cycle_of = plain(levels), plain(cycle_of)
    ptr, targets, fan_in = adjacency(src, dst, num_nodes)
    _, waiting = levels(ptr, targets, fan_in, 0)
    edges = set(zip(src.tolist(), dst.tolist(), strict=True))
    network = networkx.DiGraph(edges)
    assert waiting.any() == (not networkx.is_directed_acyclic_graph(network))
    if waiting.any():
        cycle = cycle_of(ptr, targets, waiting).tolist()
        assert len(set(cycle)) == len(cycle)
        assert set(zip(cycle, [*cycle[1:], cycle[0]], strict=True)) <= edges
        back = [
            networkx.shortest_path_length(network, v, cycle[0])
            for v in network.successors(cycle[0])
            if networkx.has_path(network, v, cycle[0])
        ]
        assert len(cycle) == 1 + min(back)


def test_nodes_behind_a_cycle_are_not_taken_for_it():
    # 1 → 2 → 1 is the cycle; 3, 4 and 5 only depend on it, and 0 is free.
    src = np.array([0, 1, 2, 2, 3, 4], dtype=np.int32)
    dst = np.array([1, 2, 1, 3, 4, 5], dtype=np.int32)
    ptr, targets, fan_in = adjacency(src, dst, 6)
    _, waiting = longest_path_levels(ptr, targets, fan_in, 1)
    assert (waiting > 0).tolist() == [False, True, True, True, True, True]
    assert sorted(find_cycle(ptr, targets, waiting).tolist()) == [1, 2]


def test_depth_is_not_bounded_by_a_stack():
    nodes = 200_000
    src, dst = np.arange(nodes - 1, dtype=np.int32), np.arange(1, nodes, dtype=np.int32)
    level, _ = longest_path_levels(*adjacency(src, dst, nodes), 1)
    np.testing.assert_array_equal(level, np.arange(nodes))
    ring_src, ring_dst = np.append(src, nodes - 1).astype(np.int32), np.append(dst, 0).astype(np.int32)
    ptr, targets, fan_in = adjacency(ring_src, ring_dst, nodes)
    _, waiting = longest_path_levels(ptr, targets, fan_in, 0)
    assert len(find_cycle(ptr, targets, waiting)) == nodes


@pytest.mark.parametrize("count", [count_sources, plain(count_sources)])
@hypothesis_settings(deadline=None)
@given(edges=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=30))
def test_sources_are_counted_once_a_block(count, edges):
    block, src = np.array(sorted(edges), dtype=np.int32).reshape(-1, 2).T.copy()
    expected = [len({source for own, source in edges if own == wanted}) for wanted in range(6)]
    assert count(src, block, 6).tolist() == expected
