"""Algebras whose routes are one number: shortest paths, widest paths, and RIP's bounded metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fulgurite.plugins.dynamic_async.routing.algebra import CompiledForm, Edge, Route, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError

UNBOUNDED = 2**62  # beyond every sum of costs
MOST = 10**9  # of one cost or capacity: four thousand million of them stay below UNBOUNDED
SHORTEST, WIDEST, BOUNDED = 0, 1, 2  # kinds of kernels


class ShortestPaths(RoutingAlgebra):
    """Least total cost; a route is (cost,), and a link adds its own, a whole number from 1 on.

    Strictly increasing and distributive, but not finite: stale routes to a destination that has gone count to infinity.
    """

    name, width, trivial, invalid, isotone = "shortest", 1, (0,), (UNBOUNDED,), True

    def extend(self, edge: Edge, route: Route) -> Route:
        """Add the link's cost."""
        return self.invalid if route == self.invalid else (route[0] + edge.label,)

    def label(self, link: Any) -> int:
        """The link's cost."""
        return _positive(link.cost, "cost")

    def labels(self) -> Sequence[int]:
        """Some costs."""
        return (1, 2, 7)

    def routes(self) -> Iterable[Route]:
        """Some of them; there is no end."""
        return [*((cost,) for cost in (*range(40), 1000, 10**12)), self.invalid]

    def always_increasing(self, label: int) -> bool:
        """Costs are not negative."""
        return True

    def always_strict(self, label: int) -> bool:
        """Costs are at least 1."""
        return label >= 1

    def compiled_form(self) -> CompiledForm:
        """A sum."""
        return CompiledForm(SHORTEST, UNBOUNDED)


class WidestPaths(RoutingAlgebra):
    """Greatest bottleneck; a route is (−width,), and a link narrows it to its capacity.

    Increasing and distributive, but not strictly increasing: two nodes can keep each other's stale route for ever.
    """

    name, width, trivial, invalid = "widest", 1, (-UNBOUNDED,), (0,)

    def extend(self, edge: Edge, route: Route) -> Route:
        """The narrower of the route and the link."""
        return (max(route[0], -edge.label),)

    def label(self, link: Any) -> int:
        """The link's capacity."""
        return _positive(link.capacity, "capacity")

    def labels(self) -> Sequence[int]:
        """Some capacities."""
        return (1, 2, 7)

    def routes(self) -> Iterable[Route]:
        """Some of them; with finitely many links no others than their capacities ever occur."""
        return [self.trivial, *((-width,) for width in range(40, 0, -1)), self.invalid]

    def words(self, route: Route) -> str:
        """The width."""
        return super().words(route) if route == self.invalid else str("∞" if route == self.trivial else -route[0])

    def always_increasing(self, label: int) -> bool:
        """A minimum never grows."""
        return True

    def always_strict(self, label: int) -> bool:
        """A wide link leaves a narrow route as it is."""
        return False

    def compiled_form(self) -> CompiledForm:
        """A minimum."""
        return CompiledForm(WIDEST, 0)


class Rip16(RoutingAlgebra):
    """RIP's metric (RFC 2453): the cost of a path, where 16 means that there is none.

    Finite and strictly increasing, so convergent for every network and from any start, at the price that destinations
    16 or more away count as unreachable.

    Args:
        limit: the metric that means no route.

    Example:
        >>> Rip16().extend(Edge(0, 1, 1), (14,)), Rip16().extend(Edge(0, 1, 1), (15,))
        ((15,), (16,))
    """

    name, width, trivial, finite, isotone = "rip", 1, (0,), True, True

    def __init__(self, limit: int = 16) -> None:
        if not 1 <= limit <= MOST:
            raise AlgebraError(f"limit {limit}: expected from 1 to {MOST:,}; RIP's own is 16")
        self.limit = limit
        self.invalid = (limit,)
        self.height = limit

    def extend(self, edge: Edge, route: Route) -> Route:
        """Add the link's cost, up to the limit."""
        return (min(self.limit, route[0] + edge.label),)

    def label(self, link: Any) -> int:
        """The link's cost."""
        return _positive(link.cost, "cost")

    def labels(self) -> Sequence[int]:
        """Some costs."""
        return (1, 2, 7)

    def routes(self) -> Iterable[Route]:
        """All of them."""
        return [(cost,) for cost in range(self.limit + 1)]

    def always_increasing(self, label: int) -> bool:
        """Costs are not negative."""
        return True

    def always_strict(self, label: int) -> bool:
        """Costs are at least 1."""
        return label >= 1

    def compiled_form(self) -> CompiledForm:
        """A sum, cut off."""
        return CompiledForm(BOUNDED, self.limit)

    def __repr__(self) -> str:
        return f"Rip16(limit={self.limit})"


def _positive(number: Any, name: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST:
        raise AlgebraError(f"{name} {number!r}: expected a whole number from 1 to {MOST:,}")
    return number
