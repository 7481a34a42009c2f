"""Routing algebras: what routes are, which of two is better, and what becomes of one along a link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Route = tuple[int, ...]


class Edge(NamedTuple):
    """A directed link over which ``source`` learns the routes of ``target``, and so sends towards it.

    Attributes:
        source: i, the node that extends a route.
        target: j, the node whose route is extended.
        label: what the algebra needs to know of the link (a cost, a capacity, a policy).
    """

    source: int
    target: int
    label: Any


@dataclass(frozen=True)
class CompiledForm:
    """How :mod:`fulgurite.plugins.dynamic_async.routing.kernels` computes an algebra.

    Attributes:
        kind: one of that module's numbers.
        limit: the first value that is no route any more.
        longest: the most nodes that a path may have; 0 for an algebra without paths.
    """

    kind: int
    limit: int
    longest: int = 0


class RoutingAlgebra(ABC):
    r"""(R, Steps, ⊕, ▷, 0, ∞): the routes, what chooses between them, and what extends them.

    After Daggitt and Griffin, *Dynamic Asynchronous Iterations* (https://arxiv.org/abs/2012.01686), and their library.
    A route is a tuple of ``width`` whole numbers, of which the **smaller is the better** (the numbers are compared from
    the left), so ⊕ is ``min``: selective, commutative and associative. An algebra says what 0 and ∞ are and what ▷
    does:

    .. math:: F(X)_{ij} = I_{ij} \oplus \bigoplus_k A_{ik} \rhd X_{kj}

    Attributes:
        name: as in ``--algebra`` and reports.
        width: how many numbers make a route.
        trivial: 0, the route from a destination to itself; nothing is better.
        invalid: ∞, no route; everything else is better, and it is extended to itself.
        finite: whether there are finitely many routes.
        has_paths: whether it is a path algebra: a route knows the nodes that it leads through, and is extended to ∞ by
            a link that does not fit or would close a loop.
        isotone: whether extension keeps strict order, but for routes that it makes ∞ by a limit or for a loop. Then
            the best route is the best of all paths, which Dijkstra finds.
        height: the most steps by which a route can get worse before it is ∞, where that is known.

    Example:
        >>> class Lifts(RoutingAlgebra):  # as few lifts as will do, at most 3
        ...     name, width, trivial, invalid, finite, height = "lifts", 1, (0,), (4,), True, 4
        ...     def extend(self, edge, route):
        ...         return (min(4, route[0] + edge.label),)
        ...     def label(self, link): return link.cost
        ...     def labels(self): return (0, 1)
        ...     def routes(self): return [(lifts,) for lifts in range(5)]
        >>> Lifts().extend(Edge(0, 1, 1), (2,))
        (3,)
    """

    name: str
    width: int
    trivial: Route
    invalid: Route
    finite: bool = False
    has_paths: bool = False
    isotone: bool = False
    height: int | None = None

    @abstractmethod
    def extend(self, edge: Edge, route: Route) -> Route:
        """Extend: edge ▷ route, what ``edge.source`` makes of a route that ``edge.target`` has."""

    @abstractmethod
    def label(self, link: Any) -> Any:
        """The label that a link of a topology (:class:`~.topology.Link`) has in this algebra.

        Raises:
            AlgebraError: none is possible.
        """

    @abstractmethod
    def labels(self) -> Sequence[Any]:
        """Some labels, for :func:`~.checker.check_algebra`, where it is given no edges."""

    def routes(self) -> Iterable[Route]:
        """Every route, ∞ among them, of a finite algebra; else some, for tests by samples."""
        raise NotImplementedError(f"{type(self).__name__} has to say which routes there are: routes()")

    def choose(self, first: Route, second: Route) -> Route:
        """⊕: the better of two routes."""
        return min(first, second)

    def is_route(self, route: Route) -> bool:
        """Whether this tuple is one of the algebra's routes; what a node that joins may bring."""
        return len(route) == self.width and self.trivial <= route <= self.invalid

    def path(self, route: Route) -> tuple[int, ...] | None:
        """The nodes that a route leads through; empty for 0; None for ∞ and in an algebra without paths."""
        return None

    def words(self, route: Route) -> str:
        """A route for people."""
        return "no route" if route == self.invalid else ", ".join(map(str, route))

    def always_increasing(self, label: Any) -> bool | None:
        """Whether x ≤ f▷x for every x by the algebra's construction; None: that is to be found out."""
        return None

    def always_strict(self, label: Any) -> bool | None:
        """Whether x < f▷x for every x but ∞ by the algebra's construction; None: that is to be found out."""
        return None

    def compiled_form(self) -> CompiledForm | None:
        """How the compiled kernels compute it; None: :meth:`extend` is called for every route."""
        return None

    def compiled_labels(self, labels: Sequence[Any]) -> tuple[list[int], NDArray[np.int64]]:
        """A number ≥ 0 for each label, and the table that these numbers refer to, if the kernel needs one."""
        return [int(label) for label in labels], np.zeros((1, 1), dtype=np.int64)

    def fingerprint(self) -> str:
        """Differs between algebras that must not be mixed."""
        return f"{type(self).__qualname__}:{self.name}:{self.width}:{self.invalid}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
