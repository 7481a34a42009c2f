"""Schedules in which a topology says who takes part and when epochs begin, and chance who computes and what arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model import counter, generators
from fulgurite.plugins.dynamic_async.model.compiled_run import CompiledSchedule
from fulgurite.plugins.dynamic_async.model.dynamic_map import Participants
from fulgurite.plugins.dynamic_async.model.errors import ScheduleError
from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule, adversarial_schedule, fair_schedule
from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule, Schedule
from fulgurite.plugins.dynamic_async.routing.topology import Topology

Manner = Literal["random", "fair", "synchronous", "adversarial"]
MANNERS: tuple[Manner, ...] = get_args(Manner)
MOST_WRITTEN = 50_000_000  # numbers of a schedule that is written down
_SOURCES = (Path(counter.__file__), Path(generators.__file__))


@compiled(sources=_SOURCES)
def _is_active(t: Any, i: Any, data: Any) -> Any:
    return generators.is_active(t, i, data[0])


@compiled(sources=_SOURCES)
def _is_participant(e: Any, i: Any, data: Any) -> Any:
    return data[1][e, i]


@compiled(sources=_SOURCES)
def _read_of(t: Any, i: Any, j: Any, link: Any, data: Any) -> Any:
    return generators.read_of(t, i, j, link, data[0])


@compiled(sources=_SOURCES)
def _fill_oldest(indptr: Any, indices: Any, epochs: Any, data: Any, out: Any) -> None:
    for t in range(1, len(out)):
        for i in range(len(indptr) - 1):
            out[t, i] = t - 1
            for k in range(indptr[i], indptr[i + 1]):
                if data[1][epochs[t], indices[k]]:
                    out[t, i] = min(out[t, i], generators.read_of(t, i, indices[k], k, data[0]))


class TopologySchedule(Schedule):
    """A random schedule with the epochs and participants of a topology.

    Args:
        topology: η and π.
        chance: α and β, without churn of its own; of as many participants and ticks.

    Raises:
        ScheduleError: the two do not fit together.
    """

    def __init__(self, topology: Topology, chance: RandomSchedule) -> None:
        self.num_participants, self.num_ticks = topology.num_nodes, topology.num_ticks
        if (chance.num_participants, chance.num_ticks) != (self.num_participants, self.num_ticks):
            raise ScheduleError(
                f"the topology has {self.num_participants} nodes and {self.num_ticks} ticks; the random schedule is of "
                f"{chance.num_participants} and {chance.num_ticks}"
            )
        if chance.epochs()[-1]:
            raise ScheduleError("the random schedule has epochs of its own; expected one without churn")
        self._chance = chance
        self._epochs, self._participants = topology.epoch_of_ticks(), topology.participants()
        self._data = (chance.data, self._participants)

    def active(self, t: int) -> NDArray[np.bool_]:
        """α(t)."""
        return self._chance.active(t)

    def read_time(self, t: int, i: int, j: int) -> int:
        """β(t, i, j)."""
        return self._chance.read_time(t, i, j) if self.present(t)[j] else t - 1

    def oldest_reads(self, links: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None) -> NDArray[np.int64]:
        """The oldest tick that each participant reads, each tick."""
        n = self.num_participants
        indptr, indices = links or (np.arange(n + 1) * n, np.tile(np.arange(n), n))
        result = np.full((self.num_ticks + 1, n), -1, dtype=np.int64)
        _fill_oldest(indptr, indices, self._epochs, self._data, result)
        return result

    def compiled(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> CompiledSchedule:
        """The functions that every number comes from."""
        depth = self._chance.max_delay
        return CompiledSchedule(_is_active, _is_participant, _read_of, self._data, self._epochs, depth)

    def epoch(self, t: int) -> int:
        """η(t)."""
        return int(self._epochs[t])

    def epochs(self) -> NDArray[np.int64]:
        """η of every tick."""
        return self._epochs

    def participants(self, e: int) -> Participants:
        """π(e)."""
        return self._participants[e]


def topology_schedule(
    topology: Topology,
    manner: Manner = "random",
    *,
    seed: int = 0,
    activation: float = 0.5,
    max_delay: int = 4,
    loss: float = 0.1,
) -> Schedule:
    """A schedule for a topology.

    Args:
        topology: epochs and participants.
        manner: ``random``: nodes are active by chance, and messages late, lost and out of order; ``fair``: the same
            with bounded gaps between activations; ``synchronous``: everybody in every tick, with fresh data;
            ``adversarial``: camps that compute in turn on frozen copies, for small networks.
        seed: of everything.
        activation: probability that a node is active in a tick, if random.
        max_delay: how old data may get, if random or fair.
        loss: probability that a message is lost, if random.

    Raises:
        ScheduleError: a number is out of its range, or the network is too large for an adversarial schedule.
    """
    n, ticks = topology.num_nodes, topology.num_ticks
    if manner == "adversarial":
        if n * n * ticks > MOST_WRITTEN:
            raise ScheduleError(
                f"an adversarial schedule of {n:,} nodes and {ticks:,} ticks is too large to write down; take random"
            )
        dense = adversarial_schedule(n, ticks, seed=seed, churn=False)
        active = np.array([dense.active(t) for t in range(ticks + 1)])
        reads = np.array([[dense.reads(t, i) for i in range(n)] for t in range(ticks + 1)])
        return DenseSchedule(active, reads, topology.epoch_of_ticks(), topology.participants())
    if manner == "fair":
        chance = fair_schedule(n, ticks, seed=seed, max_delay=max_delay)
    elif manner == "synchronous":
        chance = RandomSchedule(n, ticks, seed=seed, activation=1.0, max_delay=1)
    else:
        chance = RandomSchedule(n, ticks, seed=seed, activation=activation, max_delay=max_delay, loss=loss)
    return TopologySchedule(topology, chance)
