"""Small networks looked at whole: every route that can occur, cycles of assignments, and every stable state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from fulgurite.plugins.dynamic_async.routing.algebra import Edge, Route, RoutingAlgebra

LIMIT = 4_000  # routes at nodes
STATES = 200_000  # states to try

Assignment = tuple[int, Route]


@dataclass(frozen=True)
class Chains:
    """Chains of assignments (j, y), (i, x), … in which each route's extension is at least as good as the next route.

    Attributes:
        cycle: assignments that form a cyclic chain; empty if the network is cycle-free.
        longest: assignments in the longest chain, if there is no cycle; 0 if there is.
    """

    cycle: tuple[Assignment, ...]
    longest: int


def reachable_routes(
    algebra: RoutingAlgebra, edges: Iterable[Edge], limit: int = LIMIT
) -> dict[int, list[Route]] | None:
    """Every valid route that each node can ever come to have over these edges, beginning from ⊥, the best first.

    Over the edges of all epochs these, with ∞, are a set X that every F keeps and that ⊥ lies in.

    Returns:
        routes by node, for nodes that have any; None if there are more than the limit.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.metrics import Rip16
        >>> reachable_routes(Rip16(limit=3), [Edge(0, 1, 1), Edge(1, 0, 1)])
        {0: [(0,), (1,), (2,)], 1: [(0,), (1,), (2,)]}
    """
    over: dict[int, list[Edge]] = {}
    nodes: set[int] = set()
    for edge in edges:
        over.setdefault(edge.target, []).append(edge)
        nodes |= {edge.source, edge.target}
    found = {(node, algebra.trivial) for node in nodes}
    waiting = list(found)
    while waiting:
        j, route = waiting.pop()
        for edge in over.get(j, ()):
            extended = algebra.extend(edge, route)
            new = (edge.source, extended)
            if extended != algebra.invalid and new not in found:
                found.add(new)
                waiting.append(new)
        if len(found) > limit:
            return None
    return {node: sorted(route for at, route in found if at == node) for node in sorted(nodes)}


def assignment_chains(algebra: RoutingAlgebra, edges: Iterable[Edge], routes: dict[int, list[Route]]) -> Chains:
    """Look for a cyclic chain of valid assignments, A(i, j)▷y ≤ x for each (j, y) and the next (i, x).

    Without one the network is *cycle-free*, and routing convergent with these routes (https://arxiv.org/abs/2012.01686,
    section 5). The number h of assignments in the longest chain from (i, x) on, 0 for ∞, is then a height: where F(X)
    and F(Y) differ, the better one extends a route in which X and Y differ, and both are lower than that. So the
    greatest height of what differs falls with every round, and the longest chain bounds the rounds.

    Args:
        algebra: what routes are.
        edges: of one epoch, between nodes that take part.
        routes: by node, a set that the edges do not lead out of (:func:`reachable_routes`).

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, WidestPaths
        >>> edges = [Edge(0, 1, 1), Edge(1, 0, 1)]
        >>> assignment_chains(Rip16(limit=3), edges, reachable_routes(Rip16(limit=3), edges)).longest
        3
        >>> assignment_chains(WidestPaths(), edges, reachable_routes(WidestPaths(), edges)).cycle
        ((0, (-1,)), (1, (-1,)))
    """
    places = {(node, route): None for node, known in routes.items() for route in known}
    numbers = {assignment: number for number, assignment in enumerate(places)}
    # Steps to the next worse route of the same node stand for all the routes that an extension is better than.
    rows, columns = [], []
    for edge in edges:
        for route in routes.get(edge.target, ()):
            extended = algebra.extend(edge, route)
            if extended != algebra.invalid:
                rows.append(numbers[edge.target, route])
                columns.append(numbers[edge.source, extended])
    links = len(rows)
    entry = len(numbers)  # arriving at a route: from there on to worse ones, or taking it
    columns = [entry + column for column in columns]
    for node, known in routes.items():
        for place, route in enumerate(known):
            number = numbers[node, route]
            rows.append(entry + number)
            columns.append(number)
            if place + 1 < len(known):
                rows.append(entry + number)
                columns.append(entry + numbers[node, known[place + 1]])
    shape = (2 * entry, 2 * entry)
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    count, component = connected_components(graph, directed=True, connection="strong")
    if count < 2 * entry:
        return Chains(_cycle(graph, component, list(places)), 0)
    return Chains((), _longest(graph, entry) if links else min(1, entry))


def _cycle(graph: csr_array, component: np.ndarray, places: Sequence[Assignment]) -> tuple[Assignment, ...]:
    sizes = np.bincount(component)
    inside = int(np.argmax(sizes > 1))
    start = int(np.flatnonzero(component == inside)[0])
    before = {start: start}
    queue = [start]
    for node in queue:  # breadth first, so a shortest cycle through the start
        for other in graph.indices[graph.indptr[node] : graph.indptr[node + 1]].tolist():
            if other == start:
                trail = [node]
                while trail[-1] != start:
                    trail.append(before[trail[-1]])
                return tuple(places[step] for step in reversed(trail) if step < len(places))
            if component[other] == inside and other not in before:
                before[other] = node
                queue.append(other)
    raise AssertionError("a strong component has a cycle")


def _longest(graph: csr_array, assignments: int) -> int:
    following = [graph.indices[graph.indptr[k] : graph.indptr[k + 1]].tolist() for k in range(2 * assignments)]
    waiting = np.bincount(graph.indices, minlength=2 * assignments)
    ready = np.flatnonzero(waiting == 0).tolist()
    order = []
    while ready:
        node = ready.pop()
        order.append(node)
        for other in following[node]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    length = [0] * (2 * assignments)
    for node in reversed(order):
        length[node] = (node < assignments) + max((length[other] for other in following[node]), default=0)
    return max(length)


def stable_states(
    algebra: RoutingAlgebra,
    edges: Iterable[Edge],
    nodes: Sequence[int],
    destination: int,
    routes: dict[int, list[Route]],
    limit: int = STATES,
) -> list[dict[int, Route]] | None:
    """Every state that a round leaves as it is, of the routes to one destination.

    Args:
        algebra: what routes are.
        edges: of one epoch, between nodes that take part.
        nodes: who takes part.
        destination: where the routes lead; it may be absent.
        routes: by node, those to choose from besides ∞.
        limit: states to try.

    Returns:
        each a route by node; None if there are more than the limit to try.
    """
    into: dict[int, list[Edge]] = {node: [] for node in nodes}
    for edge in edges:
        into[edge.source].append(edge)
    choices = []
    total = 1
    for node in nodes:
        known = [algebra.trivial] if node == destination else [*routes.get(node, ()), algebra.invalid]
        if algebra.has_paths and node != destination:
            known = [route for route in known if not (path := algebra.path(route)) or path[-1] == destination]
        choices.append([route for route in known if node == destination or route != algebra.trivial])
        total *= len(choices[-1])
        if total > limit:
            return None
    found = []
    for case in product(*choices):
        state = dict(zip(nodes, case, strict=True))
        if all(state[node] == _chosen(algebra, into[node], state) for node in nodes if node != destination):
            found.append(state)
    return found


def _chosen(algebra: RoutingAlgebra, edges: list[Edge], state: dict[int, Route]) -> Route:
    return reduce(algebra.choose, (algebra.extend(edge, state[edge.target]) for edge in edges), algebra.invalid)
