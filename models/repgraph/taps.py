r"""Sparse products with the rows of a table that bilinear samples read; each is the others' derivative.

With rows r and weights w, (M, K) each, left-hand vectors l (M, D) and a table T (R, D):

.. math::
    \mathrm{dots}(l, T, r)_{mk} = \langle l_m, T_{r_{mk}}\rangle, \qquad
    \mathrm{sums}(T, r, w)_m = \sum_k w_{mk} T_{r_{mk}}, \qquad
    \mathrm{spread}(l, r, w)_j = \sum_{m,k\,:\,r_{mk}=j} w_{mk} l_m.

None holds M · K vectors of D, each can be differentiated any number of times, and none adds atomically: sums come in
the same order each time, on the CPU and on CUDA. All run on torch's ``embedding_bag``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("fulgurite::tap_dots", mutates_args=())
def tap_dots(left: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """Give the inner product of each left-hand vector with each of its rows.

    Args:
        left: (M, D), float32 or float64.
        table: (R, D).
        rows: (M, K), int32 or int64, less than R.

    Returns:
        (M, K).

    Example:
        >>> tap_dots(torch.tensor([[1.0, 2.0]]), torch.eye(2), torch.tensor([[0, 1, 1]])).tolist()
        [[1.0, 2.0, 2.0]]
    """
    count, taps = rows.shape
    if rows.numel() == 0:
        return left.new_zeros(count, taps)
    starts = torch.arange(0, count * taps, taps, dtype=rows.dtype, device=rows.device)
    bags = torch.arange(count, dtype=rows.dtype, device=rows.device).repeat_interleave(taps)
    # The derivative of embedding_bag by its weights; it is all that torch has for products at sampled places.
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), table.contiguous(), rows.reshape(-1), starts, bags, 0, -1
    )
    return found.view(count, taps)


@torch.library.custom_op("fulgurite::tap_sums", mutates_args=())
def tap_sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Give weighted sums of rows.

    Args:
        table: (R, D), float32 or float64.
        rows: (M, K), int32 or int64, less than R.
        weights: (M, K), of the table's type.

    Returns:
        (M, D).

    Example:
        >>> tap_sums(torch.eye(2), torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 5.0]]
    """
    if rows.numel() == 0:
        return table.new_zeros(rows.shape[0], table.shape[1])
    return functional.embedding_bag(rows, table.contiguous(), mode="sum", per_sample_weights=weights.contiguous())


@torch.library.custom_op("fulgurite::tap_spread", mutates_args=())
def tap_spread(left: Tensor, rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """Add each left-hand vector, weighted, to each of its rows of an empty table.

    Args:
        left: (M, D), float32 or float64.
        rows: (M, K), int32 or int64, less than ``count``.
        weights: (M, K), of the type of ``left``.
        count: R, the table's rows.

    Returns:
        (R, D).

    Example:
        >>> tap_spread(torch.ones(1, 2), torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 2.0, 3.0]]), 3).tolist()
        [[1.0, 1.0], [5.0, 5.0], [0.0, 0.0]]
    """
    if rows.numel() == 0:
        return left.new_zeros(count, left.shape[1])
    # Taps in the order of their rows: what is left are sums over stretches of them.
    ordered, order = rows.reshape(-1).sort(stable=True)
    targets = torch.arange(count, dtype=rows.dtype, device=rows.device)
    starts = torch.searchsorted(ordered, targets, out_int32=rows.dtype == torch.int32)
    return functional.embedding_bag(
        (order // rows.shape[1]).to(rows.dtype),
        left.contiguous(),
        starts,
        mode="sum",
        per_sample_weights=weights.reshape(-1)[order],
    )


@tap_dots.register_fake
def _(left: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    return left.new_empty(rows.shape)


@tap_sums.register_fake
def _(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return table.new_empty(rows.shape[0], table.shape[1])


@tap_spread.register_fake
def _(left: Tensor, rows: Tensor, weights: Tensor, count: int) -> Tensor:
    return left.new_empty(count, left.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


def _dots_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    left, table, rows = ctx.saved_tensors
    to_left = tap_sums(table, rows, grad) if ctx.needs_input_grad[0] else None
    to_table = tap_spread(left, rows, grad, table.shape[0]) if ctx.needs_input_grad[1] else None
    return to_left, to_table, None


def _sums_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    table, rows, weights = ctx.saved_tensors
    to_table = tap_spread(grad, rows, weights, table.shape[0]) if ctx.needs_input_grad[0] else None
    to_weights = tap_dots(grad, table, rows) if ctx.needs_input_grad[2] else None
    return to_table, None, to_weights


def _spread_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    left, rows, weights = ctx.saved_tensors
    to_left = tap_sums(grad, rows, weights) if ctx.needs_input_grad[0] else None
    to_weights = tap_dots(left, grad, rows) if ctx.needs_input_grad[2] else None
    return to_left, None, to_weights, None


tap_dots.register_autograd(_dots_backward, setup_context=_keep)
tap_sums.register_autograd(_sums_backward, setup_context=_keep)
tap_spread.register_autograd(_spread_backward, setup_context=_keep)


@register_flop_formula(torch.ops.fulgurite.tap_dots)
def _dots_flop(left: tuple[int, ...], table: tuple[int, ...], rows: tuple[int, ...], **_: Any) -> int:
    return 2 * rows[0] * rows[1] * table[1]


@register_flop_formula(torch.ops.fulgurite.tap_sums)
def _sums_flop(table: tuple[int, ...], rows: tuple[int, ...], weights: tuple[int, ...], **_: Any) -> int:
    return 2 * rows[0] * rows[1] * table[1]


@register_flop_formula(torch.ops.fulgurite.tap_spread)
def _spread_flop(left: tuple[int, ...], rows: tuple[int, ...], weights: tuple[int, ...], count: int, **_: Any) -> int:
    return 2 * rows[0] * rows[1] * left[1]
