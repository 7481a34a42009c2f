"""Run routing over a network that changes, and hold each epoch against its right routes and its bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.periods import Pseudocycle
from fulgurite.plugins.dynamic_async.model.schedule import Schedule
from fulgurite.plugins.dynamic_async.model.simulation import simulate
from fulgurite.plugins.dynamic_async.routing.algebra import RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError, TopologyError
from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths, WidestPaths
from fulgurite.plugins.dynamic_async.routing.oracle import Answer, right_routes
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap
from fulgurite.plugins.dynamic_async.routing.topology import Topology
from fulgurite.plugins.dynamic_async.routing.verdict import RoutingVerdict, routing_verdict

ALGEBRAS = ("shortest", "widest", "rip", "path-vector", "path-vector-widest", "policy")
MOST_BYTES = 4 * 2**30  # of a run's states
WORTH_COMPILING = 100_000  # activations; compiling the loop takes as long as so many
MOST_STEPS = 200_000  # evaluations to count what is unstable where no routes are right


@dataclass(frozen=True)
class EpochResult:
    """What became of one epoch.

    Attributes:
        start: its first tick.
        end: its last.
        events: what began it.
        participants: how many nodes take part.
        verdict: what was known before.
        answer: how its right routes were found; ``none``: from ⊥ synchronous rounds never settle.
        pseudocycles: how many it holds.
        settled: the tick from which on every route is right; None: not while it lasted.
        used: pseudocycles until then, the one that was under way included; None: likewise.
        wrong: wrong routes at its beginning, at the worst, and at its end; unstable ones, that a round would change,
            where there is no answer; None where even that was too much to compute.
        bound_kept: whether every route was right after k* pseudocycles; None if there is no k*, or the epoch ended
            before.
    """

    start: int
    end: int
    events: tuple[str, ...]
    participants: int
    verdict: RoutingVerdict
    answer: Literal["dijkstra", "synchronous rounds", "none"]
    pseudocycles: int
    settled: int | None
    used: int | None
    wrong: tuple[int, int, int] | None
    bound_kept: bool | None


@dataclass(frozen=True)
class RoutingRun:
    """What came of a run.

    Attributes:
        topology: its name.
        algebra: its name.
        schedule: in words.
        nodes: n.
        destinations: D.
        wrong: (T + 1,) wrong (or unstable) routes of the nodes that take part; −1 where not computed.
        ends: ticks at which pseudocycles end.
        epochs: one after another.
    """

    topology: str
    algebra: str
    schedule: str
    nodes: int
    destinations: int
    wrong: NDArray[np.int64]
    ends: tuple[int, ...]
    epochs: tuple[EpochResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {**asdict(self), "wrong": self.wrong.tolist()}


def make_algebra(name: str, topology: Topology) -> RoutingAlgebra:
    """An algebra by its name in :data:`ALGEBRAS`.

    Raises:
        AlgebraError: there is none of that name.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.networks import built_in
        >>> make_algebra("path-vector", built_in("disagree"))
        PathVector(ShortestPaths(), 3, longest=3)
    """
    n = topology.num_nodes
    made: dict[str, Callable[[], RoutingAlgebra]] = {
        "shortest": ShortestPaths,
        "widest": WidestPaths,
        "rip": Rip16,
        "path-vector": lambda: PathVector(ShortestPaths(), n),
        "path-vector-widest": lambda: PathVector(WidestPaths(), n),
        "policy": lambda: PolicyPaths(n),
    }
    if name not in made:
        raise AlgebraError(f"no algebra is named {name!r}; expected one of {', '.join(made)}")
    return made[name]()


def run_routing(
    topology: Topology,
    algebra: RoutingAlgebra,
    schedule: Schedule,
    *,
    words: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> RoutingRun:
    """Simulate, find each epoch's right routes without any history, and count.

    Args:
        topology: the network.
        algebra: what routes are.
        schedule: with the topology's epochs (:func:`~.schedules.topology_schedule`).
        words: the schedule, for people.
        progress: told what is being done.

    Raises:
        TopologyError: the run would take too much memory.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.networks import built_in
        >>> from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule
        >>> line = built_in("count-to-sixteen")
        >>> run = run_routing(line, Rip16(), topology_schedule(line, "synchronous"))
        >>> [(epoch.used, epoch.verdict.k_star) for epoch in run.epochs]
        [(2, 16), (14, 16)]
    """
    routing = RoutingMap(algebra, topology)
    size = (topology.num_ticks + 1) * topology.num_nodes * len(topology.destinations) * algebra.width * 8
    if size > MOST_BYTES:
        raise TopologyError(
            f"{topology.name}: {topology.num_ticks:,} ticks of {topology.num_nodes:,} nodes and "
            f"{len(topology.destinations):,} destinations take {size / 2**30:.0f} GiB; expected at most "
            f"{MOST_BYTES / 2**30:.0f}: name fewer destinations, or end earlier (ticks)"
        )
    progress("simulating")
    large = topology.num_nodes * topology.num_ticks > WORTH_COMPILING
    run = simulate(routing, schedule, record=("history", "pseudocycles"), path="auto" if large else "python")
    history = np.asarray(run.history)
    found = run.pseudocycles or []
    wrong = np.full(topology.num_ticks + 1, -1, dtype=np.int64)
    results = []
    for e, epoch in enumerate(topology.epochs):
        progress(f"judging epoch {e + 1} of {len(topology.epochs)}")
        last = topology.epochs[e + 1].start - 1 if e + 1 < len(topology.epochs) else topology.num_ticks
        answer = right_routes(routing, e)
        span = slice(epoch.start, last + 1)
        wrong[span] = _wrong(routing, e, answer, history[span])
        cycles = [cycle for cycle in found if cycle.epoch == e]
        verdict = routing_verdict(routing, e, answer)
        results.append(_result(topology, e, last, answer, verdict, wrong[span], cycles))
    return RoutingRun(
        topology=topology.name,
        algebra=algebra.name,
        schedule=words,
        nodes=topology.num_nodes,
        destinations=len(topology.destinations),
        wrong=wrong,
        ends=tuple(cycle.end for cycle in found),
        epochs=tuple(results),
    )


def _wrong(routing: RoutingMap, epoch: int, answer: Answer, states: NDArray[np.int64]) -> NDArray[np.int64]:
    present = routing.topology.epochs[epoch].present
    if answer.rows is not None:
        # Tick by tick: a comparison of all at once would need as much memory as the states again.
        return np.array([routing.wrong(state, answer.rows, present).sum() for state in states], dtype=np.int64)
    if len(states) * len(present) > MOST_STEPS:
        return np.full(len(states), -1, dtype=np.int64)
    moved = [routing.wrong(state, routing.step(epoch, present, state), present).sum() for state in states]
    return np.array(moved, dtype=np.int64)


def _result(
    topology: Topology,
    e: int,
    last: int,
    answer: Answer,
    verdict: RoutingVerdict,
    wrong: NDArray[np.int64],
    cycles: list[Pseudocycle],
) -> EpochResult:
    epoch = topology.epochs[e]
    settled = used = None
    if answer.rows is not None and wrong[-1] == 0:
        amiss = np.flatnonzero(wrong)
        settled = epoch.start + (int(amiss[-1]) + 1 if len(amiss) else 0)
        used = 0 if settled == epoch.start else 1 + sum(cycle.end < settled for cycle in cycles)
    bound = None
    if verdict.k_star is not None and len(cycles) >= verdict.k_star:
        due = cycles[verdict.k_star - 1].end if verdict.k_star else epoch.start
        bound = settled is not None and settled <= due
    return EpochResult(
        start=epoch.start,
        end=last,
        events=epoch.events,
        participants=int(epoch.present.sum()),
        verdict=verdict,
        answer="none" if answer.rows is None else answer.method,
        pseudocycles=len(cycles),
        settled=settled,
        used=used,
        wrong=None if wrong[0] < 0 else (int(wrong[0]), int(wrong.max()), int(wrong[-1])),
        bound_kept=bound,
    )
