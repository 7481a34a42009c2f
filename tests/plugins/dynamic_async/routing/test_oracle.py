import networkx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.routing import oracle
from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths, WidestPaths
from fulgurite.plugins.dynamic_async.routing.networks import built_in
from fulgurite.plugins.dynamic_async.routing.oracle import right_routes
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap

SEEDS = st.integers(0, 2**32 - 1)


def as_graph(routing, epoch):
    graph = networkx.DiGraph()
    graph.add_nodes_from(np.flatnonzero(routing.topology.epochs[epoch].present).tolist())
    graph.add_weighted_edges_from((edge.source, edge.target, edge.label) for edge in routing.edges(epoch))
    return graph


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, nodes=st.integers(1, 8))
def test_least_costs_are_networkx_s(garbage, seed, nodes):
    topology = garbage.a_network(np.random.default_rng(seed), nodes, density=0.35)
    for algebra in (ShortestPaths(), Rip16(limit=6), PathVector(ShortestPaths(), nodes)):
        routing = RoutingMap(algebra, topology)
        for epoch in range(2):
            answer = right_routes(routing, epoch)
            assert answer.method == ("synchronous rounds" if algebra.has_paths else "dijkstra")
            check_distances(routing, epoch, answer, as_graph(routing, epoch))


def check_distances(routing, epoch, answer, graph):
    distances = dict(networkx.all_pairs_dijkstra_path_length(graph))
    limit = routing.algebra.invalid[0]
    for i in range(routing.num_participants):
        for destination, route in zip(routing.topology.destinations, routing.routes(answer.rows[i]), strict=True):
            if i not in graph:
                assert route == (routing.algebra.trivial if i == destination else routing.algebra.invalid)
                continue
            assert route[0] == min(distances[i].get(destination, limit), limit)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, nodes=st.integers(1, 7))
def test_widths_are_those_of_the_widest_simple_path(garbage, seed, nodes):
    routing = RoutingMap(WidestPaths(), garbage.a_network(np.random.default_rng(seed), nodes, density=0.35))
    answer = right_routes(routing, 0)
    graph = as_graph(routing, 0)
    for i in graph:
        for destination, route in zip(routing.topology.destinations, routing.routes(answer.rows[i]), strict=True):
            if i != destination:
                paths = networkx.all_simple_edge_paths(graph, i, destination) if destination in graph else []
                widths = [min(graph.edges[edge]["weight"] for edge in path) for path in paths]
                assert route[0] == -max(widths, default=0)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, nodes=st.integers(1, 6))
def test_dijkstra_s_routes_are_stable(garbage, seed, nodes):
    routing = RoutingMap(ShortestPaths(), garbage.a_network(np.random.default_rng(seed), nodes))
    present = routing.topology.epochs[1].present
    rows = right_routes(routing, 1).rows
    np.testing.assert_array_equal(routing.step(1, present, rows), rows)


def test_no_answer_where_rounds_oscillate():
    answer = right_routes(RoutingMap(PolicyPaths(4), built_in("bad-gadget")), 0)
    assert answer.rows is None
    assert answer.rounds >= 2


def test_costs_that_floats_do_not_tell_apart_are_added_in_whole_numbers(monkeypatch):
    routing = RoutingMap(ShortestPaths(), built_in("count-to-infinity"))
    monkeypatch.setattr(oracle, "EXACT", 4)
    answer = right_routes(routing, 0)
    assert (answer.method, answer.rows[:, 0].tolist()) == ("synchronous rounds", [0, 1, 2])
