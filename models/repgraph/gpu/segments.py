"""The tables' gradients without atomics: taps are sorted by the row they read, and each row sums its own in order.

A tap is a query's node and one of its four pixels, number ((b · N + n) · G + g) · 4S + 4s + pixel. What it adds to its
row is a weight times vectors that are kept anyway, so nothing of width D is ever written a tap. Rows that many queries
read, a map's corners above all, would keep one program busy long after the rest: the sorted taps are cut into spans, a
program sums each span that lies within one row, and the row's program takes its sum.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.repgraph.gpu.sampling import load_rows, locate


@triton.jit(do_not_specialize=["num_rows", "rows_a_map", "pixels", "groups", "height", "width", "nowhere"])
def tap_rows(
    result, positions, num_rows, rows_a_map, pixels, groups, height, width, nowhere,
    NODES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The row that each tap reads; ``nowhere`` for those of weight 0."""
    number = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = number // NODES
    inside = row < num_rows
    r00, r01, r10, r11, wy, wx = locate(positions, row, number % NODES, inside, height, width, NODES)
    first = row // rows_a_map * pixels * groups + row % groups
    place = result + 4 * number
    tl.store(place, tl.where((1 - wy) * (1 - wx) == 0, nowhere, first + r00 * groups), mask=inside)
    tl.store(place + 1, tl.where((1 - wy) * wx == 0, nowhere, first + r01 * groups), mask=inside)
    tl.store(place + 2, tl.where(wy * (1 - wx) == 0, nowhere, first + r10 * groups), mask=inside)
    tl.store(place + 3, tl.where(wy * wx == 0, nowhere, first + r11 * groups), mask=inside)


@triton.jit
def sum_taps(
    key_sum, value_sum, start, stop, order, shares, slopes, grad_out, query, positions, height, width, column,
    NODES: tl.constexpr, TIED: tl.constexpr, DEPTH: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Add what the sorted taps start … stop give to their row."""
    for begin in range(start, stop, TAPS):
        number = begin + tl.arange(0, TAPS)
        inside = number < stop
        tap = tl.load(order + number, mask=inside, other=0)
        row = tap // (4 * NODES)
        node = tap // 4 % NODES
        _, _, _, _, wy, wx = locate(positions, row, node, inside, height, width, NODES)
        weight = tl.where(tap % 4 < 2, 1 - wy, wy) * tl.where(tap % 2 == 0, 1 - wx, wx)
        slope = weight * tl.load(slopes + row * NODES + node, mask=inside, other=0.0)
        share = weight * tl.load(shares + row * NODES + node, mask=inside, other=0.0)
        key_sum += slope[:, None] * load_rows(query, row, column, inside, DEPTH)
        value_part = share[:, None] * load_rows(grad_out, row, column, inside, DEPTH)
        if TIED:
            key_sum += value_part
        else:
            value_sum += value_part
    return key_sum, value_sum


@triton.jit(do_not_specialize=["taps", "nowhere", "height", "width"])
def sum_spans(
    key_spans, value_spans, rows, order, shares, slopes, grad_out, query, positions, taps, nowhere, height, width,
    NODES: tl.constexpr, TIED: tl.constexpr, DEPTH: tl.constexpr, PADDED: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """Sums of the spans that lie within one row; those of others are left as they are."""
    start = tl.program_id(0).to(tl.int64) * SPAN
    mine = tl.load(rows + start)
    if mine != nowhere and start + SPAN <= taps and mine == tl.load(rows + tl.minimum(start + SPAN, taps) - 1):
        column = tl.arange(0, PADDED)
        key_sum = tl.zeros([TAPS, PADDED], tl.float32)
        value_sum = tl.zeros([TAPS, PADDED], tl.float32)
        key_sum, value_sum = sum_taps(
            key_sum, value_sum, start, start + SPAN, order, shares, slopes, grad_out, query, positions, height, width,
            column, NODES, TIED, DEPTH, TAPS,
        )  # fmt: skip
        place = tl.program_id(0).to(tl.int64) * DEPTH + column
        tl.store(key_spans + place, tl.sum(key_sum, axis=0), mask=column < DEPTH)
        if not TIED:
            tl.store(value_spans + place, tl.sum(value_sum, axis=0), mask=column < DEPTH)


@triton.jit
def add_spans(total, spans, first, last, column, DEPTH: tl.constexpr, TAPS: tl.constexpr):
    """Add the sums of spans first … last."""
    for begin in range(first, last, TAPS):
        number = begin + tl.arange(0, TAPS)
        total += load_rows(spans, number, column, number < last, DEPTH)
    return total


@triton.jit(do_not_specialize=["height", "width"])
def sum_rows(
    grad_key, grad_value, key_spans, value_spans, starts, order, shares, slopes, grad_out, query, positions, height,
    width, NODES: tl.constexpr, TIED: tl.constexpr, DEPTH: tl.constexpr, PADDED: tl.constexpr, TAPS: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """A row's gradient: of its taps before the first whole span, of its whole spans, and of the taps after them."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    start = tl.load(starts + row)
    stop = tl.load(starts + row + 1)
    first = tl.cdiv(start, SPAN)
    last = tl.maximum(stop // SPAN, first)
    # Without a whole span, all taps are before the first.
    head = tl.where(last > first, first * SPAN, stop)
    tail = tl.where(last > first, last * SPAN, stop)
    key_sum = tl.zeros([TAPS, PADDED], tl.float32)
    value_sum = tl.zeros([TAPS, PADDED], tl.float32)
    key_sum, value_sum = sum_taps(
        key_sum, value_sum, start, head, order, shares, slopes, grad_out, query, positions, height, width,
        column, NODES, TIED, DEPTH, TAPS,
    )  # fmt: skip
    key_sum = add_spans(key_sum, key_spans, first, last, column, DEPTH, TAPS)
    if not TIED:
        value_sum = add_spans(value_sum, value_spans, first, last, column, DEPTH, TAPS)
    key_sum, value_sum = sum_taps(
        key_sum, value_sum, tail, stop, order, shares, slopes, grad_out, query, positions, height, width,
        column, NODES, TIED, DEPTH, TAPS,
    )  # fmt: skip
    place = row * DEPTH + column
    tl.store(grad_key + place, tl.sum(key_sum, axis=0).to(grad_key.dtype.element_ty), mask=column < DEPTH)
    if not TIED:
        tl.store(grad_value + place, tl.sum(value_sum, axis=0).to(grad_value.dtype.element_ty), mask=column < DEPTH)
