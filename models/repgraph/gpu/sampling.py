"""What the kernels share: which pixels a position reads, and their weights."""
# ruff: noqa: ANN001, ANN201
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]


@triton.jit
def locate(positions, row, node, inside, height, width, NODES: tl.constexpr):
    """Give the pixels (top left, top right, bottom left, bottom right) around a node, and how far (y, x) it is in.

    Pixels are clamped one by one: no position, be it NaN, reads beside the map, and one outside reads its border.
    """
    place = positions + (row * NODES + node) * 2
    y = tl.load(place, mask=inside, other=0.0)
    x = tl.load(place + 1, mask=inside, other=0.0)
    low_y = tl.floor(y)
    low_x = tl.floor(x)
    bottom = height - 1.0
    right = width - 1.0
    y0 = tl.minimum(tl.maximum(low_y, 0.0), bottom).to(tl.int32) * width
    y1 = tl.minimum(tl.maximum(low_y + 1.0, 0.0), bottom).to(tl.int32) * width
    x0 = tl.minimum(tl.maximum(low_x, 0.0), right).to(tl.int32)
    x1 = tl.minimum(tl.maximum(low_x + 1.0, 0.0), right).to(tl.int32)
    return y0 + x0, y0 + x1, y1 + x0, y1 + x1, y - low_y, x - low_x


@triton.jit
def load_rows(table, row, column, inside, DEPTH: tl.constexpr):
    """Rows of a table as float32, 0 where they are not ``inside`` and beyond the table's width."""
    mask = inside[:, None] & (column < DEPTH)[None, :]
    return tl.load(table + row.to(tl.int64)[:, None] * DEPTH + column[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_rows(table, row, column, inside, content, DEPTH: tl.constexpr):
    """Write rows of a table, rounded to its type."""
    mask = inside[:, None] & (column < DEPTH)[None, :]
    place = table + row.to(tl.int64)[:, None] * DEPTH + column[None, :]
    tl.store(place, content.to(table.dtype.element_ty), mask=mask)
