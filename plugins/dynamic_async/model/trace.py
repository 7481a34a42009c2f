"""A recorded run as a legal schedule, saved, loaded, and replayed bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import TraceError
from fulgurite.plugins.dynamic_async.model.schedule import Schedule
from fulgurite.plugins.dynamic_async.model.simulation import Recording, simulate
from fulgurite.plugins.files import replacing

FORMAT = "fulgurite dynamic_async trace 1"


class Event(IntEnum):
    """What happened at a tick of a trace, to one participant."""

    EVALUATE = 0
    JOIN = 1
    LEAVE = 2


def value_hash(value: Array) -> bytes:
    """16 bytes that differ where a value differs in type, shape or any bit.

    Example:
        >>> value_hash(np.zeros(2)) == value_hash(-np.zeros(2))
        False
    """
    hashed = hashlib.blake2b(f"{value.dtype.str}{value.shape}".encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.digest()


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened, one event a tick: T ticks of E epochs with n participants.

    An epoch here is any change of who takes part or of *anybody's own* view of it: views that differ from each other
    are epochs of their own, outside the certified configurations (Daggitt and Griffin's model allows them all,
    https://arxiv.org/abs/2012.01686). So each epoch holds a view for each participant.

    A participant is a shard, as long as every shard's former life ended before its next one began. In a partition whose
    sides both adopt everything, two lives of a shard go on beside each other, and no schedule of the shards alone does
    that. Such a trace has copies: participant c·m + i is the c-th copy of shard i of m, and a view says which copy of
    each shard is seen. Copies of a map have its Lipschitz rows and its fixed point, so certificates hold as they are.

    Args:
        num_participants: n, shards times copies.
        num_shards: m, the participants of the map.
        fingerprint: of the map that was iterated.
        event: (T,) :class:`Event` of the ticks 1 … T.
        participant: (T,) whom it happened to.
        epochs: (T + 1,) η.
        participants: (E, n) π.
        seen: (V, m) views that occurred: the participant that is seen of each shard, −1 where none is.
        views: (E, n) each participant's view in each epoch, as a row of ``seen``; −1: it evaluates nothing in it.
        configurations: (E, n) the map's own epoch that each evaluates by.
        read_starts: (T + 1,) where each tick's reads begin.
        read_participants: whose values were read …
        read_ticks: … and the ticks that made them.
        hashes: (T, 16) of the values that the ticks made; zero for leaving.
        tags: (T,) rounds that the values were certified for.
        joining: (tick, participant) -> the value it joined with, where that was not the map's initial one.
    """

    num_participants: int
    num_shards: int
    fingerprint: bytes
    event: NDArray[np.int8]
    participant: NDArray[np.int64]
    epochs: NDArray[np.int64]
    participants: NDArray[np.bool_]
    seen: NDArray[np.int64]
    views: NDArray[np.int64]
    configurations: NDArray[np.int64]
    read_starts: NDArray[np.int64]
    read_participants: NDArray[np.int64]
    read_ticks: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    tags: NDArray[np.int64]
    joining: Mapping[tuple[int, int], Array] = field(default_factory=dict)

    @property
    def num_copies(self) -> int:
        """1 where the run is a schedule of the shards themselves."""
        return self.num_participants // self.num_shards

    def schedule(self) -> TraceSchedule:
        """The run as ψ = (α, β, η, π), validated.

        Raises:
            TraceError: its parts do not fit together.
            ScheduleError: it breaks an axiom.
        """
        self._check()
        schedule = TraceSchedule(self)
        schedule.validate()
        return schedule

    def joins(self) -> dict[tuple[int, int], Array]:
        """(tick, participant) -> value, of those that did not join with the map's initial value."""
        return dict(self.joining)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file with a JSON header and no pickle, whole or not at all."""
        sizes = {"num_participants": self.num_participants, "num_shards": self.num_shards}
        header = {"format": FORMAT, **sizes, "fingerprint": self.fingerprint.hex()}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {f"join_{tick}_{i}": value for (tick, i), value in self.joining.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read what :meth:`save` wrote.

        Raises:
            TraceError: the file is something else, or damaged.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            header = json.loads(arrays.pop("header").tobytes())
            if header["format"] != FORMAT:
                raise TraceError(f"{path}: expected the format {FORMAT!r}, got {header['format']!r}")
            joining = {}
            for name in [name for name in arrays if name.startswith("join_")]:
                tick, i = name.removeprefix("join_").split("_")
                joining[int(tick), int(i)] = arrays.pop(name)
            trace = cls(
                header["num_participants"], header["num_shards"], bytes.fromhex(header["fingerprint"]), joining=joining,
                **{name: arrays[name] for name in _ARRAYS},
            )  # fmt: skip
        except TraceError:
            raise
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise TraceError(f"{path} is no recorded run, or a damaged one: {error}") from error
        trace._check()
        return trace

    def _check(self) -> None:
        n, ticks, epochs = self.num_participants, len(self.event), len(self.participants)
        expected = {
            "participant": (ticks,), "epochs": (ticks + 1,), "participants": (epochs, n),
            "seen": (len(self.seen), self.num_shards),
            "views": (epochs, n), "configurations": (epochs, n), "read_starts": (ticks + 1,),
            "read_ticks": self.read_participants.shape, "hashes": (ticks, 16), "tags": (ticks,),
        }  # fmt: skip
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise TraceError(f"{name} must be of shape {shape} in this trace; got {getattr(self, name).shape}")
        inside = (
            n % self.num_shards == 0
            and ((self.participant >= 0) & (self.participant < n)).all()
            and ((self.seen >= -1) & (self.seen < n)).all()
            and ((self.epochs >= 0) & (self.epochs < epochs)).all()
            and ((self.views >= -1) & (self.views < len(self.seen))).all()
            and ((self.read_participants >= 0) & (self.read_participants < n)).all()
            and self.read_starts[0] == 0
            and self.read_starts[-1] == len(self.read_participants)
            and (np.diff(self.read_starts) >= 0).all()
        )
        if not inside:
            raise TraceError("a trace names participants, epochs, views or reads that it does not have")


_ARRAYS = tuple(
    f.name for f in fields(Trace) if f.name not in ("num_participants", "num_shards", "fingerprint", "joining")
)


class TraceSchedule(Schedule):
    """A trace's ψ; whatever was not read counts as read fresh, β = t − 1."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.num_participants = trace.num_participants
        self.num_ticks = len(trace.event)

    def active(self, t: int) -> NDArray[np.bool_]:
        """α(t)."""
        result = np.zeros(self.num_participants, dtype=bool)
        if t and self._trace.event[t - 1] == Event.EVALUATE:
            result[self._trace.participant[t - 1]] = True
        return result

    def read_time(self, t: int, i: int, j: int) -> int:
        """β(t, i, j)."""
        return int(self.reads(t, i)[j])

    def reads(self, t: int, i: int) -> NDArray[np.int64]:
        """β(t, i, ·)."""
        result = np.full(self.num_participants, t - 1, dtype=np.int64)
        if self._trace.participant[t - 1] == i:
            read = slice(self._trace.read_starts[t - 1], self._trace.read_starts[t])
            result[self._trace.read_participants[read]] = self._trace.read_ticks[read]
        return result

    def epoch(self, t: int) -> int:
        """η(t)."""
        return int(self._trace.epochs[t])

    def epochs(self) -> NDArray[np.int64]:
        """η of every tick."""
        return self._trace.epochs

    def participants(self, e: int) -> Participants:
        """π(e)."""
        return self._trace.participants[e]


class ViewedMap(DynamicMap):
    """A map in which every epoch of a trace gives each participant the view and configuration it had."""

    def __init__(self, map: DynamicMap, trace: Trace) -> None:
        self._map, self._trace, self._shards = map, trace, trace.num_shards
        self.num_participants = trace.num_participants

    def bottom(self, i: int) -> Array:
        """⊥ of the shard."""
        return self._map.bottom(i % self._shards)

    def initial(self, i: int) -> Array:
        """The shard's initial value."""
        return self._map.initial(i % self._shards)

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Every copy of whom the shard may read."""
        copies = np.arange(self._trace.num_copies)[:, None] * self._shards
        return (copies + self._map.neighbours(i % self._shards)).ravel()

    def contains(self, i: int, value: Array) -> bool:
        """Whether a joining value lies in the map's X."""
        return self._map.contains(i % self._shards, value)

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """F by i's own view: who is outside it is read as ⊥, whatever the others see."""
        shard, seen = i % self._shards, self._trace.seen[self._trace.views[epoch, i]]
        read = {
            j: self._map.bottom(j) if seen[j] < 0 else inputs[seen[j]] for j in self._map.neighbours(shard).tolist()
        }
        return self._map.evaluate(shard, int(self._trace.configurations[epoch, i]), seen >= 0, read)


def replay(trace: Trace, map: DynamicMap) -> list[Array]:
    """Simulate a trace and hold every value against the hash that was recorded.

    Args:
        trace: of a run of the same map, evaluated by the same code on the same kind of machine.
        map: what was iterated.

    Returns:
        the state that the run ended in, ⊥ for those who had left; with copies, the first one's that is there.

    Raises:
        TraceError: it is a trace of another map, or a value differs in any bit.
        ScheduleError: the trace is no legal schedule.
    """
    m = trace.num_shards
    if trace.fingerprint != map.fingerprint() or m != map.num_participants:
        raise TraceError(
            f"the trace is of the map {trace.fingerprint.hex()}, but this one is {map.fingerprint().hex()}; "
            "replay it with the map that was recorded"
        )
    schedule = trace.schedule()
    record: tuple[Recording, ...] = ("history",)
    history = simulate(ViewedMap(map, trace), schedule, joins=trace.joins(), record=record).history
    assert history is not None
    for tick, (event, i) in enumerate(zip(trace.event.tolist(), trace.participant.tolist(), strict=True), start=1):
        if event != Event.LEAVE and value_hash(history[tick][i]) != trace.hashes[tick - 1].tobytes():
            raise TraceError(
                f"tick {tick}: replaying participant {i}'s {Event(event).name.lower()} gives another value than the "
                "one recorded; the run read something that its trace does not show, or was evaluated by other code"
            )
    present = schedule.present(schedule.num_ticks)
    return [history[-1][next((p for p in range(i, len(present), m) if present[p]), i)] for i in range(m)]
