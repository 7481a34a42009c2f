"""Recurrent networks as acyclic ones: k synchronous updates, one copy of the nodes an update."""

import operator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fulgurite.models.sparse_network.edge_list import Duplicates, TopologyError, read_edge_list, whole_numbers


@dataclass(frozen=True)
class Unrolled:
    """An acyclic graph, to be compiled, whose copies of an edge or node share its parameters.

    Args:
        edges: (E', 2) int64.
        num_nodes: N'.
        outputs: (O,) int64.
        edge_map: (E',) int64 the given edge whose weight each edge has.
        node_map: (N',) int64 the given node whose parameters and functions each node has; −1 for nodes that rest at 0:
            they have no in-edges, and need a bias of 0 and the identity for activation. With one zero appended,
            ``torch.cat([bias, bias.new_zeros(1)])[node_map]`` is right for them too.
    """

    edges: Tensor
    num_nodes: int
    outputs: Tensor
    edge_map: Tensor
    node_map: Tensor


def unroll(
    edges: ArrayLike | Tensor,
    *,
    num_inputs: int,
    outputs: ArrayLike | Tensor,
    num_nodes: int | None = None,
    steps: int,
    aggregations: ArrayLike | Tensor | None = None,
    duplicates: Duplicates = "error",
) -> Unrolled:
    """Unroll ``steps`` synchronous updates of a graph that may have cycles.

    In every update each node reads what its sources were after the update before, V⁰ = 0; inputs are x throughout:

        Vᵗ[v] = φ_v(b_v + r_v·A_v{w_e·Vᵗ⁻¹[src e]}),   t = 1 … k,   and the outputs read Vᵏ.

    So neat-python's ``RecurrentNetwork`` answers when it is activated k times on one input. Node v after update t is
    numbered v + (t − 1)·n, for n nodes that are no inputs.

    Args:
        edges: (E, 2) rows (source, target); cycles and self-loops are fine.
        num_inputs: nodes 0 … num_inputs − 1 are the inputs.
        outputs: (O,) node ids.
        num_nodes: inputs included; None: one more than the largest id that is mentioned.
        steps: k, at least 1. A path of length k or less is felt at the outputs.
        aggregations: ids of the nodes' aggregation functions, one or (N,). In the first update all sources but inputs
            are 0, and their edges are left out where the node sums; a product, a mean or a maximum reads those zeros,
            from nodes that rest at 0 (see :class:`Unrolled`). None: all nodes sum.
        duplicates: ``"error"`` to refuse them here, where the graph's own names are known.

    Raises:
        TopologyError: see :func:`~fulgurite.models.sparse_network.topology.compile_topology`; ``steps`` below 1.

    Example:
        >>> unrolled = unroll([(0, 1), (1, 1)], num_inputs=1, outputs=[1], steps=3)
        >>> unrolled.edges.tolist(), unrolled.edge_map.tolist(), unrolled.outputs.tolist()
        ([[0, 1], [0, 2], [1, 2], [0, 3], [2, 3]], [0, 0, 1, 0, 1], [3])
    """
    graph = read_edge_list(edges, num_inputs=num_inputs, outputs=outputs, num_nodes=num_nodes)
    try:
        count = operator.index(steps)
    except TypeError:
        count = 0
    if count < 1:
        raise TopologyError(f"steps is {steps!r}, expected a whole number of updates, at least 1")
    if duplicates == "error":
        graph.refuse_duplicates()
    ids = whole_numbers(0 if aggregations is None else aggregations, "aggregations")
    if ids.shape not in ((), (graph.num_nodes,)):
        raise TopologyError(f"aggregations has shape {ids.shape}, expected one id or one a node, ({graph.num_nodes},)")
    sums = np.broadcast_to(ids == 0, graph.num_nodes)

    inner = graph.num_nodes - graph.num_inputs
    src, dst = graph.src.astype(np.int64), graph.dst.astype(np.int64)
    recurrent = src >= graph.num_inputs
    # Resting nodes, one a source since a node reads each edge's zero by itself, come after all copies.
    reads_zero = recurrent & ~sums[dst]
    resting, rest = np.unique(src[reads_zero], return_inverse=True)
    first = src.copy()
    first[reads_zero] = graph.num_inputs + count * inner + rest
    kept = np.flatnonzero(~recurrent | reads_zero)

    sources, targets, numbers = [first[kept]], [dst[kept]], [kept]
    for step in range(1, count):
        sources.append(np.where(recurrent, src + (step - 1) * inner, src))
        targets.append(dst + step * inner)
        numbers.append(np.arange(len(src)))
    last = np.where(graph.outputs >= graph.num_inputs, graph.outputs + (count - 1) * inner, graph.outputs)
    node_map = np.concatenate(
        [
            np.arange(graph.num_inputs),
            np.tile(np.arange(graph.num_inputs, graph.num_nodes), count),
            np.full(len(resting), -1),
        ]
    )
    return Unrolled(
        edges=torch.from_numpy(np.stack([np.concatenate(sources), np.concatenate(targets)], axis=1)),
        num_nodes=len(node_map),
        outputs=torch.from_numpy(last),
        edge_map=torch.from_numpy(np.concatenate(numbers)),
        node_map=torch.from_numpy(node_map),
    )
