"""A gated recurrent unit that resets first, along the timelines of many vertices on the CPU.

As :mod:`~fulgurite.models.dynamic_gnn.cpu_lstm`: a tile of vertices is carried through all steps, and gates are worked
out again in the backward pass.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.dynamic_gnn.compile import kernel
from fulgurite.models.dynamic_gnn.cpu_tiles import TILE, multiply, multiply_turned, outer, tasks
from fulgurite.models.dynamic_gnn.exponential import sigmoid, tanh
from fulgurite.models.sparse_network.cpu import threads

Real = NDArray[Any]


def forward(gates: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """Run it.

    Args:
        gates: (T, n, 3H), what the input says to z, r and the candidate.
        h: (n, H) before the first step.
        weight: (3H, H) of the state.

    Returns:
        (T, n, H).
    """
    steps, vertices, _ = gates.shape
    hidden = gates.new_empty(steps, vertices, h.shape[1])
    arrays: list[Any] = [*(tensor.detach().contiguous().numpy() for tensor in (gates, h, weight)), hidden.numpy()]
    work = steps * vertices * weight.numel()
    threads.for_each(lambda _, *span: _forward(*arrays, *span), tasks(vertices), work=work)
    return hidden


def backward(
    grad_hidden: Tensor, gates: Tensor, h: Tensor, weight: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gates, h and weight.

    Args:
        grad_hidden: (T, n, H).
        gates: as in :func:`forward`, like the next two.
        h: likewise.
        weight: likewise.
        hidden: what it gave.
    """
    steps, vertices, _ = gates.shape
    dgates, dh = gates.new_empty(gates.shape), h.new_empty(h.shape)
    runs = tasks(vertices)
    # Each run of vertices sums its own, so that the sum does not depend on the number of threads.
    dweight = weight.new_zeros(len(runs), *weight.shape)
    arrays: list[Any] = [tensor.detach().contiguous().numpy() for tensor in (grad_hidden, gates, h, weight, hidden)]
    arrays += [dgates.numpy(), dh.numpy(), dweight.numpy()]
    work = 3 * steps * vertices * weight.numel()
    threads.for_each(lambda *span: _backward(*arrays, *span), runs, work=work)
    return dgates, dh, dweight.sum(0)


@kernel()
def _compute(
    gates: Real, step: int, first: int, count: int, state: Real, weight: Real, reset: Real, sums: Real
) -> None:
    """``sums`` (3H, TILE) = z, r and the candidate of a step, ``reset`` (H, TILE) = r ∘ h, given h as ``state``."""
    size = len(state)
    multiply(weight[: 2 * size], state, sums[: 2 * size])
    for v in range(count):
        for row in range(2 * size):
            sums[row, v] += gates[step, first + v, row]
    for row in range(2 * size):
        for v in range(TILE):
            sums[row, v] = sigmoid(sums[row, v])
    for j in range(size):
        for v in range(TILE):
            reset[j, v] = sums[size + j, v] * state[j, v]
    multiply(weight[2 * size :], reset, sums[2 * size :])
    for v in range(count):
        for row in range(2 * size, 3 * size):
            sums[row, v] += gates[step, first + v, row]
    for row in range(2 * size, 3 * size):
        for v in range(TILE):
            sums[row, v] = tanh(sums[row, v])


@kernel()
def _load(h: Real, first: int, count: int, state: Real) -> None:
    """``state`` (H, TILE) = h of a tile, zeros beyond ``count``."""
    state[:] = 0
    for v in range(count):
        for j in range(len(state)):
            state[j, v] = h[first + v, j]


@kernel()
def _forward(gates: Real, h: Real, weight: Real, hidden: Real, start: int, stop: int) -> None:
    rows, size = weight.shape
    one = h.dtype.type(1)
    state, reset = np.empty((size, TILE), h.dtype), np.empty((size, TILE), h.dtype)
    sums = np.empty((rows, TILE), h.dtype)
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        _load(h, first, count, state)
        for step in range(gates.shape[0]):
            _compute(gates, step, first, count, state, weight, reset, sums)
            for j in range(size):
                for v in range(TILE):
                    z = sums[j, v]
                    state[j, v] = z * state[j, v] + (one - z) * sums[2 * size + j, v]
            for v in range(count):
                for j in range(size):
                    hidden[step, first + v, j] = state[j, v]


@kernel()
def _backward(
    grad_hidden: Real, gates: Real, h: Real, weight: Real, hidden: Real, dgates: Real, dh: Real, dweight: Real,
    run: int, start: int, stop: int,
) -> None:  # fmt: skip
    rows, size = weight.shape
    one = h.dtype.type(1)
    state, reset = np.empty((size, TILE), h.dtype), np.empty((size, TILE), h.dtype)
    dstate, dreset = np.empty((size, TILE), h.dtype), np.empty((size, TILE), h.dtype)
    sums, dseen = np.empty((rows, TILE), h.dtype), np.empty((size, TILE), h.dtype)
    for first in range(start, stop, TILE):
        count = min(TILE, stop - first)
        dstate[:] = 0
        for step in range(gates.shape[0] - 1, -1, -1):
            for v in range(count):
                for j in range(size):
                    dstate[j, v] += grad_hidden[step, first + v, j]
            _load(h if step == 0 else hidden[step - 1], first, count, state)
            _compute(gates, step, first, count, state, weight, reset, sums)
            for j in range(size):
                for v in range(TILE):
                    z, shown, total = sums[j, v], sums[2 * size + j, v], dstate[j, v]
                    sums[j, v] = total * (state[j, v] - shown) * z * (one - z)
                    sums[2 * size + j, v] = total * (one - z) * (one - shown * shown)
                    dstate[j, v] = total * z
            multiply_turned(weight[2 * size :], sums[2 * size :], dreset)
            for j in range(size):
                for v in range(TILE):
                    r = sums[size + j, v]
                    dstate[j, v] += dreset[j, v] * r
                    sums[size + j, v] = dreset[j, v] * state[j, v] * r * (one - r)
            multiply_turned(weight[: 2 * size], sums[: 2 * size], dseen)
            outer(sums[: 2 * size], state, dweight[run, : 2 * size])
            outer(sums[2 * size :], reset, dweight[run, 2 * size :])
            for j in range(size):
                for v in range(TILE):
                    dstate[j, v] += dseen[j, v]
            for v in range(count):
                for row in range(rows):
                    dgates[step, first + v, row] = sums[row, v]
        for v in range(count):
            for j in range(size):
                dh[first + v, j] = dstate[j, v]
