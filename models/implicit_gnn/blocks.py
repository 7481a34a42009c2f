"""IGNN and NEMON: two ways to keep an implicit graph layer a contraction while it is trained."""

from __future__ import annotations

from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from fulgurite.models.implicit_gnn.constraint import Constraint, project_rows, scale_rows
from fulgurite.models.implicit_gnn.fixed_point import Activation, Equation, Solver, damping_for, equilibrium
from fulgurite.models.implicit_gnn.graph import Propagation


class IGNNBlock(nn.Module):
    r"""IGNN: the fixed point of :math:`X = \varphi(A X W^T + B)`, :math:`\lambda_{pf}(|A|) \|W\|_\infty \le \kappa`.

    Gu et al., *Implicit Graph Neural Networks*, NeurIPS 2020, `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__.
    Rows are nodes. The map contracts by κ in a weighted maximum norm, so that it may be iterated by anybody in any
    order, with old values: see :mod:`fulgurite.plugins.dynamic_async`.

    Args:
        channels: d.
        kappa: κ in (0, 1); how far a node sees grows as 1/(1 − κ), and so does the time to solve.
        constraint: ``projection``: whenever the layer is used, W is first replaced by the nearest matrix allowed, as
            in the paper; ``parametrisation``: W is a function of a free matrix, so that gradients know of the bound.
        activation: φ.

    Shape:
        ``forward(graph, injection)``: (N, d) to (N, d).

    Raises:
        ValueError: an option out of range; a weight that is not finite.

    Example:
        >>> from fulgurite.models.implicit_gnn.graph import propagation
        >>> graph = propagation(torch.tensor([[0, 1], [1, 2]]), 3)
        >>> block = IGNNBlock(4, kappa=0.8)
        >>> block(graph, torch.ones(3, 4)).shape, block.equation(graph, torch.ones(3, 4)).factor < 0.81
        (torch.Size([3, 4]), True)
    """

    uses_self_loops: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        *,
        kappa: float = 0.9,
        constraint: Constraint = "projection",
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"got channels={channels}; expected 1 or more")
        if not 0 < kappa < 1:
            raise ValueError(f"got kappa={kappa}; expected between 0 and 1: at 1 the layer need not have a fixed point")
        if constraint not in get_args(Constraint):
            raise ValueError(f"got constraint={constraint!r}; choose from {', '.join(get_args(Constraint))}")
        if activation not in get_args(Activation):
            raise ValueError(f"got activation={activation!r}; choose from {', '.join(get_args(Activation))}")
        self.kappa = kappa
        self.constraint: Constraint = constraint
        self.activation: Activation = activation
        self.raw_weight = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W near κ times the identity, the memory that reaches furthest."""
        with torch.no_grad():
            nn.init.normal_(self.raw_weight, std=0.1 / self.raw_weight.shape[0] ** 0.5)
            self.raw_weight.diagonal().add_(self.kappa)
            self.raw_weight.copy_(project_rows(self.raw_weight, self.kappa))

    def weight(self, graph: Propagation) -> Tensor:
        """W (d, d), within the bound for this graph."""
        self_weight = graph.self_weight if self.uses_self_loops else 0.0
        if self.constraint == "parametrisation":
            return scale_rows(self.raw_weight, self.kappa, perron=graph.perron, self_weight=self_weight)
        with torch.no_grad():
            allowed = project_rows(self.raw_weight, self.kappa, perron=graph.perron, self_weight=self_weight)
            if not torch.equal(allowed, self.raw_weight):
                self.raw_weight.copy_(allowed)
        return self.raw_weight

    def equation(self, graph: Propagation, injection: Tensor) -> Equation:
        """What is to be solved."""
        return Equation(graph, self.weight(graph), injection, self.activation)

    def forward(self, graph: Propagation, injection: Tensor, solver: Solver | None = None) -> Tensor:
        """X⋆ (N, d), differentiable by the weight and the injection (N, d)."""
        return equilibrium(self.equation(graph, injection), solver)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.raw_weight.shape[0]}, kappa={self.kappa}, constraint={self.constraint}, {self.activation}"


class NEMONBlock(IGNNBlock):
    r"""NEMON: the same fixed point with :math:`\mu_\infty(A \otimes W) \le \kappa`, which lets W be far larger.

    Jafarpour et al., *Robust Implicit Networks via Non-Euclidean Contractions*, NeurIPS 2021,
    `arXiv:2106.03194 <https://arxiv.org/abs/2106.03194>`__. The matrix measure
    :math:`\mu_\infty(K) = \max_i (K_{ii} + \sum_{j \ne i} |K_{ij}|)` is less than the norm where diagonal entries are
    negative; those of :math:`K = A \otimes W` are :math:`A_{ii} W_{pp}`, so that it gains by self-loops, and without
    them is IGNN. It is solved by :math:`X \leftarrow (1 - \alpha)X + \alpha\varphi(A X W^T + B)` with
    :math:`\alpha = 1/(1 - \min(0, \min_i K_{ii}))`, a contraction by :math:`1 - \alpha(1 - \max(\mu_\infty, 0))` in the
    same maximum norm.

    Args:
        channels: d.
        kappa: bound of the measure, in (0, 1).
        constraint: see :class:`IGNNBlock`.
        activation: φ.

    Shape:
        ``forward(graph, injection)``: (N, d) to (N, d).

    Raises:
        ValueError: an option out of range; a weight that is not finite.

    Example:
        >>> from fulgurite.models.implicit_gnn.graph import propagation
        >>> graph = propagation(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> block = NEMONBlock(2, kappa=0.5)
        >>> block.raw_weight.data = torch.tensor([[-2.0, 0.5], [0.5, -2.0]])
        >>> equation = block.equation(graph, torch.ones(2, 2))
        >>> float(equation.weight.detach().abs().sum(dim=1).max()), equation.damping, round(equation.factor, 3)
        (2.5, 0.5, 0.75)
    """

    uses_self_loops = True

    def equation(self, graph: Propagation, injection: Tensor) -> Equation:
        """What is to be solved, damped."""
        weight = self.weight(graph)
        return Equation(graph, weight, injection, self.activation, damping_for(graph, weight))
