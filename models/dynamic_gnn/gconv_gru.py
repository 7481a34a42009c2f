"""GConvGRU: a gated recurrent unit whose state is convolved over the graph at every step."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer
from fulgurite.models.dynamic_gnn.propagate import (
    Backend,
    csr_product,
    edge_product,
    edges_of_each,
    matrix_of_each,
    resolve,
)

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

_Sums = Callable[[Tensor], Tensor]


class GConvGRULayer(DynamicLayer):
    r"""A layer of GConvGRU: every gate convolves the input and the hidden state by Chebyshev polynomials.

    Y. Seo, M. Defferrard, P. Vandergheynst, X. Bresson, "Structured Sequence Modeling with Graph Convolutional
    Recurrent Networks", `arXiv:1612.07659 <https://arxiv.org/abs/1612.07659>`__:

    .. math::
        Z_t &= \sigma(C_{xz}(X_t) + C_{hz}(H_{t-1})), \qquad R_t = \sigma(C_{xr}(X_t) + C_{hr}(H_{t-1})) \\
        \tilde H_t &= \tanh(C_{xh}(X_t) + C_{hh}(R_t \circ H_{t-1})) \\
        H_t &= Z_t \circ H_{t-1} + (1 - Z_t) \circ \tilde H_t,

    with :math:`C(X) = \sum_{k<K} T_k(\hat L) X \Theta_k + b` (input only), :math:`T_0 X = X, T_1 X = \hat L X, T_k X =
    2 \hat L T_{k-1} X - T_{k-2} X`, :math:`\hat L = L - I = -\tilde A` for the Laplacian :math:`L = I - \tilde A` of
    the graph with self-loops, whose eigenvalues are at most 2. A step needs the state of a vertex's neighbours, so the
    layer cannot be cut by snapshot: it runs on one rank.

    Args:
        in_channels: F.
        out_channels: F'.
        order: K ≥ 1, terms of a polynomial; with 1 neighbours do not matter.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Attributes:
        of_input: the weights of :math:`C_{xz}, C_{xr}, C_{xh}`: (3F', K·F), terms in order.
        of_gates: those of :math:`C_{hz}, C_{hr}`: (2F', K·F').
        of_candidate: those of :math:`C_{hh}`: (F', K·F').

    Shape:
        (t, N, F) → (t, N, F').

    Raises:
        ValueError: an order below 1; in ``forward``, a timeline that is shared by several ranks.

    Example:
        >>> GConvGRULayer(2, 6, order=2).of_gates
        Linear(in_features=12, out_features=12, bias=False)
    """

    coupling: ClassVar[Coupling] = "graph"
    carry_size = 1

    def __init__(self, in_channels: int, out_channels: int, *, order: int = 2, backend: Backend = "auto") -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        if order < 1:
            raise ValueError(f"got order={order}; expected 1 or more terms of a Chebyshev polynomial")
        self.order = order
        self.of_input = _terms_linear(in_channels, 3 * out_channels, order, bias=True)
        self.of_gates = _terms_linear(out_channels, 2 * out_channels, order)
        self.of_candidate = _terms_linear(out_channels, out_channels, order)

    def initial_carry(self, block: "Block") -> Carry:
        """Zeros for H of all vertices."""
        return (self.of_input.weight.new_zeros(block.num_nodes, self.out_channels),)

    def read(self, block: "Block") -> None:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        super().read(block)
        for backend in self._backends(block):
            if backend == "csr":
                matrix_of_each(block.graphs, transpose=torch.is_grad_enabled())
            else:
                edges_of_each(block.graphs)

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        """What the input says to the gates, (t, N, 3F')."""
        features = self.features(block, x)
        terms = [features]
        for k in range(1, self.order):
            # The first sum is the one of the features alone, which is kept where graphs stay.
            summed = self.neighbours(block, x if k == 1 else terms[-1])
            terms.append(-summed if k == 1 else -2 * summed - terms[-2])
        return self.of_input(torch.cat(terms, dim=-1))

    def temporal(self, block: "Block", gates: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The recurrence over the block's steps, each of which sums the state over neighbours."""
        (h,) = carry
        size = self.out_channels
        states = []
        for step, neighbours in zip(gates.unbind(), self._steps(block, gates), strict=True):
            z, r = (step[:, : 2 * size] + self.of_gates(self._terms(h, neighbours))).sigmoid().chunk(2, 1)
            candidate = (step[:, 2 * size :] + self.of_candidate(self._terms(r * h, neighbours))).tanh()
            # Under autocast the products are of half precision, the state stays what it is.
            h = torch.lerp(candidate.to(h.dtype), h, z.to(h.dtype))
            states.append(h)
        return torch.stack(states), (h,)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        if block.exchange.size > 1:
            raise ValueError(
                f"got a timeline shared by {block.exchange.size} ranks for GConvGRU, whose state is summed over "
                "neighbours at every step and cannot be cut by snapshot; train it on one rank, or with plain DDP on "
                "windows of the timeline"
            )
        return self.temporal(block, self.spatial(block, x), carry)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{super().extra_repr()}, order={self.order}"

    def _terms(self, x: Tensor, neighbours: _Sums) -> Tensor:
        terms = [x]
        for k in range(1, self.order):
            summed = neighbours(terms[-1])
            terms.append(-summed if k == 1 else -2 * summed - terms[-2])
        return terms[0] if self.order == 1 else torch.cat(terms, dim=-1)

    def _steps(self, block: "Block", gates: Tensor) -> list[_Sums]:
        """The neighbour sums of each step; the graphs are cut up once a block."""
        graphs = block.graphs
        if self.order == 1:
            return [torch.zeros_like] * graphs.num_snapshots  # not asked for
        if resolve(self.backend, gates) == "csr":
            matrices = matrix_of_each(graphs, transpose=torch.is_grad_enabled())
            return [functools.partial(csr_product, one) for one in matrices]
        return [functools.partial(edge_product, one) for one in edges_of_each(graphs)]


def _terms_linear(in_channels: int, out_channels: int, order: int, *, bias: bool = False) -> nn.Linear:
    """The weights of all terms side by side, each from Glorot's uniform distribution."""
    linear = nn.Linear(order * in_channels, out_channels, bias=bias)
    for weight in linear.weight.chunk(order, dim=1):
        nn.init.xavier_uniform_(weight.data)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
