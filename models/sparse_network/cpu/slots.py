"""Passes over a topology that find which rows of a table its nodes can share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.models.sparse_network.cpu.compile import kernel

Ints = NDArray[Any]


@kernel(_nrt=True)
def assign_slots(ptr: Ints, src: Ints, bounds: Ints, is_output: Ints, num_inputs: int) -> tuple[Ints, int]:
    """Give each node a row of a small table, free again once its last reader has been computed.

    A reader may take the row of its own source, since it is written after all of its sources are read. Outputs keep
    theirs to the end of their group. Inputs have rows of their own; they are given on only where there is one group, as
    other groups may read them too.

    Args:
        ptr: (n + 1,) in-edges of each computed node.
        src: (E,) their sources; a node's are before it.
        bounds: (G + 1,) computed nodes of each group.
        is_output: (F + n,) whether a node is an output.
        num_inputs: F.

    Returns:
        (F + n,) the row of each node, and the number of rows.
    """
    computed = len(ptr) - 1
    slots = np.empty(num_inputs + computed, np.int32)
    last = np.full(num_inputs + computed, -1, np.int64)
    for v in range(computed):
        for e in range(ptr[v], ptr[v + 1]):
            last[src[e]] = v
    for u in range(num_inputs + computed):
        if is_output[u] or (u < num_inputs and len(bounds) > 2):
            last[u] = computed
    for i in range(num_inputs):
        slots[i] = i
    free = np.empty(num_inputs + computed, np.int32)
    most = num_inputs
    for g in range(len(bounds) - 1):
        taken, num_free = num_inputs, 0
        for v in range(bounds[g], bounds[g + 1]):
            for e in range(ptr[v], ptr[v + 1]):
                if last[src[e]] == v:
                    last[src[e]] = -1
                    free[num_free] = slots[src[e]]
                    num_free += 1
            if num_free:
                num_free -= 1
                slots[num_inputs + v] = free[num_free]
            else:
                slots[num_inputs + v] = taken
                taken += 1
            if last[num_inputs + v] < 0:
                free[num_free] = slots[num_inputs + v]
                num_free += 1
        most = max(most, taken)
    return slots, most


@kernel(_nrt=True)
def group_spans(ptr: Ints, src: Ints, bounds: Ints, is_output: Ints, num_inputs: int) -> Ints:
    """The first group that reads each input, and one more than the last, (F, 2); an output counts to group 0."""
    spans = np.zeros((num_inputs, 2), np.int32)
    for g in range(len(bounds) - 1):
        for v in range(bounds[g], bounds[g + 1]):
            for e in range(ptr[v], ptr[v + 1]):
                u = src[e]
                if u < num_inputs:
                    if spans[u, 1] == 0:
                        spans[u, 0] = g
                    spans[u, 1] = g + 1
    for i in range(num_inputs):
        if is_output[i]:
            spans[i, 0] = 0
            spans[i, 1] = max(spans[i, 1], 1)
    return spans
