"""A GCN run by the same workers under the same schedules as an implicit layer: what it then gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from fulgurite.models.implicit_gnn.asynchronous import Asynchronous
from fulgurite.models.implicit_gnn.gcn import GCN
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Participants


class GCNMap(DynamicMap):
    """Each evaluation of a part is its next layer, on what its neighbours hold, whichever layer that is of.

    That is how a layered network runs without a barrier (Solodova et al., *Graph Neural Networks Gone Hogwild*,
    ICLR 2025, `arXiv:2407.00494 <https://arxiv.org/abs/2407.00494>`__). If all evaluate at once with fresh values, as
    many times as there are layers, it is the GCN. There is no Lipschitz matrix: where an evaluation leads depends on
    how many there were, not on a fixed point, so that its verdict is never "certified".

    Args:
        network: the GCN.
        features: (N, F).
        edge_index: (2, E).
        parts: blocks of consecutive nodes.

    Shape:
        - a participant's state: (nodes of the part, d + 1), the last column the number of layers computed.

    Example:
        >>> network = GCN(3, 2, hidden_channels=4, num_layers=2)
        >>> made = GCNMap(network, torch.ones(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]), parts=2)
        >>> made.num_participants, made.bottom(0).shape
        (2, (2, 5))
    """

    def __init__(self, network: GCN, features: Tensor, edge_index: Tensor, *, parts: int) -> None:
        nodes = len(features)
        self.num_participants = min(parts, nodes)
        self.parts: list[NDArray[np.int64]] = np.array_split(np.arange(nodes), self.num_participants)
        self.num_layers = len(network.layers)
        self._activation = np.tanh if network.activation == "tanh" else _relu
        matrix = network.graph(edge_index, nodes).numpy()
        with torch.no_grad():
            self._encoded = _array(network.encoder(features))
            linear = (cast("nn.Linear", layer) for layer in network.layers)
            self._weights = [(_array(layer.weight), _array(layer.bias)) for layer in linear]
            self._decoder = _array(network.decoder.weight), _array(network.decoder.bias)
        part_of = np.empty(nodes, dtype=np.int64)
        for i, own in enumerate(self.parts):
            part_of[own] = i
        self._rows = [csr_array(matrix[own]) for own in self.parts]
        self._neighbours = [
            np.union1d(part_of[rows.indices], [i]).astype(np.int64) for i, rows in enumerate(self._rows)
        ]

    def bottom(self, i: int) -> Array:
        """0."""
        return np.zeros((len(self.parts[i]), self._encoded.shape[1] + 1))

    def initial(self, i: int) -> Array:
        """The encoded features; no layer is computed yet."""
        own = self._encoded[self.parts[i]]
        return np.concatenate([own, np.zeros((len(own), 1))], axis=1)

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Parts that an edge comes from, and i itself."""
        return self._neighbours[i]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """The part's next layer; after the last one nothing changes."""
        layer = int(inputs[i][0, -1]) if len(inputs[i]) else self.num_layers
        if layer >= self.num_layers:
            return inputs[i].copy()
        hidden = np.zeros_like(self._encoded)
        for j in self._neighbours[i].tolist():
            hidden[self.parts[j]] = inputs[j][:, :-1]
        weight, bias = self._weights[layer]
        new = self._activation(self._rows[i] @ hidden @ weight.T + bias)
        return np.concatenate([new, np.full((len(new), 1), layer + 1.0)], axis=1)

    def finished(self, states: Sequence[Array]) -> bool:
        """Whether every part has computed its last layer."""
        return all((state[:, -1] >= self.num_layers).all() for state in states)

    def logits(self, states: Sequence[Array]) -> NDArray[np.float64]:
        """(N, C) what the decoder makes of what there is."""
        weight, bias = self._decoder
        hidden = np.empty_like(self._encoded)
        for own, state in zip(self.parts, states, strict=True):
            hidden[own] = state[:, :-1]
        return np.asarray(hidden @ weight.T + bias)


def gcn_under_schedule(network: GCN, features: Tensor, edge_index: Tensor, solver: Asynchronous) -> Tensor:
    """What a GCN predicts when it is run as the implicit layer is: by parts, under the solver's schedules.

    Args:
        network: the GCN.
        features: (N, F).
        edge_index: (2, E).
        solver: its parts and schedules; it goes on until every part has computed all its layers.

    Returns:
        logits (N, C).
    """
    made = GCNMap(network, features, edge_index, parts=solver.parts)
    return torch.from_numpy(made.logits(solver.run(made, made.finished))).to(features)


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()


def _relu(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(values, 0.0)
