"""Schedules that are made up: random ones of which nothing is kept, fair ones, and legal but nasty ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model import counter
from fulgurite.plugins.dynamic_async.model.compiled_run import CompiledSchedule
from fulgurite.plugins.dynamic_async.model.counter import below, draw, high
from fulgurite.plugins.dynamic_async.model.dynamic_map import Participants
from fulgurite.plugins.dynamic_async.model.errors import ScheduleError
from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule, Schedule

_SOURCES = (Path(counter.__file__),)
_STAY = 4  # epochs for which a participant stays or is away at a time


@compiled(sources=_SOURCES)
def is_active(t: Any, i: Any, data: Any) -> Any:
    """Whether i ∈ α(t)."""
    activation, max_gap, (key, sure) = data[0]
    if high(draw(key, t, i)) < activation:
        return True
    if max_gap == 0:
        return False
    # One sure activation in each block of half the gap: at most a gap lies between two of them.
    block = (max_gap + 1) // 2
    offset = below(draw(sure, 0, i), block)
    number = (t + offset) // block
    return (t + offset) % block == below(draw(sure, 1 + number, i), block)


@compiled(sources=_SOURCES)
def is_participant(e: Any, i: Any, data: Any) -> Any:
    """Whether i ∈ π(e)."""
    away, key = data[1]
    if away == 0:
        return True
    stay = (e + below(draw(key, 0, i), _STAY)) // _STAY
    return high(draw(key, 1 + stay, i)) >= away


@compiled(sources=_SOURCES)
def _arrival(t: Any, i: Any, j: Any, data: Any) -> Any:
    """The tick of the message that reaches i from j at tick t: late, and later by as many as were lost before it."""
    n, max_delay, _, key, lost = data[2]
    bits = draw(key, t, i * n + j)
    age = below(bits, max_delay)
    chance = high(bits)
    for m in range(max_delay - 1 - age):
        if chance >= lost[m]:
            break
        age += 1
    return max(t - 1 - age, 0)


@compiled(sources=_SOURCES)
def read_of(t: Any, i: Any, j: Any, link: Any, data: Any) -> Any:
    """β(t, i, j) where j takes part; who is absent and oneself are read as of t − 1."""
    _, max_delay, reorder, _, _ = data[2]
    if i == j:
        return t - 1
    newest = _arrival(t, i, j, data)
    if not reorder:
        # What arrived more than max_delay ticks ago is older than whatever arrives now.
        for earlier in range(max(1, t - max_delay + 1), t):
            newest = max(newest, _arrival(earlier, i, j, data))
    return newest


@compiled(sources=_SOURCES)
def _fill_epochs(key: Any, churn: Any, out: Any) -> None:
    for t in range(1, len(out)):
        out[t] = out[t - 1] + (1 if high(draw(key, t, 0)) < churn else 0)


@compiled(sources=_SOURCES)
def _fill_active(t: Any, data: Any, out: Any) -> None:
    for i in range(len(out)):
        out[i] = is_active(t, i, data)


@compiled(sources=_SOURCES)
def _fill_participants(e: Any, data: Any, out: Any) -> None:
    for i in range(len(out)):
        out[i] = is_participant(e, i, data)


@compiled(sources=_SOURCES)
def _fill_reads(t: Any, indptr: Any, indices: Any, present: Any, data: Any, out: Any) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            out[k] = read_of(t, i, j, k, data) if present[j] else t - 1


@compiled(sources=_SOURCES)
def _oldest(t: Any, indptr: Any, indices: Any, present: Any, data: Any, out: Any) -> None:
    for i in range(len(indptr) - 1):
        out[i] = t - 1
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if present[j]:
                out[i] = min(out[i], read_of(t, i, j, k, data))


class RandomSchedule(Schedule):
    """A random schedule of which any number can be asked for, and none but the epochs' is kept.

    Every number is a hash of the seed, of what it is for, and of t, i and j, so that a run of 10,000 participants
    needs no table and can be looked into anywhere, in Python and in compiled code alike.

    Each tick a participant is active with probability ``activation``. It reads of each other one a message that is 1
    to ``max_delay`` ticks old, evenly drawn; with probability ``loss`` the message is lost and the one before it
    counts, and so on, but never one older than ``max_delay`` ticks. With ``reorder`` what is read may be older than
    what was read before; without, receivers drop the older. Its own state and that of the absent is read as of the
    tick before.
    With probability ``churn`` a tick begins a new epoch. Everybody stays in or out for four epochs at a time, then
    draws again: away with probability ``away``. Without churn all take part.

    Args:
        num_participants: n.
        num_ticks: T.
        seed: of everything.
        activation: a probability.
        max_gap: at most this many ticks lie between two activations of a participant; None: no promise.
        max_delay: D ≥ 1, in ticks.
        loss: a probability below 1.
        reorder: whether an older message may replace a newer.
        churn: a probability.
        away: a probability.

    Raises:
        ScheduleError: a number is out of its range.

    Example:
        >>> schedule = RandomSchedule(10_000, 1_000, seed=0, max_delay=8, loss=0.1, churn=0.02)
        >>> schedule.read_time(700, 3, 9_999), int(schedule.present(700).sum()), schedule.epoch(1_000)
        (696, 7538, 17)
    """

    def __init__(
        self,
        num_participants: int,
        num_ticks: int,
        *,
        seed: int = 0,
        activation: float = 0.5,
        max_gap: int | None = None,
        max_delay: int = 4,
        loss: float = 0.0,
        reorder: bool = True,
        churn: float = 0.0,
        away: float = 0.25,
    ) -> None:
        for name, value in {"activation": activation, "loss": loss, "churn": churn, "away": away}.items():
            if not 0 <= value <= 1:
                raise ScheduleError(f"{name} is a probability, in 0 to 1; got {value}")
        for name, number in {"max_delay": max_delay, "max_gap": 1 if max_gap is None else max_gap}.items():
            if not 1 <= number < counter.ONE:
                raise ScheduleError(f"{name} must be at least 1 tick; got {number}")
        if num_participants < 1 or num_ticks < 0:
            raise ScheduleError(
                f"a schedule needs a participant and a tick; got {num_participants} participants, {num_ticks} ticks"
            )
        self.num_participants, self.num_ticks = num_participants, num_ticks
        self.max_delay = max_delay
        active, sure, message, member, epoch = (
            counter.key(seed, what) for what in ("active", "sure", "message", "member", "epoch")
        )
        lost = np.array([counter.threshold(loss ** (m + 1)) for m in range(max_delay)], dtype=np.int64)
        # Plain tuples that compiled code unpacks; a key in an array would be read anew for every number.
        self.data = (
            (counter.threshold(activation), max_gap or 0, (active, sure)),
            (counter.threshold(away) if churn else 0, member),
            (num_participants, max_delay, reorder, message, lost),
        )
        self._epochs = np.zeros(num_ticks + 1, dtype=np.int64)
        _fill_epochs(epoch, counter.threshold(churn), self._epochs)
        self._everybody = np.arange(num_participants, dtype=np.int64)

    def active(self, t: int) -> NDArray[np.bool_]:
        """α(t)."""
        result = np.empty(self.num_participants, dtype=bool)
        _fill_active(t, self.data, result)
        return result

    def read_time(self, t: int, i: int, j: int) -> int:
        """β(t, i, j)."""
        takes_part = is_participant(self.epoch(t), j, self.data)
        return int(read_of(t, i, j, 0, self.data)) if takes_part else t - 1

    def reads_on(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """β on the links of a map."""
        result = np.zeros((self.num_ticks + 1, len(indices)), dtype=np.int64)
        for t in range(1, self.num_ticks + 1):
            _fill_reads(t, indptr, indices, self.present(t), self.data, result[t])
        return result

    def oldest_reads(self, links: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None) -> NDArray[np.int64]:
        """The oldest tick that each participant reads, each tick."""
        n = self.num_participants
        indptr, indices = links or (np.arange(n + 1) * n, np.tile(self._everybody, n))
        result = np.full((self.num_ticks + 1, n), -1, dtype=np.int64)
        for t in range(1, self.num_ticks + 1):
            _oldest(t, indptr, indices, self.present(t), self.data, result[t])
        return result

    def compiled(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> CompiledSchedule:
        """The functions that every number comes from."""
        return CompiledSchedule(is_active, is_participant, read_of, self.data, self._epochs, self.max_delay)

    def epoch(self, t: int) -> int:
        """η(t)."""
        return int(self._epochs[t])

    def epochs(self) -> NDArray[np.int64]:
        """η of every tick."""
        return self._epochs

    def participants(self, e: int) -> Participants:
        """π(e)."""
        result = np.empty(self.num_participants, dtype=bool)
        _fill_participants(e, self.data, result)
        return result

    def validate(self) -> None:
        """Nothing to do: it keeps the axioms by the way that it is made."""


def fair_schedule(
    num_participants: int, num_ticks: int, *, seed: int = 0, max_gap: int = 4, max_delay: int = 4, churn: float = 0.0
) -> RandomSchedule:
    """A random schedule whose pseudocycles take at most about ``max_gap + max_delay`` ticks each.

    Args:
        num_participants: n.
        num_ticks: T.
        seed: of everything.
        max_gap: at most this many ticks lie between two activations of a participant.
        max_delay: data is at most this many ticks old.
        churn: probability that a tick begins a new epoch.

    Example:
        >>> fair_schedule(3, 10, max_gap=1, max_delay=1).active(5).tolist()
        [True, True, True]
    """
    return RandomSchedule(
        num_participants,
        num_ticks,
        seed=seed,
        activation=0.5 / max_gap,
        max_gap=max_gap,
        max_delay=max_delay,
        churn=churn,
    )


def adversarial_schedule(
    num_participants: int, num_ticks: int, *, seed: int = 0, phase: int = 6, churn: bool = True
) -> DenseSchedule:
    """A legal schedule that is as unhelpful as it may be while pseudocycles still happen.

    In phases of 2 to ``phase`` ticks two camps, drawn anew each time, take turns: one evaluates again and again on a
    copy of everything (itself included) that was frozen when the phase began, or in every third phase two phases
    before; the other sits still. With ``churn`` one of the camp that was just read leaves as the phase ends and is back
    a tick later, with its initial value, while some still read what it was before.

    Args:
        num_participants: n.
        num_ticks: T.
        seed: of everything.
        phase: the greatest length of a phase, at least 2 ticks.
        churn: whether participants come and go.

    Example:
        >>> adversarial_schedule(4, 100, seed=3).reads(49, 0).tolist()
        [35, 35, 35, 35]
    """
    if phase < 2:
        raise ScheduleError(f"a phase takes at least 2 ticks; got {phase}")
    n, ticks = num_participants, num_ticks + 1
    rng = np.random.default_rng(seed)
    active, reads = np.zeros((ticks, n), dtype=bool), np.zeros((ticks, n, n), dtype=np.int64)
    epochs, masks = np.zeros(ticks, dtype=np.int64), [np.ones(n, dtype=bool)]
    frozen = [0, 0]
    start, number = 1, 0
    camp = rng.random(n) < 0.5
    while start < ticks:
        length = int(rng.integers(2, phase + 1))
        end = min(start + length, ticks)
        active[start:end] = camp
        frozen.append(start - 1)
        reads[start:end] = frozen[-3] if number % 3 == 2 else frozen[-1]
        leaver = int(rng.integers(n))
        if churn and not camp[leaver] and end - start >= 2:
            masks += [np.arange(n) != leaver, np.ones(n, dtype=bool)]
            epochs[end - 2] += 1
            epochs[end - 1] += 1
        camp = ~camp if number % 2 == 0 else rng.random(n) < 0.5
        start, number = end, number + 1
    return DenseSchedule(active, reads, np.cumsum(epochs), np.array(masks))
