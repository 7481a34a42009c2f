"""Faults on purpose, from a seed: processes that die or sleep, messages lost, doubled, late or out of order."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from fulgurite.plugins.dynamic_async.engine.transport import Transport

_CHANCES = ("kill", "pause", "drop", "duplicate", "reorder", "delay", "partition")


@dataclass(frozen=True)
class Faults:
    """What may go wrong, and how often; nothing by default.

    Args:
        seed: of all chances; each peer draws its own by its ``salt``.
        kill: chance a step that the process kills itself by SIGKILL.
        pause: chance a step that it stops itself by SIGSTOP, for ``pause_s``.
        partition: chance a step that it is cut off from everybody, both ways, for ``partition_s``.
        drop: chance that an incoming frame is lost.
        duplicate: chance that it comes again within ``delay_s``.
        reorder: chance that it comes after the next one.
        delay: chance that it comes up to ``delay_s`` late.
        pause_s: seconds.
        partition_s: seconds.
        delay_s: seconds.

    Raises:
        ValueError: a chance that is not from 0 to 1, or a negative time.

    Example:
        >>> Faults(seed=7, drop=0.1).any_of_messages, Faults(kill=0.01).any_of_messages
        (True, False)
    """

    seed: int = 0
    kill: float = 0.0
    pause: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    partition: float = 0.0
    pause_s: float = 3.0
    partition_s: float = 3.0
    delay_s: float = 0.5

    def __post_init__(self) -> None:
        for name in _CHANCES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance from 0 to 1; got {getattr(self, name)}")
        for name in ("pause_s", "partition_s", "delay_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is a time in seconds; got {getattr(self, name)}")

    @property
    def any_of_messages(self) -> bool:
        """Whether messages are touched at all."""
        return any(getattr(self, name) for name in ("drop", "duplicate", "reorder", "delay", "partition"))


class FaultyTransport:
    """A transport that treats incoming frames as :class:`Faults` say, and can be cut off from peers.

    Args:
        transport: the real one.
        faults: how often.
        salt: another one for each peer.
        sender: the address that a frame is from, for ``cut``; None: only whole isolation is possible.
        clock: seconds that never run backwards.

    Attributes:
        counts: how many frames were dropped, doubled, held back.

    Example:
        >>> from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
        >>> hub = Hub()
        >>> speaker, listener = InProcessTransport(hub), FaultyTransport(InProcessTransport(hub), Faults(drop=1.0))
        >>> listener.connect(speaker.address)
        >>> speaker.publish(b"hello")
        >>> listener.collect(), listener.counts["drop"]
        ([], 1)
    """

    def __init__(
        self,
        transport: Transport,
        faults: Faults,
        *,
        salt: int = 0,
        sender: Callable[[bytes], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = dict.fromkeys(("drop", "duplicate", "reorder", "delay", "cut"), 0)
        self._transport, self._faults, self._sender, self._clock = transport, faults, sender, clock
        self._chance = np.random.default_rng([faults.seed, salt, 1])
        self._held: list[tuple[float, bytes]] = []
        self._cut: Collection[str] | None = ()
        self._isolated_until = float("-inf")

    @property
    def address(self) -> str:
        """Of the real one."""
        return self._transport.address

    @property
    def rejected(self) -> Mapping[str, int]:
        """Of the real one, where it counts."""
        return getattr(self._transport, "rejected", {})

    @property
    def isolated(self) -> bool:
        """Cut off from everybody at the moment."""
        return self._cut is None or self._clock() < self._isolated_until

    def isolate(self, seconds: float) -> None:
        """Be cut off from everybody, both ways, for a time."""
        self._isolated_until = self._clock() + seconds

    def cut(self, addresses: Collection[str] | None) -> None:
        """Hear nothing from these peers any more, until ``heal``; None: from nobody, and nobody hears this one.

        Raises:
            ValueError: addresses were given, but not ``sender``.
        """
        if addresses is not None and self._sender is None:
            raise ValueError("to cut off single peers, give the transport a `sender` that knows whom a frame is from")
        self._cut = addresses

    def heal(self) -> None:
        """Hear everybody again."""
        self._cut = ()
        self._isolated_until = float("-inf")

    def connect(self, address: str) -> None:
        """As the real one."""
        self._transport.connect(address)

    def disconnect(self, address: str) -> None:
        """As the real one."""
        self._transport.disconnect(address)

    def publish(self, frame: bytes) -> None:
        """As the real one, unless isolated."""
        if not self.isolated:
            self._transport.publish(frame)

    def collect(self) -> list[bytes]:
        """What came, less what was lost, and what was held back and is due."""
        now = self._clock()
        due = [frame for at, frame in self._held if at <= now]
        self._held = [(at, frame) for at, frame in self._held if at > now]
        passed: list[bytes] = []
        for frame in self._transport.collect():
            if self._is_cut(frame):
                self.counts["cut"] += 1
            else:
                passed += self._treat(frame, now)
        return passed + due

    def wait(self, timeout_s: float) -> bool:
        """As the real one."""
        return self._transport.wait(timeout_s)

    def wake(self) -> None:
        """As the real one."""
        self._transport.wake()

    def close(self) -> None:
        """As the real one."""
        self._transport.close()

    def _is_cut(self, frame: bytes) -> bool:
        if self.isolated:
            return True
        return bool(self._cut) and self._sender is not None and self._sender(frame) in (self._cut or ())

    def _treat(self, frame: bytes, now: float) -> list[bytes]:
        faults = self._faults
        drop, duplicate, reorder, delay, late = self._chance.random(5)
        if drop < faults.drop:
            self.counts["drop"] += 1
            return []
        if duplicate < faults.duplicate:
            self.counts["duplicate"] += 1
            self._held.append((now + late * faults.delay_s, frame))
        if delay < faults.delay or reorder < faults.reorder:
            # Out of order: due at once, but only the next collecting looks, and puts it behind what is new then.
            wait_s = late * faults.delay_s if delay < faults.delay else 0.0
            self.counts["delay" if delay < faults.delay else "reorder"] += 1
            self._held.append((now + wait_s, frame))
            return []
        return [frame]


class Striker:
    """Kills, stops or isolates this process by chance, once a step; for ``Peer(strike=…)``.

    Args:
        faults: how often.
        salt: another one for each peer.
        transport: for ``partition``.

    Example:
        >>> Striker(Faults())()
    """

    def __init__(self, faults: Faults, *, salt: int = 0, transport: FaultyTransport | None = None) -> None:
        self._faults, self._transport = faults, transport
        self._chance = np.random.default_rng([faults.seed, salt, 2])

    def __call__(self) -> None:
        """Draw, and strike."""
        kill, pause, partition = self._chance.random(3)
        if kill < self._faults.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if pause < self._faults.pause:
            pause_process(self._faults.pause_s)
        if partition < self._faults.partition and self._transport is not None:
            self._transport.isolate(self._faults.partition_s)


def pause_process(seconds: float) -> None:
    """Stop this process by SIGSTOP, heartbeats and all; a shell wakes it after so many seconds."""
    waker = subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds:g}; kill -CONT {os.getpid()}"])
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
    finally:
        waker.wait()
