"""What the routes should be in an epoch: by SciPy's Dijkstra where that finds them, else by synchronous rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap

EXACT = 2**53  # whole numbers that a float tells apart


@dataclass(frozen=True)
class Answer:
    """The routes of an epoch.

    Attributes:
        rows: (n, D · width), ⊥ for who takes no part; None: synchronous rounds from ⊥ never settle.
        method: how they were found.
        rounds: synchronous rounds until nothing changed, or until a state came back; 0 with Dijkstra.
    """

    rows: NDArray[np.int64] | None
    method: Literal["dijkstra", "synchronous rounds"]
    rounds: int = 0


def right_routes(routing: RoutingMap, epoch: int) -> Answer:
    r"""The stable routes of an epoch with its participants, computed from nothing, without any history.

    Least costs come from SciPy's Dijkstra; everything else from rounds in which all compute at once, from ⊥.

    Args:
        routing: the map.
        epoch: which of its topology's.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.topology import parse_topology
        >>> topology = parse_topology("nodes A B C\nlink A B cost 3\nlink B C cost 4\nlink A C cost 9")
        >>> right_routes(RoutingMap(ShortestPaths(), topology), 0).rows.tolist()
        [[0, 3, 7], [3, 0, 4], [7, 4, 0]]
    """
    if isinstance(routing.algebra, (ShortestPaths, Rip16)):
        found = _dijkstra(routing, epoch)
        if found is not None:
            return Answer(found, "dijkstra")
    present = routing.topology.epochs[epoch].present
    state = np.stack([routing.bottom(i) for i in range(routing.num_participants)])
    seen = {routing.digest(state)}
    for rounds in range(1, 1 << 30):
        following = routing.step(epoch, present, state)
        if np.array_equal(following, state):
            return Answer(state, "synchronous rounds", rounds - 1)
        state = following
        if routing.digest(state) in seen:
            return Answer(None, "synchronous rounds", rounds)
        seen.add(routing.digest(state))
    raise AssertionError("from ⊥ there are finitely many routes")


def _dijkstra(routing: RoutingMap, epoch: int) -> NDArray[np.int64] | None:
    n, edges = routing.num_participants, routing.edges(epoch)
    costs = np.array([edge.label for edge in edges], dtype=np.float64)
    if costs.sum() >= EXACT:
        return None
    ends = np.array([(edge.target, edge.source) for edge in edges], dtype=np.int64).reshape(-1, 2)
    reverse = csr_array((costs, (ends[:, 0], ends[:, 1])), shape=(n, n))
    distances = dijkstra(reverse, indices=routing.destinations).T
    present = routing.topology.epochs[epoch].present
    limit = routing.algebra.invalid[0]
    # ⊥ says that a destination knows itself even while it takes no part; nobody else does.
    rows = np.where(np.isfinite(distances), np.minimum(distances, float(limit)), float(limit)).astype(np.int64)
    for i in np.flatnonzero(~present).tolist():
        rows[i] = routing.bottom(i)
    return rows
