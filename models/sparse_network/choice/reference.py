"""A sparse network evaluated slowly and obviously, one node at a time: what every fast backend is held to."""

import torch
from torch import Tensor

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.topology import Topology


def evaluate(topology: Topology, x: Tensor, weight: Tensor, bias: Tensor, response: Tensor | None = None) -> Tensor:
    """V[v] = φ_v(b_v + r_v·A_v{w_e·V[src e] : e into v}) for every node in turn, in plain torch.

    Any floating type; differentiable by autograd, twice too. A node costs several calls of torch, even for one sample.

    Args:
        topology: of N nodes, F of them inputs, E edges and O outputs.
        x: (B, F).
        weight: (E,) in edge order.
        bias: (N − F,) in the topology's own order of nodes.
        response: (N − F,), as ``bias``; None: all 1.

    Returns:
        (B, O).

    Raises:
        ValueError: an argument has another shape.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=1, aggregations=0)
        >>> evaluate(topology, torch.tensor([[3.0, 1.0]]), torch.tensor([2.0, 1.0]), torch.tensor([0.5]))
        tensor([[7.5000]])
    """
    computed = topology.num_nodes - topology.num_inputs
    if x.dim() != 2 or x.shape[1] != topology.num_inputs:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, {topology.num_inputs}): one column an input")
    _check(weight, "weight", (topology.num_edges,))
    _check(bias, "bias", (computed,))
    if response is not None:
        _check(response, "response", (computed,))
    activations = [entry.function for entry in ACTIVATIONS.values()]
    aggregations = [entry.function for entry in AGGREGATIONS.values()]
    ptr, src = topology.ptr.tolist(), topology.src.tolist()
    act_id, agg_id = topology.act_id.tolist(), topology.agg_id.tolist()
    values = list(x.unbind(1))
    for v in range(computed):
        if ptr[v] < ptr[v + 1]:
            sources = torch.stack([values[u] for u in src[ptr[v] : ptr[v + 1]]])
            messages = weight[ptr[v] : ptr[v + 1], None] * sources
        else:
            messages = x.new_zeros(0, len(x))
        a = aggregations[agg_id[v]](messages)
        z = bias[v] + (a if response is None else response[v] * a)
        values.append(activations[act_id[v]](z))
    return torch.stack([values[node] for node in topology.out_idx.tolist()], dim=1)


def _check(tensor: Tensor, name: str, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape} by the topology")
