"""How bulletins get from peer to peer: a mailbox for each peer that keeps the newest frame and nothing else."""

from __future__ import annotations

from typing import Protocol


class TransportError(ValueError):
    """A transport cannot be set up: a port in use, an address that is none, a package that is missing."""


class Transport(Protocol):
    """Latest-value mailboxes. Frames may be lost, doubled, late and out of order: the iteration does not mind.

    No method blocks on a peer or raises because of one. One thread uses a transport at a time, but for ``wake``.
    """

    @property
    def address(self) -> str:
        """Where others connect to this peer, with the port that was really taken."""

    def connect(self, address: str) -> None:
        """Hear this peer from now on, and let it hear us; again and again is harmless, so is an address of the dead."""

    def disconnect(self, address: str) -> None:
        """Stop listening to this peer."""

    def publish(self, frame: bytes) -> None:
        """Replace what this peer says."""

    def collect(self) -> list[bytes]:
        """Frames that came since the last call, at most the newest of each peer; an empty list if none did."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a frame has come or the time is over; whether one has."""

    def wake(self) -> None:
        """End the ``wait`` of another thread, or else the next one; the one method that any thread may call."""

    def close(self) -> None:
        """Let go of sockets and threads; the last frame may or may not be heard."""
