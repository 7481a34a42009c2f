"""Recurrences along the timelines of many vertices at once."""

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn import cpu_gru, cpu_lstm, cpu_wide_gru, cpu_wide_lstm

if TYPE_CHECKING:
    from fulgurite.models.dynamic_gnn.vertex_lstm import VertexLSTM

# Up to so many weights (11 channels in and out) a tile of vertices with all that a step needs stays in the first cache,
# and the kernel is faster than steps of torch's matrix products.
_LSTM_TILE_WEIGHTS, _GRU_TILE_WEIGHTS = 1200, 400
# Fewer states do not pay for the calls that a step takes: torch's LSTM makes all of them in C++.
_LSTM_STATES = 8192


def lstm(x: Tensor, h: Tensor, c: Tensor, module: "nn.LSTM | VertexLSTM") -> tuple[Tensor, Tensor, Tensor]:
    """One layer of torch's LSTM, also over no vertex or no step.

    On the CPU it runs as kernels of our own, which keep h and c alone for the backward pass, unless there are few
    vertices. Differentiable any number of times; a second derivative is worked out by plain torch.

    Args:
        x: (T, n, I).
        h: (n, H) the state before the first step.
        c: (n, H) likewise.
        module: whose parameters are used.

    Returns:
        (T, n, H), and h and c after the last step.

    Example:
        >>> zeros = torch.zeros(3, 4)
        >>> hidden, h, c = lstm(torch.zeros(5, 3, 2), zeros, zeros, nn.LSTM(2, 4))
        >>> hidden.shape, torch.equal(h, hidden[-1])
        (torch.Size([5, 3, 4]), True)
    """
    if x.shape[0] == 0 or x.shape[1] == 0:
        # Depends on the parameters as the others' do, so that every rank differentiates the same.
        hidden = _nothing(x, module.hidden_size, *module.parameters()) + h
        return hidden, h + hidden.sum(0), c + hidden.sum(0)
    of_input, of_state, *biases = module.parameters()
    small = 4 * module.hidden_size * (x.shape[2] + module.hidden_size + 1) <= _LSTM_TILE_WEIGHTS
    if (small or h.numel() >= _LSTM_STATES) and len(biases) == 2 and _takes_kernel(x, h, c, of_input):
        weight = torch.cat([of_input, of_state, torch.stack([*biases]).sum(0)[:, None]], dim=1)
        hidden, cell, _ = _lstm(x, h, c, weight)
        return hidden, hidden[-1], cell
    hidden, (last, cell) = module(x, (h[None], c[None]))
    return hidden, last[0], cell[0]


def reset_first_gru(gates: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""A gated recurrent unit that resets the state before its product with weights.

    .. math::
        z &= \sigma(g_z + U_z h), \quad r = \sigma(g_r + U_r h), \\
        h' &= z \circ h + (1 - z) \circ \tanh(g_h + U_h (r \circ h)).

    torch's GRU multiplies first and resets then; K. Cho et al., `arXiv:1406.1078 <https://arxiv.org/abs/1406.1078>`__,
    reset first. On the CPU it runs as kernels of our own. Differentiable any number of times.

    Args:
        gates: (T, n, 3H), what the input says to z, r and h.
        h: (n, H) the state before the first step.
        weight: (3H, H), :math:`U_z, U_r, U_h`.

    Returns:
        (T, n, H), and the state after the last step.

    Example:
        >>> hidden, last = reset_first_gru(torch.zeros(2, 1, 3), torch.ones(1, 1), torch.zeros(3, 1))
        >>> hidden.flatten().tolist()
        [0.5, 0.25]
    """
    size = h.shape[1]
    if gates.shape[0] == 0 or gates.shape[1] == 0:
        hidden = _nothing(gates, size, weight) + h
        return hidden, h + hidden.sum(0)
    hidden = (_gru if _takes_kernel(gates, h, weight) else _plain_gru)(gates, h, weight)
    return hidden, hidden[-1]


def _nothing(x: Tensor, size: int, *parameters: Tensor) -> Tensor:
    """Zeros (T, n, size) of no elements that depend on x and on parameters."""
    total = x.sum() + sum(parameter.sum() for parameter in parameters)
    return x.new_zeros(*x.shape[:2], size) + 0 * total


def _takes_kernel(*tensors: Tensor) -> bool:
    """Whether they are on the CPU and of one type that kernels take; under autocast torch chooses the type."""
    dtype = tensors[0].dtype
    same = all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
    return same and dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def plain_lstm(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The states h after each step and c after the last, without kernels."""
    inputs, states = x.shape[2], []
    given = torch.nn.functional.linear(x, weight[:, :inputs], weight[:, -1])
    for step in given.unbind():
        i, f, g, o = torch.addmm(step, h, weight[:, inputs:-1].t()).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states), c


def _plain_gru(gates: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """The state after each step, without kernels."""
    size = h.shape[1]
    of_gates, of_candidate = weight[: 2 * size].t(), weight[2 * size :].t()
    states = []
    for step in gates.unbind():
        z, r = torch.addmm(step[:, : 2 * size], h, of_gates).sigmoid().chunk(2, 1)
        candidate = torch.addmm(step[:, 2 * size :], r * h, of_candidate).tanh()
        # Under autocast the products are of half precision, the state stays what it is.
        h = torch.lerp(candidate.to(h.dtype), h, z.to(h.dtype))
        states.append(h)
    return torch.stack(states)


def _differentiate_plainly(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Gradients of inputs that are differentiable themselves."""
    with torch.enable_grad():
        # Of an input that was made from another one it is the gradient beside the other's, not through it.
        apart = [tensor.view_as(tensor) for tensor in inputs]
        return torch.autograd.grad(function(*apart), apart, gradients, create_graph=True)


@torch.library.custom_op("fulgurite::vertex_lstm", mutates_args=())
def _lstm(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states h after each step, c after the last, and c after each, which is for the backward pass alone."""
    hidden, cells = _of_lstm(weight).forward(x, h, c, weight)
    return hidden, cells[-1].clone(), cells


@torch.library.custom_op("fulgurite::vertex_lstm_backward", mutates_args=())
def _lstm_backward(
    grad_hidden: Tensor,
    grad_cell: Tensor,
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cells: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, h, c and weight."""
    return _of_lstm(weight).backward(grad_hidden, grad_cell, x, h, c, weight, hidden, cells)


def _of_lstm(weight: Tensor) -> ModuleType:
    return cpu_lstm if weight.numel() <= _LSTM_TILE_WEIGHTS else cpu_wide_lstm


@_lstm.register_fake
def _(x: Tensor, h: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (x.shape[0], *h.shape)
    return x.new_empty(shape), h.new_empty(h.shape), x.new_empty(shape)


@_lstm_backward.register_fake
def _(grad_hidden: Tensor, grad_cell: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in given[:4])


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, _, cells = output
    # Else backward is handed zeros as large as the states, for gradients that nobody gives.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(cells)
    ctx.save_for_backward(*inputs, hidden, cells)


def _differentiate(
    ctx: Any, grad_hidden: Tensor | None, grad_cell: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if grad_hidden is None and grad_cell is None:
        return None, None, None, None
    grad_hidden = torch.zeros_like(saved[4]) if grad_hidden is None else grad_hidden
    grad_cell = torch.zeros_like(saved[2]) if grad_cell is None else grad_cell
    if torch.is_grad_enabled():
        found = _differentiate_plainly(plain_lstm, saved[:4], (grad_hidden, grad_cell))
    else:
        found = _lstm_backward(grad_hidden, grad_cell, *saved)
    return tuple(gradient if need else None for gradient, need in zip(found, ctx.needs_input_grad, strict=True))


_lstm.register_autograd(_differentiate, setup_context=_setup_context)


@torch.library.custom_op("fulgurite::vertex_gru", mutates_args=())
def _gru(gates: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """The state after each step."""
    return _of_gru(weight).forward(gates, h, weight)


@torch.library.custom_op("fulgurite::vertex_gru_backward", mutates_args=())
def _gru_backward(
    grad_hidden: Tensor, gates: Tensor, h: Tensor, weight: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gates, h and weight."""
    return _of_gru(weight).backward(grad_hidden, gates, h, weight, hidden)


def _of_gru(weight: Tensor) -> ModuleType:
    return cpu_gru if weight.numel() <= _GRU_TILE_WEIGHTS else cpu_wide_gru


@_gru.register_fake
def _(gates: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    return gates.new_empty(gates.shape[0], *h.shape)


@_gru_backward.register_fake
def _(grad_hidden: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in given[:3])


def _gru_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _differentiate_gru(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        found = _differentiate_plainly(_plain_gru, ctx.saved_tensors[:3], (grad_hidden,))
    else:
        found = _gru_backward(grad_hidden, *ctx.saved_tensors)
    return tuple(gradient if need else None for gradient, need in zip(found, ctx.needs_input_grad, strict=True))


_gru.register_autograd(_differentiate_gru, setup_context=_gru_context)
