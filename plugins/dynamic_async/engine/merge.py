"""The logs of all peers of a run, brought into one order: a trace that the simulator can replay."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from fulgurite.plugins.dynamic_async.engine.messages import Incarnation
from fulgurite.plugins.dynamic_async.engine.recorder import Logged, read_log
from fulgurite.plugins.dynamic_async.model.errors import TraceError
from fulgurite.plugins.dynamic_async.model.trace import Event, Trace

Life = tuple[int, Incarnation]


def merge(paths: Iterable[str | os.PathLike[str]]) -> Trace:
    """One legal schedule of what several processes did.

    Events follow what they read, and each life of a shard ends before its next one begins: also for all who still had
    it in view. Peers keep to the rules of incarnations exactly if there is such an order. Between events that nothing
    orders, their clocks decide. A shard leaves as soon as nobody has it in view any more.

    Args:
        paths: a log of every process of the run, the killed ones too.

    Raises:
        TraceError: logs are of different maps, a value was read that nobody made, or no order exists: a shard's
            former life was listened to by somebody who knew of the next one.
    """
    logs = [read_log(path) for path in paths]
    if len({(fingerprint, n) for fingerprint, n, _ in logs}) != 1:
        raise TraceError(
            f"logs of one run are of one map; got {len(logs)} logs of {len({log[:2] for log in logs})} maps"
        )
    events = sorted((event for _, _, log in logs for event in log), key=lambda event: event.time_s)
    return _Tracer(logs[0][0], logs[0][1], [events[k] for k in _order(events)]).trace()


def _order(events: list[Logged]) -> list[int]:
    made = {(event.shard, event.life, event.version): k for k, event in enumerate(events)}
    if len(made) != len(events):
        raise TraceError("two logs claim the same value: incarnations were reused, or a log was given twice")
    concerned: dict[Life, list[int]] = defaultdict(list)
    births: dict[Life, int] = {}
    before: list[set[int]] = [set() for _ in events]
    for k, event in enumerate(events):
        life = (event.shard, event.life)
        concerned[life].append(k)
        if event.version == 0:
            births[life] = k
        else:
            before[k].add(_maker(made, event.shard, event.life, event.version - 1))
        for read in event.reads:
            before[k].add(_maker(made, *read))
        for seen in (event.view or {}).items():
            if seen != life:
                concerned[seen].append(k)
                before[k].add(_maker(made, *seen, 0))
    lives = sorted(births)
    for life, following in pairwise(lives):
        if life[0] == following[0]:
            before[births[following]].update(concerned[life])
    return _sorted(events, before)


def _maker(made: dict[tuple[int, Incarnation, int], int], shard: int, life: Incarnation, version: int) -> int:
    try:
        return made[shard, life, version]
    except KeyError:
        raise TraceError(
            f"version {version} of shard {shard} (incarnation {life.number} at peer {life.host:016x}) was used, but no "
            "log says that it was made; give the logs of all processes, the killed ones too"
        ) from None


def _sorted(events: list[Logged], before: list[set[int]]) -> list[int]:
    """Kahn's order; of what is ready, the earliest by clock (events come sorted by it)."""
    after: list[list[int]] = [[] for _ in events]
    waiting = [len(earlier) for earlier in before]
    for k, earlier in enumerate(before):
        for m in earlier:
            after[m].append(k)
    ready = [k for k, count in enumerate(waiting) if not count]
    order = []
    while ready:
        order.append(k := heapq.heappop(ready))
        for m in after[k]:
            waiting[m] -= 1
            if not waiting[m]:
                heapq.heappush(ready, m)
    if len(order) < len(events):
        stuck = next(event for k, event in enumerate(events) if waiting[k])
        raise TraceError(
            f"no schedule allows this run: shard {stuck.shard} in incarnation {stuck.life.number} at peer "
            f"{stuck.life.host:016x} goes on, or is listened to, after its next incarnation was known"
        )
    return order


class _Tracer:
    """Turns ordered events into ticks, with a tick for each leaving and an epoch for each change of a view."""

    def __init__(self, fingerprint: bytes, n: int, events: list[Logged]) -> None:
        self._fingerprint, self._n, self._events = fingerprint, n, events
        self._kind: list[Event] = []
        self._rows: list[tuple[int, bytes, int]] = []  # shard, hash, tag
        self._epochs = [0]
        self._present = [np.zeros(n, dtype=bool)]
        self._views = [np.full(n, -1)]
        self._configurations = [np.zeros(n, dtype=np.int64)]
        self._masks: dict[bytes, int] = {}
        self._starts = [0]
        self._reads: list[tuple[int, int]] = []
        self._ticks: dict[tuple[int, Incarnation, int], int] = {}
        self._joining: dict[tuple[int, int], np.ndarray] = {}

    def trace(self) -> Trace:
        leaving = self._last_seen()
        for k, event in enumerate(self._events):
            if event.version == 0:
                self._change(event.shard, present=True)
            else:
                self._evaluation(event)
            if event.joined is not None:
                self._joining[len(self._epochs), event.shard] = event.joined
            self._ticks[event.shard, event.life, event.version] = len(self._epochs)
            self._tick(Event.EVALUATE if event.version else Event.JOIN, event.shard, event.hash, event.tag)
            for shard in leaving.get(k, ()):
                self._change(shard, present=False)
                self._tick(Event.LEAVE, shard, bytes(16), 0)
        return self._finished()

    def _last_seen(self) -> dict[int, list[int]]:
        """Index of an event -> shards whose life nobody has in view after it, unless it lasts to the end."""
        last: dict[Life, int] = {}
        for k, event in enumerate(self._events):
            last[event.shard, event.life] = k
            for seen in (event.view or {}).items():
                last[seen] = k
        final = next((k for k in reversed(range(len(self._events))) if self._events[k].view), 0)
        lives = sorted(last)
        followed = {life for life, following in pairwise(lives) if life[0] == following[0]}
        seen_last = (self._events[final].view or {}).items() if self._events else ()
        standing = {life for life, k in last.items() if life in seen_last or k >= final} - followed
        leaving = defaultdict(list)
        for life, k in last.items():
            if life not in standing:
                leaving[k].append(life[0])
        return leaving

    def _change(self, shard: int, *, present: bool) -> None:
        self._new_epoch()
        self._present[-1][shard] = present

    def _new_epoch(self) -> None:
        for table in (self._present, self._views, self._configurations):
            table.append(table[-1].copy())

    def _evaluation(self, event: Logged) -> None:
        mask = np.zeros(self._n, dtype=bool)
        mask[list(event.view or ())] = True
        view = self._masks.setdefault(mask.tobytes(), len(self._masks))
        i = event.shard
        if (self._views[-1][i], self._configurations[-1][i]) != (view, event.configuration):
            self._new_epoch()
            self._views[-1][i], self._configurations[-1][i] = view, event.configuration
        self._reads += sorted((read[0], self._ticks[read]) for read in event.reads)

    def _tick(self, kind: Event, shard: int, hash: bytes, tag: int) -> None:
        self._epochs.append(len(self._present) - 1)
        self._kind.append(kind)
        self._rows.append((shard, hash, tag))
        self._starts.append(len(self._reads))

    def _finished(self) -> Trace:
        n = self._n
        shards, hashes, tags = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        reads = np.array(self._reads, dtype=np.int64).reshape(-1, 2)
        return Trace(
            num_participants=n,
            fingerprint=self._fingerprint,
            event=np.array(self._kind, dtype=np.int8),
            shard=np.array(shards, dtype=np.int64),
            epochs=np.array(self._epochs, dtype=np.int64),
            participants=np.array(self._present),
            masks=np.frombuffer(b"".join(self._masks), dtype=bool).reshape(-1, n),
            views=np.array(self._views, dtype=np.int64),
            configurations=np.array(self._configurations),
            read_starts=np.array(self._starts, dtype=np.int64),
            read_shards=reads[:, 0].copy(),
            read_ticks=reads[:, 1].copy(),
            hashes=np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16),
            tags=np.array(tags, dtype=np.int64),
            joining=self._joining,
        )
