"""The backward kernels in Triton: the gradient pulled over the out-edges, then the weights' own.

``grads`` holds a row a node. A row begins as the gradient that reaches the node from outside, ∂L/∂y of an output and 0
otherwise; pulling adds what its targets' rows hold and turns it into δ = G ∘ φ′, or, for an input, leaves it ∂L/∂x.
Nothing is added atomically and every sum has one order, so results repeat bit by bit.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.sparse_network.gpu.activations import NEEDS_INPUT, slope
from fulgurite.models.sparse_network.gpu.aggregations import aggregate, jacobian


@triton.jit
def pulled(
    grads, values, given, graph, own, first, last, columns, inside, num_inputs, batch,
    AGGS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Σ w_e·scale·J_e ∘ δ[dst e] (rows, samples) over the out-edges first … last of nodes of values ``own``."""
    total = tl.zeros((ROWS, SAMPLES), dtype=values.dtype.element_ty)
    longest = tl.max(last - first, axis=0)
    if AGGS & 3:
        for start in range(0, longest, EDGES * UNROLL):
            for step in tl.static_range(UNROLL):
                out = first[:, None] + (start + step * EDGES + tl.arange(0, EDGES))[None, :]
                live = out < last[:, None]
                target = tl.load(graph.odst + out, mask=live, other=0)
                if AGGS >> 2:
                    live &= tl.load(graph.agg_id + (target - num_inputs), mask=live, other=2) < 2
                edge = tl.load(graph.oeid + out, mask=live, other=0)
                w = tl.load(given.weight + edge, mask=live, other=0.0)
                if SCALED:
                    w *= tl.load(given.scale + (target - num_inputs), mask=live, other=0.0)
                place = target.to(tl.int64)[:, :, None] * batch + columns[None, None, :]
                d = tl.load(grads + place, mask=live[:, :, None] & inside[None, None, :], other=0.0)
                total += tl.sum(w[:, :, None] * d, axis=1)
    if AGGS >> 2:
        for k in range(0, longest):
            out = first + k
            live = out < last
            target = tl.load(graph.odst + out, mask=live, other=0)
            inner = target - num_inputs
            agg = tl.load(graph.agg_id + inner, mask=live, other=0)
            live &= agg >= 2
            edge = tl.load(graph.oeid + out, mask=live, other=0)
            w = tl.load(given.weight + edge, mask=live, other=0.0)[:, None]
            head = tl.load(graph.ptr + inner, mask=live, other=0)
            tail = tl.load(graph.ptr + inner + 1, mask=live, other=0)
            j = jacobian(values, given, graph, edge, w * own, head, tail, agg, columns, inside, batch)
            if SCALED:
                w *= tl.load(given.scale + inner, mask=live, other=0.0)[:, None]
            place = target.to(tl.int64)[:, None] * batch + columns[None, :]
            d = tl.load(grads + place, mask=live[:, None] & inside[None, :], other=0.0)
            total += tl.where(live[:, None], w * j * d, 0.0)
    return total


@triton.jit
def backward_block(
    grads, values, given, graph, node, stop, columns, inside, num_inputs, batch,
    INPUTS: tl.constexpr, ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Turn the rows of ``ROWS`` nodes into δ, or with ``INPUTS`` into ∂L/∂x."""
    number = node + tl.arange(0, ROWS)
    present = number < stop
    place = number.to(tl.int64)[:, None] * batch + columns[None, :]
    mask = present[:, None] & inside[None, :]
    own = tl.load(values + place, mask=mask, other=0.0)
    first = tl.load(graph.optr + number, mask=present, other=0)
    last = tl.load(graph.optr + number + 1, mask=present, other=0)
    total = tl.load(grads + place, mask=mask, other=0.0)
    total += pulled(
        grads, values, given, graph, own, first, last, columns, inside, num_inputs, batch,
        AGGS, SCALED, ROWS, EDGES, SAMPLES, UNROLL,
    )  # fmt: skip
    if not INPUTS:
        inner = number - num_inputs
        act = tl.load(graph.act_id + inner, mask=present, other=0)
        z = own
        if NEEDS_INPUT & ACTS:
            # z is made again rather than kept: the memory of training is V and δ, whatever the activations.
            agg = tl.load(graph.agg_id + inner, mask=present, other=0)
            start = tl.load(graph.ptr + inner, mask=present, other=0)
            end = tl.load(graph.ptr + inner + 1, mask=present, other=0)
            z = aggregate(
                values, given, graph, start, end, agg, columns, inside, batch, AGGS, ROWS, EDGES, SAMPLES, UNROLL
            )  # fmt: skip
            if SCALED:
                z *= tl.load(given.scale + inner, mask=present, other=0.0)[:, None]
            z += tl.load(given.bias + inner, mask=present, other=0.0)[:, None]
        total *= slope(z, own, act, ACTS, ROWS)
    tl.store(grads + place, total, mask=mask)


@triton.jit(do_not_specialize=["num_levels", "num_inputs", "batch"])
def backward_threads(
    grads, values, given, graph, ranges, num_levels, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A thread a sample: each program takes one group of nodes, from the last to the first."""
    blocks = tl.cdiv(batch, SAMPLES)
    group = tl.program_id(0) // blocks
    columns = (tl.program_id(0) % blocks) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    start = tl.load(ranges + group)
    stop = tl.load(ranges + group + 1)
    for back in range(0, stop - start):
        backward_block(
            grads, values, given, graph, stop - 1 - back, stop, columns, inside, num_inputs, batch,
            False, ACTS, AGGS, SCALED, ROWS, EDGES, SAMPLES, UNROLL,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["num_levels", "num_inputs", "batch"])
def backward_tiles(
    grads, values, given, graph, ranges, num_levels, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A program a tile of samples: it takes the levels from the last to the first."""
    columns = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    for back in range(0, num_levels):
        start = tl.load(ranges + num_levels - 1 - back)
        stop = tl.load(ranges + num_levels - back)
        for node in range(start, stop, ROWS):
            backward_block(
                grads, values, given, graph, node, stop, columns, inside, num_inputs, batch,
                False, ACTS, AGGS, SCALED, ROWS, EDGES, SAMPLES, UNROLL,
            )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["start", "stop", "num_inputs", "batch"])
def backward_level(
    grads, values, given, graph, start, stop, num_inputs, batch,
    INPUTS: tl.constexpr, ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A launch a level, or one for all inputs: each program takes ``ROWS`` of the nodes start … stop."""
    blocks = tl.cdiv(batch, SAMPLES)
    node = start + (tl.program_id(0) // blocks) * ROWS
    columns = (tl.program_id(0) % blocks) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    backward_block(
        grads, values, given, graph, node, stop, columns, inside, num_inputs, batch,
        INPUTS, ACTS, AGGS, SCALED, ROWS, EDGES, SAMPLES, UNROLL,
    )  # fmt: skip
