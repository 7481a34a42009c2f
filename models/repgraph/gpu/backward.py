r"""The backward kernel: it samples again what the forward kernel did not keep.

With :math:`D = \langle dy, y\rangle - d\mathrm{lse}`, :math:`a_s = e^{t_s - \mathrm{lse}}` and
:math:`dt_s = a_s(\langle dy, v_s\rangle - D)/\sqrt{d}`, the gradient of a sampled key is :math:`dt_s\,q`, of a sampled
value :math:`a_s\,dy`, and that of the query :math:`\sum_s dt_s k_s`. A node's position moves its weights, so its
gradient takes :math:`g_j = dt_s\langle q, k_j\rangle + a_s\langle dy, v_j\rangle` of its four pixels j.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.repgraph.gpu.sampling import load_rows, locate, store_rows


@triton.jit
def compare(key, value, row, q, dy, column, inside, TIED: tl.constexpr, DEPTH: tl.constexpr):
    """A row k of the keys, ⟨q, k⟩, and ⟨dy, v⟩ of the same row of the values."""
    k = load_rows(key, row, column, inside, DEPTH)
    v = k
    if not TIED:
        v = load_rows(value, row, column, inside, DEPTH)
    return k, tl.sum(q * k, axis=1), tl.sum(dy * v, axis=1)


@triton.jit
def add_rows(table, row, weight, content, column, inside, DEPTH: tl.constexpr):
    """Add weighted rows to those of a table, in whatever order programs come."""
    mask = (inside & (weight != 0))[:, None] & (column < DEPTH)[None, :]
    place = table + row.to(tl.int64)[:, None] * DEPTH + column[None, :]
    tl.atomic_add(place, weight[:, None] * content, mask=mask, sem="relaxed")


@triton.jit
def scatter(
    grad_key, grad_value, row, weight, key_part, value_part, column, inside, TIED: tl.constexpr, DEPTH: tl.constexpr
):
    """A pixel's part of a node's gradient."""
    add_rows(grad_key, row, weight, key_part, column, inside, DEPTH)
    if not TIED:
        add_rows(grad_value, row, weight, value_part, column, inside, DEPTH)


@triton.jit(do_not_specialize=["num_rows", "rows_a_map", "pixels", "groups", "height", "width"])
def differentiate(
    grad_query, grad_key, grad_value, grad_positions, shares, slopes, delta,
    grad_out, grad_lse, out, lse, query, key, value, positions, far_key, far_value,
    num_rows, rows_a_map, pixels, groups, height, width, scale,
    NODES: tl.constexpr, FAR: tl.constexpr, TIED: tl.constexpr, FAR_TIED: tl.constexpr, ATOMIC: tl.constexpr,
    DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of queries and positions, and D; by atomics those of the tables in float32, else a_s and dt_s."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = row < num_rows
    batch = row // rows_a_map
    group = row % groups
    q = load_rows(query, row, column, inside, DEPTH)
    dy = load_rows(grad_out, row, column, inside, DEPTH)
    d = tl.sum(dy * load_rows(out, row, column, inside, DEPTH), axis=1)
    d -= tl.load(grad_lse + row, mask=inside, other=0.0)
    tl.store(delta + row, d, mask=inside)
    denominator = tl.load(lse + row, mask=inside, other=0.0)
    dq = tl.zeros([ROWS, PADDED], tl.float32)
    first = batch * pixels * groups + group
    for node in range(NODES):
        r00, r01, r10, r11, wy, wx = locate(positions, row, node, inside, height, width, NODES)
        r00 = first + r00 * groups
        r01 = first + r01 * groups
        r10 = first + r10 * groups
        r11 = first + r11 * groups
        w00 = (1 - wy) * (1 - wx)
        w01 = (1 - wy) * wx
        w10 = wy * (1 - wx)
        w11 = wy * wx
        k, q00, d00 = compare(key, value, r00, q, dy, column, inside, TIED, DEPTH)
        sampled = w00[:, None] * k
        k, q01, d01 = compare(key, value, r01, q, dy, column, inside, TIED, DEPTH)
        sampled += w01[:, None] * k
        k, q10, d10 = compare(key, value, r10, q, dy, column, inside, TIED, DEPTH)
        sampled += w10[:, None] * k
        k, q11, d11 = compare(key, value, r11, q, dy, column, inside, TIED, DEPTH)
        sampled += w11[:, None] * k
        share = tl.exp((w00 * q00 + w01 * q01 + w10 * q10 + w11 * q11) * scale - denominator)
        slope = share * (w00 * d00 + w01 * d01 + w10 * d10 + w11 * d11 - d) * scale
        dq += slope[:, None] * sampled
        g00 = slope * q00 + share * d00
        g01 = slope * q01 + share * d01
        g10 = slope * q10 + share * d10
        g11 = slope * q11 + share * d11
        place = row * NODES + node
        tl.store(grad_positions + 2 * place, (1 - wx) * (g10 - g00) + wx * (g11 - g01), mask=inside)
        tl.store(grad_positions + 2 * place + 1, (1 - wy) * (g01 - g00) + wy * (g11 - g10), mask=inside)
        if ATOMIC:
            key_part = slope[:, None] * q
            value_part = share[:, None] * dy
            if TIED:
                key_part += value_part
            scatter(grad_key, grad_value, r00, w00, key_part, value_part, column, inside, TIED, DEPTH)
            scatter(grad_key, grad_value, r01, w01, key_part, value_part, column, inside, TIED, DEPTH)
            scatter(grad_key, grad_value, r10, w10, key_part, value_part, column, inside, TIED, DEPTH)
            scatter(grad_key, grad_value, r11, w11, key_part, value_part, column, inside, TIED, DEPTH)
        else:
            tl.store(shares + place, share, mask=inside)
            tl.store(slopes + place, slope, mask=inside)
    for node in range(FAR):
        far = (batch * FAR + node) * groups + group
        k, logit, dv = compare(far_key, far_value, far, q, dy, column, inside, FAR_TIED, DEPTH)
        dq += (tl.exp(logit * scale - denominator) * (dv - d) * scale)[:, None] * k
    store_rows(grad_query, row, column, inside, dq, DEPTH)


@triton.jit(do_not_specialize=["queries", "groups", "span"])
def differentiate_far(
    grad_key, grad_value, grad_out, delta, lse, query, far_key, far_value,
    queries, groups, span, scale,
    FAR: tl.constexpr, TIED: tl.constexpr, DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums over ``span`` queries of a global node's gradient; a row for each node and span, float32."""
    far = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    alone = tl.zeros([1], tl.int32) == 0
    node = far + tl.zeros([1], tl.int64)
    k = load_rows(far_key, node, column, alone, DEPTH)
    v = k
    if not TIED:
        v = load_rows(far_value, node, column, alone, DEPTH)
    group = far % groups
    batch = far // groups // FAR
    key_sum = tl.zeros([ROWS, PADDED], tl.float32)
    value_sum = tl.zeros([ROWS, PADDED], tl.float32)
    start = tl.program_id(1) * span
    for begin in range(start, min(start + span, queries), ROWS):
        number = begin + tl.arange(0, ROWS)
        inside = number < min(start + span, queries)
        row = (batch * queries + number) * groups + group
        q = load_rows(query, row, column, inside, DEPTH)
        dy = load_rows(grad_out, row, column, inside, DEPTH)
        denominator = tl.load(lse + row, mask=inside, other=0.0)
        d = tl.load(delta + row, mask=inside, other=0.0)
        share = tl.exp(tl.sum(q * k, axis=1) * scale - denominator)
        slope = share * (tl.sum(dy * v, axis=1) - d) * scale
        key_sum += slope[:, None] * q
        value_sum += share[:, None] * dy
    if TIED:
        key_sum += value_sum
    place = (tl.program_id(1) * tl.num_programs(0) + node) * DEPTH + column
    tl.store(grad_key + place, tl.sum(key_sum, axis=0), mask=column < DEPTH)
    if not TIED:
        tl.store(grad_value + place, tl.sum(value_sum, axis=0), mask=column < DEPTH)
