"""Path vectors: any algebra, with the nodes that a route leads through, so that loops are seen and refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.routing.algebra import CompiledForm, Edge, Route, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError

PATHS = 8  # added to the kind of the algebra below


class PathVector(RoutingAlgebra):
    """Routes of another algebra with their paths; a link that does not fit the path or closes a loop gives ∞.

    A route is the other algebra's, then the number of nodes on the path, then these nodes, filled up with −1: so among
    routes that are as good the shorter path wins, and of two as long the one whose nodes have the lower numbers. Over
    an increasing algebra the result is strictly increasing, and convergent for every network and from any start, also
    where the other algebra alone is not.

    Args:
        over: the algebra below; with one number to a route where the compiled kernels are to be used.
        num_nodes: n.
        longest: the most nodes that a path may have; longer ones are ∞. None: n, all of them.

    Raises:
        AlgebraError: a size out of range, or ``over`` has paths of its own.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.metrics import ShortestPaths
        >>> algebra = PathVector(ShortestPaths(), 4)
        >>> route = algebra.extend(Edge(1, 0, 5), algebra.trivial)
        >>> route, algebra.path(route)
        ((5, 2, 1, 0, -1, -1), (1, 0))
        >>> algebra.extend(Edge(0, 1, 5), route) == algebra.invalid  # 0 is on the path
        True
    """

    has_paths = True

    def __init__(self, over: RoutingAlgebra, num_nodes: int, longest: int | None = None) -> None:
        if over.has_paths:
            raise AlgebraError(f"{over!r} has paths already; expected an algebra without, such as ShortestPaths()")
        self.longest = num_nodes if longest is None else longest
        if num_nodes < 1 or not 1 <= self.longest <= num_nodes:
            raise AlgebraError(f"{num_nodes} nodes and paths of at most {longest}: expected 1 ≤ longest ≤ num_nodes")
        self.over, self.num_nodes = over, num_nodes
        self.name = f"path-vector-{over.name}"
        self.width = over.width + 1 + self.longest
        self.finite = over.finite
        # With shorter paths only, a neighbour may hide a short route behind a better but longer one.
        self.isotone = over.isotone and self.longest == num_nodes
        self.trivial = self._route(over.trivial, ())
        self.invalid = (*over.invalid, num_nodes + 1, *[-1] * self.longest)

    def extend(self, edge: Edge, route: Route) -> Route:
        """Extend the other algebra's route, and put the new node in front of the path."""
        path = self.path(route)
        if path is None:
            return self.invalid
        longer = longer_path(edge, path, self.longest)
        base = self.over.extend(edge, route[: self.over.width])
        return self.invalid if longer is None or base == self.over.invalid else self._route(base, longer)

    def label(self, link: Any) -> Any:
        """The other algebra's."""
        return self.over.label(link)

    def labels(self) -> Sequence[Any]:
        """The other algebra's."""
        return self.over.labels()

    def routes(self) -> Iterable[Route]:
        """Every route of the other algebra with every simple path; for a handful of nodes."""
        bases = [base for base in self.over.routes() if base not in (self.over.trivial, self.over.invalid)]
        paths = list(simple_paths(self.num_nodes, self.longest))
        return [self.trivial, *(self._route(base, path) for base in bases for path in paths), self.invalid]

    def path(self, route: Route) -> tuple[int, ...] | None:
        """The nodes, the route's own first, the destination last."""
        if route == self.invalid:
            return None
        start = self.over.width + 1
        return route[start : start + route[start - 1]]

    def is_route(self, route: Route) -> bool:
        """Whether the path is a simple one, empty exactly for 0, and the rest a route of the other algebra."""
        if len(route) != self.width or route in (self.trivial, self.invalid):
            return len(route) == self.width
        base, length = route[: self.over.width], route[self.over.width]
        path, rest = route[self.over.width + 1 :][: max(length, 0)], route[self.over.width + 1 :][max(length, 0) :]
        return (
            base != self.over.invalid
            and self.over.is_route(base)
            and is_simple(path, length, self.num_nodes, self.longest)
            and set(rest) <= {-1}
        )

    def words(self, route: Route) -> str:
        """The other algebra's words, and the path."""
        path = self.path(route)
        return "no route" if path is None else f"{self.over.words(route[: self.over.width])} via {path}"

    def always_increasing(self, label: Any) -> bool | None:
        """As below; ties are broken by lengths, which grow."""
        return self.over.always_increasing(label)

    def always_strict(self, label: Any) -> bool | None:
        """Whatever is increasing is strictly so, as paths get longer."""
        return True if self.over.always_increasing(label) else None

    def compiled_form(self) -> CompiledForm | None:
        """That of the other algebra, with paths."""
        form = self.over.compiled_form() if self.over.width == 1 else None
        return None if form is None else CompiledForm(form.kind + PATHS, form.limit, self.longest)

    def compiled_labels(self, labels: Sequence[Any]) -> tuple[list[int], NDArray[np.int64]]:
        """The other algebra's."""
        return self.over.compiled_labels(labels)

    def fingerprint(self) -> str:
        """Both algebras'."""
        return f"{super().fingerprint()}/{self.over.fingerprint()}"

    def __repr__(self) -> str:
        return f"PathVector({self.over!r}, {self.num_nodes}, longest={self.longest})"

    def _route(self, base: Route, path: tuple[int, ...]) -> Route:
        return (*base, len(path), *path, *[-1] * (self.longest - len(path)))


def longer_path(edge: Edge, path: tuple[int, ...], longest: int) -> tuple[int, ...] | None:
    """The path with the edge in front; None where the edge does not fit, closes a loop, or makes it too long."""
    source, target = edge.source, edge.target
    if source == target or source in path or (path and path[0] != target):
        return None
    longer = (source, *(path or (target,)))
    return longer if len(longer) <= longest else None


def simple_paths(num_nodes: int, longest: int) -> Iterator[tuple[int, ...]]:
    """Every simple path of at least two nodes."""
    for length in range(2, longest + 1):
        yield from permutations(range(num_nodes), length)


def is_simple(path: tuple[int, ...], length: int, num_nodes: int, longest: int) -> bool:
    """Whether this is a path of at least two different nodes, as long as it says."""
    fits = 2 <= length <= longest and len(path) == length
    return fits and len(set(path)) == length and all(0 <= node < num_nodes for node in path)
