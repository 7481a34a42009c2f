"""Mailboxes in named Ray actors, for peers on a Ray cluster."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from types import ModuleType
from typing import Any

from fulgurite.plugins.dynamic_async.engine.addresses import check_address, is_address
from fulgurite.plugins.dynamic_async.engine.frames import MAX_HELLO_BYTES, Codec, FrameError
from fulgurite.plugins.dynamic_async.engine.ray_mailbox import Mailbox
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

_SCHEMES = ("ray",)
_PATIENCE_S = 5.0  # how long a mailbox that has nothing new keeps a question
_SLICE_S = 0.05  # how often a sleeper looks whether it is woken


class RayTransport:
    """Each peer has one actor with its newest frame; every other keeps a question open there.

    An actor that cannot be reached is a stale read: the question is asked again later, and nothing is raised. Ray
    places the actors, and starts them again when they die; when the process that made one ends, so does the actor.
    Frames are authenticated like everywhere, but who has access to a Ray cluster can run code on it anyhow.

    Args:
        codec: makes and checks the greetings; its run gives the actors a namespace of their own.
        address: ``ray://name``; None: a name of its own.
        cluster: what ``ray.init`` is given where this process is not connected yet: the address of a cluster, or
            None for ``$RAY_ADDRESS`` or else a new one on this machine, which ends with ``close``.
        max_peers: how many are listened to.
        hello_s: seconds between greetings, and between attempts to reach an actor.

    Attributes:
        rejected: greetings and addresses that were dropped, by reason.

    Raises:
        TransportError: Ray is missing, there is no cluster at that address, the name is taken or is none.

    Example:
        Two peers of a training, each in its process, on a cluster that ``ray start --head`` has started::

            transport = RayTransport(codec=codec, address="ray://peer-1", cluster="auto")
            transport.connect("ray://peer-0")
    """

    def __init__(
        self,
        *,
        codec: Codec,
        address: str | None = None,
        cluster: str | None = None,
        max_peers: int = 256,
        hello_s: float = 1.0,
    ) -> None:
        self._ray = _import_ray()
        self._address = check_address(address or f"ray://{secrets.token_hex(8)}", _SCHEMES)
        self.rejected: Counter[str] = Counter()
        self._codec = codec
        self._namespace = f"fulgurite-{codec.nonce.hex()}"
        self._max_peers = max_peers
        self._hello_s = hello_s
        self._hello = codec.encode_hello(self._address)
        self._greet_at = 0.0
        self._newest: dict[str, bytes] = {}
        self._peers: dict[str, _Question] = {}
        self._woken = threading.Event()
        self._closed = False
        self._owns_cluster = not self._ray.is_initialized()
        if self._owns_cluster:
            self._join(cluster)
        try:
            self._mailbox = self._make()
        except BaseException:
            self._leave_cluster()
            raise
        self._greetings = self._mailbox.greetings.remote(_PATIENCE_S)
        self._publisher = _Publisher(self._ray, self._mailbox)

    @property
    def address(self) -> str:
        """``ray://name``."""
        return self._address

    @property
    def connected(self) -> tuple[str, ...]:
        """Addresses that are listened to."""
        return tuple(self._peers)

    def connect(self, address: str) -> None:
        """Hear this peer from now on, whenever its actor is there, and greet it so that it hears us."""
        if self._closed or address == self._address or address in self._peers:
            return
        if not is_address(address, _SCHEMES):
            self.rejected["address"] += 1
        elif len(self._peers) >= self._max_peers:
            self.rejected["peers"] += 1
        else:
            self._peers[address] = _Question(self._ray, address.removeprefix("ray://"), self._namespace)
            self._peers[address].greet(self._hello)
            self._peers[address].ask()

    def disconnect(self, address: str) -> None:
        """Stop listening to this peer, until it greets again or is connected to again."""
        self._peers.pop(address, None)
        self._newest.pop(address, None)

    def publish(self, frame: bytes) -> None:
        """Replace what this peer says."""
        if not self._closed:
            self._publisher.publish(frame)
            self._drain(0.0)

    def collect(self) -> list[bytes]:
        """The newest frame of each peer that was heard since the last call."""
        self._drain(0.0)
        frames = list(self._newest.values())
        self._newest.clear()
        return frames

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a frame has come, ``wake`` is called or the time is over; whether a frame has."""
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            left = deadline - time.monotonic()
            self._drain(0.0 if self._newest or self._woken.is_set() else min(max(left, 0.0), _SLICE_S))
            if self._newest or self._woken.is_set() or left <= 0:
                break
        self._woken.clear()
        return bool(self._newest)

    def wake(self) -> None:
        """End the ``wait`` of another thread, or the next one."""
        self._woken.set()

    def close(self) -> None:
        """End the actor, and the cluster if it was started here."""
        if self._closed:
            return
        self._closed = True
        self._peers.clear()
        self._newest.clear()
        self._publisher.close()
        self._ray.kill(self._mailbox)
        # The name is free a moment later; who takes it next should not have to wait for that.
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and _actor(self._ray, self._address[6:], self._namespace) is not None:
            time.sleep(0.01)
        self._leave_cluster()

    def _join(self, cluster: str | None) -> None:
        try:
            self._ray.init(address=cluster, log_to_driver=False, include_dashboard=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TransportError(
                f"no Ray cluster at {cluster or 'this machine'}: {error}; start one with `ray start --head`"
            ) from error

    def _leave_cluster(self) -> None:
        if self._owns_cluster:
            self._ray.shutdown()

    def _make(self) -> Any:
        actor = self._ray.remote(num_cpus=0, max_restarts=-1)(Mailbox)
        try:
            return actor.options(name=self._address[6:], namespace=self._namespace).remote(MAX_HELLO_BYTES)
        except ValueError as error:
            raise TransportError(f"{self._address} is in use; choose another name") from error

    def _drain(self, timeout_s: float) -> None:
        """Take in what has come, and ask again."""
        if self._closed:
            return
        questions = {question.open: address for address, question in self._peers.items() if question.open is not None}
        if self._greetings is not None:
            questions[self._greetings] = ""
        references = list(questions)
        if not references:
            time.sleep(timeout_s)
        ready = self._ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
        if references and not ready and timeout_s > 0:
            ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
        for reference in ready:
            address = questions[reference]
            if not address:
                self._hear_greetings()
            elif address in self._peers:
                frame = self._peers[address].answer()
                if frame is not None:
                    self._newest[address] = frame
        now = time.monotonic()
        if now >= self._greet_at:
            self._greet_at = now + self._hello_s
            if self._greetings is None:
                self._greetings = self._mailbox.greetings.remote(_PATIENCE_S)
            for question in self._peers.values():
                question.greet(self._hello)
                question.ask()

    def _hear_greetings(self) -> None:
        try:
            greetings = self._ray.get(self._greetings)
        except self._ray.exceptions.RayError:
            self._greetings = None  # Ray is starting the actor again
            return
        self._greetings = self._mailbox.greetings.remote(_PATIENCE_S)
        for greeting in greetings:
            try:
                address = self._codec.decode_hello(greeting)
            except FrameError as error:
                self.rejected[error.reason] += 1
            else:
                self.connect(address)


class _Question:
    """What is asked of one peer's mailbox: its newest frame, and only one question at a time."""

    def __init__(self, ray: ModuleType, name: str, namespace: str) -> None:
        self._ray = ray
        self._name = name
        self._namespace = namespace
        self._mailbox: Any = None
        self._life = b""
        self._number = 0
        self.open: Any = None

    def ask(self) -> None:
        """Ask, unless a question is open or the actor is not there."""
        if self.open is None and self._reached():
            self.open = self._mailbox.newest.remote(self._life, self._number, _PATIENCE_S)

    def answer(self) -> bytes | None:
        """Read what is ready, and ask again; None: nothing new, or the actor is gone and is looked for later."""
        reference, self.open = self.open, None
        try:
            self._life, self._number, frame = self._ray.get(reference)
        except self._ray.exceptions.RayError:
            self._mailbox = None
            return None
        self.ask()
        return bytes(frame) if frame is not None else None

    def greet(self, greeting: bytes) -> None:
        """Leave word; nobody waits for it to arrive."""
        if self._reached():
            self._mailbox.greet.remote(greeting)

    def _reached(self) -> bool:
        if self._mailbox is None:
            self._mailbox = _actor(self._ray, self._name, self._namespace)
        return self._mailbox is not None


class _Publisher:
    """Hands frames to the own mailbox one after the other; what is replaced before its turn is never sent."""

    def __init__(self, ray: ModuleType, mailbox: Any) -> None:
        self._ray = ray
        self._mailbox = mailbox
        self._changed = threading.Condition()
        self._frame: bytes | None = None
        self._open = True
        self._thread = threading.Thread(target=self._run, name="fulgurite-ray-publisher", daemon=True)
        self._thread.start()

    def publish(self, frame: bytes) -> None:
        with self._changed:
            self._frame = frame
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or not self._open)
                frame, self._frame = self._frame, None
                if not self._open:
                    return
            try:
                self._ray.get(self._mailbox.put.remote(frame), timeout=_PATIENCE_S)
            except self._ray.exceptions.RayError:
                continue  # it is being started again; the next heartbeat says it all


def _actor(ray: ModuleType, name: str, namespace: str) -> Any:
    """The handle of a named actor, None if there is none or it cannot be looked up now."""
    try:
        return ray.get_actor(name, namespace=namespace)
    except (ValueError, ray.exceptions.RayError):
        return None


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise TransportError("Ray is missing; pip install 'fulgurite[ray]'") from error
    return ray
