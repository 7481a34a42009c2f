"""Rows of W that keep an implicit layer a contraction: projected onto, or scaled into, what the certificate allows."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Constraint = Literal["projection", "parametrisation"]


def row_bound(weight: Tensor, *, perron: float = 1.0, self_weight: float = 0.0) -> Tensor:
    r"""What each row of W adds up to: :math:`\lambda\|W_p\|_1 - a(|W_{pp}| - W_{pp})`.

    With :math:`\lambda = \lambda_{pf}(|A|)` and a = 0 its maximum over rows is IGNN's
    :math:`\lambda_{pf}(|A|)\|W\|_\infty` (Gu et al., `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__). With a
    the least weight of a self-loop it bounds NEMON's matrix measure :math:`\mu_\infty(A \otimes W)`, in the norm
    weighted by A's Perron vector: what a negative diagonal takes away may be spent elsewhere (Jafarpour et al.,
    `arXiv:2106.03194 <https://arxiv.org/abs/2106.03194>`__).

    Args:
        weight: (d, d) W.
        perron: λ.
        self_weight: a, from 0 to λ.

    Returns:
        (d,) in W's type.

    Example:
        >>> row_bound(torch.tensor([[-0.5, 1.0], [0.25, 0.25]]), self_weight=0.5)
        tensor([1.0000, 0.5000])
    """
    own = weight.diagonal()
    return perron * weight.abs().sum(dim=1) - self_weight * (own.abs() - own)


def project_rows(weight: Tensor, bound: float, *, perron: float = 1.0, self_weight: float = 0.0) -> Tensor:
    r"""The nearest matrix, row by row in the Euclidean norm, with every :func:`row_bound` at most ``bound``.

    Without self-loops that is the ℓ1 ball, and the answer :math:`\mathrm{sign}(w)\max(|w| - \tau, 0)`; with them the
    diagonal has slopes of its own on either side of 0. The row's sum falls piecewise linearly as τ grows; the piece
    where it reaches the bound is found by bisection over the d + 1 bends, all rows at once, and solved: exact but for
    rounding.

    Args:
        weight: (d, d) W.
        bound: κ, above 0.
        perron: λ, above 0.
        self_weight: a, from 0 to λ.

    Returns:
        (d, d), a new tensor.

    Raises:
        ValueError: a matrix that is not square or not finite; numbers out of range.

    Example:
        >>> project_rows(torch.tensor([[1.0, 0.5], [0.1, -0.2]]), 0.9)
        tensor([[ 0.7000,  0.2000],
                [ 0.1000, -0.2000]])
    """
    _check(weight, bound, perron, self_weight)
    # λ|w| − a(|w| − w) has slope λ to the right of 0 and 2a − λ to the left of it.
    left = 2 * self_weight - perron

    def shrunk(tau: Tensor) -> Tensor:
        moved = weight.sign() * (weight.abs() - tau * perron).clamp_min(0)
        own, step = weight.diagonal(), tau[:, 0]
        right_of_0, left_of_0 = own - step * perron, own - step * left
        kept = torch.where(right_of_0 > 0, right_of_0, torch.where(left_of_0 < 0, left_of_0, torch.zeros_like(own)))
        return moved.diagonal_scatter(kept)

    def total(tau: Tensor) -> Tensor:
        return row_bound(shrunk(tau), perron=perron, self_weight=self_weight)[:, None]

    bends = (weight.abs() / perron).diagonal_scatter(weight.diagonal().clamp_min(0) / perron)
    turn = weight.diagonal() / left if left else torch.zeros_like(weight.diagonal())
    bends = torch.cat([torch.zeros_like(bends[:, :1]), bends, turn.clamp_min(0)[:, None]], dim=1).sort(dim=1).values
    low = torch.zeros_like(bends[:, :1], dtype=torch.int64)  # the last bend whose sum is still above the bound
    high = torch.full_like(low, bends.shape[1])
    for _ in range(math.ceil(math.log2(bends.shape[1])) + 1):
        middle = (low + high) // 2
        above = total(bends.gather(1, middle.clamp_max(bends.shape[1] - 1))) > bound
        above &= middle < bends.shape[1]
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    begin = bends.gather(1, low)
    last = low == bends.shape[1] - 1
    end = torch.where(last, begin + 1, bends.gather(1, (low + 1).clamp_max(bends.shape[1] - 1)))
    at_begin, at_end = total(begin), total(end)
    fall = (at_begin - at_end).clamp_min(torch.finfo(weight.dtype).tiny)
    tau = begin + (end - begin) * ((at_begin - bound) / fall).clamp_min(0)
    outside = row_bound(weight, perron=perron, self_weight=self_weight)[:, None] > bound
    return torch.where(outside, shrunk(tau), weight)


def scale_rows(weight: Tensor, bound: float, *, perron: float = 1.0, self_weight: float = 0.0) -> Tensor:
    r"""A matrix with every :func:`row_bound` at most ``bound``, as a differentiable function of any matrix.

    The diagonal is held to what a row may have by itself; what stands beside it is scaled down to the rest. A matrix
    that is within the bound stays as it is, so every matrix allowed can be reached.

    Args:
        weight: (d, d) any matrix.
        bound: κ, above 0.
        perron: λ, above 0.
        self_weight: a, from 0 to λ.

    Returns:
        (d, d) W.

    Raises:
        ValueError: as :func:`project_rows`.

    Example:
        >>> scale_rows(torch.tensor([[0.5, 1.0], [0.1, -0.2]]), 0.9)
        tensor([[ 0.5000,  0.4000],
                [ 0.1000, -0.2000]])
    """
    _check(weight, bound, perron, self_weight)
    left = perron - 2 * self_weight
    own = weight.diagonal().clamp(-bound / left if left > 0 else None, bound / perron)
    others = weight.diagonal_scatter(torch.zeros_like(own))
    size = perron * others.abs().sum(dim=1)
    room = bound - (perron * own.abs() - self_weight * (own.abs() - own))
    scale = torch.where(
        size > room, room / torch.where(size > room, size, torch.ones_like(size)), torch.ones_like(size)
    )
    return (others * scale[:, None]).diagonal_scatter(own)


def _check(weight: Tensor, bound: float, perron: float, self_weight: float) -> None:
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"got a weight of shape {tuple(weight.shape)}; expected a square matrix (d, d)")
    if not bool(weight.detach().isfinite().all()):
        raise ValueError("got a weight that is not finite; lower the learning rate, or look for huge or NaN features")
    if not (bound > 0 and perron > 0 and 0 <= self_weight <= perron * (1 + 1e-9)):
        raise ValueError(
            f"got bound={bound}, perron={perron}, self_weight={self_weight}; expected bound and perron above 0, and "
            "self_weight from 0 to perron"
        )
