"""Peers that iterate an implicit layer together, as threads or as processes; they may leave, die and be replaced."""

from __future__ import annotations

import copy
import secrets
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fulgurite.models.implicit_gnn.map_file import save_map
from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.keys import new_run, run_nonce
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.engine.transport import TransportError
from fulgurite.plugins.dynamic_async.engine.worker import Work
from fulgurite.plugins.dynamic_async.engine.workers import Workers
from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array


class Crew(ABC):
    """Peers that host the parts of one map; nobody is in charge, and any of them may go at any time.

    What a part's host leaves or dies with is taken up by the others; a newcomer is given a fair share.

    Args:
        map: what they iterate.
        heartbeat_s: at least so often a peer speaks.
        silence_s: who is silent for longer is out, and its parts are taken up by others.
        timeout_s: how long ``until`` waits.
    """

    def __init__(
        self, map: ImplicitGraphMap, *, heartbeat_s: float = 0.1, silence_s: float = 1.0, timeout_s: float = 60.0
    ) -> None:
        self.map = map
        self._heartbeat_s, self._silence_s, self._timeout_s = heartbeat_s, silence_s, timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def live(self) -> tuple[int, ...]:
        """Numbers of those at work."""

    @abstractmethod
    def join(self, count: int = 1) -> list[int]:
        """Have so many more take part; their numbers."""

    @abstractmethod
    def leave(self, number: int) -> None:
        """Let one go in order: it hands over its parts first."""

    @abstractmethod
    def kill(self, number: int) -> None:
        """End one without a word."""

    @abstractmethod
    def state(self) -> list[Array]:
        """Everybody's state, as one who is alive sees it; ⊥ of parts that nobody hosts."""

    @abstractmethod
    def until(self, rounds: int) -> int:
        """Wait until all parts are hosted and have gone through so many rounds since anybody came or went.

        Returns:
            the rounds that there were.

        Raises:
            TimeoutError: not within ``timeout_s``.
        """

    @abstractmethod
    def close(self) -> None:
        """End all."""


class ThreadCrew(Crew):
    """Peers as threads of this process.

    Args:
        map: what they iterate; each gets a copy.
        peers: how many begin.
        options: see :class:`Crew`.

    Example:
        >>> import numpy as np
        >>> ring = np.roll(np.eye(6), 1, axis=1)
        >>> with ThreadCrew(ImplicitGraphMap(ring, [[0.5]], np.ones((6, 1)), 3, activation="identity"), 2) as crew:
        ...     _ = crew.until(rounds=40)
        ...     crew.map.assemble(crew.state()).round(6).ravel().tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, map: ImplicitGraphMap, peers: int, **options: Any) -> None:
        super().__init__(map, **options)
        self._hub = Hub()
        self._codec = Codec(secrets.token_bytes(32), run_nonce(new_run()), map.fingerprint())
        self._ends: dict[int, tuple[threading.Thread, threading.Event, threading.Event]] = {}
        self._failures: list[BaseException] = []
        self._started = 0
        # One more that hosts nothing, through which this thread hears the others.
        self._watch = self._peer(expected=None, shards_wanted=())
        self._first = peers + 1
        self.join(peers)

    @property
    def live(self) -> tuple[int, ...]:
        """Numbers of those at work."""
        return tuple(number for number, (thread, *_) in sorted(self._ends.items()) if thread.is_alive())

    def join(self, count: int = 1) -> list[int]:
        """Start so many more."""
        numbers = list(range(self._started, self._started + count))
        self._started += count
        for number in numbers:
            peer = self._peer(expected=self._first)
            leaves, dies = threading.Event(), threading.Event()
            thread = threading.Thread(target=self._work, args=(peer, leaves, dies), name=f"peer {number}", daemon=True)
            self._ends[number] = thread, leaves, dies
            thread.start()
        return numbers

    def leave(self, number: int) -> None:
        """Let one go, and wait until it has handed over its parts; the last one has nobody to hand them to."""
        thread, leaves, _ = self._ends[number]
        leaves.set()
        self._join(thread)

    def kill(self, number: int) -> None:
        """End one between two evaluations, without a word."""
        thread, _, dies = self._ends[number]
        dies.set()
        self._join(thread)

    def state(self) -> list[Array]:
        """Everybody's state, as ``until`` last heard it: that which has gone through so many rounds."""
        return self._watch.state()

    def until(self, rounds: int) -> int:
        """See :class:`Crew`."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            self._watch.poll()
            if self._failures:
                raise self._failures[0]
            done = self._watch.rounds(whole=True)
            if done >= rounds:
                return done
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{int(self._watch.view().sum())} of {self.map.num_participants} parts are hosted, and there were "
                    f"{self._watch.rounds()} of {rounds} rounds within {self._timeout_s} s"
                )
            self._watch.wait()

    def close(self) -> None:
        """End all."""
        for _, _, dies in self._ends.values():
            dies.set()
        for thread, _, _ in self._ends.values():
            self._join(thread)
        self._watch.close(linger_s=0.0)

    def _peer(self, *, expected: int | None, shards_wanted: tuple[int, ...] | None = None) -> Peer:
        transport = InProcessTransport(self._hub)
        contacts = [] if expected is None else [self._watch.address]
        return Peer(
            copy.deepcopy(self.map),
            transport,
            self._codec,
            contacts=contacts,
            shards_wanted=shards_wanted,
            heartbeat_s=self._heartbeat_s,
            timeout_s=self._silence_s,
            expected_peers=expected,
        )

    def _work(self, peer: Peer, leaves: threading.Event, dies: threading.Event) -> None:
        try:
            with peer.heartbeats():
                while not (leaves.is_set() or dies.is_set()):
                    if not peer.step():
                        peer.wait()
            if leaves.is_set():
                peer.release()
            peer.close(linger_s=0.0 if dies.is_set() else None)
        except BaseException as error:
            self._failures.append(error)
            peer.close(linger_s=0.0)

    def _join(self, thread: threading.Thread) -> None:
        thread.join(self._timeout_s)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} does not end within {self._timeout_s} s")


class ProcessCrew(Crew):
    """Peers as processes of this machine, on ZeroMQ; they import neither torch nor Lightning.

    Args:
        map: what they iterate; they read it from a file.
        peers: how many begin.
        options: see :class:`Crew`.

    Raises:
        TransportError: pyzmq is missing.
    """

    def __init__(self, map: ImplicitGraphMap, peers: int, **options: Any) -> None:
        super().__init__(map, **options)
        if find_spec("zmq") is None:
            raise TransportError("peers as processes need pyzmq; pip install 'fulgurite[async]', or take threads")
        self._folder = tempfile.TemporaryDirectory(prefix="implicit-gnn-")
        try:
            path = Path(self._folder.name) / "map.npz"
            save_map(map, path)
            work = Work(
                "fulgurite.models.implicit_gnn.map_file:load_map",
                {"path": str(path)},
                peer={"heartbeat_s": self._heartbeat_s, "timeout_s": self._silence_s, "expected_peers": peers},
            )
            self._workers = Workers(work, Path(self._folder.name), timeout_s=self._timeout_s)
        except BaseException:
            self._folder.cleanup()
            raise
        self._live: list[int] = []
        try:
            self.join(peers)
        except BaseException:
            self.close()
            raise

    @property
    def live(self) -> tuple[int, ...]:
        """Numbers of those at work."""
        return tuple(self._live)

    def join(self, count: int = 1) -> list[int]:
        """Start so many more, and wait until they are ready."""
        numbers = self._workers.start(count)
        self._live += numbers
        return numbers

    def leave(self, number: int) -> None:
        """Let one go once the others host all that it did."""
        self._live.remove(number)
        everything = set(range(self.map.num_participants))
        self._workers.send(number, "release")
        self._workers.until(lambda: everything <= {i for k in self._live for i in self._status(k, "hosted", [])})
        self._workers.kill(number)

    def kill(self, number: int) -> None:
        """SIGKILL."""
        if number in self._live:
            self._live.remove(number)
        self._workers.kill(number)

    def state(self) -> list[Array]:
        """Everybody's state, as the one who spoke last sees it."""
        return self._workers.state(self._freshest())

    def until(self, rounds: int) -> int:
        """See :class:`Crew`."""
        reached = [0]

        def enough() -> bool:
            number = self._freshest()
            reached[0] = self._status(number, "rounds", 0)
            return len(self._status(number, "view", [])) == self.map.num_participants and reached[0] >= rounds

        self._workers.until(enough)
        return reached[0]

    def close(self) -> None:
        """End all."""
        with suppress(OSError):
            self._workers.__exit__(None, None, None)
        self._folder.cleanup()

    def _status(self, number: int, what: str, otherwise: Any) -> Any:
        return self._workers.status(number).get(what, otherwise)

    def _freshest(self) -> int:
        """Who spoke last: not one who has died meanwhile."""
        return max(self._live, key=lambda number: self._status(number, "time", 0.0))
