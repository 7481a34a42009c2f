"""ImplicitGNN: encoder, implicit layer and decoder; each prediction comes with its error bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from fulgurite.models.implicit_gnn.blocks import IGNNBlock, NEMONBlock
from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.constraint import Constraint
from fulgurite.models.implicit_gnn.fixed_point import Activation, Equation, Solver, Synchronous, equilibrium
from fulgurite.models.implicit_gnn.graph import Normalisation, Propagation, propagation

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap

BlockName = Literal["ignn", "nemon"]
SolverName = Literal["synchronous", "asynchronous", "distributed"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of each node, and how far from the fixed point's answer that is at most.

    Attributes:
        logits: (N, C).
        state: (N, d) the solver's approximation of the fixed point.
        state_error: ‖state − X⋆‖_w is at most this.
        logit_error: (N,) no logit of the node is further than this from that of X⋆.
        decided: (N,) bool: the class with the greatest logit is that of X⋆ too, for sure.
    """

    logits: Tensor
    state: Tensor
    state_error: float
    logit_error: Tensor
    decided: Tensor


class ImplicitGNN(nn.Module):
    r"""A graph network of one implicit layer, which sees as far as the graph reaches.

    Gu et al., *Implicit Graph Neural Networks*, NeurIPS 2020, `arXiv:2009.06211 <https://arxiv.org/abs/2009.06211>`__:

    .. math:: \hat Y = X^\star C^T + c, \qquad X^\star = \varphi(A X^\star W^T + U \Omega^T + \omega).

    A node's state depends on the whole graph, yet is found by neighbours telling each other their states, in any
    order, late or twice, while workers leave and return: the layer is a contraction in a maximum norm (Daggitt and
    Griffin, *Dynamic Asynchronous Iterations*, `arXiv:2012.01686 <https://arxiv.org/abs/2012.01686>`__).

    Args:
        in_channels: F, features of a node.
        num_classes: C.
        hidden_channels: d.
        block: ``ignn`` (:class:`~fulgurite.models.implicit_gnn.blocks.IGNNBlock`) or ``nemon``
            (:class:`~fulgurite.models.implicit_gnn.blocks.NEMONBlock`).
        kappa: see the block.
        constraint: see the block.
        activation: see the block.
        normalisation: of A, see :func:`~fulgurite.models.implicit_gnn.graph.propagation`.
        self_loops: likewise.
        solver: of forward and backward passes: ``synchronous``
            (:class:`~fulgurite.models.implicit_gnn.fixed_point.Synchronous`), ``asynchronous``
            (:class:`~fulgurite.models.implicit_gnn.asynchronous.Asynchronous`), ``distributed``
            (:class:`~fulgurite.models.implicit_gnn.distributed.Distributed`), or one of these with options.

    Shape:
        ``forward(features, edge_index)``: (N, F) and (2, E) to logits (N, C).

    Raises:
        ValueError: an option out of range, features of another width, a bad ``edge_index``.

    Example:
        >>> network = ImplicitGNN(3, 2, hidden_channels=4)
        >>> features, edge_index = torch.ones(5, 3), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        >>> network(features, edge_index).shape
        torch.Size([5, 2])
        >>> network.predict(features, edge_index).state_error < 1e-4
        True
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_channels: int = 16,
        block: BlockName = "ignn",
        kappa: float = 0.9,
        constraint: Constraint = "projection",
        activation: Activation = "tanh",
        normalisation: Normalisation = "mean",
        self_loops: bool = True,
        solver: SolverName | Solver = "synchronous",
    ) -> None:
        super().__init__()
        if block not in get_args(BlockName):
            raise ValueError(f"got block={block!r}; choose from {', '.join(get_args(BlockName))}")
        kind = IGNNBlock if block == "ignn" else NEMONBlock
        self.encoder = nn.Linear(in_channels, hidden_channels)
        self.block = kind(hidden_channels, kappa=kappa, constraint=constraint, activation=activation)
        self.decoder = nn.Linear(hidden_channels, num_classes)
        self.normalisation: Normalisation = normalisation
        self.self_loops = self_loops
        self.solver = make_solver(solver)
        self._graphs = _LastGraph()

    def graph(self, edge_index: Tensor, num_nodes: int) -> Propagation:
        """A, kept for as long as the same ``edge_index`` comes."""
        return self._graphs.get(edge_index, num_nodes, self.normalisation, self.self_loops, self.encoder.weight.dtype)

    def equation(self, features: Tensor, edge_index: Tensor) -> Equation:
        """The fixed-point equation for a graph.

        Raises:
            ValueError: features of another width, or not finite; a bad ``edge_index``.
        """
        if features.ndim != 2 or features.shape[1] != self.encoder.in_features:
            raise ValueError(
                f"got features {tuple(features.shape)}; expected (N, {self.encoder.in_features}), as in_channels says"
            )
        graph = self.graph(edge_index, features.shape[0])
        return self.block.equation(graph, self.encoder(features))

    def forward(self, features: Tensor, edge_index: Tensor) -> Tensor:
        """Logits (N, C), differentiable."""
        equation = self.equation(features, edge_index)
        return self.decoder(equilibrium(equation, self.solver))

    @torch.no_grad()
    def predict(self, features: Tensor, edge_index: Tensor, *, solver: SolverName | Solver | None = None) -> Prediction:
        """Solve in double precision, and say how good the answer is.

        Args:
            features: (N, F).
            edge_index: (2, E).
            solver: another one than the network's own.
        """
        equation = self.equation(features, edge_index).double()
        state = (self.solver if solver is None else make_solver(solver)).solve(equation)
        return self.judge(equation, state)

    @torch.no_grad()
    def judge(self, equation: Equation, state: Tensor) -> Prediction:
        """What an approximation of the fixed point predicts, whoever found it."""
        error = error_bound(equation, state)
        decoder = self.decoder.weight.double()
        logits = state.double() @ decoder.t() + self.decoder.bias.double()
        reach = error * equation.graph.norm_weight.to(logits.device)
        (top, chosen), count = logits.max(dim=1), logits.shape[1]
        apart = (decoder[:, None] - decoder[None]).abs().sum(dim=2)[chosen]  # (N, C), how fast two logits change places
        others = torch.arange(count, device=logits.device)[None] != chosen[:, None]
        safe = (top[:, None] - logits > apart * reach[:, None] * (1 + 1e-12) + 1e-12 * logits.abs().max()) | ~others
        return Prediction(logits.to(state.dtype), state, error, decoder.abs().sum(dim=1).max() * reach, safe.all(dim=1))

    def map(self, features: Tensor, edge_index: Tensor, *, parts: int = 8) -> ImplicitGraphMap:
        """The layer as a dynamic map in NumPy, whose participants are blocks of nodes; for simulation and peers."""
        from fulgurite.models.implicit_gnn.asynchronous import as_map

        with torch.no_grad():
            return as_map(self.equation(features, edge_index), parts)


def make_solver(solver: SolverName | Solver) -> Solver:
    """The solver of a name, with its defaults; another is given back.

    Raises:
        ValueError: no such name.

    Example:
        >>> make_solver("synchronous")
        Synchronous(tolerance=1e-06, max_iterations=3000)
    """
    if not isinstance(solver, str):
        return solver
    if solver == "synchronous":
        return Synchronous()
    if solver == "asynchronous":
        from fulgurite.models.implicit_gnn.asynchronous import Asynchronous

        return Asynchronous()
    if solver == "distributed":
        from fulgurite.models.implicit_gnn.distributed import Distributed

        return Distributed()
    raise ValueError(f"got solver={solver!r}; choose from {', '.join(get_args(SolverName))}")


class _LastGraph:
    """The graph of the last batch, which is that of the next in full-batch training; not part of a module's state."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._graph: Propagation | None = None

    def get(
        self, edge_index: Tensor, num_nodes: int, normalisation: Normalisation, self_loops: bool, dtype: torch.dtype
    ) -> Propagation:
        key = (id(edge_index), edge_index._version, num_nodes, dtype)
        if self._graph is None or key != self._key[1:]:
            self._graph = propagation(
                edge_index, num_nodes, normalisation=normalisation, self_loops=self_loops, dtype=dtype
            )
            self._key = (edge_index, *key)  # holding the tensor keeps its id from being given to another
        return self._graph

    def __deepcopy__(self, memo: object) -> _LastGraph:
        return _LastGraph()

    def __reduce__(self) -> tuple[type[_LastGraph], tuple[()]]:
        return _LastGraph, ()
