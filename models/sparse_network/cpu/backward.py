"""Backward kernels: δ pulled through the network a tile at a time, then the parameters' and the inputs' gradients.

``deltas`` (tiles, N, T) has a row a node: ∂L/∂z of computed nodes, ∂L/∂x of inputs. Every sum has one
order, whichever thread takes it, so that gradients repeat bit by bit.
"""

from typing import Any

from numpy.typing import NDArray

from fulgurite.models.sparse_network.cpu.activations import CLAMP
from fulgurite.models.sparse_network.cpu.aggregations import MEAN, combine, spread
from fulgurite.models.sparse_network.cpu.compile import kernel
from fulgurite.models.sparse_network.cpu.forward import preactivate, weigh
from fulgurite.models.sparse_network.cpu.rows import slope_row
from fulgurite.models.sparse_network.cpu.schedule import CODE, FAMILY, FIRST, FLAGS, FROM_INPUT, KIND, LAST, SEEDED
from fulgurite.models.sparse_network.cpu.vectors import dot_rows, pull_rows_clamped

Ints = NDArray[Any]
Real = NDArray[Any]
_BLOCK = 16


@kernel()
def edge_factors(steps: Ints, weight: Real, response: Real, out: Real) -> None:
    """``out[e] = w_e·r·∂a/∂m`` of edges into nodes that take a sum or a mean: what pulls δ through them, (E,)."""
    for v in range(len(steps)):
        first, last = steps[v, FIRST], steps[v, LAST]
        factor = response[v] if len(response) else weight.dtype.type(1)
        if steps[v, KIND] == MEAN and last > first:
            factor /= weight.dtype.type(last - first)
        for e in range(first, last):
            out[e] = weight[e] * factor


@kernel()
def gather(factors: Real, edges: Ints, start: int, stop: int, out: Real) -> None:
    """``out[k] = factors[edges[k]]`` for start ≤ k < stop."""
    for k in range(start, stop):
        out[k] = factors[edges[k]]


@kernel(forceinline=True)
def _add_outputs(
    grad_y: Real, sample: int, width: int, numbers: Ints, rows: Ints, start: int, stop: int, low: int, high: int,
    deltas: Real,
) -> None:  # fmt: skip
    """Add ∂L/∂y of outputs start … stop to their nodes' rows, where these are low … high."""
    for begin in range(start, stop, _BLOCK):
        end = min(begin + _BLOCK, stop)
        for j in range(width):
            for o in range(begin, end):
                if low <= rows[o] < high:
                    deltas[rows[o], j] += grad_y[sample + j, numbers[o]]


@kernel(forceinline=True)
def _pull_and_clamp(
    deltas: Real, rows: Ints, factors: Real, first: int, last: int, columns: int, values: Real, low: float,
    high: float, row: int, seeded: bool,
) -> None:  # fmt: skip
    """``deltas[row, j] = φ′·(Σ_e factors[e]·deltas[rows[e], j] [+ deltas[row, j]])`` of a clamp φ."""
    j = 0
    while j + 64 <= columns:
        pull_rows_clamped(deltas, rows, factors, first, last, j, 64, values, low, high, row, seeded)
        j += 64
    if j + 32 <= columns:
        pull_rows_clamped(deltas, rows, factors, first, last, j, 32, values, low, high, row, seeded)
        j += 32
    if j + 16 <= columns:
        pull_rows_clamped(deltas, rows, factors, first, last, j, 16, values, low, high, row, seeded)
        j += 16
    if j + 8 <= columns:
        pull_rows_clamped(deltas, rows, factors, first, last, j, 8, values, low, high, row, seeded)


@kernel()
def _push(
    first: int, last: int, kind: int, response: float, own: int, low: int, high: int, columns: int,
    rows: Ints, weight: Real, values: Real, deltas: Real, messages: Real, slopes: Real,
    ranks: Ints,
) -> None:  # fmt: skip
    """Add w_e·r·J_e ∘ δ to the rows low … high among the sources of a node that takes neither sum nor mean."""
    count = last - first
    for j in range(columns):
        for i in range(count):
            messages[i] = weight[first + i] * values[rows[first + i], j]
        spread(kind, messages, count, slopes, ranks)
        delta = response * deltas[own, j]
        for i in range(count):
            row = rows[first + i]
            if low <= row < high:
                deltas[row, j] += weight[first + i] * slopes[i] * delta


@kernel()
def sweep_tile(
    sample: int, width: int, columns: int, low: int, high: int, num_inputs: int,
    bounds: Ints, steps: Ints, rows: Ints, out_bounds: Ints, out_columns: Ints, out_rows: Ints, scratch: Real,
    ranks: Ints,
    pull_bounds: Ints, pull_rows: Ints, pull_factors: Real,
    weight: Real, bias: Real, response: Real, knobs: Real, grad_y: Real, values: Real, deltas: Real,
) -> None:  # fmt: skip
    """δ of all nodes of groups low … high for one tile of samples, from the last node to the first.

    Arguments as :func:`~fulgurite.models.sparse_network.cpu.forward.forward_tile`; values and deltas (N, T).
    """
    pitch = values.shape[1]
    z, grad, messages, slopes = scratch[0], scratch[1], scratch[2], scratch[3]
    one, zero = values.dtype.type(1), values.dtype.type(0)
    num_nodes = len(values)
    for g in range(low, high):
        for v in range(bounds[g], bounds[g + 1]):
            if steps[v, FLAGS] & SEEDED:
                for j in range(pitch):
                    deltas[num_inputs + v, j] = zero
        start, stop = out_bounds[g], out_bounds[g + 1]
        _add_outputs(grad_y, sample, width, out_columns, out_rows, start, stop, num_inputs, num_nodes, deltas)
        for v in range(bounds[g + 1] - 1, bounds[g] - 1, -1):
            row, kind, flags = num_inputs + v, steps[v, KIND], steps[v, FLAGS]
            first, last, act = steps[v, FIRST], steps[v, LAST], flags >> CODE
            r = response[v] if len(response) else one
            begin, end = pull_bounds[row], pull_bounds[row + 1]
            if steps[v, FAMILY] <= CLAMP:
                _pull_and_clamp(
                    deltas, pull_rows, pull_factors, begin, end, columns, values, knobs[act, 0], knobs[act, 1], row,
                    flags & SEEDED > 0,
                )  # fmt: skip
            else:
                weigh(deltas, pull_rows, pull_factors, begin, end, columns, grad)
                if flags & SEEDED:
                    for j in range(columns):
                        grad[j] += deltas[row, j]
                if flags & FROM_INPUT:
                    # Computed again rather than kept: training needs the memory of V and δ, whatever the activations.
                    preactivate(values, rows, weight, first, last, kind, bias[v], r, columns, messages, ranks, z)
                slope_row(steps[v, FAMILY], knobs[act, 0], knobs[act, 1], values, z, grad, deltas, row, columns)
            for j in range(width, pitch):
                deltas[row, j] = zero  # whatever became of samples that are not there
            if kind > MEAN:
                _push(
                    first, last, kind, r, row, num_inputs, num_nodes, columns, rows, weight, values, deltas, messages,
                    slopes, ranks,
                )  # fmt: skip


@kernel()
def parameter_gradients(
    start: int, stop: int, span: int, num_inputs: int, of_edges: bool, of_bias: bool,
    steps: Ints, rows: Ints, scratch: Real, ranks: Ints, weight: Real, response: Real, values: Real, deltas: Real,
    dweight: Real, dbias: Real, dresponse: Real,
) -> None:  # fmt: skip
    """Gradients of the parameters of computed nodes start … stop, over all tiles.

    Args:
        start: first node.
        stop: one more than the last.
        span: tiles that are taken together, so that a node's rows stay in the cache.
        num_inputs: F.
        of_edges: whether weights or responses need them.
        of_bias: whether biases do.
        steps: see :class:`~fulgurite.models.sparse_network.cpu.schedule.Schedule`, as for the next two.
        rows: each edge's source.
        scratch: see :func:`~fulgurite.models.sparse_network.cpu.forward.forward_tile`.
        ranks: likewise.
        weight: (E,).
        response: (n,) or (0,).
        values: (tiles, N, T), 0 where there is no sample.
        deltas: likewise.
        dweight: (E,) of zeros, to which its gradient is added.
        dbias: (n,) likewise.
        dresponse: (n,) likewise, or (0,) if it is not needed.
    """
    tiles, pitch = values.shape[0], values.shape[2]
    one = values.dtype.type(1)
    messages, slopes = scratch[2], scratch[3]
    for tile in range(0, tiles, span):
        end = min(tile + span, tiles)
        for v in range(start, stop):
            row = num_inputs + v
            if of_bias:
                total = dbias[v]
                for t in range(tile, end):
                    for j in range(pitch):
                        total += deltas[t, row, j]
                dbias[v] = total
            if of_edges and steps[v, KIND] <= MEAN:
                e, last = steps[v, FIRST], steps[v, LAST]
                while e + 8 <= last:
                    dot_rows(values, rows, e, 8, deltas, row, tile, end, dweight)
                    e += 8
                if e + 4 <= last:
                    dot_rows(values, rows, e, 4, deltas, row, tile, end, dweight)
                    e += 4
                if e + 2 <= last:
                    dot_rows(values, rows, e, 2, deltas, row, tile, end, dweight)
                    e += 2
                if e < last:
                    dot_rows(values, rows, e, 1, deltas, row, tile, end, dweight)
    if not of_edges:
        return
    for v in range(start, stop):
        first, last, kind = steps[v, FIRST], steps[v, LAST], steps[v, KIND]
        r = response[v] if len(response) else one
        if kind > MEAN:
            _nonlinear_gradients(
                first,
                last,
                v,
                kind,
                num_inputs + v,
                r,
                rows,
                weight,
                values,
                deltas,
                dweight,
                dresponse,
                messages,
                slopes,
                ranks,
            )
            continue
        scale = one / values.dtype.type(last - first) if kind == MEAN and last > first else one
        # Σ_e w_e·(δ·V[src e]) is δ·a, which the response's gradient is.
        weighed = values.dtype.type(0)
        for e in range(first, last):
            weighed += weight[e] * dweight[e]
            dweight[e] *= r * scale
        if len(dresponse):
            dresponse[v] = weighed * scale


@kernel()
def _nonlinear_gradients(
    first: int, last: int, v: int, kind: int, own: int, response: float, rows: Ints, weight: Real,
    values: Real, deltas: Real, dweight: Real, dresponse: Real, messages: Real, slopes: Real,
    ranks: Ints,
) -> None:  # fmt: skip
    count = last - first
    for t in range(values.shape[0]):
        for j in range(values.shape[2]):
            delta = deltas[t, own, j]
            if delta == 0:
                continue
            for i in range(count):
                messages[i] = weight[first + i] * values[t, rows[first + i], j]
            if len(dresponse):
                dresponse[v] += delta * combine(kind, messages, count, ranks)
            spread(kind, messages, count, slopes, ranks)
            for i in range(count):
                dweight[first + i] += response * slopes[i] * delta * values[t, rows[first + i], j]


@kernel()
def input_gradients(
    sample: int, width: int, columns: int, start: int, stop: int,
    nonlinear: Ints, steps: Ints, rows: Ints, out_columns: Ints, out_rows: Ints, input_outputs: int,
    scratch: Real, ranks: Ints, pull_bounds: Ints, pull_rows: Ints, pull_factors: Real,
    weight: Real, response: Real, grad_y: Real, values: Real, deltas: Real, dx: Real,
) -> None:  # fmt: skip
    """∂L/∂x of inputs start … stop for one tile, when δ of all computed nodes is there; values and deltas (N, T)."""
    pitch = values.shape[1]
    grad, messages, slopes = scratch[1], scratch[2], scratch[3]
    one, zero = values.dtype.type(1), values.dtype.type(0)
    num_inputs = dx.shape[1]
    for i in range(start, stop):
        for j in range(pitch):
            deltas[i, j] = zero
    _add_outputs(grad_y, sample, width, out_columns, out_rows, 0, input_outputs, start, stop, deltas)
    for k in range(len(nonlinear)):
        v = nonlinear[k]
        r = response[v] if len(response) else one
        _push(
            steps[v, FIRST], steps[v, LAST], steps[v, KIND], r, num_inputs + v, start, stop, columns,
            rows, weight, values, deltas, messages, slopes, ranks,
        )  # fmt: skip
    for begin in range(start, stop, _BLOCK):
        end = min(begin + _BLOCK, stop)
        for i in range(begin, end):
            weigh(deltas, pull_rows, pull_factors, pull_bounds[i], pull_bounds[i + 1], columns, grad)
            for j in range(columns):
                deltas[i, j] += grad[j]
        for j in range(width):
            for i in range(begin, end):
                dx[sample + j, i] = deltas[i, j]
