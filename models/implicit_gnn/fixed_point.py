"""The fixed point of an implicit graph layer, and the gradients that come through it by a second fixed point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fulgurite.models.implicit_gnn.graph import Propagation

Activation = Literal["tanh", "relu"]


class NotSolvedError(ValueError):
    """A fixed point was not reached: the layer is no contraction, or it had too few iterations."""


@dataclass(frozen=True, eq=False)
class Equation:
    r"""One layer's fixed-point equation, rows being nodes: :math:`X = \varphi(A X W^T + B)`.

    It is iterated as :math:`X \leftarrow (1 - \alpha)X + \alpha\varphi(A X W^T + B)`; IGNN has α = 1.

    Args:
        graph: A.
        weight: (d, d) W.
        injection: (N, d) B.
        activation: φ, componentwise and 1-Lipschitz.
        damping: α in (0, 1].
    """

    graph: Propagation
    weight: Tensor
    injection: Tensor
    activation: Activation = "tanh"
    damping: float = 1.0

    def inner(self, state: Tensor) -> Tensor:
        """A X Wᵀ + B."""
        return torch.sparse.mm(self.graph.matrix, state) @ self.weight.t() + self.injection

    def evaluate(self, state: Tensor) -> Tensor:
        """One step of the iteration."""
        new = activate(self.activation, self.inner(state))
        return new if self.damping == 1 else (1 - self.damping) * state + self.damping * new

    @cached_property
    def factor(self) -> float:
        """γ with ‖F(x) − F(y)‖_w ≤ γ‖x − y‖_w; see :func:`contraction`."""
        return contraction(self.graph, self.weight, damping=self.damping)

    def double(self) -> Equation:
        """The same numbers in double precision, without gradients."""
        weight, injection = self.weight.detach().double(), self.injection.detach().double()
        return Equation(self.graph.to(dtype=torch.float64), weight, injection, self.activation, self.damping)

    def size(self, difference: Tensor) -> float:
        """‖·‖_w: the greatest entry of each node, divided by wᵢ, of all nodes the greatest."""
        w = self.graph.norm_weight.to(difference.device)
        return float((difference.double().abs().amax(dim=1) / w).max())


@dataclass(frozen=True, eq=False)
class AdjointEquation:
    r"""What gradients obey: :math:`Y = G + A^T (D \circ Y) W` with :math:`D = \varphi'(A X^\star W^T + B)`.

    It is the transposed equation, so it contracts by the same γ in the dual norm :math:`\sum_i w_i \|y_i\|_1`, and
    converges asynchronously too, for |A|ᵀ ⊗ |W|ᵀ has the Perron value of |A| ⊗ |W|. The gradient by the injection is
    :math:`V = D \circ Y`, that by W is :math:`V^T A X^\star`.

    Args:
        equation: the forward one.
        slope: (N, d) D, from 0 to 1.
        gradient: (N, d) G, by the fixed point.
    """

    equation: Equation
    slope: Tensor
    gradient: Tensor

    def evaluate(self, state: Tensor) -> Tensor:
        """One step of the iteration, damped as the forward one."""
        new = self.gradient + torch.sparse.mm(
            self.equation.graph.transposed, (self.slope * state) @ self.equation.weight
        )
        alpha = self.equation.damping
        return new if alpha == 1 else (1 - alpha) * state + alpha * new

    def double(self) -> AdjointEquation:
        """The same numbers in double precision."""
        return AdjointEquation(self.equation.double(), self.slope.double(), self.gradient.double())

    @property
    def factor(self) -> float:
        """γ of the forward equation."""
        return self.equation.factor

    def size(self, difference: Tensor) -> float:
        """The dual norm."""
        w = self.equation.graph.norm_weight.to(difference.device)
        return float((difference.double().abs().sum(dim=1) * w).sum())


class Iteration(Protocol):
    """A contraction by ``factor`` in the norm ``size``."""

    @property
    def factor(self) -> float:
        """γ."""

    def evaluate(self, state: Tensor) -> Tensor:
        """F(x)."""

    def size(self, difference: Tensor) -> float:
        """The norm."""


class Solver(Protocol):
    """Solves both equations."""

    def solve(self, equation: Equation) -> Tensor:
        """X⋆ (N, d)."""

    def solve_adjoint(self, equation: AdjointEquation) -> Tensor:
        """Y⋆ (N, d)."""


@dataclass(frozen=True)
class Synchronous:
    """Iterates all nodes at once until the error is certainly below the tolerance.

    Args:
        tolerance: of ‖x − x⋆‖_w, against the greatest of 1 and ‖x‖_w; known by γ/(1 − γ) times the last step.
        max_iterations: after which it gives up.

    Raises:
        NotSolvedError: γ ≥ 1, or not done within ``max_iterations``.
    """

    tolerance: float = 1e-6
    max_iterations: int = 3000

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"got tolerance={self.tolerance}; expected more than 0")

    def solve(self, equation: Equation) -> Tensor:
        """X⋆ from 0."""
        return self._iterate(equation, torch.zeros_like(equation.injection))

    def solve_adjoint(self, equation: AdjointEquation) -> Tensor:
        """Y⋆ from G."""
        return self._iterate(equation, equation.gradient)

    def _iterate(self, problem: Iteration, state: Tensor) -> Tensor:
        factor = problem.factor
        if not factor < 1:
            raise NotSolvedError(
                f"got a layer of contraction factor {factor:.6g}; expected below 1: project its weight, or give it a "
                "constraint"
            )
        floor = 8 * torch.finfo(state.dtype).eps
        for _ in range(self.max_iterations):
            new = problem.evaluate(state)
            step, scale = problem.size(new - state), problem.size(new)
            state = new
            if not math.isfinite(step):
                raise NotSolvedError(
                    "got a state that is not finite; look for features or weights that are huge or NaN"
                )
            relative = scale if isinstance(problem, AdjointEquation) else max(1.0, scale)
            if factor * step <= (1 - factor) * self.tolerance * relative or step <= floor * scale:
                return state
        raise NotSolvedError(
            f"got no fixed point within {self.max_iterations} iterations at contraction factor {factor:.6g}; raise "
            "max_iterations or tolerance, or lower kappa"
        )


def activate(activation: Activation, inner: Tensor) -> Tensor:
    """φ."""
    return inner.tanh() if activation == "tanh" else inner.relu()


def slope(activation: Activation, inner: Tensor) -> Tensor:
    """φ′, from 0 to 1; that of ReLU at 0 is 0."""
    return 1 - inner.tanh().square() if activation == "tanh" else (inner > 0).to(inner.dtype)


def contraction(graph: Propagation, weight: Tensor, *, damping: float = 1.0) -> float:
    r"""The factor γ of one step in the norm :math:`\max_i \|x_i\|_\infty / w_i`, rounded up.

    .. math:: \gamma = \max_{i,p}\; |1 - \alpha + \alpha A_{ii} W_{pp}| + \alpha A_{ii} \sum_{q \ne p} |W_{pq}|
        + \alpha \Bigl(\sum_{j \ne i} A_{ij} w_j / w_i\Bigr) \sum_q |W_{pq}|

    Nodes that leave only make rows smaller, as long as α stays and weights are not normalised anew, so it holds for
    any that are left.

    Args:
        graph: A and w.
        weight: (d, d) W.
        damping: α.

    Example:
        >>> from fulgurite.models.implicit_gnn.graph import propagation
        >>> graph = propagation(torch.tensor([[0, 1], [1, 0]]), 2, self_loops=False)
        >>> round(contraction(graph, torch.tensor([[0.5, -0.25], [0.0, 0.25]])), 6)
        0.75
    """
    w = weight.detach().double()
    own, others = (x.to(w.device) for x in graph.own_and_others)
    diagonal, total = w.diagonal(), w.abs().sum(dim=1)
    rows = torch.stack([own, others]).unique(dim=1)  # regular graphs have few kinds of rows
    own, others = rows[0][:, None], rows[1][:, None]
    per_row = (1 - damping + damping * own * diagonal).abs() + damping * own * (total - diagonal.abs())
    factor = float((per_row + damping * others * total).max())
    return math.nextafter(factor * (1 + (w.shape[0] + 8) * 2.3e-16), math.inf)


def damping_for(graph: Propagation, weight: Tensor) -> float:
    r"""NEMON's :math:`\alpha = 1 / (1 - \min(0, \min_i K_{ii}))`, of :math:`K = A \otimes W`."""
    own = graph.own_and_others[0]
    least = min(0.0, float(weight.detach().double().diagonal().min()) * float(own.max()))
    return 1 / (1 - least)


def equilibrium(equation: Equation, solver: Solver | None = None) -> Tensor:
    r"""The fixed point :math:`X^\star`, differentiable by weight and injection.

    Gu et al., *Implicit Graph Neural Networks*, NeurIPS 2020, `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__.
    The backward pass solves :class:`AdjointEquation`; nothing of the iteration is kept.

    Args:
        equation: see :class:`Equation`.
        solver: of both passes; :class:`Synchronous` by default.

    Returns:
        (N, d).

    Raises:
        NotSolvedError: see :class:`Synchronous`.

    Example:
        >>> from fulgurite.models.implicit_gnn.graph import propagation
        >>> graph = propagation(torch.tensor([[0], [1]]), 2, self_loops=False)
        >>> weight = torch.tensor([[0.5]], requires_grad=True)
        >>> state = equilibrium(Equation(graph, weight, torch.tensor([[0.2], [0.1]])))
        >>> state[1].sum().backward()
        >>> torch.allclose(state[1], (0.5 * state[0] + 0.1).tanh()), weight.grad.shape
        (True, torch.Size([1, 1]))
    """
    return _Equilibrium.apply(equation.weight, equation.injection, equation, solver or Synchronous())


class _Equilibrium(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, injection: Tensor, equation: Equation, solver: Solver) -> Tensor:
        detached = Equation(equation.graph, weight.detach(), injection.detach(), equation.activation, equation.damping)
        state = solver.solve(detached)
        ctx.save_for_backward(state)
        ctx.equation, ctx.solver = detached, solver
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (state,) = ctx.saved_tensors
        equation: Equation = ctx.equation
        slopes = slope(equation.activation, equation.inner(state))
        found = ctx.solver.solve_adjoint(AdjointEquation(equation, slopes, gradient))
        by_inner = slopes * found
        return by_inner.t() @ torch.sparse.mm(equation.graph.matrix, state), by_inner, None, None
