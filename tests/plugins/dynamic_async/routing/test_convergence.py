"""The theorem on routing: right after k* pseudocycles, whatever came before; and what must not converge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule, adversarial_schedule
from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule
from fulgurite.plugins.dynamic_async.model.simulation import simulate
from fulgurite.plugins.dynamic_async.routing.algebra import Edge
from fulgurite.plugins.dynamic_async.routing.assignments import assignment_chains, reachable_routes, stable_states
from fulgurite.plugins.dynamic_async.routing.experiment import make_algebra
from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths, WidestPaths
from fulgurite.plugins.dynamic_async.routing.networks import BUILT_IN, built_in
from fulgurite.plugins.dynamic_async.routing.oracle import right_routes
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap
from fulgurite.plugins.dynamic_async.routing.topology import parse_topology
from fulgurite.plugins.dynamic_async.routing.verdict import cycle_free, routing_verdict

SEEDS = st.integers(0, 2**32 - 1)
EVERYBODY = np.ones(8, dtype=bool)
FROM_ANYTHING = ["rip-5", "path-vector", "path-vector-widest", "path-vector-rip", "short-paths", "policy"]


def under(topology, manner, seed):
    """A schedule with the topology's epochs, every read written down."""
    n, ticks = topology.num_nodes, topology.num_ticks
    if manner == "adversarial":
        base = adversarial_schedule(n, ticks, seed=seed, churn=False, phase=4)
    else:
        delay = 1 if manner == "synchronous" else 3
        base = RandomSchedule(n, ticks, seed=seed, activation=1.0 if delay == 1 else 0.6, max_delay=delay, loss=0.1)
    active = np.array([base.active(t) for t in range(ticks + 1)])
    reads = np.array([[base.reads(t, i) for i in range(n)] for t in range(ticks + 1)])
    reads[0] = 0
    return DenseSchedule(active, reads, topology.epoch_of_ticks(), topology.participants())


def settle(routing, schedule, initial):
    """For each epoch: pseudocycles held, the end of each, and the tick after which nothing was wrong."""
    run = simulate(routing, schedule, initial=initial, record=("history", "pseudocycles"), path="python")
    etas = routing.topology.epoch_of_ticks()
    for e, epoch in enumerate(routing.topology.epochs):
        answer = right_routes(routing, e)
        ticks = np.flatnonzero(etas == e)
        wrong = routing.wrong(run.history[ticks], answer.rows, epoch.present).any(axis=(1, 2))
        last = int(ticks[wrong][-1]) + 1 if wrong.any() else int(ticks[0])
        yield e, answer, [cycle.end for cycle in run.pseudocycles if cycle.epoch == e], last


@pytest.mark.parametrize("name", FROM_ANYTHING)
def test_right_after_k_star_pseudocycles_from_any_state(garbage, name):
    tested = 0
    lengths = {"random": 150, "synchronous": 60, "adversarial": 200}

    @settings(deadline=None, max_examples=25, derandomize=True)
    @given(SEEDS, st.integers(2, 4), st.sampled_from([*lengths]))
    def check(seed, nodes, manner):
        nonlocal tested
        rng = np.random.default_rng(seed)
        topology = garbage.a_network(rng, nodes, prefers=False, ticks=lengths[manner])
        routing = RoutingMap(garbage.ALGEBRAS[name](nodes), topology)
        initial = [garbage.a_row(rng, routing) for _ in range(nodes)]
        for e, answer, ends, settled in settle(routing, under(topology, manner, seed % 1000), initial):
            verdict = routing_verdict(routing, e, answer, start="anything")
            assert verdict.verdict == "certified"
            if len(ends) >= verdict.k_star > 0:
                tested += 1
                assert settled <= ends[verdict.k_star - 1], (e, verdict)

    check()
    assert tested > 20  # the bound was put to the test


@pytest.mark.parametrize("name", ["shortest", "rip", "path-vector", "policy"])
def test_bounds_of_connected_epochs_from_what_was_there_before(garbage, name):
    """Least costs where all is connected; policies that may prefer where the network is cycle-free; chains for all."""
    tested = 0

    @settings(deadline=None, max_examples=40, derandomize=True)
    @given(SEEDS, st.integers(2, 4))
    def check(seed, nodes):
        nonlocal tested
        rng = np.random.default_rng(seed)
        topology = garbage.a_network(rng, nodes, ticks=160)
        routing = RoutingMap(garbage.ALGEBRAS[name](nodes), topology)
        answers = [right_routes(routing, e).rows for e in range(2)]
        if any(rows is None for rows in answers):
            return
        known = reachable_routes(
            routing.algebra, [edge for e in (0, 1) for edge in routing.edges(e, EVERYBODY[:nodes])]
        )
        initial = None
        if known is not None:
            pick = [[*known.get(i, ()), routing.algebra.invalid] for i in range(nodes)]
            rows = [[own[rng.integers(len(own))] for _ in routing.destinations] for own in pick]
            initial = [routing.row(row) for row in rows]
        for e, answer, ends, settled in settle(routing, under(topology, "random", seed % 1000), initial):
            verdict = routing_verdict(routing, e, answer)
            if verdict.verdict == "certified" and len(ends) >= verdict.k_star > 0:
                tested += 1
                assert settled <= ends[verdict.k_star - 1], (e, verdict)

    check()
    assert tested > 15


def test_the_bound_is_met_with_equality():
    """RIP on two nodes that both believe in a destination that has gone: 16 rounds, k* to the round."""
    topology = parse_topology("nodes 0 1 2\nlink 0 1\nlink 1 2\ndestinations 0\nabsent 0\nticks 40")
    routing = RoutingMap(Rip16(), topology)
    state = np.zeros((3, 1), dtype=np.int64)
    present = topology.epochs[0].present
    rounds = 0
    while routing.wrong(state, right_routes(routing, 0).rows, present).any():
        state = routing.step(0, present, state)
        rounds += 1
    assert rounds == routing_verdict(routing, 0, right_routes(routing, 0)).k_star == 16


def test_another_past_the_same_answer():
    """Two histories that end in the same network end in the same routes."""
    links = "link A B\nlink B C cost 2\nlink C D\nlink D A cost 5\n"
    first = "at 30 down A B\nat 60 leave C\nat 90 join C\nat 120 up A B"
    pasts = [first, "at 40 change C D cost 9\nat 120 change C D cost 1"]
    final = []
    for number, past in enumerate(pasts):
        topology = parse_topology(f"nodes A B C D\n{links}{past}\nticks 400")
        routing = RoutingMap(PathVector(ShortestPaths(), 4), topology)
        final.append(simulate(routing, under(topology, "random", number), path="python").states)
    np.testing.assert_array_equal(final[0], final[1])


@pytest.mark.parametrize("name", BUILT_IN)
def test_networks_that_come_with_the_package_are_judged_rightly(name):
    topology = built_in(name)
    routing = RoutingMap(make_algebra(topology.algebra, topology), topology)
    last = len(topology.epochs) - 1
    assert routing_verdict(routing, last, right_routes(routing, last)).verdict == BUILT_IN[name].verdict


def rounds_of(routing, epoch, state, count):
    present = routing.topology.epochs[epoch].present
    for _ in range(count):
        state = routing.step(epoch, present, state)
    return state


def test_bad_gadget_oscillates_with_period_two():
    topology = built_in("bad-gadget")
    routing = RoutingMap(PolicyPaths(4), topology)
    state = np.stack([routing.bottom(i) for i in range(4)])
    direct = rounds_of(routing, 0, state, 1)
    assert [routing.algebra.path(routing.routes(row)[0]) for row in direct[1:]] == [(1, 0), (2, 0), (3, 0)]
    following = rounds_of(routing, 0, direct, 1)
    assert [routing.algebra.path(routing.routes(row)[0]) for row in following[1:]] == [(1, 3, 0), (2, 1, 0), (3, 2, 0)]
    np.testing.assert_array_equal(rounds_of(routing, 0, following, 1), direct)
    assert (
        stable_states(
            routing.algebra, routing.edges(0), range(4), 0, reachable_routes(routing.algebra, routing.edges(0))
        )
        == []
    )
    for seed in range(5):  # nor does any schedule settle it
        states = simulate(routing, under(topology, "random", seed), path="python").states
        assert (rounds_of(routing, 0, states, 1) != states).any()


def test_disagree_has_two_ends_and_both_occur():
    topology = built_in("disagree")
    routing = RoutingMap(PolicyPaths(3), topology)
    ends = set()
    for seed in range(20):
        states = np.asarray(simulate(routing, under(topology, "random", seed), path="python").states)
        if not (rounds_of(routing, 0, states, 1) != states).any():
            ends.add(tuple(routing.algebra.path(routing.routes(row)[0]) for row in states[1:]))
    assert ends == {((1, 0), (2, 1, 0)), ((1, 2, 0), (2, 0))}
    verdict = routing_verdict(routing, 0, right_routes(routing, 0))
    assert (verdict.verdict, verdict.k_star) == ("refused", None)
    assert "2 stable states for routes to 0" in verdict.reason


@pytest.mark.parametrize(
    ("name", "rounds", "expected"),
    [("count-to-infinity", 50, [51, 52]), ("count-to-sixteen", 14, [15, 16]), ("count-to-sixteen", 15, [16, 16])],
)
def test_counting(name, rounds, expected):
    topology = built_in(name)
    routing = RoutingMap(make_algebra(topology.algebra, topology), topology)
    state = rounds_of(routing, 1, right_routes(routing, 0).rows, rounds)
    assert state[1:, 0].tolist() == expected


def test_path_vectors_do_not_count():
    topology = built_in("path-vector")
    routing = RoutingMap(make_algebra(topology.algebra, topology), topology)
    before, right = right_routes(routing, 0).rows, right_routes(routing, 1).rows
    assert (rounds_of(routing, 1, before, 1) != right).any()
    np.testing.assert_array_equal(rounds_of(routing, 1, before, 2), right)


def test_cycle_free():
    line = [Edge(1, 0, 1), Edge(0, 1, 1)]
    assert cycle_free(Rip16(), line) is True
    assert cycle_free(WidestPaths(), line) is False
    assert cycle_free(WidestPaths(), [Edge(1, 0, 1), Edge(2, 1, 1)]) is True
    assert cycle_free(ShortestPaths(), line) is None  # no end of routes
    assert cycle_free(WidestPaths(), [Edge(2, 1, 1)], reachable=[Edge(2, 1, 1), Edge(1, 2, 1)]) is True


def test_a_cycle_is_shown():
    edges = [Edge(1, 0, 4), Edge(2, 1, 3), Edge(1, 2, 9)]
    chains = assignment_chains(WidestPaths(), edges, reachable_routes(WidestPaths(), edges))
    assert {node for node, _ in chains.cycle} == {1, 2}
    widths = dict(chains.cycle)
    assert WidestPaths().extend(Edge(1, 2, 9), widths[2]) <= widths[1]
    assert WidestPaths().extend(Edge(2, 1, 3), widths[1]) <= widths[2]


def test_widest_paths_are_certified_where_nothing_can_go_round():
    topology = parse_topology("nodes A B C\nlink A -> B capacity 4\nlink B -> C capacity 2")
    routing = RoutingMap(WidestPaths(), topology)
    verdict = routing_verdict(routing, 0, right_routes(routing, 0))
    assert verdict.verdict == "certified"
    assert "cycle-free" in verdict.reason
