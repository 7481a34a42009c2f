"""Who computes when, from how old data, and who takes part: the schedule ψ = (α, β, η, π) of a dynamic iteration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model.compiled_run import CompiledSchedule
from fulgurite.plugins.dynamic_async.model.dynamic_map import Participants
from fulgurite.plugins.dynamic_async.model.errors import ScheduleError


class Schedule(ABC):
    """A schedule over the ticks 0, 1, …, T (Daggitt and Griffin, https://arxiv.org/abs/2012.01686, section 3).

    Its only axioms are causality, 0 ≤ β(t, i, j) ≤ t − 1 for t ≥ 1, and that η never falls. Nothing says that anybody
    is ever active, or that data gets newer: loss, doubling and reordering are all legal.

    Attributes:
        num_participants: n.
        num_ticks: T; there are T + 1 ticks, and tick 0 only sets the initial state.
    """

    num_participants: int
    num_ticks: int

    @abstractmethod
    def active(self, t: int) -> NDArray[np.bool_]:
        """α(t): (n,) who evaluates at tick t; of no meaning at t = 0 and on a joining tick."""

    @abstractmethod
    def read_time(self, t: int, i: int, j: int) -> int:
        """β(t, i, j): the tick whose value of j participant i uses at tick t ≥ 1."""

    @abstractmethod
    def epoch(self, t: int) -> int:
        """η(t) ≥ 0."""

    @abstractmethod
    def participants(self, e: int) -> Participants:
        """π(e): (n,) who takes part in epoch e."""

    def present(self, t: int) -> Participants:
        """ρ(t) = π(η(t)): (n,) who takes part at tick t."""
        return self.participants(self.epoch(t))

    def reads(self, t: int, i: int) -> NDArray[np.int64]:
        """(n,) β(t, i, ·), for t ≥ 1."""
        return np.array([self.read_time(t, i, j) for j in range(self.num_participants)], dtype=np.int64)

    def epochs(self) -> NDArray[np.int64]:
        """(T + 1,) η of every tick."""
        return np.array([self.epoch(t) for t in range(self.num_ticks + 1)], dtype=np.int64)

    def reads_on(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(T + 1, nnz) β(t, i, j) of the links from ``indices[indptr[i]:indptr[i + 1]]`` to each i; row 0 is zero."""
        result = np.zeros((self.num_ticks + 1, len(indices)), dtype=np.int64)
        for t in range(1, self.num_ticks + 1):
            for i in range(self.num_participants):
                for k in range(indptr[i], indptr[i + 1]):
                    result[t, k] = self.read_time(t, i, int(indices[k]))
        return result

    def oldest_reads(self, links: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None) -> NDArray[np.int64]:
        """(T + 1, n) min over j of β(t, i, j), over those that ``links`` has i read; t − 1 where i reads nobody."""
        n = self.num_participants
        if links is None:
            links = np.arange(n + 1) * n, np.tile(np.arange(n), n)
        indptr, indices = links
        return oldest_on(self.reads_on(indptr, indices), indptr)

    def compiled(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> CompiledSchedule | None:
        """Compiled code for a map that reads over these links; None: :func:`simulate` asks the methods above.

        It must tell what they tell: a subclass that changes one of them changes this too.
        """
        return None

    def validate(self) -> None:
        """Check the shapes and both axioms.

        Raises:
            ScheduleError: naming the first tick and participants that break one.
        """
        n, last = self.num_participants, self.num_ticks
        if n < 1 or last < 0:
            raise ScheduleError(f"a schedule needs a participant and a tick; got {n} participants, {last} ticks")
        epochs = self.epochs()
        _check_epochs(epochs)
        for e in np.unique(epochs):
            _check_mask(self.participants(int(e)), n, f"participants of epoch {e}")
        for t in range(last + 1):
            _check_mask(self.active(t), n, f"active participants of tick {t}")
            if t:
                check_causal(np.array([self.reads(t, i) for i in range(n)]), t)

    def dense(self) -> DenseSchedule:
        """The same schedule with every number written down: (T + 1)·n² of them."""
        n, ticks = self.num_participants, range(self.num_ticks + 1)
        reads = np.zeros((len(ticks), n, n), dtype=np.int64)
        for t in ticks[1:]:
            reads[t] = [self.reads(t, i) for i in range(n)]
        epochs, ids = np.unique(self.epochs(), return_inverse=True)
        masks = np.zeros((int(epochs[-1]) + 1, n), dtype=bool)
        for e in epochs:
            masks[e] = self.participants(int(e))
        return DenseSchedule(np.array([self.active(t) for t in ticks]), reads, epochs[ids], masks)


class DenseSchedule(Schedule):
    """A schedule that is written down.

    Args:
        active: (T + 1, n) bool, α.
        reads: (T + 1, n, n) β(t, i, j); or (T + 1, nnz) for the links that ``indptr`` and ``indices`` name, in their
            order, where every other β(t, i, j) is t − 1. Row 0 is not looked at.
        epochs: (T + 1,) η.
        participants: (E, n) bool, π(e) for every e that occurs.
        indptr: (n + 1,) where each reader's links begin.
        indices: (nnz,) who is read over each link, ascending for each reader.

    Raises:
        ScheduleError: the parts do not fit together or break an axiom.

    Example:
        >>> import numpy as np
        >>> always = np.ones((3, 2), dtype=bool)
        >>> fresh = np.repeat([[0], [0], [1]], 4, axis=1).reshape(3, 2, 2)
        >>> schedule = DenseSchedule(always, fresh, [0, 0, 0], always[:1])
        >>> schedule.read_time(2, 0, 1)
        1
        >>> DenseSchedule(always, fresh + 1, [0, 0, 0], always[:1])
        Traceback (most recent call last):
        ...
        fulgurite.plugins.dynamic_async.model.errors.ScheduleError: at tick 1 participant 0 reads participant 0 as of
        tick 1; causality allows ticks 0 to 0
    """

    def __init__(
        self,
        active: ArrayLike,
        reads: ArrayLike,
        epochs: ArrayLike,
        participants: ArrayLike,
        *,
        indptr: ArrayLike | None = None,
        indices: ArrayLike | None = None,
    ) -> None:
        self._active = np.asarray(active)
        self._reads = _whole(reads, "reads")
        self._epochs = _whole(epochs, "epochs")
        self._participants = np.asarray(participants)
        if self._active.ndim != 2 or 0 in self._active.shape or self._active.dtype != bool:
            shape, kind = self._active.shape, self._active.dtype
            raise ScheduleError(f"active must be a (T + 1, n) array of bools; got shape {shape} of {kind}")
        ticks, n = self._active.shape
        self.num_participants, self.num_ticks = n, ticks - 1
        if (indptr is None) != (indices is None):
            raise ScheduleError("indptr and indices name the links together; got only one of them")
        self._links = None
        if indptr is not None and indices is not None:
            self._links = _whole(indptr, "indptr"), _whole(indices, "indices")
            _check_links(*self._links, n)
        self.validate()

    def active(self, t: int) -> NDArray[np.bool_]:
        """α(t)."""
        return self._active[t]

    def read_time(self, t: int, i: int, j: int) -> int:
        """β(t, i, j)."""
        if self._links is None:
            return int(self._reads[t, i, j])
        indptr, indices = self._links
        k = int(indptr[i]) + int(np.searchsorted(indices[indptr[i] : indptr[i + 1]], j))
        return int(self._reads[t, k]) if k < indptr[i + 1] and indices[k] == j else t - 1

    def reads(self, t: int, i: int) -> NDArray[np.int64]:
        """β(t, i, ·)."""
        if self._links is None:
            return self._reads[t, i]
        indptr, indices = self._links
        result = np.full(self.num_participants, t - 1, dtype=np.int64)
        result[indices[indptr[i] : indptr[i + 1]]] = self._reads[t, indptr[i] : indptr[i + 1]]
        return result

    def reads_on(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """β on the links of a map."""
        rows = np.repeat(np.arange(self.num_participants), np.diff(indptr))
        if self._links is None:
            result = self._reads[:, rows, indices]
        else:
            own = np.repeat(np.arange(self.num_participants), np.diff(self._links[0]))
            keys, wanted = own * self.num_participants + self._links[1], rows * self.num_participants + indices
            place = np.searchsorted(keys, wanted)
            known = place < len(keys)
            known[known] = keys[place[known]] == wanted[known]
            result = np.repeat(np.arange(-1, self.num_ticks)[:, None], len(indices), axis=1)
            result[:, known] = self._reads[:, place[known]]
        result[0] = 0
        return result

    def compiled(self, indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> CompiledSchedule:
        """The tables, with the reads in the order of the map's links."""
        reads = self.reads_on(indptr, indices)
        ages = np.arange(len(reads)) - reads.min(axis=1, initial=self.num_ticks)
        data = self._active, self._participants, reads
        return CompiledSchedule(
            _is_active, _is_participant, _read_of, data, self._epochs, max(1, int(ages[1:].max(initial=1)))
        )

    def epoch(self, t: int) -> int:
        """η(t)."""
        return int(self._epochs[t])

    def epochs(self) -> NDArray[np.int64]:
        """η of every tick."""
        return self._epochs

    def participants(self, e: int) -> Participants:
        """π(e)."""
        return self._participants[e]

    def validate(self) -> None:
        """Check the shapes and both axioms, all ticks at once."""
        n, ticks = self.num_participants, self.num_ticks + 1
        expected = (ticks, n, n) if self._links is None else (ticks, len(self._links[1]))
        if self._reads.shape != expected:
            raise ScheduleError(f"reads must be of shape {expected} to go with active; got {self._reads.shape}")
        if self._epochs.shape != (ticks,):
            raise ScheduleError(f"epochs must be of shape {(ticks,)} to go with active; got {self._epochs.shape}")
        _check_epochs(self._epochs)
        masks = self._participants
        if masks.ndim != 2 or masks.dtype != bool or masks.shape[1] != n or len(masks) <= self._epochs[-1]:
            raise ScheduleError(
                f"participants must be bools of shape (E, {n}) with E > {self._epochs[-1]}, the last epoch; "
                f"got shape {masks.shape} of {masks.dtype}"
            )
        limit = np.arange(ticks).reshape(-1, *[1] * (self._reads.ndim - 1))
        wrong = (self._reads < 0) | (self._reads >= limit)
        wrong[0] = False
        if wrong.any():
            t = int(np.nonzero(wrong)[0][0])
            check_causal(np.array([self.reads(t, i) for i in range(n)]), t)

    def dense(self) -> DenseSchedule:
        """This schedule, or with its links made a full table."""
        return self if self._links is None else super().dense()


@compiled()
def _is_active(t: Any, i: Any, data: Any) -> Any:
    return data[0][t, i]


@compiled()
def _is_participant(e: Any, i: Any, data: Any) -> Any:
    return data[1][e, i]


@compiled()
def _read_of(t: Any, i: Any, j: Any, link: Any, data: Any) -> Any:
    return data[2][t, link]


def oldest_on(reads: NDArray[np.int64], indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """(T + 1, n) the least of (T + 1, nnz) reads over each reader's links; t − 1 where it has none."""
    ticks, n = len(reads), len(indptr) - 1
    result = np.repeat(np.arange(-1, ticks - 1)[:, None], n, axis=1)
    some = np.flatnonzero(np.diff(indptr))
    if len(some):
        result[:, some] = np.minimum.reduceat(reads, indptr[some], axis=1)
    return result


def check_causal(reads: NDArray[np.int64], t: int) -> None:
    """Refuse a tick's (n, n) table β(t, ·, ·) that reads from the future or before the beginning."""
    if reads.ndim != 2 or reads.shape[0] != reads.shape[1]:
        raise ScheduleError(f"the reads of tick {t} must be an (n, n) table; got shape {reads.shape}")
    for i, j in np.argwhere((reads < 0) | (reads >= t)):
        refuse_read(t, int(i), int(j), int(reads[i, j]))


def refuse_read(t: int, i: int, j: int, read: int) -> None:
    """Say which read breaks causality."""
    raise ScheduleError(
        f"at tick {t} participant {i} reads participant {j} as of tick {read}; causality allows ticks 0 to {t - 1}"
    )


def _check_epochs(epochs: NDArray[np.int64]) -> None:
    if epochs[0] < 0:
        raise ScheduleError(f"tick 0 is of epoch {epochs[0]}; epochs are numbered from 0")
    falls = np.flatnonzero(np.diff(epochs) < 0)
    if len(falls):
        t = int(falls[0]) + 1
        raise ScheduleError(f"the epoch falls from {epochs[t - 1]} to {epochs[t]} at tick {t}; epochs must never fall")


def _check_mask(mask: NDArray[Any], n: int, name: str) -> None:
    if mask.shape != (n,) or mask.dtype != bool:
        raise ScheduleError(f"{name}: expected {n} bools; got shape {mask.shape} of {mask.dtype}")


def _check_links(indptr: NDArray[np.int64], indices: NDArray[np.int64], n: int) -> None:
    if indptr.shape != (n + 1,) or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise ScheduleError(f"indptr must rise from 0 to the {len(indices)} links in {n + 1} numbers")
    keys = np.repeat(np.arange(n), np.diff(indptr)) * n + indices
    if indices.ndim != 1 or ((indices < 0) | (indices >= n)).any() or (np.diff(keys) <= 0).any():
        raise ScheduleError(f"indices must name participants 0 to {n - 1}, ascending and once for each reader")


def _whole(numbers: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(numbers)
    if array.dtype.kind not in "iu" and array.size:
        raise ScheduleError(f"{name} must be whole numbers; got {array.dtype}")
    return array.astype(np.int64)
