"""A rank that dies, fails or hangs is named by all the others, whose own errors only say that a connection broke."""

from __future__ import annotations

import atexit
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import Any, Literal

import torch.distributed as dist

State = Literal["dead", "failed", "silent", "busy"]

GRACE = 5.0  # seconds in which living ranks answer, and those that hang in the same exchange fail too
_SETTLE = 0.3  # seconds in which what dies together is seen to
_LINGER = 1.0  # seconds in which the others have to hear a verdict before rank 0 does
_MEANING = {
    "dead": "died: its process is gone; look at its output, and at the memory of its machine",
    "silent": "does not answer: it is stopped, or its machine cannot be reached",
    "busy": "took no part in the exchange: it is stuck, or computes for longer than the others wait",
}
_BROKEN = re.compile(
    r"gloo|nccl|connection (?:closed|reset|refused)|timed out waiting|socket|broken pipe", re.IGNORECASE
)


@dataclass(frozen=True)
class Verdict:
    """Which ranks broke an exchange, and how; the worst that was found, for it explains the rest.

    Attributes:
        state: ``dead`` (the process is gone), ``failed`` (an error of its own), ``silent`` (stopped, or cut off), or
            ``busy`` (alive, but it took no part); None where all ranks only saw the exchange break.
        ranks: who.
        errors: rank → its own error, one line.

    Example:
        >>> str(Verdict("dead", (1,)))
        'rank 1 died: its process is gone; look at its output, and at the memory of its machine'
        >>> str(Verdict("failed", (2,), {2: "ValueError: x"}))
        'rank 2 failed with ValueError: x'
    """

    state: State | None = None
    ranks: tuple[int, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.state == "failed":
            return "; ".join(f"rank {rank} failed with {self.errors[rank]}" for rank in self.ranks)
        who = f"rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"
        return f"{who} {_MEANING[self.state]}" if self.state else ""


class RollCall:
    """Every rank keeps a connection to rank 0, which sees one close and asks all when an exchange breaks.

    A thread in each process answers for it, so a rank that computes is told from one that is gone. A process that ends
    by itself says so; one that is killed cannot, and its connection closes. When rank 0 itself dies, all the others see
    that.

    Args:
        rank: this process.
        connection: to rank 0.
        exit_after: seconds after a verdict at which the process is ended if it has not ended by itself; for devices on
            which an exchange that never completes cannot be interrupted. None to leave it alone.
    """

    def __init__(self, rank: int, connection: Connection, *, exit_after: float | None = None) -> None:
        self._rank = rank
        self._connection = connection
        self._exit_after = exit_after
        self._verdict: Verdict | None = None
        self._known = threading.Event()
        self._closed = False
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="snapshot-parallel-roll-call").start()
        atexit.register(self.close)

    @classmethod
    def open(
        cls,
        *,
        rank: int,
        world_size: int,
        host: str,
        share: Callable[[Any], Any],
        exit_after: float | None = None,
        grace: float = GRACE,
    ) -> RollCall:
        """Start it; every rank calls this.

        Args:
            rank: this process.
            world_size: all processes.
            host: rank 0's address as the others reach it.
            share: gives every rank what rank 0 hands it (a broadcast of a picklable object).
            exit_after: see :class:`RollCall`.
            grace: seconds for which rank 0 waits for answers.

        Raises:
            OSError: rank 0 cannot be reached at a port of its own choice.
        """
        address: tuple[str, int, str] | None = None
        if rank == 0:
            key = os.urandom(16)
            listener = Listener(
                (host if host in ("127.0.0.1", "localhost") else "", 0), backlog=world_size, authkey=key
            )
            hub = _Hub(listener, world_size, grace)
            threading.Thread(target=hub.run, daemon=True, name="snapshot-parallel-roll").start()
            address = (host, listener.address[1], key.hex())
        host, port, secret = share(address)
        connection = Client((host, port), authkey=bytes.fromhex(secret))
        _send(connection, rank=rank)
        return cls(rank, connection, exit_after=exit_after)

    def explain(self, error: BaseException) -> Verdict | None:
        """Say that this rank failed, and learn why.

        Args:
            error: what was raised here.

        Returns:
            What became of the others; None where the error is this rank's own or nobody knows more.
        """
        own = not exchange_broke(error)
        if own and self._known.is_set():
            return None
        with suppress(OSError):
            self._say(failed=f"{type(error).__name__}: {' '.join(str(error).split())}" if own else "")
        self._known.wait(3 * GRACE)
        verdict = self._verdict
        return verdict if not own and verdict is not None and verdict.state else None

    def close(self) -> None:
        """Say that this process ends by itself."""
        self._closed = True
        atexit.unregister(self.close)
        with suppress(OSError):
            self._say(bye=True)

    def _say(self, **message: object) -> None:
        with self._sending:
            _send(self._connection, **message)

    def _listen(self) -> None:
        while True:
            try:
                message = _receive(self._connection)
            except (EOFError, OSError):
                if not self._closed:
                    self._conclude(Verdict("dead", (0,)))
                return
            if message.get("ask"):
                with suppress(OSError):
                    self._say(here=True)
            if "state" in message:
                errors = {int(rank): text for rank, text in message["errors"].items()}
                with suppress(OSError):
                    self._say(heard=True)
                self._conclude(Verdict(message["state"], tuple(message["ranks"]), errors))
            if message.get("bye"):
                return

    def _conclude(self, verdict: Verdict) -> None:
        if self._known.is_set():  # the first verdict names the cause; what follows are its consequences
            return
        self._verdict = verdict
        self._known.set()
        if self._exit_after is not None and verdict.state and self._rank not in verdict.ranks:
            print(f"rank {self._rank}: {verdict}", file=sys.stderr, flush=True)
            time.sleep(self._exit_after)
            if not self._closed:
                os._exit(1)


class _Hub:
    """Rank 0's side: one thread for all connections."""

    def __init__(self, listener: Listener, world_size: int, grace: float) -> None:
        self._listener = listener
        self._world_size = world_size
        self._grace = grace
        self._ranks: dict[Connection, int] = {}
        self._dead: set[int] = set()
        self._left: set[int] = set()
        self._here: set[int] = set()
        self._failed: dict[int, str] = {}
        self._asked: float | None = None

    def run(self) -> None:
        while len(self._ranks) < self._world_size:
            with suppress(AuthenticationError, EOFError, OSError):  # a stranger at the port
                connection = self._listener.accept()
                self._ranks[connection] = int(_receive(connection)["rank"])
        self._listener.close()
        while self._ranks:
            ready = wait(self._ranks, None if self._asked is None else 0.05)
            for connection in [connection for connection in self._ranks if connection in ready]:
                self._take(connection)
            if self._asked is not None and self._settled(time.monotonic() - self._asked):
                self._tell()
                return

    def _take(self, connection: Connection) -> None:
        rank = self._ranks[connection]
        try:
            message = _receive(connection)
        except (EOFError, OSError):
            del self._ranks[connection]
            if rank not in self._left:
                self._dead.add(rank)
                self._ask()
            return
        if message.get("bye"):
            self._left.add(rank)
        if message.get("here"):
            self._here.add(rank)
        if "failed" in message:
            self._failed[rank] = message["failed"]
            self._ask()

    def _ask(self) -> None:
        if self._asked is None:
            self._asked = time.monotonic()
            self._send_all(self._ranks, ask=True)

    def _settled(self, waited: float) -> bool:
        if self._dead or any(self._failed.values()):
            return waited > _SETTLE
        accounted = self._failed.keys() | self._left
        return waited > self._grace or (waited > _SETTLE and len(accounted) == self._world_size)

    def _tell(self) -> None:
        errors = {rank: text for rank, text in self._failed.items() if text}
        late = set(range(self._world_size)) - self._failed.keys() - self._left
        found: dict[State, set[int]] = {
            "dead": self._dead,
            "failed": set(errors),
            "silent": late - self._here,
            "busy": late,
        }
        state = next((state for state, ranks in found.items() if ranks), None)
        ranks = sorted(found[state]) if state else []
        verdict = {"state": state, "ranks": ranks, "errors": errors}
        others = {connection: rank for connection, rank in self._ranks.items() if rank != 0}
        self._send_all(others, **verdict)
        # Rank 0 may end once it knows, and what is on the way to the others would be lost with it.
        self._heard_by({connection for connection, rank in others.items() if rank in self._here | self._failed.keys()})
        self._send_all(self._ranks.keys() - others.keys(), **verdict)

    def _heard_by(self, connections: set[Connection]) -> None:
        end = time.monotonic() + _LINGER
        while connections and time.monotonic() < end:
            for connection in [connection for connection in wait(connections, 0.05) if connection in connections]:
                try:
                    heard = _receive(connection).get("heard")
                except (EOFError, OSError):
                    heard = True
                if heard:
                    connections.discard(connection)

    def _send_all(self, connections: Iterable[Connection], **message: object) -> None:
        for connection in connections:
            with suppress(OSError):
                _send(connection, **message)


def exchange_broke(error: BaseException) -> bool:
    """Whether an error says only that an exchange between ranks broke or timed out.

    Example:
        >>> exchange_broke(RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:2"))
        True
        >>> exchange_broke(ValueError("got a connection")), exchange_broke(RuntimeError("shapes differ"))
        (False, False)
    """
    if isinstance(error, dist.DistError):
        return True
    return type(error) in (RuntimeError, ConnectionError) and _BROKEN.search(str(error)) is not None


def _send(connection: Connection, **message: object) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> dict[str, Any]:
    message = json.loads(connection.recv_bytes())
    if not isinstance(message, dict):
        raise OSError("not a message of ours")
    return message
