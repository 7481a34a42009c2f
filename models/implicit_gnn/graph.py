"""A graph's weights as a sparse matrix, with the Perron vector that its certificate is weighed with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

Normalisation = Literal["mean", "symmetric"]


@dataclass(frozen=True, eq=False)
class Propagation:
    r"""A, where node i sums :math:`\sum_j A_{ij} x_j`, and what the certificate needs of it.

    Args:
        matrix: (N, N) sparse, coalesced, none below 0.
        norm_weight: (N,) float64 w > 0, with :math:`A w \le \lambda w`: the norm is :math:`\max_i \|x_i\|_\infty/w_i`.
        perron: λ = max (Aw)ᵢ/wᵢ, rounded up: at least A's Perron value.
        self_weight: the least :math:`A_{ii}`, by which a negative diagonal of W helps every row.
    """

    matrix: Tensor
    norm_weight: Tensor
    perron: float
    self_weight: float

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.matrix.shape[0]

    @cached_property
    def transposed(self) -> Tensor:
        """Aᵀ, for the adjoint."""
        return self.matrix.t().coalesce()

    @cached_property
    def own_and_others(self) -> tuple[Tensor, Tensor]:
        """For each node A_ii, and the weighted sum of its other entries Σ_{j≠i} A_ij wⱼ/wᵢ, in float64."""
        (reader, source), value = self.matrix.indices(), self.matrix.values().double()
        own = value.new_zeros(self.num_nodes).index_add(0, reader, value * (reader == source))
        w = self.norm_weight.to(value.device)
        ratio = value * (reader != source) * w[source] / w[reader]
        return own, value.new_zeros(self.num_nodes).index_add(0, reader, ratio)

    def to(self, *, dtype: torch.dtype) -> Propagation:
        """The same in another type of number."""
        if self.matrix.dtype == dtype:
            return self
        return Propagation(self.matrix.to(dtype), self.norm_weight, self.perron, self.self_weight)

    def numpy(self) -> csr_array:
        """A for SciPy, float64, with the very values that torch uses."""
        rows, columns = self.matrix.indices().cpu().numpy()
        values = self.matrix.values().detach().cpu().double().numpy()
        made = csr_array((values, (rows, columns)), shape=(self.num_nodes, self.num_nodes))
        made.sort_indices()
        return made


def propagation(
    edge_index: Tensor,
    num_nodes: int,
    *,
    normalisation: Normalisation = "mean",
    self_loops: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Propagation:
    r"""Normalise a graph.

    ``mean``: node i takes the mean over those that point to it (and itself, with self-loops): rows sum to 1, so w = 1
    and λ = 1, for every set of nodes that is left. ``symmetric``: :math:`A_{ij} = 1/\sqrt{d_i d_j}`, for undirected
    graphs; then :math:`w_i = \sqrt{d_i}` and λ = 1.

    Args:
        edge_index: (2, E) int64 sources and targets; one that is there twice weighs twice.
        num_nodes: N.
        normalisation: see above.
        self_loops: add i → i for every node.
        dtype: of A.

    Raises:
        ValueError: an index out of range or of another shape; a directed graph for ``symmetric``.

    Example:
        >>> graph = propagation(torch.tensor([[0, 1], [1, 2]]), 3, self_loops=False)
        >>> graph.matrix.to_dense().tolist(), round(graph.perron, 9)
        ([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], 1.0)
    """
    if normalisation not in ("mean", "symmetric"):
        raise ValueError(f"got normalisation={normalisation!r}; choose from mean, symmetric")
    if num_nodes < 1:
        raise ValueError(f"got num_nodes={num_nodes}; expected 1 or more")
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"got edge_index {tuple(edge_index.shape)} of {edge_index.dtype}; expected (2, E) of int64")
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
        raise ValueError(
            f"got vertices {int(edge_index.min())} … {int(edge_index.max())}; expected 0 … {num_nodes - 1}"
        )
    source, reader = edge_index
    if self_loops:
        every = torch.arange(num_nodes, device=edge_index.device)
        source, reader = torch.cat([source, every]), torch.cat([reader, every])
    one = torch.ones(len(source), dtype=torch.float64, device=edge_index.device)
    degree = one.new_zeros(num_nodes).index_add(0, reader, one)
    if normalisation == "mean":
        value = 1 / degree[reader]
        weight = torch.ones_like(degree)
    else:
        _check_undirected(source, reader, num_nodes)
        value = (degree[source] * degree[reader]).rsqrt()
        weight = degree.clamp_min(1).sqrt()
    size = (num_nodes, num_nodes)
    matrix = torch.sparse_coo_tensor(torch.stack([reader, source]), value, size, check_invariants=False).coalesce()
    matrix = matrix.to(dtype).coalesce()
    made = Propagation(matrix, weight, 1.0, 0.0)
    own, others = made.own_and_others
    total, terms = (own + others).max(), torch.bincount(reader, minlength=1).max() + 4
    perron = float(np.nextafter(float(total * (1 + terms * 2.3e-16)), np.inf)) if total > 0 else 1.0
    return Propagation(matrix, weight, perron, float(own.min()))


def _check_undirected(source: Tensor, reader: Tensor, num_nodes: int) -> None:
    there = (source * num_nodes + reader).sort().values
    back = (reader * num_nodes + source).sort().values
    if not torch.equal(there, back):
        raise ValueError(
            "got a directed graph for normalisation='symmetric'; give every edge in both directions, or take 'mean'"
        )
