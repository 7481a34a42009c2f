"""Peers that take turns in one thread, on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.merging import merge
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder
from fulgurite.plugins.dynamic_async.model.dynamic_map import Box, DynamicMap
from fulgurite.plugins.dynamic_async.model.trace import Trace

HEARTBEAT_S, TIMEOUT_S = 1.0, 4.0


class Linear(DynamicMap):
    """x = Hx + c over blocks of two numbers; ||H||_inf = gamma, so weights are one; epoch e adds e to c."""

    def __init__(self, n: int = 4, gamma: float = 0.5, seed: int = 0) -> None:
        chance = np.random.default_rng(seed)
        self.num_participants, self.gamma = n, gamma
        matrix = chance.uniform(-1, 1, (n, 2, n, 2))
        self.matrix = gamma * matrix / np.abs(matrix).sum((2, 3), keepdims=True)
        self.constant = chance.uniform(-1, 1, (n, 2))

    def bottom(self, i: int) -> Any:
        return np.zeros(2)

    def neighbours(self, i: int) -> Any:
        return np.arange(self.num_participants)

    def evaluate(self, i: int, epoch: int, participants: Any, inputs: Any) -> Any:
        value = self.constant[i] + epoch
        for j in inputs:
            if participants[j]:
                value = value + self.matrix[i, :, j] @ inputs[j]
        return value

    @property
    def domain(self) -> Box:
        n = self.num_participants
        return Box(tuple(np.zeros(2) for _ in range(n)), np.full(n, 100.0))

    def solve(self, shards: Any = None, epoch: int = 0) -> Any:
        """The fixed point of those shards alone, zero elsewhere."""
        n = self.num_participants
        inside = np.repeat(np.isin(np.arange(n), np.arange(n) if shards is None else shards), 2)
        matrix = self.matrix.reshape(2 * n, 2 * n)[np.ix_(inside, inside)]
        result = np.zeros(2 * n)
        result[inside] = np.linalg.solve(np.eye(len(matrix)) - matrix, (self.constant.ravel() + epoch)[inside])
        return result.reshape(n, 2)

    def fingerprint(self) -> bytes:
        return self.digest(self.matrix, self.constant)


class CutTransport(InProcessTransport):
    """Nothing comes from the addresses in ``cut``, whoever connects to them."""

    def __init__(self, hub: Hub, address: str) -> None:
        super().__init__(hub, address)
        self.cut: set[str] = set()

    def collect(self) -> list[bytes]:
        for address in self.cut:
            self._newest.pop(address, None)
        return super().collect()


class Cluster:
    """Peers over one hub; everything happens in the order in which the test asks for it."""

    def __init__(self, map: DynamicMap | None = None, folder: Path | None = None) -> None:
        self.map = map or Linear()
        self.hub, self.folder, self.now = Hub(), folder, 0.0
        self.codec = Codec(b"k" * 32, b"n" * 16, self.map.fingerprint())
        self.peers: dict[int, Peer] = {}
        self.asleep: set[int] = set()

    def add(self, number: int, *, contacts: tuple[str, ...] | None = None, **options: Any) -> Peer:
        """A peer that knows the first living one, unless said otherwise."""
        if contacts is None:
            contacts = tuple(peer.address for peer in list(self.peers.values())[:1])
        recorder = Recorder(self.folder / f"{number}.jsonl", self.map) if self.folder else None
        transport = options.pop("transport", None) or CutTransport(self.hub, f"memory://{number}")
        self.peers[number] = Peer(
            options.pop("map", self.map), transport, self.codec, contacts=contacts, number=number, recorder=recorder,
            heartbeat_s=HEARTBEAT_S, timeout_s=TIMEOUT_S, clock=lambda: self.now, **options,
        )  # fmt: skip
        return self.peers[number]

    def kill(self, number: int) -> None:
        """It says nothing any more, not even goodbye."""
        self.peers.pop(number)._transport.close()

    def cut(self, one: int, other: int) -> None:
        """The link between two peers carries nothing any more, either way."""
        self.peers[one]._transport.cut.add(f"memory://{other}")
        self.peers[other]._transport.cut.add(f"memory://{one}")

    def heal(self) -> None:
        for peer in self.peers.values():
            peer._transport.cut.clear()

    def turn(self, turns: int = 1, *, evaluate: bool = True) -> None:
        """Half a heartbeat passes, and everybody awake takes a step."""
        for _ in range(turns):
            self.now += HEARTBEAT_S / 2
            for number, peer in self.peers.items():
                if number not in self.asleep:
                    peer.step() if evaluate else peer.poll()

    def until(self, reached: Any, *, most: int = 200) -> None:
        """Turns until something holds; it must within so many."""
        for _ in range(most):
            if reached():
                return
            self.turn()
        raise AssertionError("it never came about")

    def hosts(self) -> dict[int, list[int]]:
        return {number: list(peer.hosted) for number, peer in self.peers.items()}

    def settled(self) -> bool:
        """Every shard has one host, and all see all."""
        hosted = sorted(shard for peer in self.peers.values() for shard in peer.hosted)
        return hosted == list(range(self.map.num_participants)) and all(p.view().all() for p in self.peers.values())

    def trace(self) -> Trace:
        assert self.folder is not None
        return merge(sorted(self.folder.glob("*.jsonl")))


def error(peer: Peer, answer: Any) -> float:
    return float(np.abs(np.array(peer.state()) - answer).max())
