"""Peers in one process: threads, or turns of one thread, as tests take them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from fulgurite.plugins.dynamic_async.engine.addresses import check_address, is_address
from fulgurite.plugins.dynamic_async.engine.transport import TransportError


class Hub:
    """Connects the :class:`InProcessTransport` that share it. Any thread may use any of them.

    Example:
        >>> hub = Hub()
        >>> first, second = InProcessTransport(hub, "memory://first"), InProcessTransport(hub, "memory://second")
        >>> second.connect(first.address)
        >>> first.publish(b"old"), first.publish(b"new"), second.publish(b"hello")
        (None, None, None)
        >>> second.collect(), first.collect()
        ([b'new'], [b'hello'])
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[str, InProcessTransport] = {}
        # Who listens to an address, kept while nobody is there: whoever takes the address next is heard too.
        self._listeners: defaultdict[str, set[InProcessTransport]] = defaultdict(set)
        self._named = 0


class InProcessTransport:
    """Mailboxes in memory, with the habits of the other transports: a frame reaches those who listen when it is said.

    Args:
        hub: what the peers share.
        address: ``memory://name``; None: the next number.

    Raises:
        TransportError: the address is taken, or is none.
    """

    def __init__(self, hub: Hub, address: str | None = None) -> None:
        self._hub = hub
        self._newest: dict[str, bytes] = {}
        self._woken = False
        with hub._changed:
            if address is None:
                hub._named += 1
                address = f"memory://{hub._named}"
            self._address = check_address(address, ("memory",))
            if address in hub._open:
                raise TransportError(f"{address} is in use; choose another name")
            hub._open[address] = self
            for other in hub._listeners[address]:
                hub._listeners[other.address].add(self)

    @property
    def address(self) -> str:
        """``memory://name``."""
        return self._address

    def connect(self, address: str) -> None:
        """Hear this peer from now on, and let it hear us; it may come later."""
        with self._hub._changed:
            if address == self._address or not is_address(address, ("memory",)) or not self._is_open():
                return
            self._hub._listeners[address].add(self)
            other = self._hub._open.get(address)
            if other is not None:
                self._hub._listeners[self._address].add(other)

    def disconnect(self, address: str) -> None:
        """Stop listening to this peer."""
        with self._hub._changed:
            self._hub._listeners[address].discard(self)
            self._newest.pop(address, None)

    def publish(self, frame: bytes) -> None:
        """Replace what this peer says."""
        with self._hub._changed:
            if not self._is_open():
                return
            for listener in self._hub._listeners[self._address]:
                listener._newest[self._address] = frame
            self._hub._changed.notify_all()

    def collect(self) -> list[bytes]:
        """The newest frame of each peer that has spoken since the last call."""
        with self._hub._changed:
            frames = list(self._newest.values())
            self._newest.clear()
            return frames

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a frame has come, ``wake`` is called or the time is over; whether a frame has."""
        deadline = time.monotonic() + timeout_s
        with self._hub._changed:
            while not self._newest and not self._woken:
                left = deadline - time.monotonic()
                if left <= 0 or not self._is_open():
                    break
                self._hub._changed.wait(left)
            self._woken = False
            return bool(self._newest)

    def wake(self) -> None:
        """End the ``wait`` of another thread, or the next one."""
        with self._hub._changed:
            self._woken = True
            self._hub._changed.notify_all()

    def close(self) -> None:
        """Leave the hub; the address is free again."""
        with self._hub._changed:
            if not self._is_open():
                return
            del self._hub._open[self._address]
            for listeners in self._hub._listeners.values():
                listeners.discard(self)
            self._newest.clear()
            self._hub._changed.notify_all()

    def _is_open(self) -> bool:
        return self._hub._open.get(self._address) is self
