"""The simulation as one compiled loop over ticks, participants and links."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model.dynamic_map import Kernel


class CompiledSchedule(NamedTuple):
    """A schedule as compiled functions, in the order of a map's links.

    Args:
        is_active: ``is_active(t, i, data)``, α.
        is_participant: ``is_participant(e, i, data)``, π.
        read_of: ``read_of(t, i, j, k, data)``, β, where j takes part and the map reads it over link number k.
        data: what they are handed.
        epochs: (T + 1,) η.
        max_delay: at no tick is anything read that is older than this many ticks.
    """

    is_active: Any
    is_participant: Any
    read_of: Any
    data: Any
    epochs: NDArray[np.int64]
    max_delay: int


def run_compiled(
    kernel: Kernel, schedule: CompiledSchedule, *, keep_all: bool
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """δ and the round tags; of every tick with ``keep_all``, otherwise of the last.

    Returns:
        (T + 1 or 1, n, d) states and (T + 1 or 1, n) tags.
    """
    ticks = len(schedule.epochs)
    window = ticks if keep_all else min(schedule.max_delay + 1, ticks)
    states = np.empty((window, *kernel.bottom.shape), dtype=kernel.bottom.dtype)
    tags = np.zeros((window, len(kernel.bottom)), dtype=np.int32)
    _run(
        kernel.evaluate,
        kernel.arrays,
        kernel.indptr,
        kernel.indices,
        kernel.bottom,
        kernel.initial,
        schedule.is_active,
        schedule.is_participant,
        schedule.read_of,
        schedule.data,
        schedule.epochs,
        states,
        tags,
    )
    kept = slice(None) if keep_all else slice((ticks - 1) % window, (ticks - 1) % window + 1)
    return states[kept], tags[kept].astype(np.int64)


# Compiled anew in each process (a second or two) for each pair of kinds of map and schedule.
@compiled(keep=False)
def _run(
    evaluate: Any,
    arrays: Any,
    indptr: Any,
    indices: Any,
    bottom: Any,
    initial: Any,
    is_active: Any,
    is_participant: Any,
    read_of: Any,
    data: Any,
    epochs: Any,
    states: Any,
    tags: Any,
) -> None:
    n, window = len(bottom), len(states)
    degree = 0
    for i in range(n):
        degree = max(degree, indptr[i + 1] - indptr[i])
    inputs = np.empty((degree, bottom.shape[1]), bottom.dtype)
    in_view = np.empty(degree, np.bool_)
    present, before = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    unread = np.iinfo(np.int32).max
    slot = began = 0  # slot: where tick t lies in the ring of the last ticks; began: the epoch's first tick
    for t in range(len(epochs)):
        last, slot = slot, t % window
        epoch = epochs[t]
        changed = t == 0 or epoch != epochs[t - 1]
        if changed:
            began = t
            for i in range(n):
                before[i] = present[i]
                present[i] = is_participant(epoch, i, data)
        for i in range(n):
            if not present[i]:
                states[slot, i] = bottom[i]
                tags[slot, i] = 0
            elif changed and not before[i]:
                states[slot, i] = initial[i]
                tags[slot, i] = 0
            elif not is_active(t, i, data):
                states[slot, i] = states[last, i]
                tags[slot, i] = 0 if changed else tags[last, i]
            else:
                tag = unread
                first, links = indptr[i], indptr[i + 1] - indptr[i]
                for k in range(links):
                    j = indices[first + k]
                    in_view[k] = present[j]
                    if present[j]:
                        read = read_of(t, i, j, first + k, data)
                        place = slot - (t - read)
                        if place < 0:
                            place += window
                        inputs[k] = states[place, j]
                        counted = tags[place, j] if read >= began else 0
                        tag = min(tag, counted)
                    else:
                        inputs[k] = bottom[j]
                if tag == unread:
                    tag = 0 if changed else tags[last, i]
                evaluate(i, epoch, in_view[:links], inputs[:links], states[slot, i], *arrays)
                tags[slot, i] = tag + 1
