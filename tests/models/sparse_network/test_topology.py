import sys

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import Topology, TopologyError, compile_topology


@st.composite
def acyclic(draw, max_inner=9):
    """Any acyclic graph, its nodes numbered at random: edges in any order, num_inputs, num_nodes."""
    num_inputs = draw(st.integers(1, 4))
    num_nodes = num_inputs + draw(st.integers(0, max_inner))
    pairs = [(u, v) for v in range(num_inputs, num_nodes) for u in range(v)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=40)) if pairs else []
    number = [*range(num_inputs), *draw(st.permutations(range(num_inputs, num_nodes)))]
    return [(number[u], number[v]) for u, v in edges], num_inputs, num_nodes


def compiled(edges, *, num_inputs=2, outputs=(0,), activations=1, aggregations=0, **options):
    return compile_topology(
        edges, num_inputs=num_inputs, outputs=outputs, activations=activations, aggregations=aggregations, **options
    )


def rows(tensor):
    return [tuple(row) for row in tensor.tolist()]


@hypothesis_settings(deadline=None)
@given(graph=acyclic(), data=st.data())
def test_structure_is_the_graph(graph, data):
    edges, num_inputs, num_nodes = graph
    outputs = data.draw(st.lists(st.integers(0, num_nodes - 1), min_size=1, max_size=5))
    topology, order = compiled(edges, num_inputs=num_inputs, num_nodes=num_nodes, outputs=outputs)
    assert isinstance(topology, Topology)
    assert (topology.num_inputs, topology.num_nodes, topology.num_edges) == (num_inputs, num_nodes, len(edges))

    assert rows(topology.edges) == [edges[i] for i in torch.argsort(order).tolist()]
    assert topology.node_ids[topology.out_idx].tolist() == outputs
    assert topology.node_ids[:num_inputs].tolist() == list(range(num_inputs))
    assert sorted(topology.node_ids.tolist()) == list(range(num_nodes))

    src, dst = topology.src.tolist(), topology.dst.tolist()
    assert all(u < v for u, v in zip(src, dst, strict=True))
    assert list(zip(dst, src, strict=True)) == sorted(zip(dst, src, strict=True))
    for v in range(num_nodes):
        if v >= num_inputs:
            first, last = topology.ptr[v - num_inputs : v - num_inputs + 2].tolist()
            assert [e for e in range(len(edges)) if dst[e] == v] == list(range(first, last))
        first, last = topology.optr[v : v + 2].tolist()
        out = topology.oeid[first:last].tolist()
        assert out == [e for e in range(len(edges)) if src[e] == v]
        assert topology.odst[first:last].tolist() == [dst[e] for e in out]
    assert topology.ptr[[0, -1]].tolist() == topology.optr[[0, -1]].tolist() == [0, len(edges)]


@hypothesis_settings(deadline=None)
@given(graph=acyclic())
def test_levels_and_order_of_nodes(graph):
    edges, num_inputs, num_nodes = graph
    topology, _ = compiled(edges, num_inputs=num_inputs, num_nodes=num_nodes)
    network = networkx.DiGraph(edges)
    network.add_nodes_from(range(num_nodes))
    expected = [0] * num_nodes
    for v in networkx.topological_sort(network):
        if v >= num_inputs:
            expected[v] = 1 + max((expected[u] for u in network.predecessors(v)), default=0)
    level = topology.level.tolist()
    assert level == [expected[v] for v in topology.node_ids.tolist()]
    assert topology.depth == max(expected)
    keys = [(expected[v], network.in_degree(v), v) for v in topology.node_ids.tolist()[num_inputs:]]
    assert keys == sorted(keys)
    assert topology.fan_in.tolist() == [fan_in for _, fan_in, _ in keys]
    assert topology.level_ptr.tolist() == [
        next((i for i in range(num_nodes) if level[i] >= wanted), num_nodes) for wanted in range(1, topology.depth + 2)
    ]
    assert topology.group_ptr.tolist() == [num_inputs, num_nodes]


@hypothesis_settings(deadline=None)
@given(graph=acyclic(), data=st.data())
def test_how_the_graph_is_given_does_not_matter(graph, data):
    edges, num_inputs, num_nodes = graph
    topology, _ = compiled(edges, num_inputs=num_inputs, num_nodes=num_nodes)
    shuffled, _ = compiled(data.draw(st.permutations(edges)), num_inputs=num_inputs, num_nodes=num_nodes)
    assert shuffled.digest() == topology.digest()
    assert shuffled.packed.equal(topology.packed)

    number = [*range(num_inputs), *data.draw(st.permutations(range(num_inputs, num_nodes)))]
    renamed, _ = compiled([(number[u], number[v]) for u, v in edges], num_inputs=num_inputs, num_nodes=num_nodes)
    levels = dict(zip(topology.node_ids.tolist(), topology.level.tolist(), strict=True))
    for node, level in zip(renamed.node_ids.tolist(), renamed.level.tolist(), strict=True):
        assert levels[number.index(node)] == level
    assert renamed.level_ptr.equal(topology.level_ptr)
    assert renamed.ptr.equal(topology.ptr)


@hypothesis_settings(deadline=None)
@given(edges=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), unique=True, max_size=20), reverse=st.booleans())
def test_every_cycle_is_refused_and_named(edges, reverse):
    network = networkx.DiGraph(edges)
    edges = edges[::-1] if reverse else edges
    if networkx.is_directed_acyclic_graph(network):
        compiled(edges, num_inputs=1)
        return
    with pytest.raises(TopologyError, match="the network has a cycle") as caught:
        compiled(edges, num_inputs=1)
    cycle = caught.value.cycle
    assert cycle[0] == min(cycle)
    assert len(set(cycle)) == len(cycle)
    assert all(network.has_edge(u, v) for u, v in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    assert f"a cycle, {' → '.join(str(node) for node in [*cycle, cycle[0]])}; remove" in str(caught.value)


def test_node_numbers_are_taken_by_user_id():
    # Node 4 comes before node 2 and 3, being of the first level.
    topology, _ = compiled(
        [(0, 4), (4, 2), (1, 3), (4, 3)], outputs=[2], activations=[99, -1, 5, 6, 7], aggregations=[9, 9, 1, 2, 3]
    )
    assert topology.node_ids.tolist() == [0, 1, 4, 2, 3]
    assert topology.act_id.tolist() == [7, 5, 6]
    assert topology.agg_id.tolist() == [3, 1, 2]


def test_duplicates_may_be_summed():
    edges = [(0, 2), (1, 2), (0, 2), (2, 3), (0, 2)]
    topology, order = compiled(edges, outputs=[3], duplicates="sum")
    assert rows(topology.edges) == [(0, 2), (1, 2), (2, 3)]
    assert order.tolist() == [0, 1, 0, 2, 0]
    assert topology.fan_in.tolist() == [2, 1]
    single, _ = compiled([(0, 2), (1, 2), (2, 3)], outputs=[3])
    assert topology.digest() == single.digest()


def test_duplicates_do_not_change_the_order_of_nodes():
    """Fan-in counts edges as they are computed, else equal networks would differ by how they were given."""
    once, _ = compiled([(0, 2), (0, 3), (1, 3)], outputs=[2, 3])
    thrice, _ = compiled([(0, 2), (0, 2), (0, 2), (0, 3), (1, 3)], outputs=[2, 3], duplicates="sum")
    assert thrice.digest() == once.digest()


@pytest.mark.parametrize("aggregation", range(1, 7))
def test_duplicates_add_up_into_sums_alone(aggregation):
    edges = [(0, 2), (0, 2), (1, 3), (1, 3)]
    with pytest.raises(
        TopologyError, match=r"edge 1 → 3 is given more than once, in rows 2 and 3, into a node that does"
    ):
        compiled(edges, duplicates="sum", aggregations=[0, 0, 0, aggregation])
    assert compiled([*edges[:3], (0, 3)], duplicates="sum", aggregations=[0, 0, 0, aggregation])[0].num_edges == 3


def test_groups_stand_together():
    # Two chains and an orphan; group 1 is empty.
    edges = [(0, 5), (5, 2), (1, 3), (3, 4), (0, 4)]
    topology, _ = compiled(edges, outputs=[2, 4, 6], num_nodes=7, groups=[9, -5, 2, 0, 0, 2, 2])
    assert topology.group_ptr.tolist() == [2, 4, 4, 7]
    assert topology.node_ids.tolist() == [0, 1, 3, 4, 6, 5, 2]
    assert topology.level.tolist() == [0, 0, 1, 2, 1, 1, 2]
    assert topology.level_ptr.tolist() == []
    assert topology.level_ptr.dtype == torch.int64
    assert all(u < v for u, v in zip(topology.src.tolist(), topology.dst.tolist(), strict=True))


def test_one_group_is_no_group():
    edges = [(0, 2), (1, 3), (2, 3)]
    assert compiled(edges, groups=[0, 0, 0, 0])[0].digest() == compiled(edges)[0].digest()
    assert compiled(edges, groups=torch.zeros(4, dtype=torch.int32))[0].level_ptr.tolist() == [2, 3, 4]


def test_constants_and_bare_inputs_are_legal():
    topology, order = compiled([], outputs=[1, 3, 1], num_nodes=4)
    assert (topology.num_edges, topology.depth, order.tolist()) == (0, 1, [])
    assert topology.ptr.tolist() == [0, 0, 0]
    assert topology.level_ptr.tolist() == [2, 4]
    nothing, _ = compiled([], outputs=[1, 0])
    assert (nothing.num_nodes, nothing.depth, nothing.out_idx.tolist()) == (2, 0, [1, 0])
    assert nothing.ptr.tolist() == [0]
    assert nothing.level_ptr.tolist() == [2]
    assert nothing.group_ptr.tolist() == [2, 2]


@pytest.mark.parametrize("fan_in", [1, 7, 8, 9, 10_000])
def test_fan_in_may_be_any(fan_in):
    topology, _ = compiled([(i, fan_in) for i in range(fan_in)], num_inputs=fan_in, outputs=[fan_in])
    assert topology.fan_in.tolist() == [fan_in]
    assert topology.src.tolist() == list(range(fan_in))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": [(0, 2), (0, 2)]}, r"edge 0 → 2 is given more than once, in rows 0 and 1; drop one"),
        ({"edges": [(0, 2), (2, 2)]}, "a cycle, 2 → 2; remove one of its edges, or pass steps=k"),
        ({"edges": [(2, 1)]}, "leads into input 1"),
        ({"outputs": []}, "outputs has shape"),
        ({"outputs": [7], "num_nodes": 4}, "output 0 is node 7"),
        ({"activations": [1, 1]}, r"activations has shape \(2,\), expected one id or one a node, \(4,\), inputs"),
        ({"activations": [1, 1, 1, 34]}, "activations gives node 3 the id 34; known are 0 … 33"),
        ({"activations": -1}, "activations gives node 2 the id -1"),
        ({"activations": 1.0}, "activations must be an array of whole numbers"),
        ({"aggregations": 7}, "aggregations gives node 2 the id 7; known are 0 … 6"),
        ({"duplicates": "mean"}, 'duplicates is \'mean\', expected "error" or "sum"'),
        ({"groups": [0, 0]}, r"groups has shape \(2,\), expected one number of each node, \(4,\)"),
        ({"groups": [0, 0, 0, 1]}, r"edge 2 → 3 \(row 2\) leads from group 0 to group 1; groups are independent"),
        ({"groups": [0, 0, -1, -1]}, "groups are numbered from 0, got -1 … -1"),
    ],
)
def test_bad_graphs_are_named(options, message):
    with pytest.raises(TopologyError, match=message):
        compiled(**{"edges": [(0, 2), (1, 3), (2, 3)], **options})


def test_no_python_loop_runs_over_edges_or_nodes():
    """Counted, not timed: the interpreter runs as many lines for many edges as for few."""

    def lines(num_edges):
        rng = np.random.default_rng(0)
        low, high = np.sort(rng.integers(0, num_edges, (2, num_edges)), axis=0)
        keys = np.unique(low * num_edges + high)
        pairs = np.stack([keys // num_edges, keys % num_edges], axis=1)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            if "fulgurite" not in frame.f_globals.get("__name__", ""):
                return None
            count += event == "line"
            return trace

        compiled(pairs, num_inputs=1)  # compiles the loops
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            compiled(pairs, num_inputs=1, num_nodes=num_edges)
        finally:
            sys.settrace(before)
        return count

    assert 0 < lines(200_000) == lines(20)


def test_an_unknown_treatment_of_duplicates_is_refused():
    with pytest.raises(TopologyError, match='duplicates is \'drop\', expected "error" or "sum"'):
        compiled([(0, 2)], outputs=[2], duplicates="drop")
