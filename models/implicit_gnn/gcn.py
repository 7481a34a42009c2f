"""A GCN, the control: layers in sequence, which whoever computes out of step gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fulgurite.models.implicit_gnn.fixed_point import Activation, activate
from fulgurite.models.implicit_gnn.graph import Normalisation, Propagation, propagation


class GCN(nn.Module):
    r"""A graph convolutional network: :math:`H_{l+1} = \varphi(A H_l W_l^T + b_l)`, and a linear decoder.

    Kipf and Welling, *Semi-Supervised Classification with Graph Convolutional Networks*, ICLR 2017,
    `arXiv:1609.02907 <https://arxiv.org/abs/1609.02907>`__. It sees as many hops as it has layers. Its answer is no
    fixed point: each layer must read the layer before, of all neighbours, complete.

    Args:
        in_channels: F.
        num_classes: C.
        hidden_channels: d.
        num_layers: hops that it sees.
        activation: φ.
        normalisation: of A, see :func:`~fulgurite.models.implicit_gnn.graph.propagation`.
        self_loops: likewise.

    Shape:
        ``forward(features, edge_index)``: (N, F) and (2, E) to logits (N, C).

    Raises:
        ValueError: no layers, or a bad ``edge_index``.

    Example:
        >>> network = GCN(3, 2, num_layers=4)
        >>> network(torch.ones(3, 3), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_channels: int = 16,
        num_layers: int = 2,
        activation: Activation = "tanh",
        normalisation: Normalisation = "mean",
        self_loops: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"got num_layers={num_layers}; expected 1 or more")
        self.encoder = nn.Linear(in_channels, hidden_channels)
        self.layers = nn.ModuleList(nn.Linear(hidden_channels, hidden_channels) for _ in range(num_layers))
        self.decoder = nn.Linear(hidden_channels, num_classes)
        self.activation: Activation = activation
        self.normalisation: Normalisation = normalisation
        self.self_loops = self_loops
        with torch.no_grad():
            for layer in self.layers:  # near the identity: or nothing gets through twenty layers
                nn.init.normal_(layer.weight, std=0.1 / hidden_channels**0.5)  # type: ignore[arg-type]
                layer.weight.diagonal().add_(1.0)  # type: ignore[operator]

    def graph(self, edge_index: Tensor, num_nodes: int) -> Propagation:
        """A."""
        return propagation(
            edge_index,
            num_nodes,
            normalisation=self.normalisation,
            self_loops=self.self_loops,
            dtype=self.encoder.weight.dtype,
        )

    def forward(self, features: Tensor, edge_index: Tensor) -> Tensor:
        """Logits (N, C)."""
        matrix = self.graph(edge_index, len(features)).matrix
        hidden = self.encoder(features)
        for layer in self.layers:
            hidden = activate(self.activation, layer(torch.sparse.mm(matrix, hidden)))
        return self.decoder(hidden)
