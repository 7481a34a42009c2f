"""The forward kernel: gather, softmax and sum in one pass over a query's nodes.

Rows are numbered through: query row (b · N + n) · G + g, table row (b · H · W + y · W + x) · G + g. A program takes
``ROWS`` queries, each warp a few whole rows, so that a gathered row is read by neighbouring lanes.
"""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.repgraph.gpu.sampling import load_rows, locate, store_rows


@triton.jit
def sample(
    table, first, groups, r00, r01, r10, r11, wy, wx, column, inside,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows of a table between four pixels; a pixel of weight 0 is not read."""
    w00 = (1 - wy) * (1 - wx)
    w01 = (1 - wy) * wx
    w10 = wy * (1 - wx)
    w11 = wy * wx
    top_left = load_rows(table, first + r00 * groups, column, inside & (w00 != 0), DEPTH)
    top_right = load_rows(table, first + r01 * groups, column, inside & (w01 != 0), DEPTH)
    bottom_left = load_rows(table, first + r10 * groups, column, inside & (w10 != 0), DEPTH)
    bottom_right = load_rows(table, first + r11 * groups, column, inside & (w11 != 0), DEPTH)
    return w00[:, None] * top_left + w01[:, None] * top_right + w10[:, None] * bottom_left + w11[:, None] * bottom_right


@triton.jit
def take(highest, total, answer, logit, content):
    """One step of the online softmax: Σ e^{t − m} and Σ e^{t − m} · v, and m, with one more node."""
    higher = tl.maximum(highest, logit)
    faded = tl.exp(highest - higher)
    share = tl.exp(logit - higher)
    return higher, total * faded + share, answer * faded[:, None] + share[:, None] * content


@triton.jit(do_not_specialize=["num_rows", "rows_a_map", "pixels", "groups", "height", "width"])
def attend(
    out, lse, query, key, value, positions, far_key, far_value,
    num_rows, rows_a_map, pixels, groups, height, width, scale,
    NODES: tl.constexpr, FAR: tl.constexpr, TIED: tl.constexpr, FAR_TIED: tl.constexpr,
    DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Every y = Σ_s a_s v_s with a = softmax(⟨q, k_s⟩ · scale), and the logarithm of that softmax's denominator."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = row < num_rows
    batch = row // rows_a_map
    group = row % groups
    q = load_rows(query, row, column, inside, DEPTH)
    # Finite, so that a first logit of -inf is a share of 0, not NaN.
    highest = tl.full([ROWS], -3.0e38, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    answer = tl.zeros([ROWS, PADDED], tl.float32)
    first = batch * pixels * groups + group
    for node in range(NODES):
        r00, r01, r10, r11, wy, wx = locate(positions, row, node, inside, height, width, NODES)
        k = sample(key, first, groups, r00, r01, r10, r11, wy, wx, column, inside, DEPTH)
        logit = tl.sum(q * k, axis=1) * scale
        v = k
        if not TIED:
            v = sample(value, first, groups, r00, r01, r10, r11, wy, wx, column, inside, DEPTH)
        highest, total, answer = take(highest, total, answer, logit, v)
    for node in range(FAR):
        far = (batch * FAR + node) * groups + group
        k = load_rows(far_key, far, column, inside, DEPTH)
        logit = tl.sum(q * k, axis=1) * scale
        v = k
        if not FAR_TIED:
            v = load_rows(far_value, far, column, inside, DEPTH)
        highest, total, answer = take(highest, total, answer, logit, v)
    store_rows(out, row, column, inside, answer / total[:, None], DEPTH)
    tl.store(lse + row, highest + tl.log(total), mask=inside)
