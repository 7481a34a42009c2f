"""Many networks as one graph of independent groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fulgurite.models.sparse_network.definition import unless_identity
from fulgurite.models.sparse_network.rewirable import RewirableModule
from fulgurite.models.sparse_network.structure import Topology
from fulgurite.models.sparse_network.topology import compile_topology


@dataclass(frozen=True, eq=False)
class Merged:
    """Members as one graph.

    Args:
        topology: of as many groups as there are members.
        edges: entry of the flat weight for each edge; None where it is 0, 1, 2, ….
        biases: entry of the flat bias for each node; one past the last for 0; None where it is 0, 1, 2, ….
        responses: likewise of the flat response; one past the last for 1.
    """

    topology: Topology
    edges: Tensor | None
    biases: Tensor | None
    responses: Tensor | None

    def __deepcopy__(self, memo: dict[int, object]) -> "Merged":
        return self  # never changed, only replaced

    def to(self, device: torch.device) -> "Merged":
        """The same with its tensors on a device."""
        maps = (self.edges, self.biases, self.responses)
        return Merged(self.topology.to(device), *(None if entries is None else entries.to(device) for entries in maps))

    def spread(
        self, weight: Tensor, bias: Tensor | None, response: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Parameters as the topology numbers edges and nodes."""
        if self.edges is not None:
            weight = _entries(weight, self.edges)
        if bias is None:
            bias = weight.new_zeros(self.topology.num_nodes - self.topology.num_inputs)
        elif self.biases is not None:
            bias = _entries(torch.cat([bias, bias.new_zeros(1)]), self.biases)
        if response is not None and self.responses is not None:
            response = _entries(torch.cat([response, response.new_ones(1)]), self.responses)
        return weight, bias, response


def _entries(values: Tensor, entries: Tensor) -> Tensor:
    if len(entries) > len(values):  # of unrolled members; on a GPU, the other's gradient would add up in any order
        return values[entries]
    return values.index_select(0, entries)  # at most half of the time


def merge(members: Sequence[RewirableModule], *, shared: bool) -> Merged:
    """Number the members' inputs, once for all or one after another, and then their nodes, and compile it all.

    Args:
        members: of equally many inputs; their parameters, one member's after the other's, are what the maps lead to.
        shared: whether all members read the same inputs.

    Example:
        >>> from fulgurite.models import SparseNetwork
        >>> members = [SparseNetwork([(0, 1)], num_inputs=1, outputs=[1]) for _ in range(2)]
        >>> merge(members, shared=True).topology
        Topology(1 inputs, 3 nodes, 2 edges, 2 outputs, depth 1)
        >>> merge(members, shared=False).topology
        Topology(2 inputs, 4 nodes, 2 edges, 2 outputs, depth 1)
    """
    inputs = members[0].num_inputs
    all_inputs = inputs if shared else inputs * len(members)
    edges, outputs, groups = [], [], [torch.zeros(all_inputs, dtype=torch.int64)]
    entries: dict[str, list[Tensor]] = {"weight": [], "bias": [], "response": []}
    starts = dict.fromkeys(entries, 0)
    nodes = all_inputs
    for number, member in enumerate(members):
        definition = member.definition.to("cpu")
        topology = definition.topology
        computed = topology.num_nodes - inputs
        first_input = 0 if shared else number * inputs
        ids = torch.cat([torch.arange(first_input, first_input + inputs), torch.arange(nodes, nodes + computed)])
        edges.append(torch.stack([ids[topology.src.long()], ids[topology.dst.long()]], dim=1))
        outputs.append(ids[topology.out_idx])
        groups.append(torch.full((computed,), number))
        nodes += computed
        for name, own in (
            ("weight", definition.edge_map),
            ("bias", definition.node_map),
            ("response", definition.node_map),
        ):
            parameter = getattr(member, name)
            size = topology.num_edges if name == "weight" else computed
            if parameter is None:
                entries[name].append(torch.full((size,), -1))
                continue
            own = torch.arange(size) if own is None else own
            entries[name].append(torch.where(own < 0, -1, own + starts[name]))
            starts[name] += len(parameter)
    activations, aggregations = (
        torch.cat([torch.zeros(all_inputs, dtype=torch.int32), *(getattr(m.topology, name).cpu() for m in members)])
        for name in ("act_id", "agg_id")
    )
    topology, order = compile_topology(
        torch.cat(edges),
        num_inputs=all_inputs,
        outputs=torch.cat(outputs),
        num_nodes=nodes,
        activations=activations,
        aggregations=aggregations,
        groups=torch.cat(groups),
    )
    weights = torch.empty(topology.num_edges, dtype=torch.int64)
    weights[order] = torch.cat(entries["weight"])
    computed_ids = topology.node_ids[all_inputs:] - all_inputs
    nodewise = []
    for name in ("bias", "response"):
        own = torch.cat(entries[name])[computed_ids]
        nodewise.append(unless_identity(torch.where(own < 0, starts[name], own), starts[name]))
    return Merged(topology, unless_identity(weights, starts["weight"]), *nodewise)
