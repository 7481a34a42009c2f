"""A process that iterates a map with others: ``python -m fulgurite.plugins.dynamic_async.engine.worker '{…}'``.

It says what it does on standard output, a JSON object a line, and takes commands on standard input, a line each:
``go``, ``configure 3``, ``cut ADDRESS …``, ``heal``, ``release``, ``save PATH``, ``stop``. It ends when its input does.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from fulgurite.plugins.dynamic_async.engine.faults import Faults, FaultyTransport, Striker
from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.keys import run_nonce, shared_key
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder
from fulgurite.plugins.dynamic_async.engine.zmq_transport import ZmqTransport
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap
from fulgurite.plugins.files import replacing


@dataclass(frozen=True)
class Work:
    """What a worker does; the shared key comes in the variable ``FULGURITE_ASYNC_KEY``.

    Args:
        map: ``"package.module:function"`` that makes the map …
        arguments: … from these.
        run: name of the run, the same for all.
        listen: where this one listens.
        contacts: peers to begin with.
        peer: options of :class:`Peer`.
        log: where to write down what happens; None: nowhere.
        cost_s: seconds to sleep in each step beside what it computes.
        slow: sleep so many times as long as the step took, on top: 9 makes it ten times slower.
        hold: evaluate nothing before ``go``, for a common start.
        barrier: evaluate version k + 1 only once version k of every shard has come: the synchronous iteration.
        status_s: seconds between lines that say how it stands.
        solution: ``.npz`` with the answer, block by block; the worker then says since when its own blocks are within
            ``tolerance`` of it.
        tolerance: in the greatest absolute difference.
        faults: options of :class:`Faults`.
        salt: of its chances.
    """

    map: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    run: str = "run"
    listen: str = "tcp://127.0.0.1:0"
    contacts: tuple[str, ...] = ()
    peer: Mapping[str, Any] = field(default_factory=dict)
    log: str | None = None
    cost_s: float = 0.0
    slow: float = 0.0
    hold: bool = False
    barrier: bool = False
    status_s: float = 0.05
    solution: str | None = None
    tolerance: float = 1e-6
    faults: Mapping[str, Any] = field(default_factory=dict)
    salt: int = 0

    def json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class Worker:
    """Runs what :class:`Work` says until it is stopped."""

    def __init__(self, work: Work) -> None:
        self._work = work
        module, function = work.map.split(":")
        self._map: DynamicMap = getattr(import_module(module), function)(**work.arguments)
        codec = Codec(shared_key(work.listen).material, run_nonce(work.run), self._map.fingerprint())
        faults = Faults(**work.faults)
        self._transport = FaultyTransport(
            ZmqTransport(work.listen, codec=codec),
            faults,
            salt=work.salt,
            sender=lambda frame: codec.decode(frame).address,
        )
        self._recorder = Recorder(work.log, self._map) if work.log else None
        self._peer = Peer(
            self._map,
            self._transport,
            codec,
            contacts=work.contacts,
            recorder=self._recorder,
            **work.peer,
        )
        self._strike = Striker(faults, salt=work.salt, transport=self._transport)
        self._commands: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._solution: list[Array] | None = None
        if work.solution:
            with np.load(work.solution) as stored:
                self._solution = [stored[f"arr_{i}"] for i in range(self._map.num_participants)]
        self._below_since: float | None = None
        self._evaluations = 0
        self._held = work.hold
        self._step_s: list[float] = []
        self._say_at = 0.0

    def run(self) -> None:
        """Iterate."""
        say(event="ready", address=self._peer.address, number=self._peer.number)
        threading.Thread(target=self._listen, daemon=True).start()
        with self._peer.heartbeats():
            while not self._peer.stopped and self._obey():
                if not self._step():
                    self._peer.wait()
                if time.monotonic() >= self._say_at:
                    self._status()
        self._peer.publish()
        self._status()
        self._peer.close()
        if self._recorder:
            self._recorder.close()

    def _step(self) -> bool:
        self._strike()
        began = time.perf_counter()
        self._peer.poll()
        if self._held or (self._work.barrier and not self._all_here()):
            return False
        done = False
        for i in self._peer.hosted:
            evaluation = self._peer.begin(i)
            if evaluation is None or not evaluation.changed:
                continue
            value = self._map.evaluate(i, evaluation.configuration, evaluation.view, evaluation.inputs)
            done |= self._peer.commit(evaluation, value)
            self._evaluations += 1
        if done:
            pause_s = self._work.cost_s + self._work.slow * (time.perf_counter() - began + self._work.cost_s)
            time.sleep(pause_s)
            self._step_s = [*self._step_s[-99:], time.perf_counter() - began]
            # Only now do others see the values: the sleep stands for a slower computation of them.
            self._peer.publish()
            self._compare()
        return done

    def _all_here(self) -> bool:
        blocks = self._peer.blocks()
        own = min((blocks[i].version for i in self._peer.hosted), default=0)
        return len(blocks) == self._map.num_participants and all(block.version >= own for block in blocks.values())

    def _compare(self) -> None:
        if self._solution is None:
            return
        blocks = self._peer.blocks()
        own = [self._map.distance(i, blocks[i].value, self._solution[i]) for i in self._peer.hosted if i in blocks]
        if not own or max(own) > self._work.tolerance:
            self._below_since = None
        elif self._below_since is None:
            self._below_since = time.time()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(line.strip())
        self._commands.put(None)

    def _obey(self) -> bool:
        """Follow what was said; False: the input has ended."""
        while True:
            try:
                line = self._commands.get_nowait()
            except queue.Empty:
                return True
            if line is None:
                return False
            name, *rest = line.split()
            match name:
                case "go":
                    self._held = False
                case "configure":
                    self._peer.configure(int(rest[0]))
                case "cut":
                    self._transport.cut(frozenset(rest))
                case "heal":
                    self._transport.heal()
                case "release":
                    self._peer.release()
                case "save":
                    self._save(line.partition(" ")[2])
                case "stop":
                    self._peer.stop()
                case _:
                    say(event="unknown", command=line)

    def _save(self, path: str) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, *self._peer.state())
        say(event="saved", path=path)

    def _status(self) -> None:
        self._say_at = time.monotonic() + self._work.status_s
        self._compare()
        peer, blocks = self._peer, self._peer.blocks()
        say(
            event="status", time=time.time(), hosted=list(peer.hosted), view=sorted(blocks), rounds=peer.rounds(),
            lives={i: block.incarnation.number for i, block in blocks.items()}, peers=list(peer.peers()),
            evaluations=self._evaluations, below_since=self._below_since, rejected=dict(peer.rejected),
            configuration=peer.configuration, step_s=[round(seconds, 6) for seconds in self._step_s],
        )  # fmt: skip


def say(**what: Any) -> None:
    """A line of JSON."""
    print(json.dumps(what), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run a worker; its only argument is :class:`Work` as JSON."""
    text = (sys.argv[1:] if arguments is None else arguments)[0]
    given = json.loads(text)
    Worker(Work(**given | {"contacts": tuple(given.get("contacts", ()))})).run()


if __name__ == "__main__":
    main()
