"""Forward kernels: a tile of samples, or one sample, carried through the whole network."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.models.sparse_network.cpu.activations import CLAMP, IDENTITY, clamp
from fulgurite.models.sparse_network.cpu.aggregations import MEAN, SUM, combine
from fulgurite.models.sparse_network.cpu.compile import kernel
from fulgurite.models.sparse_network.cpu.rows import activate_one, activate_row
from fulgurite.models.sparse_network.cpu.schedule import CODE, FAMILY, FIRST, FLAGS, KIND, LAST, SLOT
from fulgurite.models.sparse_network.cpu.vectors import clamp_rows, weigh_rows

Ints = NDArray[Any]
Real = NDArray[Any]

# Rows and samples of the blocks that are transposed: what is read and what is written both stay in the cache.
_BLOCK = 16


@kernel(forceinline=True)
def weigh(table: Real, rows: Ints, factors: Real, first: int, last: int, columns: int, out: Real) -> None:
    """``out[j] = Σ_e factors[e]·table[rows[e], j]`` for first ≤ e < last, j < columns, a multiple of 8."""
    j = 0
    while j + 64 <= columns:
        weigh_rows(table, rows, factors, first, last, j, 64, out)
        j += 64
    if j + 32 <= columns:
        weigh_rows(table, rows, factors, first, last, j, 32, out)
        j += 32
    if j + 16 <= columns:
        weigh_rows(table, rows, factors, first, last, j, 16, out)
        j += 16
    if j + 8 <= columns:
        weigh_rows(table, rows, factors, first, last, j, 8, out)


@kernel(forceinline=True)
def weigh_and_clamp(
    table: Real, rows: Ints, factors: Real, first: int, last: int, columns: int, bias: float, response: float,
    low: float, high: float, out: Real, row: int,
) -> None:  # fmt: skip
    """``out[row, j] = clamp(bias + response·Σ_e factors[e]·table[rows[e], j])``, for columns as :func:`weigh`."""
    j = 0
    while j + 64 <= columns:
        clamp_rows(table, rows, factors, first, last, j, 64, bias, response, low, high, out, row)
        j += 64
    if j + 32 <= columns:
        clamp_rows(table, rows, factors, first, last, j, 32, bias, response, low, high, out, row)
        j += 32
    if j + 16 <= columns:
        clamp_rows(table, rows, factors, first, last, j, 16, bias, response, low, high, out, row)
        j += 16
    if j + 8 <= columns:
        clamp_rows(table, rows, factors, first, last, j, 8, bias, response, low, high, out, row)


@kernel()
def aggregate(
    table: Real, rows: Ints, weight: Real, first: int, last: int, kind: int, columns: int, messages: Real, ranks: Ints,
    out: Real,
) -> None:  # fmt: skip
    """``out[j] = a`` of a node that takes neither sum nor mean; messages and ranks: scratch of last − first numbers."""
    count = last - first
    for j in range(columns):
        for i in range(count):
            messages[i] = weight[first + i] * table[rows[first + i], j]
        out[j] = combine(kind, messages, count, ranks)


@kernel(forceinline=True)
def preactivate(
    table: Real, rows: Ints, weight: Real, first: int, last: int, kind: int, bias: float, response: float,
    columns: int, messages: Real, ranks: Ints, z: Real,
) -> None:  # fmt: skip
    """``z[j] = bias + response·a`` of one node."""
    if kind <= MEAN:
        weigh(table, rows, weight, first, last, columns, z)
        if kind == MEAN and last > first:
            response /= table.dtype.type(last - first)
    else:
        aggregate(table, rows, weight, first, last, kind, columns, messages, ranks, z)
    for j in range(columns):
        z[j] = bias + response * z[j]


@kernel()
def load_inputs(x: Real, sample: int, width: int, rows: Ints, spans: Ints, low: int, high: int, table: Real) -> None:
    """Transpose samples ``sample`` … ``sample + width`` of the inputs that groups low … high read into their rows.

    The rest of each row is made 0. With ``low`` −1, inputs that nobody reads are loaded too.
    """
    count, pitch = len(rows), table.shape[1]
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        wanted = False
        for i in range(start, stop):
            wanted |= spans[i, 0] < high and spans[i, 1] > low
        if not wanted:
            continue
        for j in range(width):
            for i in range(start, stop):
                table[rows[i], j] = x[sample + j, i]
        for i in range(start, stop):
            for j in range(width, pitch):
                table[rows[i], j] = table.dtype.type(0)


@kernel()
def _store_outputs(
    table: Real, rows: Ints, numbers: Ints, start: int, stop: int, sample: int, width: int, y: Real
) -> None:
    for begin in range(start, stop, _BLOCK):
        end = min(begin + _BLOCK, stop)
        for j in range(width):
            for o in range(begin, end):
                y[sample + j, numbers[o]] = table[rows[o], j]


@kernel()
def forward_tile(
    sample: int, width: int, columns: int, low: int, high: int, num_inputs: int, keep: bool,
    bounds: Ints, steps: Ints, rows: Ints, out_bounds: Ints, out_columns: Ints, out_rows: Ints, scratch: Real,
    ranks: Ints,
    weight: Real, bias: Real, response: Real, knobs: Real, table: Real, y: Real,
) -> None:  # fmt: skip
    """Compute groups low … high for one tile of samples, whose inputs stand in ``table`` (rows, T) already.

    Args:
        sample: the tile's first sample.
        width: its samples.
        columns: ``width`` rounded up to a multiple of 8: so many are computed.
        low: first group.
        high: one more than the last.
        num_inputs: F.
        keep: whether a node's row has its number, rather than that of its slot, and is left 0 beyond ``width``, as sums
            over a row in the backward pass expect.
        bounds: see :class:`~fulgurite.models.sparse_network.cpu.schedule.Schedule`, as for all that follow.
        steps: likewise.
        rows: row of each edge's source.
        out_bounds: likewise.
        out_columns: likewise.
        out_rows: row of each output's node.
        scratch: (4, k), k at least T and the schedule's ``longest``.
        ranks: (longest,) likewise.
        weight: (E,).
        bias: (n,).
        response: (n,) or (0,).
        knobs: (activations, 2).
        table: (rows, T), where nodes' values go.
        y: (B, O), of which this tile's rows are written.
    """
    pitch = table.shape[1]
    z, messages = scratch[0], scratch[1]
    one, zero, nan = table.dtype.type(1), table.dtype.type(0), table.dtype.type(np.nan)
    for g in range(low, high):
        for v in range(bounds[g], bounds[g + 1]):
            row, act = num_inputs + v if keep else steps[v, SLOT], steps[v, FLAGS] >> CODE
            r = response[v] if len(response) else one
            first, last, kind, family = steps[v, FIRST], steps[v, LAST], steps[v, KIND], steps[v, FAMILY]
            if kind > SUM:
                preactivate(table, rows, weight, first, last, kind, bias[v], r, columns, messages, ranks, z)
                activate_row(family, knobs[act, 0], knobs[act, 1], z, table, row, columns)
            elif family <= CLAMP:
                low_bound, high_bound = knobs[act, 0], knobs[act, 1]
                weigh_and_clamp(
                    table, rows, weight, first, last, columns, bias[v], r, low_bound, high_bound, table, row
                )
            else:
                weigh_and_clamp(table, rows, weight, first, last, columns, bias[v], r, nan, nan, scratch, 0)
                activate_row(family, knobs[act, 0], knobs[act, 1], z, table, row, columns)
            if keep:
                for j in range(width, pitch):
                    table[row, j] = zero
        _store_outputs(table, out_rows, out_columns, out_bounds[g], out_bounds[g + 1], sample, width, y)


@kernel()
def forward_one(
    x: Real, spans: Ints, low: int, high: int, bounds: Ints, steps: Ints, rows: Ints,
    out_bounds: Ints, out_columns: Ints, out_rows: Ints, scratch: Real, ranks: Ints,
    weight: Real, bias: Real, response: Real, knobs: Real, values: Real, y: Real,
) -> None:  # fmt: skip
    """Compute groups low … high for one sample x (F,) into y (O,): a plain loop over edges as they are stored.

    ``values`` (N,) has a number a node. For other arguments see :func:`forward_tile`.
    """
    messages = scratch[1]
    one, zero = values.dtype.type(1), values.dtype.type(0)
    num_inputs, scaled = len(x), len(response) > 0
    for i in range(num_inputs):
        if spans[i, 0] < high and spans[i, 1] > low:
            values[i] = x[i]
    for g in range(low, high):
        for v in range(bounds[g], bounds[g + 1]):
            first, last, kind = steps[v, FIRST], steps[v, LAST], steps[v, KIND]
            if kind == SUM and not scaled:
                z = bias[v]
                for e in range(first, last):
                    z += weight[e] * values[rows[e]]
            elif kind <= MEAN:
                a = zero
                for e in range(first, last):
                    a += weight[e] * values[rows[e]]
                r = response[v] if scaled else one
                if kind == MEAN and last > first:
                    r /= values.dtype.type(last - first)
                z = bias[v] + r * a
            else:
                for i in range(last - first):
                    messages[i] = weight[first + i] * values[rows[first + i]]
                r = response[v] if scaled else one
                z = bias[v] + r * combine(kind, messages, last - first, ranks)
            act, family = steps[v, FLAGS] >> CODE, steps[v, FAMILY]
            if family == CLAMP:
                z = clamp(z, knobs[act, 0], knobs[act, 1], one)
            elif family != IDENTITY:
                z = activate_one(family, knobs[act, 0], knobs[act, 1], z, one)
            values[num_inputs + v] = z
        for o in range(out_bounds[g], out_bounds[g + 1]):
            y[out_columns[o]] = values[out_rows[o]]
