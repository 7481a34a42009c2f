"""Networks that come with the package: classics in which routing must not converge, and ones made at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fulgurite.plugins.dynamic_async.routing.topology import Topology, parse_topology


@dataclass(frozen=True)
class BuiltIn:
    """A network with what is known of it.

    Attributes:
        text: a topology file.
        summary: what it shows.
        verdict: of its last epoch, with its own algebra.
    """

    text: str
    summary: str
    verdict: Literal["certified", "refused"]


_LINE = "nodes 0 1 2\nlink 0 1\nlink 1 2\ndestinations 0\n"

BUILT_IN = {
    "bad-gadget": BuiltIn(
        """
nodes 0 1 2 3
destinations 0
algebra policy
policy first: prefer 200 if path 3 0; reject if not path 3 0
policy second: prefer 200 if path 1 0; reject if not path 1 0
policy third: prefer 200 if path 2 0; reject if not path 2 0
link 1 -> 0
link 2 -> 0
link 3 -> 0
link 1 -> 3 policy first
link 2 -> 1 policy second
link 3 -> 2 policy third
ticks 300
""",
        "each of three routers prefers its neighbour's direct path to its own: there is no stable state",
        "refused",
    ),
    "disagree": BuiltIn(
        """
nodes 0 1 2
destinations 0
algebra policy
policy one: prefer 200 if path 2 0; reject if not path 2 0
policy two: prefer 200 if path 1 0; reject if not path 1 0
link 1 -> 0
link 2 -> 0
link 1 -> 2 policy one
link 2 -> 1 policy two
ticks 300
""",
        "two routers prefer each other's path to the direct one: two stable states, and luck decides",
        "refused",
    ),
    "count-to-infinity": BuiltIn(
        f"{_LINE}algebra shortest\nat 60 leave 0\nticks 300\n",
        "a destination leaves, and those that are left count each other's stale costs up without end",
        "refused",
    ),
    "count-to-sixteen": BuiltIn(
        f"{_LINE}algebra rip\nat 60 leave 0\nticks 300\n",
        "the same with RIP, whose 16 ends it",
        "certified",
    ),
    "path-vector": BuiltIn(
        f"{_LINE}algebra path-vector\nat 60 leave 0\nticks 300\n",
        "the same with path vectors, which see the loop at once",
        "certified",
    ),
    "stuck-loop": BuiltIn(
        f"{_LINE}algebra widest\nat 60 leave 0\nticks 300\n",
        "the same with widest paths, which keep each other's stale route alive for ever",
        "refused",
    ),
}
RANDOM = "random"  # made by random_topology


def built_in(name: str) -> Topology:
    """One of :data:`BUILT_IN`.

    Raises:
        KeyError: there is none of that name.

    Example:
        >>> built_in("disagree").num_nodes
        3
    """
    return parse_topology(BUILT_IN[name].text, name=name)


def random_text(
    num_nodes: int = 24,
    *,
    links: int | None = None,
    epochs: int = 6,
    ticks_per_epoch: int = 150,
    destinations: int | None = None,
    most_cost: int = 5,
    seed: int = 0,
) -> str:
    """The file of a network that changes: a ring with chords, of which links fail, return and change, and nodes leave.

    Nodes lie on a ring, so that chords between near ones are likelier; two or three events begin each epoch, and nodes
    that have left return in the next but one.

    Args:
        num_nodes: n ≥ 4.
        links: chords besides the ring; default: n.
        epochs: the first without events.
        ticks_per_epoch: apart.
        destinations: the first so many nodes; default: all.
        most_cost: costs are 1 to this.
        seed: of everything.

    Raises:
        ValueError: a number is out of its range.
    """
    if num_nodes < 4 or epochs < 1 or ticks_per_epoch < 1 or most_cost < 1 or (links is not None and links < 0):
        raise ValueError(
            f"a random network of {num_nodes} nodes, {links} chords, {epochs} epochs of {ticks_per_epoch} ticks, costs "
            f"to {most_cost}: expected at least 4 nodes, 0 chords, 1 epoch, 1 tick and cost 1"
        )
    rng = np.random.default_rng(seed)
    pairs = {(i, (i + 1) % num_nodes) if i + 1 < num_nodes else (0, i) for i in range(num_nodes)}
    wanted = min(num_nodes * (num_nodes - 1) // 2, num_nodes + (num_nodes if links is None else links))
    while len(pairs) < wanted:
        first = int(rng.integers(num_nodes))
        reach = 1 + int(rng.integers(2, 2 + max(1, num_nodes // 4)))
        second = (first + (reach if rng.random() < 0.8 else int(rng.integers(1, num_nodes)))) % num_nodes
        if first != second:
            pairs.add((min(first, second), max(first, second)))
    up = sorted(pairs)
    lines = [f"nodes {num_nodes}"]
    if destinations is not None:
        lines.append("destinations " + " ".join(str(node) for node in range(min(destinations, num_nodes))))
    lines += [
        f"link {i} {j} cost {rng.integers(1, most_cost + 1)} capacity {rng.integers(1, 11)}" for i, j in sorted(pairs)
    ]
    down: list[tuple[int, int]] = []
    away: list[tuple[int, int]] = []
    for e in range(1, epochs):
        at = f"at {e * ticks_per_epoch}"
        if down and (len(up) <= num_nodes // 2 or rng.random() < 0.5):
            i, j = down.pop(0)
            up.append((i, j))
            lines.append(f"{at} up {i} {j} cost {rng.integers(1, most_cost + 1)} capacity {rng.integers(1, 11)}")
        else:
            down.append(up.pop(int(rng.integers(len(up)))))
            lines.append(f"{at} down {down[-1][0]} {down[-1][1]}")
        i, j = up[int(rng.integers(len(up)))]
        lines.append(f"{at} change {i} {j} cost {rng.integers(1, most_cost + 1)} capacity {rng.integers(1, 11)}")
        back = [node for left, node in away if left == e - 2]
        lines += [f"{at} join {node}" for node in back]
        away = [entry for entry in away if entry[0] != e - 2]
        out = {node for _, node in away}
        stayed = [node for node in range(num_nodes) if node not in out and node not in back]
        if num_nodes - len(out) > 3 and e % 2:
            away.append((e, int(rng.choice(stayed))))
            lines.append(f"{at} leave {away[-1][1]}")
    return "\n".join([*lines, f"ticks {epochs * ticks_per_epoch}"]) + "\n"


def random_topology(num_nodes: int = 24, **options: int | None) -> Topology:
    """The network of :func:`random_text`.

    Example:
        >>> topology = random_topology(10, epochs=3)
        >>> topology.num_nodes, len(topology.epochs), topology.num_ticks
        (10, 3, 450)
    """
    return parse_topology(random_text(num_nodes, **options), name=RANDOM)  # type: ignore[arg-type]
