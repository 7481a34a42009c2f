"""A gated recurrent unit of many channels that resets first, on the CPU: torch's matrix products, a step at a time.

As :mod:`~fulgurite.models.dynamic_gnn.cpu_wide_lstm`: between the products one walk over the gates, the states alone
are kept, and gates are worked out again in the backward pass.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.dynamic_gnn.compile import kernel
from fulgurite.models.dynamic_gnn.cpu_rows import by_rows, runs
from fulgurite.models.dynamic_gnn.exponential import sigmoid, tanh

Real = NDArray[Any]


def forward(gates: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """Run it; arguments and result as of :func:`fulgurite.models.dynamic_gnn.cpu_gru.forward`."""
    steps, vertices, columns = gates.shape
    size = h.shape[1]
    gates, h, weight = (tensor.detach().contiguous() for tensor in (gates, h, weight))
    hidden = gates.new_empty(steps, vertices, size)
    for first, last in runs(vertices, columns):
        rows = slice(first, last)
        sums, reset = gates.new_empty(last - first, 2 * size), gates.new_empty(last - first, size)
        shown, state = torch.empty_like(reset), h[rows]
        for step in range(steps):
            given = gates[step, rows]
            _multiply(given, state, weight, sums, reset, shown)
            before, state = state, hidden[step, rows]
            by_rows(_advance, given, sums, shown, before, state)
    return hidden


def backward(
    grad_hidden: Tensor, gates: Tensor, h: Tensor, weight: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients; arguments and results as of :func:`fulgurite.models.dynamic_gnn.cpu_gru.backward`."""
    steps, vertices, columns = gates.shape
    size = h.shape[1]
    gates, h, weight, grad_hidden = (tensor.detach().contiguous() for tensor in (gates, h, weight, grad_hidden))
    dgates, dh, dweight = torch.empty_like(gates), torch.zeros_like(h), torch.zeros_like(weight)
    of_gates, of_candidate = weight[: 2 * size], weight[2 * size :]
    for first, last in runs(vertices, columns):
        rows = slice(first, last)
        sums, reset = gates.new_empty(last - first, 2 * size), gates.new_empty(last - first, size)
        shown, dreset, dstate = torch.empty_like(reset), torch.empty_like(reset), dh[rows]
        for step in range(steps - 1, -1, -1):
            given, found = gates[step, rows], dgates[step, rows]
            state = h[rows] if step == 0 else hidden[step - 1, rows]
            _multiply(given, state, weight, sums, reset, shown)
            by_rows(_retreat, given, sums, shown, state, grad_hidden[step, rows], dstate, found)
            torch.mm(found[:, 2 * size :], of_candidate, out=dreset)
            by_rows(_retreat_reset, found, sums, state, dreset, dstate)
            dstate.addmm_(found[:, : 2 * size], of_gates)
            dweight[: 2 * size].addmm_(found[:, : 2 * size].t(), state)
            dweight[2 * size :].addmm_(found[:, 2 * size :].t(), reset)
    return dgates, dh, dweight


def _multiply(given: Tensor, state: Tensor, weight: Tensor, sums: Tensor, reset: Tensor, shown: Tensor) -> None:
    """``sums`` = z and r, ``reset`` = r ∘ h, ``shown`` = what :math:`U_h` makes of it."""
    size = state.shape[1]
    torch.mm(state, weight[: 2 * size].t(), out=sums)
    by_rows(_reset, given, sums, state, reset)
    torch.mm(reset, weight[2 * size :].t(), out=shown)


# A loop over channels writes to one array, and reads few, else the compiler gives up to tell them apart.
@kernel()
def _reset(given: Real, sums: Real, state: Real, reset: Real, start: int, stop: int) -> None:
    size = state.shape[1]
    for v in range(start, stop):
        for j in range(2 * size):
            sums[v, j] = sigmoid(sums[v, j] + given[v, j])
        for j in range(size):
            reset[v, j] = sums[v, size + j] * state[v, j]


@kernel()
def _advance(given: Real, sums: Real, shown: Real, before: Real, state: Real, start: int, stop: int) -> None:
    size = state.shape[1]
    one = sums.dtype.type(1)
    for v in range(start, stop):
        for j in range(size):
            shown[v, j] = tanh(shown[v, j] + given[v, 2 * size + j])
        for j in range(size):
            state[v, j] = sums[v, j] * before[v, j] + (one - sums[v, j]) * shown[v, j]


@kernel()
def _retreat(
    given: Real, sums: Real, shown: Real, state: Real, grad: Real, dstate: Real, found: Real, start: int, stop: int
) -> None:
    size = state.shape[1]
    one = sums.dtype.type(1)
    for v in range(start, stop):
        for j in range(size):
            shown[v, j] = tanh(shown[v, j] + given[v, 2 * size + j])
        for j in range(size):
            dstate[v, j] += grad[v, j]
        for j in range(size):
            found[v, j] = dstate[v, j] * (state[v, j] - shown[v, j]) * sums[v, j] * (one - sums[v, j])
        for j in range(size):
            found[v, 2 * size + j] = dstate[v, j] * (one - sums[v, j]) * (one - shown[v, j] * shown[v, j])
        for j in range(size):
            dstate[v, j] *= sums[v, j]


@kernel()
def _retreat_reset(found: Real, sums: Real, state: Real, dreset: Real, dstate: Real, start: int, stop: int) -> None:
    size = state.shape[1]
    one = sums.dtype.type(1)
    for v in range(start, stop):
        for j in range(size):
            r = sums[v, size + j]
            found[v, size + j] = dreset[v, j] * state[v, j] * r * (one - r)
        for j in range(size):
            dstate[v, j] += dreset[v, j] * sums[v, size + j]
