"""The forward kernels in Triton: three ways of sharing out samples and nodes, around one block of nodes.

A block takes ``ROWS`` nodes that do not depend on one another and ``SAMPLES`` samples. Its offsets are 64-bit, since
node · batch passes 2³¹ long before there is too little memory. Only a barrier orders what the threads of a program
write and read in between, and the order in which kernels are started what programs do.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.sparse_network.gpu.activations import activate
from fulgurite.models.sparse_network.gpu.aggregations import aggregate


@triton.jit
def forward_block(
    values, given, graph, node, stop, columns, inside, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr, RECYCLED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """V[v] = φ(b_v + scale_v·a_v) of the nodes ``node`` … ``node + ROWS``, as far as they lie below ``stop``."""
    number = node + tl.arange(0, ROWS)
    present = number < stop
    inner = number - num_inputs
    first = tl.load(graph.ptr + inner, mask=present, other=0)
    last = tl.load(graph.ptr + inner + 1, mask=present, other=0)
    agg = tl.load(graph.agg_id + inner, mask=present, other=0)
    act = tl.load(graph.act_id + inner, mask=present, other=0)
    z = aggregate(
        values, given, graph, first, last, agg, columns, inside, batch, AGGS, ROWS, EDGES, SAMPLES, UNROLL
    )  # fmt: skip
    if SCALED:
        z *= tl.load(given.scale + inner, mask=present, other=0.0)[:, None]
    z += tl.load(given.bias + inner, mask=present, other=0.0)[:, None]
    y = activate(z, act, ACTS, ROWS)
    row = number.to(tl.int64)
    if RECYCLED:
        row = tl.load(graph.row + number, mask=present, other=0).to(tl.int64)
    place = row[:, None] * batch + columns[None, :]
    tl.store(values + place, y, mask=present[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["num_levels", "num_inputs", "batch"])
def forward_threads(
    values, given, graph, ranges, num_levels, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr, RECYCLED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A thread a sample: each program takes one group of nodes, in order, and ``SAMPLES`` samples."""
    blocks = tl.cdiv(batch, SAMPLES)
    group = tl.program_id(0) // blocks
    columns = (tl.program_id(0) % blocks) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    start = tl.load(ranges + group)
    stop = tl.load(ranges + group + 1)
    for node in range(start, stop):
        forward_block(
            values, given, graph, node, stop, columns, inside, num_inputs, batch,
            ACTS, AGGS, SCALED, RECYCLED, ROWS, EDGES, SAMPLES, UNROLL,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["num_levels", "num_inputs", "batch"])
def forward_tiles(
    values, given, graph, ranges, num_levels, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr, RECYCLED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A program a tile of samples: it takes the levels in order, each ``ROWS`` nodes at a time."""
    columns = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    for level in range(0, num_levels):
        start = tl.load(ranges + level)
        stop = tl.load(ranges + level + 1)
        for node in range(start, stop, ROWS):
            forward_block(
                values, given, graph, node, stop, columns, inside, num_inputs, batch,
                ACTS, AGGS, SCALED, RECYCLED, ROWS, EDGES, SAMPLES, UNROLL,
            )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["start", "stop", "num_inputs", "batch"])
def forward_level(
    values, given, graph, start, stop, num_inputs, batch,
    ACTS: tl.constexpr, AGGS: tl.constexpr, SCALED: tl.constexpr, RECYCLED: tl.constexpr,
    ROWS: tl.constexpr, EDGES: tl.constexpr, SAMPLES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A launch a level: each program takes ``ROWS`` of its nodes start … stop and ``SAMPLES`` samples."""
    blocks = tl.cdiv(batch, SAMPLES)
    node = start + (tl.program_id(0) // blocks) * ROWS
    columns = (tl.program_id(0) % blocks) * SAMPLES + tl.arange(0, SAMPLES)
    inside = columns < batch
    forward_block(
        values, given, graph, node, stop, columns, inside, num_inputs, batch,
        ACTS, AGGS, SCALED, RECYCLED, ROWS, EDGES, SAMPLES, UNROLL,
    )  # fmt: skip
