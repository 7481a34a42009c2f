"""Small matrices times tiles of vertices, for recurrences that carry a tile through all of its steps."""

from typing import Any

from numpy.typing import NDArray

from fulgurite.models.dynamic_gnn.compile import kernel

Real = NDArray[Any]

# Vertices computed at once: a tile's rows fill a few vectors each, and all that a step needs stays in the first cache.
TILE = 64
# Vertices a task: so many, whatever the number of threads, that sums come out the same.
_TASK = 8 * TILE


def tasks(vertices: int) -> list[tuple[int, int, int]]:
    """Number, first vertex and end of each run of vertices that is computed in one go.

    Example:
        >>> tasks(600)
        [(0, 0, 512), (1, 512, 600)]
    """
    starts = range(0, vertices, _TASK)
    return [(number, start, min(start + _TASK, vertices)) for number, start in enumerate(starts)]


@kernel(fastmath={"contract"})
def multiply(weight: Real, tile: Real, out: Real) -> None:
    """``out`` (R, TILE) = weight (R, K) · tile (K, TILE)."""
    rows, columns = weight.shape
    for row in range(rows):
        for v in range(TILE):
            out[row, v] = 0
        k = 0
        while k + 4 <= columns:
            a, b, c, d = weight[row, k], weight[row, k + 1], weight[row, k + 2], weight[row, k + 3]
            for v in range(TILE):
                out[row, v] += a * tile[k, v] + b * tile[k + 1, v] + c * tile[k + 2, v] + d * tile[k + 3, v]
            k += 4
        while k < columns:
            a = weight[row, k]
            for v in range(TILE):
                out[row, v] += a * tile[k, v]
            k += 1


@kernel(fastmath={"contract"})
def multiply_turned(weight: Real, tile: Real, out: Real) -> None:
    """``out`` (K, TILE) = weightᵀ (K, R) · tile (R, TILE)."""
    rows, columns = weight.shape
    for column in range(columns):
        for v in range(TILE):
            out[column, v] = 0
        k = 0
        while k + 4 <= rows:
            a, b, c, d = weight[k, column], weight[k + 1, column], weight[k + 2, column], weight[k + 3, column]
            for v in range(TILE):
                out[column, v] += a * tile[k, v] + b * tile[k + 1, v] + c * tile[k + 2, v] + d * tile[k + 3, v]
            k += 4
        while k < rows:
            a = weight[k, column]
            for v in range(TILE):
                out[column, v] += a * tile[k, v]
            k += 1


# Sums over a tile may be taken in another order, else they would be added one number at a time.
@kernel(fastmath={"contract", "reassoc", "nsz"})
def outer(left: Real, right: Real, total: Real) -> None:
    """``total`` (R, K) += left (R, TILE) · right (K, TILE)ᵀ."""
    for row in range(len(left)):
        for column in range(len(right)):
            value = left.dtype.type(0)
            for v in range(TILE):
                value += left[row, v] * right[column, v]
            total[row, column] += value
