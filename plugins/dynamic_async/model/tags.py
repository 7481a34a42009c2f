"""Round tags: how many rounds each value is certified for, counted by the values themselves, without a clock."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.periods import Links
from fulgurite.plugins.dynamic_async.model.schedule import Schedule


def round_tags(schedule: Schedule, links: Links | None = None) -> NDArray[np.int64]:
    """The tag of every participant's value at every tick.

    Where F^{e,p} contracts by γ in the norm maxᵢ dᵢ / wᵢ, and r₀ is the greatest distance from its fixed point x* that
    X has, a value with tag k has dᵢ(xᵢ, x*ᵢ) ≤ γᵏ r₀ wᵢ. A value begins with 0, when its owner joins and again in each
    epoch; an evaluation gives it 1 + the least tag of what it read of participants, where a value of another epoch
    counts as 0; if it reads nobody, 1 + its own.

    The least tag of the participants is never less than the number of pseudocycles that the epoch has had so far.

    Args:
        schedule: ψ.
        links: ``indptr`` (n + 1,) and ``indices`` (nnz,): whom each participant reads; everybody where not given.

    Returns:
        (T + 1, n); 0 for those absent.

    Example:
        >>> from fulgurite.plugins.dynamic_async.model.generators import fair_schedule
        >>> round_tags(fair_schedule(3, 4, max_gap=1, max_delay=1)).tolist()
        [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]]
    """
    n, ticks = schedule.num_participants, schedule.num_ticks + 1
    indptr, indices = links or (np.arange(n + 1) * n, np.tile(np.arange(n), n))
    reads, epochs = schedule.reads_on(indptr, indices), schedule.epochs()
    reading = np.flatnonzero(np.diff(indptr))
    tags = np.zeros((ticks, n), dtype=np.int64)
    before = schedule.present(0)
    for t in range(1, ticks):
        present = schedule.present(t)
        own = tags[t - 1] if epochs[t] == epochs[t - 1] else np.zeros(n, dtype=np.int64)
        counted = np.where(epochs[reads[t]] == epochs[t], tags[reads[t], indices], 0)
        counted[~present[indices]] = ticks  # more than any tag
        least = np.full(n, ticks)
        if len(reading):
            least[reading] = np.minimum.reduceat(counted, indptr[reading])
        evaluated = 1 + np.where(least < ticks, least, own)
        tags[t] = np.where(present, np.where(schedule.active(t) & before, evaluated, own), 0)
        before = present
    return tags
