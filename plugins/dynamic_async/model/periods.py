"""Pseudocycles: how much of an asynchronous run amounts to one synchronous round."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.schedule import Schedule

Links = tuple[NDArray[np.int64], NDArray[np.int64]]


class Pseudocycle(NamedTuple):
    """The ticks ``start`` to ``end`` of an epoch, in which everybody has dropped older data and evaluated since."""

    start: int
    end: int
    epoch: int


class Recorded(Protocol):
    """What has been run and tells by which schedule."""

    def schedule(self) -> Schedule:
        """The schedule that the run amounts to."""


def pseudocycles(schedule: Schedule | Recorded, links: Links | None = None) -> list[Pseudocycle]:
    """As many abutting pseudocycles as each epoch holds (https://arxiv.org/abs/2012.01686, section 3.4).

    [s, e], within one epoch, is a pseudocycle if every participant i has a tick m in it such that β(t, i, j) ≥ s for
    *all* t > m and all j (what was written before s has expired), and i ∈ α(t) for some m < t ≤ e. After k abutting
    ones an asynchronous iteration is at least as far as after k synchronous rounds. Taking the earliest end each time
    gives the greatest number. An epoch without participants has none.

    Args:
        schedule: ψ, or a recorded run that has one; "all t" are those up to its last tick.
        links: ``indptr`` (n + 1,) and ``indices`` (nnz,): whom each participant reads at all; what it does not read
            never holds a period up. Everybody where not given, which is the definition to the letter.

    Returns:
        in order of time; where ``start`` equals the previous ``end``, both are of one chain.

    Example:
        >>> from fulgurite.plugins.dynamic_async.model.generators import fair_schedule
        >>> found = pseudocycles(fair_schedule(4, 100, seed=1, max_gap=3, max_delay=2))
        >>> found[0].start, found[1].start == found[0].end, len(found) >= 100 // (3 + 2) - 1
        (0, True, True)
    """
    if not isinstance(schedule, Schedule):
        schedule = schedule.schedule()
    horizon = _horizon(schedule, links)
    following = _next_activation(schedule)
    epochs = schedule.epochs()
    firsts = np.flatnonzero(np.diff(epochs, prepend=-1))
    found = []
    for first, after in zip(firsts.tolist(), [*firsts[1:].tolist(), len(epochs)], strict=True):
        members = np.flatnonzero(schedule.present(first))
        start = first
        while len(members):
            end = start
            for i in members:
                # The horizon never falls, so the first tick that has reached the start ends the expiry period.
                middle = int(np.searchsorted(horizon[:, i], start))
                end = max(end, int(following[max(middle, start), i]) if middle < after else after)
            if end >= after:
                break
            found.append(Pseudocycle(start, end, int(epochs[first])))
            start = end
    return found


def pseudocycles_by_epoch(found: list[Pseudocycle]) -> dict[int, int]:
    """How many pseudocycles each epoch holds that holds any."""
    counts: dict[int, int] = {}
    for cycle in found:
        counts[cycle.epoch] = counts.get(cycle.epoch, 0) + 1
    return counts


def _horizon(schedule: Schedule, links: Links | None) -> NDArray[np.int64]:
    """(T + 1, n) the oldest tick that i reads at any tick after t; T after the last."""
    last, n = schedule.num_ticks, schedule.num_participants
    result = np.full((last + 1, n), last, dtype=np.int64)
    if last:
        result[:-1] = schedule.oldest_reads(links)[1:]
    return np.minimum.accumulate(result[::-1], axis=0)[::-1]


def _next_activation(schedule: Schedule) -> NDArray[np.int64]:
    """(T + 1, n) the first tick after t at which i is active; T + 1 where there is none."""
    ticks = schedule.num_ticks + 1
    active = np.array([schedule.active(t) for t in range(ticks)])
    own = np.where(active, np.arange(ticks)[:, None], ticks)
    result = np.full_like(own, ticks)
    result[:-1] = np.minimum.accumulate(own[::-1], axis=0)[::-1][1:]
    return result
