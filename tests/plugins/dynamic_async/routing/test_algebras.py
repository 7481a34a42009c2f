import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.routing.algebra import Edge, RoutingAlgebra
from fulgurite.plugins.dynamic_async.routing.checker import check_algebra
from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError
from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths, WidestPaths
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.policy import Condition, Policy, Rule, parse_policy
from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths
from fulgurite.plugins.dynamic_async.routing.topology import Link

# Increasing, strictly increasing, distributive: from section 4 of the paper's note, and by hand.
EXPECTED = [
    (ShortestPaths(), True, True, True),
    (WidestPaths(), True, False, True),
    (Rip16(), True, True, True),
    (PathVector(ShortestPaths(), 3), True, True, False),  # a loop may hide a route behind a better one
    (PathVector(WidestPaths(), 3), True, True, False),
    (PathVector(Rip16(4), 3), True, True, False),
    (PolicyPaths(3), True, True, False),
]


@pytest.mark.parametrize(("algebra", "increasing", "strict", "distributive"), EXPECTED, ids=lambda x: repr(x))
def test_laws(algebra, increasing, strict, distributive):
    report = check_algebra(algebra, budget=20_000)
    assert report.lawful.holds, report.lawful.counterexample
    assert report.increasing.holds is increasing
    assert report.strictly_increasing.holds is strict
    assert report.distributive.holds is distributive
    assert (report.loop_free is not None) is algebra.has_paths
    assert report.loop_free is None or report.loop_free.holds
    assert all(algebra.always_strict(label) is strict for label in algebra.labels())
    assert len(report.lines()) == 4 + algebra.has_paths


def test_the_report_says_what_was_tried():
    assert check_algebra(Rip16()).distributive.method == "exhaustive"
    assert check_algebra(ShortestPaths()).distributive.method == "sampled"
    few = check_algebra(Rip16(limit=300), budget=500)
    assert (few.distributive.method, few.distributive.cases) == ("sampled", 500)
    assert few.strictly_increasing.method == "sampled"


def test_free_links_are_not_strictly_increasing():
    found = check_algebra(Rip16(), [Edge(0, 1, 0)])
    assert found.increasing.holds
    assert found.strictly_increasing.counterexample == "link 0 -> 1 with 0: 0 becomes 0"


class Wrong(Rip16):
    """A cost that falls on the way, and a route made of none."""

    def extend(self, edge, route):
        return (max(0, route[0] - 1),) if route[0] else (1,)


def test_an_algebra_that_breaks_laws_is_seen():
    report = check_algebra(Wrong())
    assert not report.lawful.holds
    assert "makes a route of none" in report.lawful.counterexample
    assert not report.increasing.holds


class Looping(PathVector):
    """Path vectors that forget to look for loops."""

    def extend(self, edge, route):
        path = self.path(route)
        if not path or edge.source not in path:
            return super().extend(edge, route)
        return self._route(self.over.extend(edge, route[:1]), (edge.source, *path)[: self.longest])


def test_a_path_algebra_with_loops_is_seen():
    assert not check_algebra(Looping(ShortestPaths(), 3)).loop_free.holds


def test_preferences_that_rise_are_not_increasing():
    algebra = PolicyPaths(3)
    edges = [Edge(1, 2, Policy((Rule("prefer", 200),)))]
    assert algebra.always_increasing(edges[0].label) is None
    report = check_algebra(algebra, edges)
    assert not report.increasing.holds
    assert report.lawful.holds


def test_any_policy_that_only_lowers_is_strictly_increasing(garbage):
    rng = np.random.default_rng(0)
    algebra = PolicyPaths(3)
    for _ in range(30):
        policy = garbage.a_policy(rng, 3, prefers=False)
        assert algebra.always_strict(policy)
        edges = [Edge(i, j, policy) for i in range(3) for j in range(3) if i != j]
        assert check_algebra(algebra, edges, budget=5_000).strictly_increasing.holds


def test_path_vectors_by_hand():
    algebra = PathVector(WidestPaths(), 4, longest=3)
    first = algebra.extend(Edge(1, 0, 5), algebra.trivial)
    assert algebra.path(first) == (1, 0)
    second = algebra.extend(Edge(2, 1, 9), first)
    assert (second[0], algebra.path(second)) == (-5, (2, 1, 0))
    assert algebra.extend(Edge(3, 2, 9), second) == algebra.invalid  # too long
    assert algebra.extend(Edge(0, 2, 9), second) == algebra.invalid  # a loop
    assert algebra.extend(Edge(3, 0, 9), second) == algebra.invalid  # it does not fit
    assert algebra.words(second) == "5 via (2, 1, 0)"
    assert algebra.path(algebra.trivial) == ()
    assert algebra.path(algebra.invalid) is None


def test_what_is_no_route():
    algebra = PathVector(ShortestPaths(), 3)
    good = (5, 2, 1, 0, -1)
    assert algebra.is_route(good)
    for wrong in [
        (5, 2, 1, 1, -1),
        (5, 3, 1, 0, -1),
        (5, 1, 1, -1, -1),
        (5, 2, 1, 7, -1),
        (5, 2, 1, 0, 2),
        (5, 2),
        (-1,),
    ]:
        assert not algebra.is_route(wrong)
    policy = PolicyPaths(3)
    assert policy.is_route((-100, 2, 1, 0, -1, 5))
    for wrong in [(100, 2, 1, 0, -1, 5), (-100, 2, 1, 0, -1, -5), (-100, 9, 1, 0, 2, 5)]:
        assert not policy.is_route(wrong)


def test_policies_as_text():
    policy = parse_policy("lower 10 if tag 7 and not through 2; tag 3; reject if path 1 0", int)
    assert policy.rules == (
        Rule("lower", 10, (Condition("tag", (7,)), Condition("through", (2,), True))),
        Rule("tag", 3),
        Rule("reject", 0, (Condition("path", (1, 0)),)),
    )
    assert policy.apply(100, 1 << 7, (3, 0)) == (90, 1 << 7 | 1 << 3)
    assert policy.apply(100, 1 << 7, (2, 0)) == (100, 1 << 7 | 1 << 3)
    assert policy.apply(100, 0, (1, 0)) is None
    assert parse_policy("lower 300; prefer 5", int).apply(100, 0, (0,)) == (5, 0)
    assert parse_policy("lower 300", int).apply(100, 0, (0,)) == (0, 0)
    assert parse_policy("untag 2", int).apply(9, 0b101, (0,)) == (9, 0b001)
    assert parse_policy("accept", int) == Policy()


@pytest.mark.parametrize(
    "text", ["", "lower", "lower x", "lower -1", "reject 5", "tag 99", "lower 1 if", "lower 1 if tag", "hold 3",
             "reject if tag 1 and", "reject if through 1 2", "reject if near 3", "prefer 70000", "lower 1;"],
)  # fmt: skip
def test_policies_that_say_nothing(text):
    with pytest.raises(AlgebraError, match="rule"):
        parse_policy(text, int)


def test_bad_arguments():
    with pytest.raises(AlgebraError, match="limit 0: expected"):
        Rip16(0)
    with pytest.raises(AlgebraError, match="has paths already"):
        PathVector(PolicyPaths(3), 3)
    with pytest.raises(AlgebraError, match="longest"):
        PathVector(ShortestPaths(), 3, longest=4)
    with pytest.raises(AlgebraError, match="longest"):
        PolicyPaths(0)
    for cost in (0, -1, 1.5, True, 10**10):
        with pytest.raises(AlgebraError, match="cost"):
            ShortestPaths().label(Link(cost=cost))


def test_an_algebra_of_ones_own_needs_little():
    class Lifts(RoutingAlgebra):
        name, width, trivial, invalid, finite = "lifts", 1, (0,), (4,), True

        def extend(self, edge, route):
            return (min(4, route[0] + edge.label),)

        def label(self, link):
            return link.cost

        def labels(self):
            return (0, 1)

        def routes(self):
            return [(lifts,) for lifts in range(5)]

    report = check_algebra(Lifts())
    assert report.lawful.holds
    assert report.increasing.holds
    assert not report.strictly_increasing.holds
    assert Lifts().compiled_form() is None
