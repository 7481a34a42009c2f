"""Layers that hold a state of each vertex: WD-GCN, CD-GCN and T-GCN."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer, graph_linear, own_vertices
from fulgurite.models.dynamic_gnn.propagate import Backend
from fulgurite.models.dynamic_gnn.recurrence import lstm, reset_first_gru
from fulgurite.models.dynamic_gnn.vertex_lstm import VertexLSTM

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block


class WDGCNLayer(DynamicLayer):
    r"""A layer of WD-GCN: a graph convolution in each snapshot, then an LSTM along each vertex's timeline.

    F. Manessi, A. Rozza, M. Manzo, "Dynamic Graph Convolutional Networks",
    `arXiv:1704.06199 <https://arxiv.org/abs/1704.06199>`__:

    .. math:: Y_t = \mathrm{relu}(\tilde A_t X_t W), \qquad Z_{:, v} = \mathrm{LSTM}(Y_{:, v}),

    the LSTM's weights shared by all vertices. Carries h and c of this rank's vertices, (n_p, F') each.

    Args:
        in_channels: F.
        out_channels: F'.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> WDGCNLayer(2, 6)
        WDGCNLayer(
          2, 6
          (convolution): Linear(in_features=2, out_features=6, bias=False)
          (recurrence): VertexLSTM(6, 6)
        )
    """

    coupling: ClassVar[Coupling] = "recurrent"
    carry_size = 2

    def __init__(self, in_channels: int, out_channels: int, *, backend: Backend = "auto") -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        self.convolution = graph_linear(in_channels, out_channels)
        self.recurrence = VertexLSTM(self.exchanged_channels[0], out_channels)

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """F' each way."""
        return self.out_channels, self.out_channels

    def initial_carry(self, block: "Block") -> Carry:
        """Zeros for h and c."""
        zeros = self.convolution.weight.new_zeros(own_vertices(block), self.out_channels)
        return zeros, zeros

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        """What enters the LSTM, (t_p, N, F')."""
        return self.convolve(block, x, self.convolution).relu()

    def temporal(self, block: "Block", y: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The LSTM along every vertex's steps of the block."""
        sequence = block.exchange.to_vertices(y, block.split)
        h, c = carry
        hidden, last, cell = lstm(sequence, h, c, self.recurrence)
        return block.exchange.to_snapshots(hidden, block.split), (last, cell)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        return self.temporal(block, self.spatial(block, x), carry)


class CDGCNLayer(WDGCNLayer):
    r"""A layer of CD-GCN: as WD-GCN, where the LSTM sees the layer's input beside the convolution.

    F. Manessi, A. Rozza, M. Manzo, "Dynamic Graph Convolutional Networks",
    `arXiv:1704.06199 <https://arxiv.org/abs/1704.06199>`__:

    .. math:: Y_t = [\mathrm{relu}(\tilde A_t X_t W) \,\|\, X_t], \qquad Z_{:, v} = \mathrm{LSTM}(Y_{:, v}).

    Args:
        in_channels: F.
        out_channels: F'.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> CDGCNLayer(2, 6).recurrence
        VertexLSTM(8, 6)
    """

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """F' + F there, F' back."""
        return self.out_channels + self.in_channels, self.out_channels

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        """What enters the LSTM, (t_p, N, F' + F)."""
        return torch.cat([super().spatial(block, x), self.features(block, x)], dim=-1)


class TGCNLayer(DynamicLayer):
    r"""A layer of T-GCN: a gated recurrent unit whose convolutions act on the input only.

    L. Zhao et al., "T-GCN: A Temporal Graph Convolutional Network for Traffic Prediction",
    `arXiv:1811.05320 <https://arxiv.org/abs/1811.05320>`__, in the form of PyTorch Geometric Temporal's ``TGCN``:

    .. math::
        Z_t &= \sigma([C_z(X_t) \,\|\, H_{t-1}] L_z + b_z) \\
        R_t &= \sigma([C_r(X_t) \,\|\, H_{t-1}] L_r + b_r) \\
        \tilde H_t &= \tanh([C_h(X_t) \,\|\, R_t \circ H_{t-1}] L_h + b_h) \\
        H_t &= Z_t \circ H_{t-1} + (1 - Z_t) \circ \tilde H_t,

    with convolutions :math:`C(X_t) = \tilde A_t X_t W + w`. Their two products with weights are made one, on whichever
    side of the exchange moves less. Carries H of this rank's vertices, (n_p, F').

    Args:
        in_channels: F.
        out_channels: F'.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Attributes:
        convolution: the three convolutions' weights, stacked in the order z, r, h.
        linear: :math:`L_z, L_r, L_h`, each (F', 2F').

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Example:
        >>> TGCNLayer(2, 6).exchanged_channels, TGCNLayer(64, 6).exchanged_channels
        ((2, 6), (18, 6))
    """

    coupling: ClassVar[Coupling] = "recurrent"
    carry_size = 1

    def __init__(self, in_channels: int, out_channels: int, *, backend: Backend = "auto") -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        self.convolution = graph_linear(in_channels, 3 * out_channels, bias=True)
        for weight in self.convolution.weight.chunk(3):
            nn.init.xavier_uniform_(weight.data)
        self.linear = nn.ModuleList(nn.Linear(2 * out_channels, out_channels) for _ in range(3))

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """F or 3F' there, whichever is less, and F' back."""
        return min(self.in_channels, 3 * self.out_channels), self.out_channels

    def initial_carry(self, block: "Block") -> Carry:
        """Zeros for H."""
        return (self.convolution.weight.new_zeros(own_vertices(block), self.out_channels),)

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        r"""What goes to the vertex shards: :math:`\tilde A_t X_t`, or what the gates make of it where that is less."""
        if self._sends_sums:
            return self.neighbours(block, x)
        weight, bias = self._gates()
        if x is None:
            return nn.functional.linear(self.neighbours(block, x), weight, bias)
        # 3F' < F here, so the product with weights comes first.
        return self.neighbours(block, nn.functional.linear(x, weight)) + bias

    def temporal(self, block: "Block", y: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The recurrence along every vertex's steps of the block."""
        gates = block.exchange.to_vertices(y, block.split)
        if self._sends_sums:
            gates = nn.functional.linear(gates, *self._gates())
        hidden_weights = torch.cat([linear.weight[:, self.out_channels :] for linear in self._linears()])
        hidden, last = reset_first_gru(gates, carry[0], hidden_weights)
        return block.exchange.to_snapshots(hidden, block.split), (last,)

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        return self.temporal(block, self.spatial(block, x), carry)

    @property
    def _sends_sums(self) -> bool:
        return self.in_channels <= 3 * self.out_channels

    def _linears(self) -> list[nn.Linear]:
        return [linear for linear in self.linear if isinstance(linear, nn.Linear)]

    def _gates(self) -> tuple[Tensor, Tensor]:
        """Convolutions and the input's half of the linear maps as one: (3F', F) and (3F',)."""
        weights, biases = [], []
        parts = zip(self._linears(), self.convolution.weight.chunk(3), self.convolution.bias.chunk(3), strict=True)
        for linear, weight, bias in parts:
            of_input = linear.weight[:, : self.out_channels]
            weights.append(of_input @ weight)
            biases.append(of_input @ bias + linear.bias)
        return torch.cat(weights), torch.cat(biases)
