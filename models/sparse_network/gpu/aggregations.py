"""How a block of nodes gathers its messages, in Triton, after the table of ``aggregations.py``.

A block is (rows, samples): nodes by samples. Sum and mean take ``EDGES`` edges of each node at once, ``UNROLL`` times a
pass, so that several loads are under way; the mean's 1/k lies in the scale that the host hands over. Every other
aggregation takes one edge of each node at a time. The derivative of an edge is found anew where it is needed, from all
messages of its target: k operations for an edge of a node with k of them, and no memory.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

from typing import NamedTuple

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor


class Graph(NamedTuple):
    """The structure as kernels see it; shapes as in ``Topology``.

    Args:
        ptr: in-CSR.
        src: the row of ``values`` that each edge reads; not the source's own number where rows are recycled.
        dst: target of each edge.
        row: the row of ``values`` that each node writes; read only where rows are recycled.
        optr: out-CSR.
        odst: target of each out-edge.
        oeid: edge of each out-edge.
        act_id: activation of each node that is not an input.
        agg_id: aggregation of each node that is not an input.
    """

    ptr: Tensor
    src: Tensor
    dst: Tensor
    row: Tensor
    optr: Tensor
    odst: Tensor
    oeid: Tensor
    act_id: Tensor
    agg_id: Tensor


class Given(NamedTuple):
    """The parameters as kernels see them.

    Args:
        weight: (E,).
        bias: (n,).
        scale: (n,) response, over the fan-in for a mean; read only if there is either.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor


@triton.jit
def messages(values, given, graph, edge, live, columns, inside, batch):
    """m_e = w_e·V[src e] of one edge a row, (rows, samples); 0 where ``live`` is not."""
    w = tl.load(given.weight + edge, mask=live, other=0.0)
    row = tl.load(graph.src + edge, mask=live, other=0).to(tl.int64)
    place = row[:, None] * batch + columns[None, :]
    return w[:, None] * tl.load(values + place, mask=live[:, None] & inside[None, :], other=0.0)


@triton.jit
def key(message, agg):
    """What is least at the message that max, min or maxabs chooses, and in whose order the median lies."""
    largest = tl.where(agg == 3, -message, message)
    return tl.where(agg == 5, -tl.abs(message), largest)


@triton.jit
def jacobian(values, given, graph, edge, message, first, last, agg, columns, inside, batch):
    """J_e = ∂a/∂m_e (rows, samples) of one edge a row, whose target has the in-edges first … last.

    For product, max, min, maxabs and median; ties go to the earlier edge.
    """
    kind = agg[:, None]
    own = key(message, kind)
    others = tl.full(message.shape, 1.0, message.dtype)
    rank = tl.full(message.shape, 0, tl.int32)
    longest = tl.max(last - first, axis=0)
    for k in range(0, longest):
        rival = first + k
        live = rival < last
        m = messages(values, given, graph, rival, live, columns, inside, batch)
        theirs = key(m, kind)
        ahead = (theirs < own) | ((theirs == own) & (rival < edge)[:, None]) | ((m != m) & (own == own))
        rank += tl.where(ahead & live[:, None], 1, 0)
        others *= tl.where((live & (rival != edge))[:, None], m, 1.0)
    fan_in = last - first
    low = tl.where(agg == 6, (fan_in - 1) // 2, 0)[:, None]
    high = tl.where(agg == 6, fan_in // 2, 0)[:, None]
    half = tl.where(rank == low, 0.5, 0.0) + tl.where(rank == high, 0.5, 0.0)
    return tl.where(kind == 2, others, half.to(message.dtype))


@triton.jit
def aggregate(
    values, given, graph, first, last, agg, columns, inside, batch,
    AGGS: tl.constexpr, ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Aggregates (rows, samples) of nodes of in-edges first … last; of a mean the sum, which ``scale`` divides."""
    total = tl.zeros((ROWS, SAMPLES), dtype=values.dtype.element_ty)
    longest = tl.max(last - first, axis=0)
    if AGGS & 3:
        end = last
        if AGGS >> 2:
            end = tl.where(agg < 2, last, first)
        for start in range(0, longest, EDGES * UNROLL):
            for step in tl.static_range(UNROLL):
                edge = first[:, None] + (start + step * EDGES + tl.arange(0, EDGES))[None, :]
                live = edge < end[:, None]
                w = tl.load(given.weight + edge, mask=live, other=0.0)
                row = tl.load(graph.src + edge, mask=live, other=0).to(tl.int64)
                place = row[:, :, None] * batch + columns[None, None, :]
                v = tl.load(values + place, mask=live[:, :, None] & inside[None, None, :], other=0.0)
                total += tl.sum(w[:, :, None] * v, axis=1)
    if AGGS >> 2:
        kind = agg[:, None]
        total = tl.where(kind == 2, 1.0, total)
        for k in range(0, longest):
            edge = first + k
            live = (edge < last) & (agg >= 2)
            m = messages(values, given, graph, edge, live, columns, inside, batch)
            better = (key(m, kind) < key(total, kind)) | (m != m) | (k == 0)
            new = tl.where(kind == 2, total * m, tl.where(better, m, total))
            if (AGGS >> 6) & 1:
                end = tl.where(agg == 6, last, first)
                share = jacobian(values, given, graph, edge, m, first, end, agg, columns, inside, batch)
                # The middle alone would hide a NaN, and a message of no share may be infinite.
                middle = tl.where(m != m, m, tl.where(share > 0, share * m, 0.0))
                new = tl.where(kind == 6, total + middle, new)
            total = tl.where(live[:, None], new, total)
    return total
