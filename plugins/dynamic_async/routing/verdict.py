"""Will routing converge in an epoch, and after how many pseudocycles at the latest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from fulgurite.plugins.dynamic_async.routing.algebra import Edge, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.assignments import assignment_chains, reachable_routes, stable_states
from fulgurite.plugins.dynamic_async.routing.checker import is_strict
from fulgurite.plugins.dynamic_async.routing.metrics import ShortestPaths
from fulgurite.plugins.dynamic_async.routing.oracle import Answer
from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap


@dataclass(frozen=True)
class RoutingVerdict:
    """What can be said of an epoch before it runs.

    Attributes:
        verdict: ``certified``: right after k* pseudocycles, whatever routes of earlier epochs are still about;
            ``refused``: a counterexample is known; ``empirical``: neither.
        reason: a sentence.
        k_star: pseudocycles after which every route is right; None unless certified, or where no bound is known.
    """

    verdict: Literal["certified", "empirical", "refused"]
    reason: str
    k_star: int | None = None


def cycle_free(algebra: RoutingAlgebra, edges: Iterable[Edge], reachable: Iterable[Edge] | None = None) -> bool | None:
    """Whether no cyclic chain of assignments exists over the edges of an epoch.

    Args:
        algebra: what routes are.
        edges: between the nodes that take part.
        reachable: edges of all epochs, over which routes of before may have come; default: the same.

    Returns:
        None if there are too many routes to tell.
    """
    known = list(edges)
    routes = reachable_routes(algebra, known if reachable is None else reachable)
    return None if routes is None else not assignment_chains(algebra, known, routes).cycle


def routing_verdict(
    routing: RoutingMap, epoch: int, answer: Answer, *, start: Literal["epochs", "anything"] = "epochs"
) -> RoutingVerdict:
    """Judge an epoch of a network.

    Convergent, by Daggitt and Griffin: a finite strictly increasing algebra, or an increasing path algebra, over any
    network and from any start; a finite algebra or a path algebra over a network that is cycle-free. Refused: an epoch
    with no stable state or with several (found by trying all, in small networks), and costs that count to infinity.

    k* is the least of these bounds that applies, for m participants:

    * a finite strictly increasing algebra: its height;
    * assignments that can be looked at whole: the longest chain of them (:func:`~.assignments.assignment_chains`);
    * an increasing path algebra: 1 + m(m − 1)/2. Once a set C of nodes is right for good, the paths of other routes
      begin with ever more nodes outside C, as each is read from one outside C; so after at most as many rounds as there
      are nodes outside, those left extend routes of C, and the best of these is chosen for good by its node;
    * with an isotone one: 2m − 2, since all of them settle by their distance once stale routes are gone;
    * least costs where all destinations can be reached: 1 + ⌈greatest distance / least cost⌉, by when stale costs are
      above all true ones.

    The last four are derived here; for the first, the paper has one more.

    Args:
        routing: the map.
        epoch: which of its topology's.
        answer: the epoch's right routes.
        start: what nodes may hold as the epoch begins: routes that some epoch of the topology can lead to from ⊥, or
            anything that is a route of the algebra, such as a checkpoint from elsewhere. Then assignments are not
            looked at.
    """
    algebra, edges = routing.algebra, routing.edges(epoch)
    present = np.flatnonzero(routing.topology.epochs[epoch].present).tolist()
    m, strict = len(present), is_strict(algebra, edges)
    bounds: list[int] = []
    reasons: list[str] = []
    if strict and algebra.has_paths:
        reasons.append("an increasing path algebra")
        bounds.append(1 + m * (m - 1) // 2)
        if algebra.isotone:
            bounds.append(max(1, 2 * m - 2))
    elif strict and algebra.finite:
        reasons.append("finite and strictly increasing")
        if algebra.height is not None:
            bounds.append(algebra.height)
    everything = [edge for e in range(len(routing.topology.epochs)) for edge in _all_edges(routing, e)]
    routes = reachable_routes(algebra, everything) if start == "epochs" else None
    chains = None
    if routes is not None:
        chains = assignment_chains(algebra, edges, routes)
        if not chains.cycle:
            bounds.append(chains.longest)
            reasons = reasons or ["cycle-free: no route of any epoch can keep itself alive round a loop"]
    if reasons:
        return RoutingVerdict("certified", reasons[0], min(bounds, default=None))
    if isinstance(algebra, ShortestPaths):
        return _least_costs(routing, edges, answer, present)
    if chains is not None and routes is not None:
        for destination in routing.topology.destinations:
            stable = stable_states(algebra, edges, present, destination, routes)
            if stable is not None and len(stable) != 1:
                count = f"{len(stable)} stable states" if stable else "no stable state"
                to = routing.topology.nodes[destination]
                return RoutingVerdict("refused", f"{count} for routes to {to}: no unique answer to converge to")
        said = ", ".join(f"{routing.topology.nodes[i]}: {algebra.words(route)}" for i, route in chains.cycle)
        return RoutingVerdict("empirical", f"not cycle-free ({said})")
    if answer.rows is None:
        return RoutingVerdict("refused", "synchronous rounds from ⊥ oscillate")
    return RoutingVerdict("empirical", "not known to be strictly increasing, and too many routes to try")


def _all_edges(routing: RoutingMap, epoch: int) -> list[Edge]:
    return routing.edges(epoch, np.ones(routing.num_participants, dtype=bool))


def _least_costs(routing: RoutingMap, edges: list[Edge], answer: Answer, present: list[int]) -> RoutingVerdict:
    n, unreachable = routing.num_participants, routing.algebra.invalid[0]
    assert answer.rows is not None
    distances = answer.rows[present]
    known: NDArray[np.int64] = distances[distances != unreachable]
    rounds = 1 + math.ceil(int(known.max(initial=0)) / min((edge.label for edge in edges), default=1))
    cut = np.zeros(n, dtype=np.int64)
    for place, destination in enumerate(routing.topology.destinations):
        cut[:] = 0
        cut[present] = distances[:, place] == unreachable
        if not cut.any():
            continue
        ends = np.array([(e.source, e.target) for e in edges if cut[e.source] and cut[e.target]]).reshape(-1, 2)
        graph = csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
        if connected_components(graph, directed=True, connection="strong")[0] < n:
            name = routing.topology.nodes[destination]
            return RoutingVerdict("refused", f"routes to {name}, which some nodes cannot reach, count to infinity")
        rounds = max(rounds, 1 + int(cut.sum()))
    return RoutingVerdict("certified", "costs are positive, and stale ones grow past the true ones", rounds)
