"""An acyclic graph compiled into the structure that kernels read."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.edge_list import Duplicates, EdgeList, cycle_error, read_edge_list, whole_numbers
from fulgurite.models.sparse_network.edge_list import TopologyError as TopologyError
from fulgurite.models.sparse_network.levels import counting_sort, find_cycle, longest_path_levels, sort_edges
from fulgurite.models.sparse_network.structure import Topology as Topology


def compile_topology(
    edges: ArrayLike | Tensor,
    *,
    num_inputs: int,
    outputs: ArrayLike | Tensor,
    num_nodes: int | None = None,
    activations: ArrayLike | Tensor,
    aggregations: ArrayLike | Tensor,
    groups: ArrayLike | Tensor | None = None,
    duplicates: Duplicates = "error",
) -> tuple[Topology, Tensor]:
    """Sort an acyclic graph into levels and lay it out for the kernels, in O(N + E).

    An output that no input reaches is a constant, and a node without in-edges gives φ(bias); neither is an error.

    Args:
        edges: (E, 2) whole numbers, rows (source, target); array, list or tensor.
        num_inputs: nodes 0 … num_inputs − 1 are the inputs.
        outputs: (O,) node ids in output order; may name inputs, may repeat.
        num_nodes: N, inputs included; None: one more than the largest id that is mentioned.
        activations: id of one activation function, or of each node's by user's id, (N,); inputs' are ignored.
        aggregations: the same of aggregation functions.
        groups: (N,) group of each node by user's id, 0 … G − 1; inputs', which all groups may read, are ignored.
            None: one group.
        duplicates: what to do with an edge that is given more than once: ``"error"``, or ``"sum"`` to make it one edge,
            whose weight is the sum of the given ones; only into nodes that sum.

    Returns:
        The topology, and (E,) int64 the number in edge order that each given edge became.

    Raises:
        TopologyError: ids out of range, an edge into an input or from one group to another, a duplicate, a cycle
            (one is named, and is the error's ``cycle``), no outputs, 2³¹ nodes or edges, unknown activation ids.

    Example:
        >>> topology, order = compile_topology(
        ...     [(2, 3), (1, 2), (0, 3)], num_inputs=2, outputs=[3], activations=1, aggregations=0
        ... )
        >>> order.tolist(), topology.edges.tolist()
        ([2, 0, 1], [[1, 2], [0, 3], [2, 3]])
        >>> compile_topology([(3, 2), (2, 3)], num_inputs=2, outputs=[3], activations=1, aggregations=0)
        Traceback (most recent call last):
        fulgurite.models.sparse_network.edge_list.TopologyError: the network has a cycle, 2 → 3 → 2; remove one of its
        edges, or pass steps=k to run k synchronous updates of a recurrent network
    """
    graph = read_edge_list(edges, num_inputs=num_inputs, outputs=outputs, num_nodes=num_nodes)
    acts = _per_node(activations, "activations", graph, len(ACTIVATIONS))
    aggs = _per_node(aggregations, "aggregations", graph, len(AGGREGATIONS))
    member = _groups(groups, graph)
    src, dst, number = distinct_edges(graph, aggs, duplicates)
    nodes, inputs = graph.num_nodes, graph.num_inputs

    fan_in = np.bincount(dst, minlength=nodes).astype(np.int32)
    out_ptr, by_source = counting_sort(src, nodes)
    level, waiting = longest_path_levels(out_ptr, dst[by_source], fan_in, inputs)
    if waiting.any():
        raise cycle_error(find_cycle(out_ptr, dst[by_source], waiting))

    rank = np.arange(inputs, nodes, dtype=np.int32)
    for keys in (fan_in, level, member):  # the last key sorts first: every sort keeps the order of the one before
        if len(rank):
            rank = rank[counting_sort(keys[rank], int(keys.max()) + 1)[1]]
    node_ids = np.concatenate([np.arange(inputs, dtype=np.int32), rank])
    internal = np.empty(nodes, np.int32)
    internal[node_ids] = np.arange(nodes, dtype=np.int32)

    src, dst = internal[src], internal[dst]
    order = sort_edges(src, dst, nodes)
    src, dst = src[order], dst[order]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    out_ptr, out_edge = counting_sort(src, nodes)
    level, member = level[node_ids], member[rank]
    num_groups = int(member.max(initial=0)) + 1
    levels = np.arange(1, int(level.max()) + 2) if num_groups == 1 else np.empty(0, np.int64)
    arrays = {
        "ptr": np.concatenate([[0], np.cumsum(fan_in[rank], dtype=np.int64)]),
        "src": src,
        "dst": dst,
        "optr": out_ptr,
        "odst": dst[out_edge],
        "oeid": out_edge,
        "act_id": acts[rank],
        "agg_id": aggs[rank],
        "out_idx": internal[graph.outputs].astype(np.int64),
        "group_ptr": inputs + np.searchsorted(member, np.arange(num_groups + 1)),
        "level_ptr": np.searchsorted(level, levels),
        "node_ids": node_ids.astype(np.int64),
        "level": level,
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Topology(inputs, nodes, len(src), **tensors), torch.from_numpy(place[number])


def distinct_edges(
    graph: EdgeList, aggregations: NDArray[np.int32], duplicates: Duplicates
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Make edges that are given more than once one edge, or refuse them.

    Args:
        graph: the edges as given, E of them.
        aggregations: (N,) ids by user's id.
        duplicates: ``"error"`` or ``"sum"``, see :func:`compile_topology`.

    Returns:
        (E',) source and (E',) target of each edge, by (target, source), and (E,) which of them each given edge is.

    Raises:
        TopologyError: a duplicate that is not to be summed, or cannot be; neither ``"error"`` nor ``"sum"``.

    Example:
        >>> graph = read_edge_list([(1, 2), (0, 2), (1, 2)], num_inputs=2, outputs=[2])
        >>> src, dst, number = distinct_edges(graph, np.zeros(3, np.int32), "sum")
        >>> src.tolist(), dst.tolist(), number.tolist()
        ([0, 1], [2, 2], [1, 0, 1])
    """
    if duplicates not in ("error", "sum"):
        raise TopologyError(f'duplicates is {duplicates!r}, expected "error" or "sum"')
    order, fresh = graph.duplicates()
    if not fresh.all():
        if duplicates == "error":
            graph.refuse_duplicates()
        again = ~fresh & (aggregations[graph.dst[order]] != 0)
        if again.any():
            name = list(AGGREGATIONS)[aggregations[graph.dst[order[np.argmax(again)]]]]
            raise TopologyError(
                f"{graph.duplicate_of(order, ~again)}, into a node that does not sum (aggregation {name!r}); weights "
                "of duplicates add up into nodes of 'sum' alone: drop one of them"
            )
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(fresh) - 1
    kept = order[fresh]
    return graph.src[kept], graph.dst[kept], number


def _per_node(ids: ArrayLike | Tensor, what: str, graph: EdgeList, known: int) -> NDArray[np.int32]:
    """One id, or (N,), as (N,)."""
    array = whole_numbers(ids, what)
    if array.shape not in ((), (graph.num_nodes,)):
        raise TopologyError(
            f"{what} has shape {array.shape}, expected one id or one a node, ({graph.num_nodes},), inputs included"
        )
    array = np.broadcast_to(array, (graph.num_nodes,))
    wrong = (array < 0) | (array >= known)
    wrong[: graph.num_inputs] = False
    if wrong.any():
        node = int(np.argmax(wrong))
        raise TopologyError(f"{what} gives node {node} the id {array[node]}; known are 0 … {known - 1}")
    return array.astype(np.int32)


def _groups(groups: ArrayLike | Tensor | None, graph: EdgeList) -> NDArray[np.int32]:
    """Each node's group, (N,); inputs' mean nothing."""
    if groups is None:
        return np.zeros(graph.num_nodes, np.int32)
    array = whole_numbers(groups, "groups")
    if array.shape != (graph.num_nodes,):
        raise TopologyError(f"groups has shape {array.shape}, expected one number of each node, ({graph.num_nodes},)")
    inner = array[graph.num_inputs :]
    if len(inner) and (inner.min() < 0 or inner.max() >= 2**31 - 1):
        raise TopologyError(f"groups are numbered from 0, got {inner.min()} … {inner.max()}")
    crossing = (array[graph.src] != array[graph.dst]) & (graph.src >= graph.num_inputs)
    if crossing.any():
        row = int(np.argmax(crossing))
        u, v = graph.src[row], graph.dst[row]
        raise TopologyError(
            f"edge {u} → {v} (row {row}) leads from group {array[u]} to group {array[v]}; groups are independent"
        )
    member = array.astype(np.int32)
    member[: graph.num_inputs] = 0
    return member
