"""An LSTM of many channels along the timelines of many vertices on the CPU: torch's matrix products, a step at a time.

What a step does beside the products is done while its gates lie in the second cache. As in
:mod:`~fulgurite.models.dynamic_gnn.cpu_lstm` the states h and c alone are kept, and gates are worked out again in the
backward pass: to keep them takes 2.3 times the memory, and with 16, 32, 64 and 128 channels 4 % and 5 % more time, as
much, and 9 % less (float32, one thread, 10,000 vertices).
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.dynamic_gnn.compile import kernel
from fulgurite.models.dynamic_gnn.cpu_rows import by_rows, runs
from fulgurite.models.dynamic_gnn.exponential import sigmoid, tanh

Real = NDArray[Any]


def forward(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Run it; arguments and results as of :func:`fulgurite.models.dynamic_gnn.cpu_lstm.forward`."""
    steps, vertices, _ = x.shape
    size = h.shape[1]
    hidden, cells = (x.new_empty(steps, vertices, size) for _ in range(2))
    of_input, of_state, bias = _parts(weight.detach(), x.shape[2])
    x, h, c = (tensor.detach().contiguous() for tensor in (x, h, c))
    for first, last in runs(vertices, 4 * size):
        rows = slice(first, last)
        gates = x.new_empty(last - first, 4 * size)
        state, cell = h[rows], c[rows]
        for step in range(steps):
            _multiply(x[step, rows], state, of_input, of_state, gates)
            state, before, cell = hidden[step, rows], cell, cells[step, rows]
            by_rows(_advance, gates, bias, before, state, cell)
    return hidden, cells


def backward(
    grad_hidden: Tensor, grad_cell: Tensor, x: Tensor, h: Tensor, c: Tensor, weight: Tensor, hidden: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients; arguments and results as of :func:`fulgurite.models.dynamic_gnn.cpu_lstm.backward`."""
    steps, vertices, inputs = x.shape
    size = h.shape[1]
    of_input, of_state, bias = _parts(weight.detach(), inputs)
    x, h, c, grad_hidden = (tensor.detach().contiguous() for tensor in (x, h, c, grad_hidden))
    dx, dh, dc = (
        torch.empty_like(x),
        torch.zeros_like(h),
        grad_cell.detach().clone(memory_format=torch.contiguous_format),
    )
    dinput, dstate, dbias = torch.zeros_like(of_input), torch.zeros_like(of_state), torch.zeros_like(bias)
    for first, last in runs(vertices, 4 * size):
        rows = slice(first, last)
        gates = x.new_empty(last - first, 4 * size)
        for step in range(steps - 1, -1, -1):
            seen = x[step, rows]
            state, before = (h[rows], c[rows]) if step == 0 else (hidden[step - 1, rows], cells[step - 1, rows])
            _multiply(seen, state, of_input, of_state, gates)
            by_rows(_retreat, gates, bias, before, cells[step, rows], grad_hidden[step, rows], dh[rows], dc[rows])
            dinput.addmm_(gates.t(), seen)
            dstate.addmm_(gates.t(), state)
            dbias += gates.sum(0)
            torch.mm(gates, of_input, out=dx[step, rows])
            torch.mm(gates, of_state, out=dh[rows])
    return dx, dh, dc, torch.cat([dinput, dstate, dbias[:, None]], dim=1)


def _parts(weight: Tensor, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """(4H, I), (4H, H) and (4H,)."""
    return weight[:, :inputs].contiguous(), weight[:, inputs:-1].contiguous(), weight[:, -1].contiguous()


def _multiply(seen: Tensor, state: Tensor, of_input: Tensor, of_state: Tensor, gates: Tensor) -> None:
    torch.mm(seen, of_input.t(), out=gates)
    gates.addmm_(state, of_state.t())


# A loop over channels runs over slices, whose indices the compiler knows to be no negative ones, and writes to few of
# them, which it must tell apart; and a function does little, else it makes scalar code of all.
@kernel()
def _activate(gates: Real, bias: Real, start: int, stop: int) -> None:
    size = gates.shape[1] // 4
    of_i_f, of_g, of_o = bias[: 2 * size], bias[2 * size : 3 * size], bias[3 * size :]
    for v in range(start, stop):
        row = gates[v]
        i_f, g, o = row[: 2 * size], row[2 * size : 3 * size], row[3 * size :]
        for j in range(2 * size):
            i_f[j] = sigmoid(i_f[j] + of_i_f[j])
        for j in range(size):
            g[j] = tanh(g[j] + of_g[j])
        for j in range(size):
            o[j] = sigmoid(o[j] + of_o[j])


@kernel()
def _update(gates: Real, before: Real, state: Real, cell: Real, start: int, stop: int) -> None:
    size = state.shape[1]
    for v in range(start, stop):
        row, past, h, c = gates[v], before[v], state[v], cell[v]
        i, f, g, o = row[:size], row[size : 2 * size], row[2 * size : 3 * size], row[3 * size :]
        for j in range(size):
            after = f[j] * past[j] + i[j] * g[j]
            c[j] = after
            h[j] = o[j] * tanh(after)


@kernel()
def _advance(gates: Real, bias: Real, before: Real, state: Real, cell: Real, start: int, stop: int) -> None:
    _activate(gates, bias, start, stop)
    _update(gates, before, state, cell, start, stop)


@kernel()
def _retreat_state(gates: Real, cell: Real, given: Real, dh: Real, dc: Real, start: int, stop: int) -> None:
    """Gradients of h and c, the latter with what h says to it, and of o."""
    size = cell.shape[1]
    one = gates.dtype.type(1)
    for v in range(start, stop):
        o, c, own, of_h, of_c = gates[v, 3 * size :], cell[v], given[v], dh[v], dc[v]
        for j in range(size):
            of_h[j] += own[j]
        for j in range(size):
            shown, opened = tanh(c[j]), o[j]
            of_c[j] += of_h[j] * opened * (one - shown * shown)
            o[j] = of_h[j] * shown * opened * (one - opened)


@kernel()
def _retreat_cell(gates: Real, before: Real, dc: Real, start: int, stop: int) -> None:
    """Gradients of i, f and g, and of c before the step."""
    size = before.shape[1]
    one = gates.dtype.type(1)
    for v in range(start, stop):
        row, past, of_c = gates[v], before[v], dc[v]
        i, f, g = row[:size], row[size : 2 * size], row[2 * size : 3 * size]
        for j in range(size):
            taken, shown = i[j], g[j]
            i[j] = of_c[j] * shown * taken * (one - taken)
            g[j] = of_c[j] * taken * (one - shown * shown)
        for j in range(size):
            kept, total = f[j], of_c[j]
            f[j] = total * past[j] * kept * (one - kept)
            of_c[j] = total * kept


@kernel()
def _retreat(
    gates: Real, bias: Real, before: Real, cell: Real, given: Real, dh: Real, dc: Real, start: int, stop: int
) -> None:
    _activate(gates, bias, start, stop)
    _retreat_state(gates, cell, given, dh, dc, start, stop)
    _retreat_cell(gates, before, dc, start, stop)
