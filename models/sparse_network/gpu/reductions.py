"""Gradients that are sums over the batch, in Triton: of the weights (a sampled dense product) and of the responses.

Each program sums its samples in one order; where the batch is split for want of edges, the parts are stored apart and
added by the host in one order too.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.sparse_network.gpu.aggregations import aggregate, jacobian


@triton.jit(do_not_specialize=["num_inputs", "num_edges", "batch", "span"])
def weight_gradient(
    parts, grads, values, given, graph, num_inputs, num_edges, batch, span,
    AGGS: tl.constexpr, SCALED: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """dw_e = Σ_j (scale·J_e ∘ δ[dst e] ∘ V[src e])_j over the ``span`` samples of each part; parts (S, E)."""
    edge = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    live = edge < num_edges
    source = tl.load(graph.src + edge, mask=live, other=0).to(tl.int64)
    target = tl.load(graph.dst + edge, mask=live, other=num_inputs).to(tl.int64)
    inner = target - num_inputs
    start = tl.program_id(1) * span
    total = tl.zeros((EDGES, SAMPLES), dtype=values.dtype.element_ty)
    for begin in range(start, tl.minimum(start + span, batch), SAMPLES):
        columns = begin + tl.arange(0, SAMPLES)
        inside = columns < batch
        mask = live[:, None] & inside[None, :]
        v = tl.load(values + (source[:, None] * batch + columns[None, :]), mask=mask, other=0.0)
        d = tl.load(grads + (target[:, None] * batch + columns[None, :]), mask=mask, other=0.0)
        if AGGS >> 2:
            agg = tl.load(graph.agg_id + inner, mask=live, other=0)
            ranked = live & (agg >= 2)
            first = tl.load(graph.ptr + inner, mask=ranked, other=0)
            last = tl.load(graph.ptr + inner + 1, mask=ranked, other=0)
            w = tl.load(given.weight + edge, mask=ranked, other=0.0)
            j = jacobian(values, given, graph, edge, w[:, None] * v, first, last, agg, columns, inside, batch)
            d = tl.where(ranked[:, None], j * d, d)
        total += v * d
    result = tl.sum(total, axis=1)
    if SCALED:
        result *= tl.load(given.scale + inner, mask=live, other=0.0)
    tl.store(parts + (tl.program_id(1).to(tl.int64) * num_edges + edge), result, mask=live)


@triton.jit(do_not_specialize=["num_inputs", "num_nodes", "batch"])
def response_gradient(
    result, grads, values, given, graph, num_inputs, num_nodes, batch,
    AGGS: tl.constexpr, ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """dr_v = Σ_j (δ[v] ∘ a_v)_j of ``ROWS`` nodes a program; a mean's is k times too large."""
    number = num_inputs + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = number < num_nodes
    inner = number - num_inputs
    first = tl.load(graph.ptr + inner, mask=present, other=0)
    last = tl.load(graph.ptr + inner + 1, mask=present, other=0)
    agg = tl.load(graph.agg_id + inner, mask=present, other=0)
    total = tl.zeros((ROWS, SAMPLES), dtype=values.dtype.element_ty)
    for begin in range(0, batch, SAMPLES):
        columns = begin + tl.arange(0, SAMPLES)
        inside = columns < batch
        place = number.to(tl.int64)[:, None] * batch + columns[None, :]
        d = tl.load(grads + place, mask=present[:, None] & inside[None, :], other=0.0)
        a = aggregate(
            values, given, graph, first, last, agg, columns, inside, batch, AGGS, ROWS, EDGES, SAMPLES, UNROLL
        )  # fmt: skip
        total += d * a
    tl.store(result + inner, tl.sum(total, axis=1), mask=present)
