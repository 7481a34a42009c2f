"""How a process becomes a peer: its key, its transport, those that it starts and those that it waits for."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

from fulgurite.plugins.dynamic_async.engine.faults import Faults, FaultyTransport, Striker
from fulgurite.plugins.dynamic_async.engine.frames import MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_NOTE_BYTES, Codec
from fulgurite.plugins.dynamic_async.engine.keys import SharedKey, new_run, run_nonce, shared_key
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder
from fulgurite.plugins.dynamic_async.engine.transport import Transport, TransportError
from fulgurite.plugins.dynamic_async.leading import adopt_versions, log_versions
from fulgurite.plugins.dynamic_async.local_peers import (
    CONTACT,
    KEY,
    NONCE,
    LocalPeers,
    own_life,
    own_number,
    same_command,
)
from fulgurite.plugins.dynamic_async.training_map import TrainingMap

_log = logging.getLogger(__name__)
_VERSIONS = "FULGURITE_ASYNC_VERSIONS"
_STRANGERS = {
    "key": "who listens there has another key; give all peers the same one",
    "run": "who listens there is of another run; give run: as it is there",
    "model": "who listens there trains something else; model, seed, shards, topology and lam must be the same",
}


@dataclass
class Joining:
    """The strategy's options on who talks to whom; see there.

    Raises:
        ValueError: options that do not go together.
    """

    local_peers: int
    listen: str
    join: tuple[str, ...]
    run: str | None
    transport: str
    heartbeat_s: float
    timeout_s: float
    wait_s: float
    key: str | None
    key_file: str | None
    record: str | None
    restart_s: float | None
    restarts: int
    strike: Callable[[], None] | None = field(default=None, init=False)
    _others: LocalPeers | None = field(default=None, init=False)
    _shared: tuple[SharedKey, str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.join, str):
            self.join = (self.join,)
        if self.join and not (self.run or os.environ.get(NONCE)):
            raise ValueError("got join: without run:; give the name of the run that is joined, which its peers print")

    @property
    def _started_by_another(self) -> bool:
        return own_number() > 0

    def peer(self, shared: TrainingMap, *, faults: Faults | None, load: Callable[[int], Any], stack: ExitStack) -> Peer:
        """This process's peer; whatever must be closed goes on the stack.

        Raises:
            TransportError: a key or a port that cannot be had.
        """
        listen = "tcp://127.0.0.1:0" if self._started_by_another else self.listen
        key = shared_key(listen, key=self.key, file=self.key_file)
        run = os.environ.get(NONCE) if self._started_by_another else self.run
        run = run or new_run()
        self._shared = key, run
        codec = Codec(key.material, run_nonce(run), shared.fingerprint(), max_bytes=frame_bytes(shared))
        transport: Transport = self._open(listen, codec)
        # Whatever fails from here on: sockets that stay open keep a process from ending.
        stack.callback(transport.close)
        if faults is not None:
            # Of its own for each life of each peer: who dies at the tenth step would die of it again.
            salt = own_life() << 16 | own_number()
            faulty = FaultyTransport(transport, faults, salt=salt) if faults.any_of_messages else None
            transport = faulty or transport
            self.strike = Striker(faults, salt=salt, transport=faulty)
        recorder = None
        if self.record is not None:
            path = Path(self.record) / f"peer-{own_number()}-{os.getpid()}.jsonl"
            recorder = stack.enter_context(Recorder(path, shared))
        contacts = (os.environ[CONTACT],) if self._started_by_another and CONTACT in os.environ else self.join
        # The first process gets the lowest number, and with it the lowest shard and the logging.
        number = min(own_number() + (1 << 15 if self.join else 0), (1 << 16) - 1) << 48 | secrets.randbits(48)
        return Peer(
            shared,
            transport,
            codec,
            contacts=contacts,
            heartbeat_s=self.heartbeat_s,
            timeout_s=self.timeout_s,
            # Who joins must not begin anything of its own before somebody was heard.
            expected_peers=2 if self.join else self.local_peers,
            patience_s=max(self.wait_s, self.timeout_s),
            recorder=recorder,
            load=load,
            number=number,
        )

    def start_others(self, trainer: pl.Trainer, peer: Peer) -> None:
        """Start the other local peers, if this is the first; say how more can join."""
        if self._started_by_another:
            adopt_versions(trainer, json.loads(os.environ.get(_VERSIONS, "{}")))
            return
        assert self._shared is not None
        key, run = self._shared
        if self.local_peers > 1:
            # Otherwise each takes all cores, and threads of different peers mostly wait for each other.
            _set_num_threads_if_needed(self.local_peers)
            if not sys.argv or not Path(sys.argv[0]).is_file():
                raise ValueError(
                    f"got local_peers={self.local_peers} in an interactive session, which cannot be started again; "
                    "run a script or `fulgurite fit`, or take local_peers: 1"
                )
            environment = {KEY: key.text, NONCE: run, CONTACT: peer.address}
            environment[_VERSIONS] = json.dumps({str(k): v for k, v in log_versions(trainer).items()})
            if self.transport == "ray":
                import ray

                environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
            self._others = LocalPeers(same_command(), environment, restart_s=self.restart_s, restarts=self.restarts)
            self._others.start(range(1, self.local_peers))
        if key.source != "made":
            _log.info("others join this run with run: %s, join: [%s] and the same key", run, peer.address)

    def wait_for_others(self, peer: Peer) -> None:
        """Wait until all local peers have been heard, or for ``wait_s``; who joins waits for anybody of the run.

        Raises:
            TransportError: nobody was there to join, or only those with another key, run or model.
        """
        if self.join:
            self._find_anybody(peer)
            return
        if self.local_peers == 1:
            return
        end = time.monotonic() + self.wait_s
        while not peer.hosted and len(peer.peers()) < self.local_peers and time.monotonic() < end:
            peer.wait()
            time.sleep(0.01)
        if not peer.hosted and len(peer.peers()) < self.local_peers:
            _log.warning(
                "%d of %d peers are here after %g s; training begins without the others, who may come later",
                len(peer.peers()),
                self.local_peers,
                self.wait_s,
            )

    def _find_anybody(self, peer: Peer) -> None:
        end = time.monotonic() + self.wait_s
        refused: list[str] = []
        while len(peer.peers()) < 2 and time.monotonic() < end:
            if not refused and (refused := [text for reason, text in _STRANGERS.items() if peer.rejected.get(reason)]):
                # There may be others beside the stranger.
                end = min(end, time.monotonic() + self.timeout_s)
            peer.wait()
            time.sleep(0.01)
        if len(peer.peers()) < 2:
            why = (
                "; ".join(refused)
                or f"nobody was heard within {self.wait_s:g} s: see whether they run and listen there"
            )
            raise TransportError(f"this peer could not join {', '.join(self.join)}: {why}")

    def abandon(self) -> None:
        """Leave those that were started here to themselves, as if this process had been killed."""
        if self._others is not None and (pids := self._others.pids):
            listed = ", ".join(f"{number} (process {pid})" for number, pid in sorted(pids.items()))
            _log.warning("this peer leaves with an error; local peers %s go on", listed)
        self._others = None

    def leave(self, peer: Peer, *, linger_s: float) -> None:
        """Go once the others have heard, and see off those that were started here, for as long as they train."""
        peer.close(linger_s=min(linger_s, self.timeout_s))
        if self._others is not None:
            codes = self._others.wait(linger_s if peer.stopped or not linger_s else float("inf"))
            self._others = None
            if failed := {number: code for number, code in codes.items() if code}:
                _log.warning("of the local peers, %s", ", ".join(f"{n} ended with {c}" for n, c in failed.items()))

    def _open(self, listen: str, codec: Codec) -> Transport:
        if self.transport == "ray":
            from fulgurite.plugins.dynamic_async.engine.ray_transport import RayTransport

            return RayTransport(codec=codec)
        from fulgurite.plugins.dynamic_async.engine.zmq_transport import ZmqTransport

        return ZmqTransport(listen, codec=codec)


def frame_bytes(shared: TrainingMap) -> int:
    """Enough for one peer that hosts everything, as the last one alive does; the same on all peers of a model."""
    beside = MAX_NOTE_BYTES + (MAX_ADDRESSES + 1) * (MAX_ADDRESS_BYTES + 2)
    return shared.num_participants * (shared.centre.nbytes + 256) + beside + 4096
