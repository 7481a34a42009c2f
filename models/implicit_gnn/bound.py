"""How far a state is from the fixed point, at most: what every prediction is given with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fulgurite.models.implicit_gnn.fixed_point import Equation

_UNIT = 2.0**-53


def error_bound(equation: Equation, state: Tensor) -> float:
    r"""A number that :math:`\|X - X^\star\|_w` does not exceed: :math:`\|F(X) - X\|_w / (1 - \gamma)`.

    F is evaluated in double precision, with what that may be off by added, whatever type the state has, and however it
    came about: by old values, by workers that died, by a guess.

    Args:
        equation: its :attr:`~fulgurite.models.implicit_gnn.fixed_point.Equation.factor` is γ.
        state: (N, d) X.

    Returns:
        The bound, infinite where γ is not below 1 or the state is not finite. A node's own entries are off by at most
        :math:`w_i` times it.

    Example:
        >>> from fulgurite.models.implicit_gnn.graph import propagation
        >>> graph = propagation(torch.tensor([[0], [1]]), 2, self_loops=False)
        >>> equation = Equation(graph, torch.tensor([[0.5]]), torch.tensor([[0.25], [0.0]]), "relu")
        >>> round(error_bound(equation, torch.tensor([[0.25], [0.0]])), 6)
        0.25
    """
    exact = equation.double()
    x = state.detach().double()
    if not (exact.factor < 1 and bool(x.isfinite().all())):
        return math.inf
    graph = exact.graph
    step = (exact.evaluate(x) - x).abs().amax(dim=1)
    # What rounding may have done: as many sums and products as the longest row has, of the absolute values.
    terms = int(torch.bincount(graph.matrix.indices()[0], minlength=1).max()) + x.shape[1] + 16
    summed = torch.sparse.mm(graph.matrix.abs(), x.abs()) @ exact.weight.abs().t() + exact.injection.abs()
    rounding = terms * _UNIT * (summed + x.abs() + 1).amax(dim=1)
    w = graph.norm_weight.to(x.device)
    residual = float(((step + rounding) / w).max()) * (1 + 4 * _UNIT)
    return math.nextafter(residual / (1 - exact.factor) * (1 + 4 * _UNIT), math.inf)
