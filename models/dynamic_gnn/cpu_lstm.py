"""An LSTM along the timelines of many vertices on the CPU: a tile of vertices is carried through all steps.

Nothing is kept for the backward pass but the states h and c: gates are worked out again there, from what lies in the
cache, which costs less than writing and reading them. The pass ends with the gradient of the weights.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.dynamic_gnn.compile import kernel
from fulgurite.models.dynamic_gnn.cpu_tiles import TILE, multiply, multiply_turned, outer, tasks
from fulgurite.models.dynamic_gnn.exponential import sigmoid, tanh
from fulgurite.models.sparse_network.cpu import threads

Real = NDArray[Any]


def forward(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Run it.

    Args:
        x: (T, n, I).
        h: (n, H) before the first step.
        c: (n, H) likewise.
        weight: (4H, I + H + 1), for [x ‖ h ‖ 1], gates in torch's order i, f, g, o.

    Returns:
        h and c after each step, (T, n, H) both.
    """
    steps, vertices, _ = x.shape
    hidden, cells = (x.new_empty(steps, vertices, h.shape[1]) for _ in range(2))
    arrays: list[Any] = [tensor.detach().contiguous().numpy() for tensor in (x, h, c, weight)]
    arrays += [hidden.numpy(), cells.numpy()]
    work = steps * vertices * weight.numel()
    threads.for_each(lambda _, *span: _forward(*arrays, *span), tasks(vertices), work=work)
    return hidden, cells


def backward(
    grad_hidden: Tensor, grad_cell: Tensor, x: Tensor, h: Tensor, c: Tensor, weight: Tensor, hidden: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, h, c and weight.

    Args:
        grad_hidden: (T, n, H).
        grad_cell: (n, H), of c after the last step.
        x: as in :func:`forward`, like the next three.
        h: likewise.
        c: likewise.
        weight: likewise.
        hidden: what it gave.
        cells: likewise.
    """
    steps, vertices, _ = x.shape
    dx, dh, dc = torch.empty_like(x, memory_format=torch.contiguous_format), *(h.new_empty(h.shape) for _ in range(2))
    runs = tasks(vertices)
    # Each run of vertices sums its own, so that the sum does not depend on the number of threads.
    dweight = weight.new_zeros(len(runs), *weight.shape)
    given = (grad_hidden, grad_cell, x, h, c, weight, hidden, cells)
    arrays: list[Any] = [tensor.detach().contiguous().numpy() for tensor in given]
    arrays += [dx.numpy(), dh.numpy(), dc.numpy(), dweight.numpy()]
    work = 3 * steps * vertices * weight.numel()
    threads.for_each(lambda *span: _backward(*arrays, *span), runs, work=work)
    return dx, dh, dc, dweight.sum(0)


@kernel()
def _load(x: Real, h: Real, step: int, first: int, count: int, seen: Real) -> None:
    """``seen`` (I + H + 1, TILE) = [x ‖ h ‖ 1] of a tile, zeros beyond ``count``."""
    inputs, size = x.shape[2], h.shape[1]
    for v in range(count):
        for i in range(inputs):
            seen[i, v] = x[step, first + v, i]
        for j in range(size):
            seen[inputs + j, v] = h[first + v, j]
    for v in range(TILE):
        seen[inputs + size, v] = 1
    if count < TILE:
        seen[: inputs + size, count:] = 0


@kernel()
def _activate(gates: Real) -> None:
    size = len(gates) // 4
    for row in range(2 * size):
        for v in range(TILE):
            gates[row, v] = sigmoid(gates[row, v])
    for row in range(2 * size, 3 * size):
        for v in range(TILE):
            gates[row, v] = tanh(gates[row, v])
    for row in range(3 * size, 4 * size):
        for v in range(TILE):
            gates[row, v] = sigmoid(gates[row, v])


@kernel()
def _forward(x: Real, h: Real, c: Real, weight: Real, hidden: Real, cells: Real, start: int, stop: int) -> None:
    rows, columns = weight.shape
    size = rows // 4
    seen, gates = np.empty((columns, TILE), x.dtype), np.empty((rows, TILE), x.dtype)
    cell = np.empty((size, TILE), x.dtype)
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        cell[:] = 0
        for v in range(count):
            for j in range(size):
                cell[j, v] = c[first + v, j]
        for step in range(x.shape[0]):
            _load(x, h if step == 0 else hidden[step - 1], step, first, count, seen)
            multiply(weight, seen, gates)
            _activate(gates)
            for j in range(size):
                for v in range(TILE):
                    after = gates[size + j, v] * cell[j, v] + gates[j, v] * gates[2 * size + j, v]
                    cell[j, v] = after
                    gates[j, v] = gates[3 * size + j, v] * tanh(after)
            for v in range(count):
                for j in range(size):
                    hidden[step, first + v, j] = gates[j, v]
                    cells[step, first + v, j] = cell[j, v]


@kernel()
def _backward(
    grad_hidden: Real, grad_cell: Real, x: Real, h: Real, c: Real, weight: Real, hidden: Real, cells: Real,
    dx: Real, dh: Real, dc: Real, dweight: Real, run: int, start: int, stop: int,
) -> None:  # fmt: skip
    rows, columns = weight.shape
    inputs, size = x.shape[2], rows // 4
    one = x.dtype.type(1)
    seen, gates = np.empty((columns, TILE), x.dtype), np.empty((rows, TILE), x.dtype)
    dseen = np.empty((columns, TILE), x.dtype)
    cell, before = np.empty((size, TILE), x.dtype), np.empty((size, TILE), x.dtype)
    dcell, dstate = np.empty((size, TILE), x.dtype), np.empty((size, TILE), x.dtype)
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        dstate[:] = 0
        dcell[:] = 0
        cell[:] = 0
        before[:] = 0
        for v in range(count):
            for j in range(size):
                dcell[j, v] = grad_cell[first + v, j]
        for step in range(x.shape[0] - 1, -1, -1):
            _load(x, h if step == 0 else hidden[step - 1], step, first, count, seen)
            past = c if step == 0 else cells[step - 1]
            for v in range(count):
                for j in range(size):
                    dstate[j, v] += grad_hidden[step, first + v, j]
                    cell[j, v] = cells[step, first + v, j]
                    before[j, v] = past[first + v, j]
            multiply(weight, seen, gates)
            _activate(gates)
            for j in range(size):
                for v in range(TILE):
                    i, f = gates[j, v], gates[size + j, v]
                    g, o = gates[2 * size + j, v], gates[3 * size + j, v]
                    shown = tanh(cell[j, v])
                    total = dcell[j, v] + dstate[j, v] * o * (one - shown * shown)
                    gates[j, v] = total * g * i * (one - i)
                    gates[size + j, v] = total * before[j, v] * f * (one - f)
                    gates[2 * size + j, v] = total * i * (one - g * g)
                    gates[3 * size + j, v] = dstate[j, v] * shown * o * (one - o)
                    dcell[j, v] = total * f
            outer(gates, seen, dweight[run])
            multiply_turned(weight, gates, dseen)
            for v in range(count):
                for k in range(inputs):
                    dx[step, first + v, k] = dseen[k, v]
            for j in range(size):
                for v in range(TILE):
                    dstate[j, v] = dseen[inputs + j, v]
        for v in range(count):
            for j in range(size):
                dh[first + v, j] = dstate[j, v]
                dc[first + v, j] = dcell[j, v]
