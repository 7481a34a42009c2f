"""Networks whose nodes have names: the keys of a genome's genes, the nodes of a NetworkX graph."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch

from fulgurite.models.sparse_network.edge_list import TopologyError
from fulgurite.models.sparse_network.network import SparseNetwork


def named_network(
    names: Sequence[Hashable],
    edges: Iterable[tuple[Hashable, Hashable]],
    *,
    num_inputs: int,
    outputs: Iterable[Hashable],
    **options: Any,
) -> SparseNetwork:
    """Build a network by names; node i of the network is ``names[i]``, which ``node_names`` of the network keeps.

    Args:
        names: all nodes, the inputs first.
        edges: pairs (source, target) of names.
        num_inputs: how many of the names are inputs.
        outputs: names.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork`.

    Raises:
        TopologyError: as that class does; a cycle is told by names.

    Example:
        >>> net = named_network(["x", "y"], [("x", "y")], num_inputs=1, outputs=["y"])
        >>> net.node_names, net.edges.tolist()
        (('x', 'y'), [[0, 1]])
    """
    number = {name: index for index, name in enumerate(names)}
    pairs = torch.tensor([(number[source], number[target]) for source, target in edges], dtype=torch.int64)
    try:
        net = SparseNetwork(
            pairs.reshape(-1, 2),
            num_inputs=num_inputs,
            outputs=[number[name] for name in outputs],
            num_nodes=len(names),
            **options,
        )
    except TopologyError as error:
        if not error.cycle:
            raise
        around = " → ".join(str(names[node]) for node in (*error.cycle, error.cycle[0]))
        raise TopologyError(
            f"the network has a cycle: {around}; pass steps=k for k synchronous updates of all nodes, or break it",
            error.cycle,
        ) from error
    net.__dict__["node_names"] = tuple(names)  # what nn.Module's own __setattr__ would do with it in the end
    return net


def names_of(net: SparseNetwork) -> Sequence[Hashable]:
    """Name of each node: what it was built by, or else its number (after another network's state was loaded, too).

    Example:
        >>> names_of(SparseNetwork([(0, 1)], num_inputs=1, outputs=[1]))
        range(0, 2)
    """
    names = getattr(net, "node_names", ())
    return names if len(names) == net.num_nodes else range(net.num_nodes)
