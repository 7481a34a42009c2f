"""Networks that change while routes are computed: epochs of links and present nodes, and the file that says them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError, TopologyError
from fulgurite.plugins.dynamic_async.routing.metrics import MOST
from fulgurite.plugins.dynamic_async.routing.policy import Policy, parse_policy

MOST_NODES, MOST_TICKS = 100_000, 10_000_000
SETTLE = 100  # ticks after the last event, where a file does not say
_NAME = re.compile(r"[\w.-]{1,40}")
_KEYS = ("cost", "capacity", "policy")


@dataclass(frozen=True)
class Link:
    """What is known of a directed link; an algebra takes what it needs.

    Attributes:
        cost: for shortest paths and RIP.
        capacity: for widest paths.
        policy: for policy paths; what the node that learns the routes does with them.
    """

    cost: int = 1
    capacity: int = 1
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class TopologyEpoch:
    """The network between two events.

    Attributes:
        start: the first tick.
        events: what happened then, in words.
        links: by (i, j): i learns routes from j, and so sends towards it. Links of absent nodes are kept, unused.
        present: (n,) who takes part.
    """

    start: int
    events: tuple[str, ...]
    links: Mapping[tuple[int, int], Link]
    present: NDArray[np.bool_]

    def live_links(self) -> dict[tuple[int, int], Link]:
        """The links between nodes that take part."""
        return {(i, j): link for (i, j), link in self.links.items() if self.present[i] and self.present[j]}


@dataclass(frozen=True)
class Topology:
    """A network over time.

    Attributes:
        name: of the file or the built-in.
        nodes: names; participants are numbered in this order.
        epochs: at least one; the first starts at tick 0.
        num_ticks: T, the last tick.
        destinations: the nodes that routes lead to, ascending.
        algebra: the one that it is meant for, or None.
    """

    name: str
    nodes: tuple[str, ...]
    epochs: tuple[TopologyEpoch, ...]
    num_ticks: int
    destinations: tuple[int, ...]
    algebra: str | None = None

    @property
    def num_nodes(self) -> int:
        """How many nodes there are, present or not."""
        return len(self.nodes)

    def epoch_of_ticks(self) -> NDArray[np.int64]:
        """(T + 1,) η: the number of the epoch of every tick."""
        starts = [epoch.start for epoch in self.epochs]
        return np.searchsorted(starts, np.arange(self.num_ticks + 1), side="right") - 1

    def participants(self) -> NDArray[np.bool_]:
        """(E, n) π: who takes part in each epoch."""
        return np.array([epoch.present for epoch in self.epochs])


def read_topology(path: str | os.PathLike[str]) -> Topology:
    """Read a topology file; see :func:`parse_topology`.

    Raises:
        TopologyError: the file cannot be read, or a line is wrong; the text begins with ``file:line``.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TopologyError(f"{path}: not a UTF-8 text file (byte {error.start})") from error
    except OSError as error:
        raise TopologyError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_topology(text, name=str(path))


def parse_topology(text: str, *, name: str = "topology") -> Topology:
    r"""Read a network and what happens to it, line by line; ``#`` begins a comment.

    ::

        nodes A B C D              names; or a number n, for nodes named 0 … n − 1. First.
        policy calm: lower 10 if through C; reject if tag 7
        link A B cost 3            both ways; cost, capacity and policy are optional (1, 1, accept)
        link A -> B policy calm    A sends to B: A learns B's routes, under its policy
        absent D                   takes no part at the beginning
        destinations A B           default: every node
        algebra shortest           default of --algebra
        at 100 down A B            events, each beginning an epoch; more than one at a tick is one epoch
        at 150 up A B cost 5
        at 160 change A -> B cost 2
        at 200 leave C
        at 260 join C
        ticks 400                  default: 100 after the last event

    Policies are described at :func:`~.policy.parse_policy`.

    Args:
        text: the lines.
        name: for errors, and of the result.

    Raises:
        TopologyError: a line is wrong; the text begins with ``name:line``.

    Example:
        >>> topology = parse_topology("nodes A B C\nlink A B\nlink B C cost 4\nat 50 leave B\nat 60 join B")
        >>> [int(epoch.present.sum()) for epoch in topology.epochs], topology.epochs[1].events
        ([3, 2, 3], ('leave B',))
        >>> parse_topology("nodes A B\nlink A C")
        Traceback (most recent call last):
        ...
        fulgurite.plugins.dynamic_async.routing.errors.TopologyError: topology:2: no node is named 'C'; expected one of
        A, B
    """
    reader = _Reader(name)
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#")[0].split()
        if words:
            reader.number = number
            reader.read(words)
    return reader.finish()


class _Reader:
    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0
        self.nodes: dict[str, int] = {}
        self.policies: dict[str, Policy] = {"accept": Policy()}
        self.links: dict[tuple[int, int], Link] = {}
        self.absent: set[int] = set()
        self.destinations: set[int] = set()
        self.algebra: str | None = None
        self.ticks: int | None = None
        self.events: list[tuple[int, int, list[str]]] = []

    def error(self, message: str) -> TopologyError:
        return TopologyError(f"{self.name}:{self.number}: {message}")

    def read(self, words: list[str]) -> None:
        kinds = ("nodes", "policy", "link", "absent", "destinations", "algebra", "at", "ticks")
        if words[0] not in kinds:
            raise self.error(f"unknown word {words[0]!r}; expected one of {', '.join(kinds)}")
        if (words[0] == "nodes") == bool(self.nodes):
            raise self.error("nodes are named once, on the first line")
        if len(words) < 2:
            raise self.error(f"nothing after {words[0]!r}")
        getattr(self, f"_{words[0]}")(words[1:])

    def _nodes(self, words: list[str]) -> None:
        if len(words) == 1 and words[0].isascii() and words[0].isdigit():
            words = [str(node) for node in range(self.whole(words[0], "nodes", 1, MOST_NODES))]
        wrong = [word for word in words if not _NAME.fullmatch(word)]
        if wrong or len(set(words)) < len(words) or len(words) > MOST_NODES:
            twice = "a name comes twice" if len(words) <= MOST_NODES else f"{len(words):,} names"
            what = f"got {wrong[0][:60]!r}" if wrong else twice
            raise self.error(f"{what}; expected up to {MOST_NODES:,} different names of letters, digits, - . _")
        self.nodes = {word: node for node, word in enumerate(words)}

    def _policy(self, words: list[str]) -> None:
        name, colon, text = " ".join(words).partition(":")
        if not colon or not _NAME.fullmatch(name.strip()) or name.strip() in self.policies:
            raise self.error(
                f"got {name.strip()[:60]!r}; expected a new name, ':' and rules, as in policy calm: lower 10"
            )
        try:
            self.policies[name.strip()] = parse_policy(text, self.node)
        except AlgebraError as error:
            raise self.error(str(error)) from error

    def _link(self, words: list[str]) -> None:
        for ends, link in self.linked(words, {}):
            if ends in self.links:
                raise self.error(f"link {words[0]} {words[1]}: there is one already")
            self.links[ends] = link

    def _absent(self, words: list[str]) -> None:
        self.absent |= {self.node(word) for word in words}

    def _destinations(self, words: list[str]) -> None:
        self.destinations |= {self.node(word) for word in words}

    def _algebra(self, words: list[str]) -> None:
        self.algebra = words[0]

    def _ticks(self, words: list[str]) -> None:
        self.ticks = self.whole(words[0], "ticks", 1, MOST_TICKS)

    def _at(self, words: list[str]) -> None:
        tick = self.whole(words[0].rstrip(":"), "tick", 1, MOST_TICKS)
        kinds = {"down": 3, "up": 3, "change": 3, "leave": 2, "join": 2}
        if len(words) < 2 or words[1] not in kinds or len(words) < 1 + kinds[words[1]]:
            raise self.error("expected an event: down A B, up A B …, change A B …, leave A or join A")
        self.events.append((tick, self.number, words[1:]))

    def node(self, word: str) -> int:
        if word not in self.nodes:
            names = ", ".join([*self.nodes][:8]) + (", …" if len(self.nodes) > 8 else "")
            raise self.error(f"no node is named {word[:60]!r}; expected one of {names}")
        return self.nodes[word]

    def whole(self, word: str, what: str, least: int, most: int) -> int:
        if not re.fullmatch(r"\d{1,15}", word, re.ASCII) or not least <= int(word) <= most:
            raise self.error(f"{what}: got {word[:60]!r}, expected a whole number from {least} to {most:,}")
        return int(word)

    def linked(self, words: list[str], known: Mapping[tuple[int, int], Link]) -> list[tuple[tuple[int, int], Link]]:
        """The directed links that ``A [->] B key value …`` means, each with what is said and what is known of it."""
        one_way = len(words) > 1 and words[1] == "->"
        ends = [words[0], *words[2 if one_way else 1 :][:1]]
        rest = words[3 if one_way else 2 :]
        if len(ends) < 2 or len(rest) % 2:
            raise self.error("expected two nodes, and then cost, capacity or policy each with its value")
        a, b = map(self.node, ends)
        if a == b:
            raise self.error(f"{ends[0]} is linked to itself")
        said: dict[str, int | Policy] = {}
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            if key not in _KEYS or key in said:
                raise self.error(f"got {key[:60]!r}; expected {', '.join(_KEYS)}, each once")
            if key != "policy":
                said[key] = self.whole(value, key, 1, MOST)
            elif value not in self.policies:
                raise self.error(f"no policy is named {value[:60]!r}; expected one of {', '.join(self.policies)}")
            else:
                said[key] = self.policies[value]
        pairs = [(a, b)] if one_way else [(a, b), (b, a)]
        return [(pair, replace(known.get(pair, Link()), **said)) for pair in pairs]  # type: ignore[arg-type]

    def finish(self) -> Topology:
        if not self.nodes:
            raise TopologyError(f"{self.name}: no nodes; expected a line such as: nodes A B C")
        present = np.ones(len(self.nodes), dtype=bool)
        present[list(self.absent)] = False
        epochs = [TopologyEpoch(0, (), dict(self.links), present)]
        moved: set[int] = set()
        for tick, number, words in sorted(self.events, key=lambda event: event[0]):
            self.number = number
            if epochs[-1].start != tick:
                last = epochs[-1]
                epochs.append(TopologyEpoch(tick, (), dict(last.links), last.present.copy()))
                moved = set()
            links = dict(epochs[-1].links)
            if words[0] in ("leave", "join"):
                self._move(words, epochs[-1].present, moved)
            else:
                self._relink(words, links)
            epochs[-1] = replace(epochs[-1], links=links, events=(*epochs[-1].events, " ".join(words)))
        ticks = epochs[-1].start + SETTLE if self.ticks is None else self.ticks
        if ticks < epochs[-1].start:
            raise TopologyError(f"{self.name}: ticks {ticks} ends before the last event, at tick {epochs[-1].start}")
        destinations = tuple(sorted(self.destinations)) or tuple(range(len(self.nodes)))
        return Topology(self.name, tuple(self.nodes), tuple(epochs), ticks, destinations, self.algebra)

    def _move(self, words: list[str], present: NDArray[np.bool_], moved: set[int]) -> None:
        node = self.node(words[1])
        if node in moved:
            raise self.error(f"{words[1]} joins and leaves at one tick; expected two ticks, for two epochs")
        if len(words) > 2 or present[node] == (words[0] == "join"):
            state = f"{words[1]} takes {'part already' if present[node] else 'no part'}"
            raise self.error(f"{' '.join(words)}: {state if len(words) == 2 else 'expected one node'}")
        present[node] = words[0] == "join"
        moved.add(node)

    def _relink(self, words: list[str], links: dict[tuple[int, int], Link]) -> None:
        known = links if words[0] == "change" else {}
        for ends, link in self.linked(words[1:], known):
            if (ends in links) == (words[0] == "up"):
                there = "there is one already" if ends in links else "there is none"
                raise self.error(f"{' '.join(words)}: {there} in this direction")
            if words[0] == "down":
                del links[ends]
            else:
                links[ends] = link
