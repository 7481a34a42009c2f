"""Mailboxes on ZeroMQ, for peers on one machine or several."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import socket as sockets
import time
from collections import Counter
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from fulgurite.plugins.dynamic_async.engine.addresses import check_address, is_address, is_local, split_tcp
from fulgurite.plugins.dynamic_async.engine.curve import CurvePair, Doorkeeper
from fulgurite.plugins.dynamic_async.engine.frames import MAX_HELLO_BYTES, Codec, FrameError
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

if TYPE_CHECKING:
    import zmq

_log = logging.getLogger(__name__)
_LEAST_LIBZMQ = (4, 3, 5)  # older ones lose messages where a CONFLATE publisher has several subscribers
_SCHEMES = ("tcp", "ipc")
_PORT_ATTEMPTS = 64
_HELLOS_UNHEARD = 10
_HELLOS_AT_ONCE = 64  # so that a flood of greetings cannot keep a peer from its work


@dataclass
class _Peer:
    hears: zmq.Socket[bytes]
    greets: zmq.Socket[bytes]
    sign_at: float  # when it last spoke, or else was connected to


class ZmqTransport:
    """Each peer publishes on one socket and subscribes to every other peer's; only the newest frame waits anywhere.

    ``listen`` takes two ports: the one given, where the frames are published, and the next one, where a joiner says
    once a second in a short authenticated greeting where it publishes, whereupon it is subscribed to. A socket file
    ``ipc:///path`` has ``/path.hello`` beside it. Frames are only ever received over connections that this side has
    made, to addresses from an authenticated frame or greeting; libzmq drops what is too long before it is stored.

    In the clear, whoever reaches the ports can read the values and cost some memory, but say nothing that is heard;
    with CURVE, only the handshake is left to strangers.

    Made in the process that uses it, after any fork. One thread at a time may use it, but for ``wake``.

    Args:
        listen: ``tcp://host:port`` with port 0 for any free pair, ``tcp://[::1]:port``, or ``ipc:///path``.
        codec: makes and checks the greetings.
        advertise: host name or number under which others reach this one; needed where it listens on all interfaces.
        curve: "auto": peers whose address is not on this machine are spoken to with CURVE, by a pair of keys derived
            from the shared key, the others in the clear; a pair: CURVE with it everywhere; None: never. All peers
            must be told the same.
        max_peers: how many are listened to; greetings and connections beyond are counted and dropped.
        hello_s: seconds between greetings; a peer silent for ten of them is connected to anew.

    Attributes:
        rejected: greetings and addresses that were dropped, by reason (that of the ``FrameError``, "address", "peers",
            "parts": a message of several, which only a stranger sends).

    Raises:
        TransportError: the port is in use or not to be had, the address is none, pyzmq is missing or too old.

    Example:
        >>> codec = Codec(b"k" * 32, b"n" * 16, b"m" * 16)
        >>> first, second = ZmqTransport(codec=codec), ZmqTransport(codec=codec)
        >>> second.connect(first.address)
        >>> frames = []
        >>> while not frames:
        ...     first.publish(b"what first says")
        ...     _ = second.wait(0.05)
        ...     frames = second.collect()
        >>> frames
        [b'what first says']
        >>> first.close(), second.close()
        (None, None)
    """

    def __init__(
        self,
        listen: str = "tcp://127.0.0.1:0",
        *,
        codec: Codec,
        advertise: str | None = None,
        curve: CurvePair | Literal["auto"] | None = "auto",
        max_peers: int = 256,
        hello_s: float = 1.0,
    ) -> None:
        self._zmq = _import_zmq()
        check_address(listen, _SCHEMES)
        self.rejected: Counter[str] = Counter()
        self._codec = codec
        self._curve = curve
        self._max_peers = max_peers
        self._hello_s = hello_s
        self._greet_at = 0.0
        self._process = os.getpid()
        self._woken = False
        self._newest: dict[str, bytes] = {}
        self._peers: dict[str, _Peer] = {}
        self._dropped: set[str] = set()
        self._by_socket: dict[zmq.Socket[bytes], str] = {}
        self._context = self._zmq.Context(io_threads=1)
        self._context.set(self._zmq.MAX_SOCKETS, 4 * max_peers + 16)
        self._wakes, self._waker = sockets.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._doorkeeper: Doorkeeper | None = None
        try:
            self._listen(listen, _advertised(listen, advertise))
        except BaseException:
            self.close()
            raise
        self._hello = codec.encode_hello(self._address)
        self._poller = self._zmq.Poller()
        self._poller.register(self._greetings, self._zmq.POLLIN)
        self._poller.register(self._wakes.fileno(), self._zmq.POLLIN)
        if self._doorkeeper:
            self._poller.register(self._doorkeeper.socket, self._zmq.POLLIN)

    @property
    def address(self) -> str:
        """Where others connect to, with the port that was really taken."""
        return self._address

    @property
    def connected(self) -> tuple[str, ...]:
        """Addresses that are listened to."""
        return tuple(self._peers)

    def connect(self, address: str) -> None:
        """Hear this peer from now on, whenever it is there, and greet it so that it hears us."""
        self._check_process()
        if address == self._address or address in self._peers or self._context.closed:
            return
        # Not only for good manners: libzmq aborts the process on some (inproc with CONFLATE).
        if not is_address(address, _SCHEMES) or address.endswith(":0"):
            self.rejected["address"] += 1
            return
        if len(self._peers) >= self._max_peers:
            self.rejected["peers"] += 1
            return
        self._dropped.discard(address)
        try:
            self._open(address)
        except self._zmq.ZMQError:
            self.rejected["address"] += 1

    def disconnect(self, address: str) -> None:
        """Stop listening to this peer, until it greets again or is connected to again."""
        self._check_process()
        self._newest.pop(address, None)
        self._dropped.discard(address)
        self._leave(address)

    def publish(self, frame: bytes) -> None:
        """Replace what this peer says."""
        self._check_process()
        if self._context.closed:
            return
        # Whoever computes for long, and only says so now and then, hears greetings all the same.
        self._drain()
        self._publishes.send(frame, flags=self._zmq.NOBLOCK)

    def collect(self) -> list[bytes]:
        """The newest frame of each peer that was heard since the last call."""
        self._check_process()
        self._drain()
        frames = list(self._newest.values())
        self._newest.clear()
        return frames

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a frame has come, ``wake`` is called or the time is over; whether a frame has."""
        self._check_process()
        deadline = time.monotonic() + timeout_s
        while not self._context.closed:
            self._drain()
            now = time.monotonic()
            if self._newest or self._woken or now >= deadline:
                break
            self._poller.poll(math.ceil(1000 * max(0.0, min(deadline, self._greet_at) - now)))
        self._woken = False
        return bool(self._newest)

    def wake(self) -> None:
        """End the ``wait`` of another thread, or the next one."""
        try:
            self._waker.send(b"w")
        except OSError:
            return  # closed, or so many wakes are under way that one more says nothing new

    def close(self) -> None:
        """Close all sockets; what is still on its way is dropped."""
        if os.getpid() == self._process:
            self._context.destroy(linger=0)
        self._peers.clear()
        self._by_socket.clear()
        self._newest.clear()
        self._wakes.close()
        self._waker.close()

    def _listen(self, listen: str, host: str) -> None:
        parts = split_tcp(listen)
        pair = self._pair(listen if parts is None else f"tcp://{_bracketed(host)}:{parts[1]}")
        if pair:
            self._doorkeeper = Doorkeeper(self._context, pair)
        self._publishes = self._socket(self._zmq.PUB, listen)
        self._publishes.setsockopt(self._zmq.CONFLATE, 1)
        self._greetings = self._socket(self._zmq.PULL, listen)
        self._greetings.setsockopt(self._zmq.RCVHWM, 16)
        for socket in (self._publishes, self._greetings):
            # Subscriptions and greetings are all that comes in here, from anybody.
            socket.setsockopt(self._zmq.MAXMSGSIZE, MAX_HELLO_BYTES)
            if pair:
                pair.serve(socket)
        if parts is None:
            for path in (listen, _greeting_address(listen)):
                _check_file(path)
            self._bind(self._publishes, listen)
            self._bind(self._greetings, _greeting_address(listen))
            self._address = listen
            return
        interface = _bracketed("127.0.0.1" if parts[0] == "localhost" else parts[0])
        port = parts[1] or self._bind_any(interface)
        if parts[1]:
            self._bind(self._publishes, f"tcp://{interface}:{port}")
            self._bind(self._greetings, _greeting_address(f"tcp://{interface}:{port}"))
        self._address = f"tcp://{_bracketed(host)}:{port}"

    def _bind_any(self, interface: str) -> int:
        """Bind both sockets to two ports in a row; the first of them."""
        for _ in range(_PORT_ATTEMPTS):
            self._bind(self._publishes, f"tcp://{interface}:*")
            endpoint = self._publishes.getsockopt_string(self._zmq.LAST_ENDPOINT)
            port = int(endpoint.rpartition(":")[2])
            try:
                self._greetings.bind(f"tcp://{interface}:{port + 1}")
            except self._zmq.ZMQError:
                self._publishes.unbind(endpoint)
            else:
                return port
        raise TransportError(f"no two free ports in a row on {interface}; name one")

    def _bind(self, socket: zmq.Socket[bytes], address: str) -> None:
        try:
            socket.bind(address)
        except self._zmq.ZMQError as error:
            if error.errno == self._zmq.EADDRINUSE:
                raise TransportError(
                    f"{address} is in use; choose another port (two in a row are taken), or 0 for any that is free"
                ) from error
            raise TransportError(
                f"cannot listen on {address}: {error}; give the number of an interface of this machine, and in "
                "advertise the name that others know it by"
            ) from error

    def _open(self, address: str) -> None:
        hears = self._socket(self._zmq.SUB, address)
        # Before the connection: libzmq makes the one-place queue then.
        hears.setsockopt(self._zmq.CONFLATE, 1)
        hears.setsockopt(self._zmq.MAXMSGSIZE, self._codec.max_bytes)
        hears.setsockopt(self._zmq.SUBSCRIBE, b"")
        greets = self._socket(self._zmq.PUSH, address)
        greets.setsockopt(self._zmq.CONFLATE, 1)
        greets.setsockopt(self._zmq.MAXMSGSIZE, MAX_HELLO_BYTES)
        pair = self._pair(address)
        try:
            for socket, target in ((hears, address), (greets, _greeting_address(address))):
                socket.setsockopt(self._zmq.RECONNECT_IVL, 100)
                socket.setsockopt(self._zmq.RECONNECT_IVL_MAX, 2000)
                if pair:
                    pair.knock(socket)
                socket.connect(target)
        except self._zmq.ZMQError:
            hears.close(linger=0)
            greets.close(linger=0)
            raise
        self._poller.register(hears, self._zmq.POLLIN)
        self._by_socket[hears] = address
        self._peers[address] = _Peer(hears, greets, time.monotonic())
        self._greet(self._peers[address])

    def _leave(self, address: str) -> None:
        peer = self._peers.pop(address, None)
        if peer is not None:
            self._poller.unregister(peer.hears)
            del self._by_socket[peer.hears]
            peer.hears.close(linger=0)
            peer.greets.close(linger=0)

    def _socket(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        parts = split_tcp(address)
        for option, value in (
            (self._zmq.LINGER, 0),
            (self._zmq.SNDHWM, 1),
            (self._zmq.RCVHWM, 1),
            (self._zmq.IPV6, int(parts is not None and ":" in parts[0])),
            (self._zmq.TCP_KEEPALIVE, 1),
            (self._zmq.TCP_KEEPALIVE_IDLE, 10),
            (self._zmq.TCP_KEEPALIVE_INTVL, 5),
            (self._zmq.TCP_KEEPALIVE_CNT, 3),
            (self._zmq.HEARTBEAT_IVL, 5_000),  # a machine that vanished says no goodbye
            (self._zmq.HEARTBEAT_TIMEOUT, 15_000),
            (self._zmq.HANDSHAKE_IVL, 10_000),  # who connects and says nothing is put off
        ):
            socket.setsockopt(option, value)
        return socket

    def _pair(self, address: str) -> CurvePair | None:
        """How a peer with this address is spoken to; both sides come to the same by looking at it."""
        if self._curve == "auto":
            return None if is_local(address) else CurvePair.derived(self._codec)
        return self._curve

    def _greet(self, peer: _Peer) -> None:
        try:
            peer.greets.send(self._hello, flags=self._zmq.NOBLOCK)
        except self._zmq.Again:
            return  # the last greeting still waits for the peer to be there

    def _drain(self) -> None:
        """Take in what has come, without waiting, and greet when it is time."""
        if self._context.closed:
            return
        for ready, _ in self._poller.poll(0):
            if ready is self._greetings:
                self._hear_greetings()
            elif self._doorkeeper and ready is self._doorkeeper.socket:
                self._doorkeeper.answer()
            elif ready in self._by_socket:
                self._hear(ready)
            elif ready == self._wakes.fileno():
                self._wakes.recv(4096)
                self._woken = True
        now = time.monotonic()
        if now >= self._greet_at:
            self._greet_at = now + self._hello_s
            for address in list(self._dropped):
                self.connect(address)
            for address, peer in list(self._peers.items()):
                # Libzmq gives a connection up for good where something else answered, or a message was too long.
                if now - peer.sign_at > _HELLOS_UNHEARD * self._hello_s:
                    self._leave(address)
                    self.connect(address)
                else:
                    self._greet(peer)

    def _hear(self, socket: zmq.Socket[bytes]) -> None:
        address = self._by_socket[socket]
        # Twice: a connection that was made anew may have one frame in each of its queues.
        for _ in range(2):
            try:
                frame = socket.recv(flags=self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            if socket.getsockopt(self._zmq.RCVMORE):
                # No peer of ours says so. Reading on would abort the process: the rest may never come, for CONFLATE
                # keeps no messages together, and libzmq asserts that it does.
                self.rejected["parts"] += 1
                self._leave(address)
                self._dropped.add(address)
                return
            self._newest[address] = frame
            self._peers[address].sign_at = time.monotonic()

    def _hear_greetings(self) -> None:
        for _ in range(_HELLOS_AT_ONCE):
            try:
                frame = self._greetings.recv(flags=self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            try:
                address = self._codec.decode_hello(frame)
            except FrameError as error:
                if not self.rejected[error.reason]:
                    _log.warning("a greeting was dropped, and so will others like it be: %s", error)
                self.rejected[error.reason] += 1
            else:
                self.connect(address)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise TransportError("this transport was made before a fork; make one in the process that uses it")


def _import_zmq() -> ModuleType:
    try:
        import zmq
    except ImportError as error:
        raise TransportError("ZeroMQ is missing; pip install 'fulgurite[async]'") from error
    if zmq.zmq_version_info() < _LEAST_LIBZMQ:
        raise TransportError(
            f"libzmq {zmq.zmq_version()} loses messages; 4.3.5 or newer is needed: pip install -U pyzmq"
        )
    return zmq


def _advertised(listen: str, advertise: str | None) -> str:
    """The host that others are told; empty for a socket file."""
    parts = split_tcp(listen)
    if parts is None:
        return ""
    try:
        everywhere = ipaddress.ip_address(parts[0]).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere and advertise is None:
        raise TransportError(f"{listen} is every interface; say in advertise what others reach this machine by")
    host = advertise or parts[0]
    address = f"tcp://{_bracketed(host)}:{parts[1]}"
    check_address(address, _SCHEMES)
    if is_local(address) and not is_local(listen):
        raise TransportError(f"{listen} is open to other machines and {host} is known on this one only; listen there")
    return host


def _greeting_address(address: str) -> str:
    """Where greetings to the peer at this address go."""
    parts = split_tcp(address)
    return f"{address}.hello" if parts is None else f"tcp://{_bracketed(parts[0])}:{parts[1] + 1}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_file(address: str) -> None:
    """Libzmq takes a socket file from whoever has it, without a word."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        if probe.connect_ex(address.removeprefix("ipc://")) == 0:
            raise TransportError(f"{address} is in use; choose another path")
