"""What a dynamic network is to be measured against: without memory, without a graph, without either."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer, graph_linear, own_vertices
from fulgurite.models.dynamic_gnn.propagate import Backend
from fulgurite.models.dynamic_gnn.recurrence import lstm
from fulgurite.models.dynamic_gnn.vertex_lstm import VertexLSTM

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block


class GCNLayer(DynamicLayer):
    r"""A graph convolution in each snapshot alone.

    T. N. Kipf, M. Welling, "Semi-Supervised Classification with Graph Convolutional Networks",
    `arXiv:1609.02907 <https://arxiv.org/abs/1609.02907>`__: :math:`Y_t = f(\tilde A_t X_t W + b)`.

    Args:
        in_channels: F.
        out_channels: F'.
        activation: relu, or none.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> GCNLayer(2, 6).coupling
        'none'
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, activation: bool = True, backend: Backend = "auto"
    ) -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        self.activation = activation
        self.convolution = graph_linear(in_channels, out_channels, bias=True)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        y = self.convolve(block, x, self.convolution)
        return y.relu() if self.activation else y, ()


class VertexLayer(DynamicLayer):
    """A linear layer on each vertex's features alone, with or without a relu.

    Args:
        in_channels: F.
        out_channels: F'.
        activation: relu, or none.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> VertexLayer(2, 6).coupling
        'none'
    """

    sums_neighbours: ClassVar[bool] = False

    def __init__(self, in_channels: int, out_channels: int, *, activation: bool = True) -> None:
        super().__init__(in_channels, out_channels)
        self.activation = activation
        self.linear = graph_linear(in_channels, out_channels, bias=True)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        y = self.linear(self.features(block, x))
        return y.relu() if self.activation else y, ()


class VertexLSTMLayer(DynamicLayer):
    r"""An LSTM along each vertex's timeline, whose graph is not looked at: memory alone.

    S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997,
    `doi:10.1162/neco.1997.9.8.1735 <https://doi.org/10.1162/neco.1997.9.8.1735>`__:
    :math:`Z_{:, v} = \mathrm{LSTM}(X_{:, v})`, the weights shared by all vertices; what is left of
    :class:`~fulgurite.models.dynamic_gnn.recurrent_layers.CDGCNLayer` without its convolution. Carries h and c of this
    rank's vertices, (n_p, F') each.

    Args:
        in_channels: F.
        out_channels: F'.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> layer = VertexLSTMLayer(2, 6)
        >>> layer.coupling, layer.exchanged_channels
        ('recurrent', (2, 6))
    """

    coupling: ClassVar[Coupling] = "recurrent"
    sums_neighbours: ClassVar[bool] = False
    carry_size = 2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.recurrence = VertexLSTM(in_channels, out_channels)

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """F there, F' back."""
        return self.in_channels, self.out_channels

    def initial_carry(self, block: "Block") -> Carry:
        """Zeros for h and c."""
        zeros = next(self.parameters()).new_zeros(own_vertices(block), self.out_channels)
        return zeros, zeros

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        """The input as it is, (t_p, N, F)."""
        return self.features(block, x)

    def temporal(self, block: "Block", y: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The LSTM along every vertex's steps of the block."""
        h, c = carry
        hidden, last, cell = lstm(block.exchange.to_vertices(y, block.split), h, c, self.recurrence)
        return block.exchange.to_snapshots(hidden, block.split), (last, cell)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        return self.temporal(block, self.spatial(block, x), carry)
