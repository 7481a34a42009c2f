import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.model.simulation import simulate
from fulgurite.plugins.dynamic_async.model.state_function import delta
from fulgurite.plugins.dynamic_async.routing.metrics import ShortestPaths
from fulgurite.plugins.dynamic_async.routing.networks import built_in, random_topology
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap
from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ["shortest", "widest", "rip", "rip-5", "path-vector", "path-vector-widest", "path-vector-rip", "short-paths",
         "policy"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_compiled_rows_are_those_of_the_definition(garbage, name):
    @settings(deadline=None, max_examples=60)
    @given(SEEDS, st.integers(1, 6))
    def check(seed, nodes):
        rng = np.random.default_rng(seed)
        topology = garbage.a_network(rng, nodes)
        fast = RoutingMap(garbage.ALGEBRAS[name](nodes), topology)
        slow = RoutingMap(fast.algebra, topology, compiled=False)
        assert slow.kernel() is None
        participants = rng.random(nodes) < 0.7
        rows = {j: garbage.a_row(rng, fast) for j in range(nodes)}
        assert all(fast.contains(j, row) for j, row in rows.items())
        for epoch in (0, 1):
            for i in np.flatnonzero(participants).tolist():
                inputs = {j: rows[j] if participants[j] else fast.bottom(j) for j in fast.neighbours(i).tolist()}
                found = fast.evaluate(i, epoch, participants, inputs)
                np.testing.assert_array_equal(found, slow.evaluate(i, epoch, participants, inputs))
                assert fast.contains(i, found)

    check()


def test_a_row_by_hand():
    topology = built_in("count-to-infinity")
    routing = RoutingMap(ShortestPaths(), topology)
    everybody = np.ones(3, dtype=bool)
    assert routing.bottom(0).tolist() == [0]
    assert routing.bottom(1).tolist() == [ShortestPaths().invalid[0]]
    assert routing.neighbours(1).tolist() == [0, 2]
    inputs = {0: np.array([0]), 2: np.array([5])}
    assert routing.evaluate(1, 0, everybody, inputs).tolist() == [1]
    assert routing.evaluate(1, 1, np.array([False, True, True]), inputs).tolist() == [6]
    assert [inputs[j].tolist() for j in (0, 2)] == [[0], [5]]
    with pytest.raises(MapError, match="epochs 0 to 1"):
        routing.evaluate(1, 2, everybody, inputs)


def test_joining_values_are_routes():
    routing = RoutingMap(PathVector(ShortestPaths(), 3), built_in("path-vector"))
    assert routing.contains(1, routing.bottom(1))
    assert not routing.contains(1, routing.bottom(1).astype(np.int32))
    assert not routing.contains(1, routing.row([(5, 2, 1, 1, -1)]))


def test_fingerprints_tell_networks_and_algebras_apart(garbage):
    one, other = random_topology(6, seed=1), random_topology(6, seed=2)
    prints = {RoutingMap(garbage.ALGEBRAS[name](6), each).fingerprint() for name in NAMES for each in (one, other)}
    assert len(prints) == 2 * len(NAMES)
    assert RoutingMap(ShortestPaths(), one).fingerprint() == RoutingMap(ShortestPaths(), one).fingerprint()


@pytest.mark.parametrize("name", ["rip", "policy"])
def test_the_compiled_simulation_agrees(garbage, name):
    topology = random_topology(8, epochs=4, ticks_per_epoch=12, seed=5)
    routing = RoutingMap(garbage.ALGEBRAS[name](8), topology)
    schedule = topology_schedule(topology, "random", seed=3)
    slow = simulate(routing, schedule, record=("history",), path="python").history
    np.testing.assert_array_equal(simulate(routing, schedule, record=("history",), path="compiled").history, slow)
    np.testing.assert_array_equal(np.array(delta(routing, schedule)), slow)
