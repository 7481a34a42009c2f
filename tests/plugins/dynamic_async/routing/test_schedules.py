import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.model.errors import ScheduleError
from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule
from fulgurite.plugins.dynamic_async.model.periods import pseudocycles
from fulgurite.plugins.dynamic_async.routing.metrics import Rip16
from fulgurite.plugins.dynamic_async.routing.networks import random_topology
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap
from fulgurite.plugins.dynamic_async.routing.schedules import MANNERS, TopologySchedule, topology_schedule

TOPOLOGY = random_topology(6, epochs=4, ticks_per_epoch=15, seed=2)


@pytest.mark.parametrize("manner", MANNERS)
def test_epochs_and_participants_are_the_topology_s(manner):
    schedule = topology_schedule(TOPOLOGY, manner, seed=4)
    schedule.validate()
    assert schedule.num_ticks == TOPOLOGY.num_ticks == 60
    np.testing.assert_array_equal(schedule.epochs(), TOPOLOGY.epoch_of_ticks())
    assert not all(schedule.present(t).all() for t in range(61))
    for e, epoch in enumerate(TOPOLOGY.epochs):
        np.testing.assert_array_equal(schedule.participants(e), epoch.present)


@pytest.mark.parametrize("manner", ["random", "fair", "synchronous"])
def test_written_down_it_is_the_same(manner):
    schedule = topology_schedule(TOPOLOGY, manner, seed=4)
    dense = schedule.dense()
    links = RoutingMap(Rip16(), TOPOLOGY)
    indptr, indices = links.kernel().indptr, links.kernel().indices
    np.testing.assert_array_equal(schedule.oldest_reads()[1:], dense.oldest_reads()[1:])
    read = schedule.oldest_reads((indptr, indices))
    np.testing.assert_array_equal(read[1:], dense.oldest_reads((indptr, indices))[1:])
    assert pseudocycles(schedule) == pseudocycles(dense)
    assert len(pseudocycles(schedule)) >= (56 if manner == "synchronous" else 4)


def test_seeds_differ_and_repeat():
    def reads(seed):
        return [topology_schedule(TOPOLOGY, "random", seed=seed).read_time(t, 0, 1) for t in range(1, 60)]

    assert reads(1) == reads(1)
    assert reads(1) != reads(2)


def test_what_does_not_fit():
    with pytest.raises(ScheduleError, match="6 nodes and 60 ticks; the random schedule is of 5 and 60"):
        TopologySchedule(TOPOLOGY, RandomSchedule(5, 60))
    with pytest.raises(ScheduleError, match="without churn"):
        TopologySchedule(TOPOLOGY, RandomSchedule(6, 60, churn=0.5))
    with pytest.raises(ScheduleError, match="too large to write down; take random"):
        topology_schedule(random_topology(1000, destinations=1), "adversarial")
    with pytest.raises(ScheduleError, match="loss is a probability"):
        topology_schedule(TOPOLOGY, "random", loss=2)
