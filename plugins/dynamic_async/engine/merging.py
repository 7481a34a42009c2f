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
    it in view. As long as every message gets through or not, but nobody adopts what goes on elsewhere, peers that keep
    to the rules of incarnations leave such an order, zombies included. Where there is none, because the sides of a
    partition adopted each other's shards, lives that overlap become copies of their shard (see :class:`Trace`).
    Between events that nothing orders, clocks decide. A shard leaves as soon as nobody has it in view any more.

    Args:
        paths: a log of every process of the run, the killed ones too.

    Raises:
        TraceError: logs are of different maps, or a value was read that nobody made.
    """
    logs = [read_log(path) for path in paths]
    if len({(fingerprint, n) for fingerprint, n, _ in logs}) != 1:
        raise TraceError(
            f"logs of one run are of one map; got {len(logs)} logs of {len({log[:2] for log in logs})} maps"
        )
    events = sorted((event for _, _, log in logs for event in log), key=lambda event: event.time_s)
    order = _order(events, apart=True) or _order(events, apart=False)
    if order is None:
        raise TraceError("the logs show values that were read before they were made; they are not of one run")
    return _Tracer(logs[0][0], logs[0][1], [events[k] for k in order]).trace()


def _order(events: list[Logged], *, apart: bool) -> list[int] | None:
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
    for life, following in pairwise(sorted(births)):
        if apart and life[0] == following[0]:
            before[births[following]].update(concerned[life])
    return _sorted(before)


def _maker(made: dict[tuple[int, Incarnation, int], int], shard: int, life: Incarnation, version: int) -> int:
    try:
        return made[shard, life, version]
    except KeyError:
        raise TraceError(
            f"version {version} of shard {shard} (incarnation {life.number} at peer {life.host:016x}) was used, but no "
            "log says that it was made; give the logs of all processes, the killed ones too"
        ) from None


def _sorted(before: list[set[int]]) -> list[int] | None:
    """Kahn's order, the earliest of what is ready first (events come sorted by clock); None: there is a cycle."""
    after: list[list[int]] = [[] for _ in before]
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
    return order if len(order) == len(before) else None


class _Tracer:
    """Turns ordered events into ticks, with a tick for each leaving and an epoch for each change of a view."""

    def __init__(self, fingerprint: bytes, num_shards: int, events: list[Logged]) -> None:
        self._fingerprint, self._shards, self._events = fingerprint, num_shards, events
        self._last = self._last_seen()
        self._place = self._places()
        self._n = num_shards * (1 + max(self._place.values(), default=0) // num_shards)
        self._kind: list[Event] = []
        self._rows: list[tuple[int, bytes, int]] = []  # participant, hash, tag
        self._epochs = [0]
        self._present = [np.zeros(self._n, dtype=bool)]
        self._views = [np.full(self._n, -1)]
        self._configurations = [np.zeros(self._n, dtype=np.int64)]
        self._seen: dict[tuple[int, ...], int] = {}
        self._starts = [0]
        self._reads: list[tuple[int, int]] = []
        self._ticks: dict[tuple[int, Incarnation, int], int] = {}
        self._joining: dict[tuple[int, int], np.ndarray] = {}

    def trace(self) -> Trace:
        leaving = defaultdict(list)
        for life, k in self._last.items():
            leaving[k].append(self._place[life])
        for k, event in enumerate(self._events):
            place = self._place[event.shard, event.life]
            if event.version == 0:
                self._change(place, present=True)
            else:
                self._evaluation(event, place)
            if event.joined is not None:
                self._joining[len(self._epochs), place] = event.joined
            self._ticks[event.shard, event.life, event.version] = len(self._epochs)
            self._tick(Event.EVALUATE if event.version else Event.JOIN, place, event.hash, event.tag)
            for left in leaving.get(k, ()):
                self._change(left, present=False)
                self._tick(Event.LEAVE, left, bytes(16), 0)
        return self._finished()

    def _last_seen(self) -> dict[Life, int]:
        """Each life's last event, of those who had it in view too; none for those that last to the end."""
        last: dict[Life, int] = {}
        latest_birth: dict[int, int] = {}
        for k, event in enumerate(self._events):
            last[event.shard, event.life] = k
            for seen in (event.view or {}).items():
                last[seen] = k
            if event.version == 0:
                latest_birth[event.shard] = k
        final = next((k for k in reversed(range(len(self._events))) if self._events[k].view), 0)
        stands = dict(self._events[final].view or {}).items() if self._events else ()
        return {life: k for life, k in last.items() if latest_birth[life[0]] > k or (life not in stands and k < final)}

    def _places(self) -> dict[Life, int]:
        """The participant that each life is: the first copy of its shard that is free when it begins."""
        places: dict[Life, int] = {}
        free: list[float] = [-1.0] * self._shards
        for k, event in enumerate(self._events):
            if event.version:
                continue
            place = event.shard
            while place < len(free) and free[place] >= k:
                place += self._shards
            free += [-1.0] * (place + 1 - len(free))
            life = (event.shard, event.life)
            free[place] = self._last.get(life, float("inf"))
            places[life] = place
        return places

    def _change(self, place: int, *, present: bool) -> None:
        self._new_epoch()
        self._present[-1][place] = present

    def _new_epoch(self) -> None:
        for table in (self._present, self._views, self._configurations):
            table.append(table[-1].copy())

    def _evaluation(self, event: Logged, place: int) -> None:
        view = event.view or {}
        seen = tuple(self._place[j, view[j]] if j in view else -1 for j in range(self._shards))
        row = self._seen.setdefault(seen, len(self._seen))
        if (self._views[-1][place], self._configurations[-1][place]) != (row, event.configuration):
            self._new_epoch()
            self._views[-1][place], self._configurations[-1][place] = row, event.configuration
        self._reads += sorted((self._place[read[0], read[1]], self._ticks[read]) for read in event.reads)

    def _tick(self, kind: Event, place: int, hash: bytes, tag: int) -> None:
        self._epochs.append(len(self._present) - 1)
        self._kind.append(kind)
        self._rows.append((place, hash, tag))
        self._starts.append(len(self._reads))

    def _finished(self) -> Trace:
        places, hashes, tags = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        reads = np.array(self._reads, dtype=np.int64).reshape(-1, 2)
        return Trace(
            num_participants=self._n,
            num_shards=self._shards,
            fingerprint=self._fingerprint,
            event=np.array(self._kind, dtype=np.int8),
            participant=np.array(places, dtype=np.int64),
            epochs=np.array(self._epochs, dtype=np.int64),
            participants=np.array(self._present),
            seen=np.array(list(self._seen), dtype=np.int64).reshape(-1, self._shards),
            views=np.array(self._views, dtype=np.int64),
            configurations=np.array(self._configurations),
            read_starts=np.array(self._starts, dtype=np.int64),
            read_participants=reads[:, 0].copy(),
            read_ticks=reads[:, 1].copy(),
            hashes=np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16),
            tags=np.array(tags, dtype=np.int64),
            joining=self._joining,
        )
