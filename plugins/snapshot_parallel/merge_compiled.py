"""The same work on the CPU, compiled: one walk along sorted lists, counting sorts, sums row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.compiled import compiled

Array = NDArray[Any]

COUNT_FIRST = 2**26
"""Entries from which on a first walk counts them, for memory that is not needed may not even be lent."""
FORMS = ("count", "sum", "union", "directions", "float")


def slide(
    keys: NDArray[np.int64],
    amounts: NDArray[np.int64],
    offsets: list[int],
    *,
    window: int,
    emit: int,
    num_nodes: int,
    form: str,
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """CSR (crow, col, value) of the windows that end at steps ``emit`` and later; of floats only the structure.

    Args:
        keys: (E,) row · 2³² + column, ascending in each step.
        amounts: (C, E), see :class:`fulgurite.plugins.snapshot_parallel.merge.Steps`.
        offsets: where each step's keys begin, and the end of the last.
        window: how many steps a window holds.
        emit: how many of the steps only fill the first window.
        num_nodes: N.
        form: what an entry's value is.
    """
    bounds = np.asarray(offsets, dtype=np.int64)
    ends = np.arange(1, len(bounds))
    held = bounds[1:] - bounds[np.maximum(ends - window, 0)]  # a window has no more keys than this
    bound = int(held[emit:].sum())
    scratch = np.empty((2, 3, int(held.max(initial=0))), np.int64)
    code = FORMS.index(form)
    if bound > COUNT_FIRST:
        nothing = np.empty(0, np.int32)
        bound = _slide(keys, amounts, bounds, window, emit, num_nodes, code, nothing, nothing, nothing, scratch)
    crow = np.zeros((len(bounds) - 1 - emit) * num_nodes + 1, np.int32 if bound < 2**31 else np.int64)
    col, value = np.empty(bound, np.int32), np.empty(bound, np.int32)
    nnz = _slide(keys, amounts, bounds, window, emit, num_nodes, code, crow, col, value, scratch)
    if nnz < 0.9 * bound:  # keys that repeat in a window: the bound's memory is given back
        return crow, col[:nnz].copy(), value[:nnz].copy()
    return crow, col[:nnz], value[:nnz]


@compiled()
def _slide(
    keys: Array,
    amounts: Array,
    offsets: Array,
    window: int,
    emit: int,
    num_nodes: int,
    form: int,
    crow: Array,
    col: Array,
    value: Array,
    scratch: Array,
) -> int:
    two = amounts.shape[0] == 2
    size = 0
    out = 0
    for step in range(len(offsets) - 1):
        old_keys, old_first, old_second = scratch[step % 2, 0], scratch[step % 2, 1], scratch[step % 2, 2]
        new_keys, new_first, new_second = scratch[1 - step % 2, 0], scratch[1 - step % 2, 1], scratch[1 - step % 2, 2]
        at, fresh, end = 0, offsets[step], offsets[step + 1]
        gone = gone_end = 0
        if step >= window:
            gone, gone_end = offsets[step - window], offsets[step - window + 1]
        kept = 0
        while True:
            # Up to the next key that changes, the old list is copied.
            change = np.int64(2**63 - 1)
            if fresh < end:
                change = keys[fresh]
            if gone < gone_end and keys[gone] < change:
                change = keys[gone]
            while at < size and old_keys[at] < change:
                new_keys[kept], new_first[kept] = old_keys[at], old_first[at]
                if two:
                    new_second[kept] = old_second[at]
                kept += 1
                at += 1
            if fresh >= end and gone >= gone_end:
                break
            first = second = np.int64(0)
            if at < size and old_keys[at] == change:
                first, second = old_first[at], old_second[at] if two else np.int64(0)
                at += 1
            if fresh < end and keys[fresh] == change:
                first += amounts[0, fresh]
                if two:
                    second += amounts[1, fresh]
                fresh += 1
            if gone < gone_end and keys[gone] == change:
                first -= amounts[0, gone]
                if two:
                    second -= amounts[1, gone]
                gone += 1
            if first > 0:
                new_keys[kept], new_first[kept], new_second[kept] = change, first, second
                kept += 1
        size = kept
        if step < emit:
            continue
        if not len(crow):  # entries are only counted
            out += size
            continue
        base = (step - emit) * num_nodes + 1
        for entry in range(size):
            key = new_keys[entry]
            crow[base + (key >> 32)] += 1
            col[out + entry] = key & 0xFFFFFFFF
        if form == 0:
            for entry in range(size):
                value[out + entry] = new_first[entry]
        elif form == 1:
            for entry in range(size):
                value[out + entry] = new_second[entry]
        elif form == 3:
            for entry in range(size):
                value[out + entry] = (new_second[entry] > 0) + (new_first[entry] > new_second[entry])
        else:
            value[out : out + size] = 1
        out += size
    total = 0
    for row in range(1, len(crow)):
        total += crow[row]
        crow[row] = total
    return out


@compiled()
def float_sums(
    keys: Array,
    weight: Array,
    offsets: Array,
    window: int,
    emit: int,
    num_nodes: int,
    crow: Array,
    col: Array,
    out_value: Array,
    total: Array,
) -> None:
    """Each window's weights, added anew in order of time, into a structure that is known."""
    at = np.empty(len(offsets) - 1, np.int64)
    for step in range(emit, len(offsets) - 1):
        low = max(0, step - window + 1)
        at[low : step + 1] = offsets[low : step + 1]
        for row in range(num_nodes):
            flat = (step - emit) * num_nodes + row
            begin, end = crow[flat], crow[flat + 1]
            if begin == end:  # then no step of the window has anything in this row
                continue
            for entry in range(begin, end):
                total[col[entry]] = 0
            for earlier in range(low, step + 1):
                event = at[earlier]
                while event < offsets[earlier + 1] and keys[event] >> 32 == row:
                    total[keys[event] & 0xFFFFFFFF] += weight[event]
                    event += 1
                at[earlier] = event
            for entry in range(begin, end):
                out_value[entry] = total[col[entry]]


@compiled()
def both_directions(
    source: Array,
    target: Array,
    weight: Array,
    offsets: Array,
    num_nodes: int,
    keys: Array,
    amounts: Array,
    second: int,
    out_offsets: Array,
) -> int:
    """Each step's keys with their transposes, merged: (occurrences, forward occurrences or summed weights).

    ``second``: 0 nothing beside the occurrences, 1 those in the event's own direction, 2 the sum of weights.
    """
    count = len(source)
    # Stable counting sorts, by target and then by step, leave (step, target, source): the transposes in order.
    starts = np.zeros(num_nodes + 1, np.int64)
    for event in range(count):
        starts[target[event] + 1] += 1
    for node in range(num_nodes):
        starts[node + 1] += starts[node]
    by_target = np.empty(count, np.int64)
    for event in range(count):
        by_target[starts[target[event]]] = event
        starts[target[event]] += 1
    step_of = np.empty(count, np.int32)
    for step in range(len(offsets) - 1):
        step_of[offsets[step] : offsets[step + 1]] = step
    at = offsets.copy()
    turned = np.empty(count, np.int64)
    for place in range(count):
        event = by_target[place]
        turned[at[step_of[event]]] = event
        at[step_of[event]] += 1
    out = 0
    for step in range(len(offsets) - 1):
        ahead, back, end = offsets[step], offsets[step], offsets[step + 1]
        while ahead < end or back < end:
            forward = backward = np.int64(2**63 - 1)
            if ahead < end:
                forward = (np.int64(source[ahead]) << 32) | target[ahead]
            if back < end:
                backward = (np.int64(target[turned[back]]) << 32) | source[turned[back]]
            keys[out] = min(forward, backward)
            if forward <= backward:
                amounts[0, out] += 1
                if second:
                    amounts[1, out] += weight[ahead] if second == 2 else 1
                ahead += 1
            if backward <= forward:
                amounts[0, out] += 1
                if second == 2:
                    amounts[1, out] += weight[turned[back]]
                back += 1
            out += 1
        out_offsets[step + 1] = out
    return out


@compiled()
def transpose(
    crow: Array, col: Array, value: Array, num_nodes: int, out_crow: Array, out_col: Array, out_value: Array
) -> None:
    """Every diagonal block transposed, by a counting sort."""
    for block in range((len(crow) - 1) // num_nodes):
        base = block * num_nodes
        for entry in range(crow[base], crow[base + num_nodes]):
            out_crow[base + col[entry] + 1] += 1
    for row in range(1, len(out_crow)):
        out_crow[row] += out_crow[row - 1]
    at = out_crow.copy()
    for block in range((len(crow) - 1) // num_nodes):
        base = block * num_nodes
        for row in range(num_nodes):
            for entry in range(crow[base + row], crow[base + row + 1]):
                place = at[base + col[entry]]
                out_col[place], out_value[place] = row, value[entry]
                at[base + col[entry]] += 1


@compiled()
def inv_sqrt_degrees(crow: Array, value: Array, scale: float, out: Array) -> int:
    """(scale · row sum + 1)^(-1/2) of every row; gives the first row whose degree is not positive, or −1."""
    wrong = -1
    for row in range(len(crow) - 1):
        total = 0.0  # exact for counts: doubles hold every whole number below 2⁵³
        for entry in range(crow[row], crow[row + 1]):
            total += value[entry]
        degree = scale * total + 1.0
        if not degree > 0.0:
            out[row] = degree
            if wrong < 0:
                wrong = row
        else:
            out[row] = 1.0 / np.sqrt(degree)
    return wrong


@compiled()
def with_loops(
    crow: Array,
    col: Array,
    value: Array,
    d: Array,
    scale: float,
    num_nodes: int,
    out_crow: Array,
    out_col: Array,
    out_value: Array,
) -> int:
    """D^(-1/2) (A + I) D^(-1/2) as float64 values, the identity's entries merged in."""
    out = 0
    for flat in range(len(crow) - 1):
        row = flat % num_nodes
        base = flat - row
        pending = True
        for entry in range(crow[flat], crow[flat + 1]):
            column = col[entry]
            if pending and column >= row:
                pending = False
                if column > row:
                    out_col[out], out_value[out] = row, d[flat] * d[flat]
                    out += 1
            # The two roots first: their product is the same for the transposed entry, to the bit.
            count = scale * value[entry] + (1.0 if column == row else 0.0)
            out_col[out], out_value[out] = column, count * (d[flat] * d[base + column])
            out += 1
        if pending:
            out_col[out], out_value[out] = row, d[flat] * d[flat]
            out += 1
        out_crow[flat + 1] = out
    return out


@compiled()
def mix(
    crow: Array,
    col: Array,
    value: Array,
    num_nodes: int,
    first: int,
    history: int,
    window: int,
    out_crow: Array,
    out_col: Array,
    out_value: Array,
    total: Array,
) -> None:
    """Averages over the last min(t + 1, w) snapshots, in order of time, into a structure that is known."""
    for position in range((len(out_crow) - 1) // num_nodes):
        reach = min(first + position + 1, window)
        here = position + history
        for row in range(num_nodes):
            begin, end = out_crow[position * num_nodes + row], out_crow[position * num_nodes + row + 1]
            for entry in range(begin, end):
                total[out_col[entry]] = 0.0
            for step in range(here - reach + 1, here + 1):
                flat = step * num_nodes + row
                for entry in range(crow[flat], crow[flat + 1]):
                    total[col[entry]] += value[entry]
            for entry in range(begin, end):
                out_value[entry] = total[out_col[entry]] / reach
