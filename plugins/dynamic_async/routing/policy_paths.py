"""A BGP-like algebra: local preference, communities and conditional policies, over paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.routing.algebra import CompiledForm, Edge, Route, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError
from fulgurite.plugins.dynamic_async.routing.path_vector import is_simple, longer_path, simple_paths
from fulgurite.plugins.dynamic_async.routing.policy import (
    MOST_PREFERENCE,
    MOST_TAG,
    Condition,
    Policy,
    Rule,
    policy_table,
)

POLICY = 3  # kind of kernel
DEFAULT_PREFERENCE = 100  # as in routers


class PolicyPaths(RoutingAlgebra):
    """BGP in small, after the BGPLite of Daggitt and Griffin's library: preference first, then the shorter path.

    A route is (−preference, nodes on the path, the nodes filled up with −1, communities as bits). A destination's
    neighbours begin with preference 100. A link's :class:`~.policy.Policy` looks at the route as its neighbour has it.

    As long as no policy raises a preference (rules ``lower``, ``tag``, ``untag`` and ``reject`` under any conditions)
    the algebra is strictly increasing, and so convergent whatever the policies. ``prefer``, which is what BGP has,
    gives that up: BAD GADGET and DISAGREE are made of it.

    Args:
        num_nodes: n.
        longest: the most nodes that a path may have; None: n.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.policy import Policy, Rule
        >>> algebra = PolicyPaths(3)
        >>> route = algebra.extend(Edge(1, 0, Policy((Rule("lower", 10), Rule("tag", 2)))), algebra.trivial)
        >>> algebra.words(route)
        'preference 90 via (1, 0), communities 2'
    """

    name = "policy"
    has_paths = True

    def __init__(self, num_nodes: int, longest: int | None = None) -> None:
        self.longest = num_nodes if longest is None else longest
        if num_nodes < 1 or not 1 <= self.longest <= num_nodes:
            raise AlgebraError(f"{num_nodes} nodes and paths of at most {longest}: expected 1 ≤ longest ≤ num_nodes")
        self.num_nodes = num_nodes
        self.width = self.longest + 3
        self.trivial = (-MOST_PREFERENCE - 1, 0, *[-1] * self.longest, 0)
        self.invalid = (1, num_nodes + 1, *[-1] * self.longest, 0)

    def extend(self, edge: Edge, route: Route) -> Route:
        """Apply the link's policy to the route, and put the new node in front of its path."""
        path = self.path(route)
        longer = None if path is None else longer_path(edge, path, self.longest)
        if path is None or longer is None:
            return self.invalid
        preference = -route[0] if path else DEFAULT_PREFERENCE
        result = edge.label.apply(preference, route[-1], path or (edge.target,))
        return self.invalid if result is None else self._route(result[0], longer, result[1])

    def label(self, link: Any) -> Policy:
        """The link's policy."""
        return link.policy

    def labels(self) -> Sequence[Policy]:
        """Some policies that only lower; all that BGPLite has."""
        seven = Condition("tag", (1,))
        return (
            Policy(),
            Policy((Rule("lower", 10), Rule("tag", 1, (Condition("through", (0,), negated=True),)))),
            Policy((Rule("reject", 0, (seven,)), Rule("untag", 1))),
        )

    def routes(self) -> Iterable[Route]:
        """Some preferences and communities with every simple path; for a handful of nodes."""
        paths = list(simple_paths(self.num_nodes, self.longest))
        middle = (self._route(p, path, tags) for p in (200, 100, 90, 5, 0) for tags in (0, 2) for path in paths)
        return [self.trivial, *middle, self.invalid]

    def path(self, route: Route) -> tuple[int, ...] | None:
        """The nodes, the route's own first, the destination last."""
        return None if route == self.invalid else route[2 : 2 + route[1]]

    def is_route(self, route: Route) -> bool:
        """Whether preference, communities and path are possible ones."""
        if len(route) != self.width or route in (self.trivial, self.invalid):
            return len(route) == self.width
        length = max(route[1], 0)
        return (
            -MOST_PREFERENCE <= route[0] <= 0
            and 0 <= route[-1] < 2 << MOST_TAG
            and is_simple(route[2:-1][:length], route[1], self.num_nodes, self.longest)
            and set(route[2:-1][length:]) <= {-1}
        )

    def words(self, route: Route) -> str:
        """Preference, path and communities."""
        path = self.path(route)
        if not path:
            return "no route" if path is None else "itself"
        tags = [str(tag) for tag in range(MOST_TAG + 1) if route[-1] >> tag & 1]
        return f"preference {-route[0]} via {path}" + (f", communities {' '.join(tags)}" if tags else "")

    def always_increasing(self, label: Policy) -> bool | None:
        """Whether the policy only lowers."""
        return True if label.only_lowers else None

    def always_strict(self, label: Policy) -> bool | None:
        """Whatever is increasing is strictly so, as paths get longer."""
        return self.always_increasing(label)

    def compiled_form(self) -> CompiledForm:
        """Policies as a table."""
        return CompiledForm(POLICY, 1, self.longest)

    def compiled_labels(self, labels: Sequence[Policy]) -> tuple[list[int], NDArray[np.int64]]:
        """Rows of the table of policies."""
        known = {policy: row for row, policy in enumerate(dict.fromkeys(labels))}
        return [known[policy] for policy in labels], policy_table(known)

    def __repr__(self) -> str:
        return f"PolicyPaths({self.num_nodes}, longest={self.longest})"

    def _route(self, preference: int, path: tuple[int, ...], tags: int) -> Route:
        return (-preference, len(path), *path, *[-1] * (self.longest - len(path)), tags)
