"""Does an algebra keep its laws, and is it increasing: by trying every route over every edge, or a sample of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fulgurite.plugins.dynamic_async.routing.algebra import Edge, Route, RoutingAlgebra

BUDGET = 100_000  # cases of a law


@dataclass(frozen=True)
class Finding:
    """Whether a law holds.

    Attributes:
        holds: whether no counterexample was found.
        method: ``exhaustive``: every case was tried, so it is a proof for these edges; else ``sampled``.
        cases: how many were tried.
        counterexample: an edge and routes that break it, in words; empty if it holds.
    """

    holds: bool
    method: str
    cases: int
    counterexample: str = ""


@dataclass(frozen=True)
class AlgebraReport:
    """What :func:`check_algebra` found; each a :class:`Finding`.

    Attributes:
        lawful: 0 is the best and ∞ the worst of routes; ⊕ gives one of its two, either way round; ▷ keeps ∞.
        increasing: x ≤ f▷x.
        strictly_increasing: x < f▷x for every x but ∞.
        distributive: f▷(x⊕y) = (f▷x)⊕(f▷y).
        loop_free: of a path algebra: ∞ comes of every link that does not fit the path or closes a loop, and every other
            result has the link's source in front of the path. None for other algebras.
    """

    lawful: Finding
    increasing: Finding
    strictly_increasing: Finding
    distributive: Finding
    loop_free: Finding | None = None

    def lines(self) -> list[str]:
        """A line for each law."""
        laws = {
            "lawful": self.lawful,
            "increasing": self.increasing,
            "strictly increasing": self.strictly_increasing,
            "distributive": self.distributive,
            "loop-free": self.loop_free,
        }
        return [
            f"{name}: {'yes' if law.holds else 'no, ' + law.counterexample} ({law.method}, {law.cases:,} cases)"
            for name, law in laws.items()
            if law is not None
        ]


def check_algebra(
    algebra: RoutingAlgebra,
    edges: Iterable[Edge] | None = None,
    *,
    routes: Iterable[Route] | None = None,
    budget: int = BUDGET,
    seed: int = 0,
) -> AlgebraReport:
    """Try an algebra's laws (https://arxiv.org/abs/2012.01686, section 5) on routes and edges.

    Every case is tried where the routes are all there are (of a finite algebra, or as given) and the cases are within
    the budget; otherwise as many as the budget allows, drawn at random, and the finding says so.

    Args:
        algebra: what to check.
        edges: over which; default: between the first nodes, with the algebra's own examples of labels.
        routes: the only ones there are; default: the algebra's.
        budget: cases of each law.
        seed: of samples.

    Example:
        >>> from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, WidestPaths
        >>> found = check_algebra(Rip16()).strictly_increasing
        >>> found.holds, found.method
        (True, 'exhaustive')
        >>> check_algebra(WidestPaths()).strictly_increasing.counterexample
        'link 0 -> 1 with 1: 1 becomes 1'
    """
    tried = list(_examples(algebra) if edges is None else edges)
    known = list(algebra.routes() if routes is None else routes)
    check = _Check(algebra, algebra.finite or routes is not None, budget, random.Random(seed))
    return AlgebraReport(
        lawful=check.law(_lawful, tried, known, known),
        increasing=check.law(_increasing, tried, known),
        strictly_increasing=check.law(_strict, tried, known),
        distributive=check.law(_distributive, tried, known, known),
        loop_free=check.law(_loop_free, tried, known) if algebra.has_paths else None,
    )


def is_strict(algebra: RoutingAlgebra, edges: Iterable[Edge]) -> bool:
    """Whether the algebra is known by its construction to be strictly increasing over these edges."""
    return all(algebra.always_strict(edge.label) is True for edge in edges)


class _Check:
    def __init__(self, algebra: RoutingAlgebra, complete: bool, budget: int, rng: random.Random) -> None:
        self.algebra, self.complete, self.budget, self.rng = algebra, complete, budget, rng

    def law(self, broken: Callable[..., str], *domains: Sequence[Any]) -> Finding:
        total = math.prod(map(len, domains))
        everything = total <= self.budget
        method = "exhaustive" if everything and self.complete else "sampled"
        cases: Iterable[Any] = product(*domains) if everything else self._sample(domains)
        count = 0
        for count, case in enumerate(cases, 1):
            if found := broken(self.algebra, *case):
                return Finding(False, method, count, found)
        return Finding(True, method, count)

    def _sample(self, domains: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        for _ in range(self.budget):
            yield tuple(self.rng.choice(domain) for domain in domains)


def _examples(algebra: RoutingAlgebra) -> Iterator[Edge]:
    nodes = min(4, getattr(algebra, "num_nodes", 2))
    for source, target in product(range(nodes), repeat=2):
        if source != target:
            yield from (Edge(source, target, label) for label in algebra.labels())


def _lawful(algebra: RoutingAlgebra, edge: Edge, x: Route, y: Route) -> str:
    chosen = algebra.choose(x, y)
    if chosen not in (x, y) or chosen != algebra.choose(y, x):
        return f"of {algebra.words(x)} and {algebra.words(y)} the choice is {algebra.words(chosen)}"
    if algebra.choose(algebra.trivial, x) != algebra.trivial or algebra.choose(algebra.invalid, x) != x:
        return f"{algebra.words(x)} is better than 0 or worse than ∞"
    if algebra.extend(edge, algebra.invalid) != algebra.invalid:
        return f"{_link(edge)} makes a route of none"
    if not algebra.is_route(algebra.extend(edge, x)):
        return f"{_becomes(algebra, edge, x)}, which is no route"
    return ""


def _increasing(algebra: RoutingAlgebra, edge: Edge, x: Route) -> str:
    extended = algebra.extend(edge, x)
    return "" if algebra.choose(x, extended) == x else _becomes(algebra, edge, x)


def _strict(algebra: RoutingAlgebra, edge: Edge, x: Route) -> str:
    extended = algebra.extend(edge, x)
    better = x != extended and algebra.choose(x, extended) == x
    return "" if better or x == algebra.invalid else _becomes(algebra, edge, x)


def _distributive(algebra: RoutingAlgebra, edge: Edge, x: Route, y: Route) -> str:
    before = algebra.extend(edge, algebra.choose(x, y))
    after = algebra.choose(algebra.extend(edge, x), algebra.extend(edge, y))
    if before == after:
        return ""
    return f"{_link(edge)}: of {algebra.words(x)} and {algebra.words(y)} it prefers another before than after"


def _loop_free(algebra: RoutingAlgebra, edge: Edge, x: Route) -> str:
    path, extended = algebra.path(x), algebra.extend(edge, x)
    longer = algebra.path(extended)
    fits = path is not None and edge.source not in path and (not path or path[0] == edge.target)
    right = longer is None or (fits and path is not None and longer == (edge.source, *(path or (edge.target,))))
    return "" if right else _becomes(algebra, edge, x)


def _link(edge: Edge) -> str:
    return f"link {edge.source} -> {edge.target} with {edge.label}"


def _becomes(algebra: RoutingAlgebra, edge: Edge, x: Route) -> str:
    return f"{_link(edge)}: {algebra.words(x)} becomes {algebra.words(algebra.extend(edge, x))}"
