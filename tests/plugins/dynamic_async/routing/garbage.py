"""Networks, policies and arbitrary rows of routes, made from a seed, for the tests of this folder."""

from fulgurite.plugins.dynamic_async.routing.metrics import Rip16, ShortestPaths, WidestPaths
from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector
from fulgurite.plugins.dynamic_async.routing.policy import Condition, Policy, Rule
from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths
from fulgurite.plugins.dynamic_async.routing.topology import Link, Topology, TopologyEpoch

ALGEBRAS = {
    "shortest": lambda n: ShortestPaths(),
    "widest": lambda n: WidestPaths(),
    "rip": lambda n: Rip16(),
    "rip-5": lambda n: Rip16(limit=5),
    "path-vector": lambda n: PathVector(ShortestPaths(), n),
    "path-vector-widest": lambda n: PathVector(WidestPaths(), n),
    "path-vector-rip": lambda n: PathVector(Rip16(limit=6), n),
    "short-paths": lambda n: PathVector(ShortestPaths(), n, longest=min(n, 3)),
    "policy": lambda n: PolicyPaths(n),
}


def a_policy(rng, nodes, *, prefers=True):
    """Any policy; without ``prefers`` one that only lowers."""
    rules = []
    for _ in range(rng.integers(0, 4)):
        action = str(
            rng.choice(["reject", "lower", "tag", "untag", "prefer"] if prefers else ["reject", "lower", "tag"])
        )
        conditions = []
        for _ in range(rng.integers(1 if action == "reject" else 0, 3)):
            test = str(rng.choice(["tag", "through", "path"]))
            if test == "tag":
                numbers = (int(rng.integers(0, 3)),)
            elif test == "through":
                numbers = (int(rng.integers(0, nodes)),)
            else:
                numbers = tuple(rng.permutation(nodes)[: rng.integers(1, nodes + 1)].tolist())
            conditions.append(Condition(test, numbers, bool(rng.random() < 0.4)))
        value = {"reject": 0, "lower": 7, "prefer": 150}.get(action, int(rng.integers(0, 3)))
        rules.append(Rule(action, value, tuple(conditions)))
    return Policy(tuple(rules))


def a_network(rng, nodes, epochs=2, *, prefers=True, ticks=60, density=0.6):
    """A directed network of so many epochs, as long as each other."""
    made = []
    for e in range(epochs):
        links = {}
        for i in range(nodes):
            for j in range(nodes):
                if i != j and rng.random() < density:
                    cost, capacity = (int(x) for x in rng.integers(1, 5, 2))
                    links[i, j] = Link(cost, capacity, a_policy(rng, nodes, prefers=prefers))
        present = rng.random(nodes) < 0.8
        present[rng.integers(nodes)] = True
        made.append(TopologyEpoch(e * ticks // epochs, (f"event {e}",) if e else (), links, present))
    destinations = tuple(sorted(rng.permutation(nodes)[: rng.integers(1, nodes + 1)].tolist()))
    return Topology("made", tuple(map(str, range(nodes))), tuple(made), ticks, destinations)


def a_route(rng, algebra, nodes):
    """Any route that the algebra can hold: also ones that no network ever gave."""
    if rng.random() < 0.15:
        return algebra.invalid
    if rng.random() < 0.1:
        return algebra.trivial
    if isinstance(algebra, WidestPaths):
        return (-int(rng.integers(1, 8)),)
    if not algebra.has_paths:
        return (int(rng.integers(0, min(algebra.invalid[0], 30))),)
    if algebra.longest < 2:
        return algebra.invalid
    path = tuple(rng.permutation(nodes)[: rng.integers(2, algebra.longest + 1)].tolist())
    rest = (-1,) * (algebra.longest - len(path))
    if isinstance(algebra, PolicyPaths):
        return (-int(rng.integers(0, 300)), len(path), *path, *rest, int(rng.integers(0, 8)))
    base = algebra.over.trivial
    while base in (algebra.over.trivial, algebra.over.invalid):
        base = a_route(rng, algebra.over, nodes)
    return (*base, len(path), *path, *rest)


def a_row(rng, routing):
    """Any state of a node."""
    algebra = routing.algebra
    return routing.row([a_route(rng, algebra, routing.num_participants) for _ in routing.destinations])
