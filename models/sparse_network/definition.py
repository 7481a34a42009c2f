"""What a network is apart from its parameters: its graph by the user's node ids, and the same graph compiled."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fulgurite.models.sparse_network.activations import activation_id
from fulgurite.models.sparse_network.aggregations import aggregation_id
from fulgurite.models.sparse_network.edge_list import (
    Duplicates,
    EdgeList,
    TopologyError,
    read_edge_list,
    whole_numbers,
)
from fulgurite.models.sparse_network.structure import Topology
from fulgurite.models.sparse_network.topology import compile_topology, distinct_edges
from fulgurite.models.sparse_network.unroll import unroll

Names = str | Sequence[str] | Mapping[int, str]
STATE_KEYS = ("edges", "outputs", "activations", "aggregations", "sizes")


@dataclass(frozen=True, eq=False)
class Definition:
    """A network of N nodes (F of them inputs) and E edges without its parameters, made by :func:`define`.

    ``weight`` belongs to it in edge order, ``bias`` and ``response`` by the user's id, node F first. The compiled
    topology may have more edges and nodes than the graph (``steps``), and has its nodes in another order; the two maps
    lead from its edges and nodes to the parameters' entries.

    Args:
        edges: (E, 2) int64 source and target of each edge by user's id, in edge order.
        outputs: (O,) int64 the user's ids.
        activations: (N,) int32 ids by user's id; inputs' are 0.
        aggregations: (N,) int32 likewise.
        num_inputs: F.
        num_nodes: N, inputs included.
        steps: synchronous updates that a recurrent graph was unrolled to, or None.
        topology: the compiled graph.
        edge_map: (topology.num_edges,) int64 entry of ``weight``; None where it is 0, 1, 2, ….
        node_map: (topology.num_nodes − F,) int64 entry of ``bias``, −1 for a node that rests at 0 (see
            :class:`~fulgurite.models.sparse_network.unroll.Unrolled`); None where it is 0, 1, 2, ….
        rests: whether there are such nodes.
    """

    edges: Tensor
    outputs: Tensor
    activations: Tensor
    aggregations: Tensor
    num_inputs: int
    num_nodes: int
    steps: int | None
    topology: Topology
    edge_map: Tensor | None
    node_map: Tensor | None
    rests: bool

    def __deepcopy__(self, memo: dict[int, object]) -> "Definition":
        return self  # never changed, only replaced

    def to(self, device: torch.device | str) -> "Definition":
        """The same definition with its tensors on a device; itself where they are there already."""
        if torch.device(device) == self.topology.device:
            return self
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in fields.items() if isinstance(value, Tensor | Topology)
        }
        return dataclasses.replace(self, **moved)

    def state(self) -> dict[str, Tensor]:
        """Plain tensors from which :func:`from_state` makes the definition again."""
        sizes = torch.tensor([self.num_inputs, self.num_nodes, self.steps or 0], device="cpu")
        return {
            "edges": self.edges,
            "outputs": self.outputs,
            "activations": self.activations,
            "aggregations": self.aggregations,
            "sizes": sizes,
        }

    def equals(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a state is this definition's."""
        return all(
            value.shape == state[name].shape and torch.equal(value.cpu(), state[name].cpu())
            for name, value in self.state().items()
        )

    def with_edges(self, edges: ArrayLike | Tensor) -> tuple["Definition", Tensor]:
        """The same nodes joined by other edges, and the number in edge order that each given edge became.

        Raises:
            TopologyError: see :func:`define`.
        """
        return _compiled(
            read_edge_list(edges, num_inputs=self.num_inputs, outputs=self.outputs, num_nodes=self.num_nodes),
            self.activations.cpu().numpy(),
            self.aggregations.cpu().numpy(),
            duplicates="error",
            steps=self.steps,
        )

    def spread(
        self, weight: Tensor, bias: Tensor | None, response: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Parameters as the compiled topology numbers edges and nodes; differentiable.

        Args:
            weight: (E,) in edge order.
            bias: (N − F,) by user's id, or None for zeros.
            response: likewise, or None for ones, which None then stands for in the result too.
        """
        if self.edge_map is not None:
            weight = weight[self.edge_map]
        computed = self.topology.num_nodes - self.num_inputs
        bias = weight.new_zeros(computed) if bias is None else self._by_node(bias, 0.0)
        return weight, bias, None if response is None else self._by_node(response, 1.0)

    def _by_node(self, values: Tensor, resting: float) -> Tensor:
        if self.node_map is None:
            return values
        if self.rests:  # such nodes' −1 reads the last entry
            values = torch.cat([values, values.new_full((1,), resting)])
        if self.edge_map is None:
            return values.index_select(0, self.node_map)  # a third of the time of values[…]
        return values[self.node_map]  # repeats entries: on a GPU, the other's gradient would add up in any order

    def origin(self, old: "Definition") -> Tensor:
        """(E,) int64: for each edge its number in another definition of the same nodes, −1 where it was not there."""
        keys, known = (edges[:, 1] * self.num_nodes + edges[:, 0] for edges in (self.edges, old.edges))
        known, number = known.sort()
        if len(known) == 0:
            return torch.full_like(keys, -1)
        place = torch.searchsorted(known, keys).clamp_(max=len(known) - 1)
        return torch.where(known[place] == keys, number[place], -1)


def define(
    edges: ArrayLike | Tensor,
    *,
    num_inputs: int,
    outputs: ArrayLike | Tensor,
    num_nodes: int | None = None,
    activation: Names = "relu",
    aggregation: Names = "sum",
    duplicates: Duplicates = "error",
    steps: int | None = None,
) -> tuple[Definition, Tensor]:
    """Check a graph and compile it.

    Args:
        edges: (E, 2) whole numbers, rows (source, target).
        num_inputs: F; nodes 0 … F − 1 are the inputs.
        outputs: (O,) node ids.
        num_nodes: N, inputs included; None: one more than the largest id that is mentioned.
        activation: one name, N names by user's id (inputs' mean nothing), or names of some nodes, others being relu.
        aggregation: likewise, others being sum.
        duplicates: ``"error"`` or ``"sum"``.
        steps: unroll the graph, which may have cycles, to so many synchronous updates from zero.

    Returns:
        The definition, and (E,) int64 the number in edge order that each given edge became.

    Raises:
        TopologyError: the graph is not one, has a cycle, or does not fit the names.
        ValueError: an unknown name, or no name at all; ``steps`` that is no whole number of 1 or more.

    Example:
        >>> definition, order = define([(2, 3), (0, 2), (1, 2)], num_inputs=2, outputs=[3], activation={3: "identity"})
        >>> definition.edges.tolist(), order.tolist(), definition.topology.act_id.tolist()
        ([[0, 2], [1, 2], [2, 3]], [2, 0, 1], [1, 0])
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1):
        raise ValueError(f"steps is {steps!r}; expected the number of synchronous updates, 1 or more, or None")
    graph = read_edge_list(edges, num_inputs=num_inputs, outputs=outputs, num_nodes=num_nodes)
    activations = _ids(activation, graph, "activation", activation_id, "relu")
    aggregations = _ids(aggregation, graph, "aggregation", aggregation_id, "sum")
    return _compiled(
        graph, activations, aggregations, duplicates=duplicates, steps=None if steps is None else int(steps)
    )


def from_state(state: Mapping[str, Tensor]) -> tuple[Definition, Tensor]:
    """Make a definition again from :meth:`Definition.state`.

    Returns:
        As :func:`define`; the order is 0, 1, 2, … unless another version numbered edges otherwise.

    Raises:
        TopologyError: the state is not one, or not whole.

    Example:
        >>> definition, _ = define([(0, 1)], num_inputs=1, outputs=[1])
        >>> again, order = from_state(definition.state())
        >>> again.equals(definition.state()), order.tolist()
        (True, [0])
    """
    missing = [name for name in STATE_KEYS if name not in state]
    if missing:
        raise TopologyError(f"the state of a SparseNetwork needs {', '.join(STATE_KEYS)}; it lacks {missing}")
    sizes = whole_numbers(state["sizes"], "sizes")
    if sizes.shape != (3,):
        raise TopologyError(f"sizes has shape {sizes.shape}, expected (3,): number of inputs, of nodes, and steps or 0")
    num_inputs, num_nodes, steps = sizes.tolist()
    graph = read_edge_list(state["edges"], num_inputs=num_inputs, outputs=state["outputs"], num_nodes=num_nodes)
    ids = []
    for name in ("activations", "aggregations"):
        numbers = whole_numbers(state[name], name).astype(np.int32)
        if numbers.shape != (num_nodes,):
            raise TopologyError(f"{name} has shape {numbers.shape}, expected ({num_nodes},), an id for each node")
        numbers[:num_inputs] = 0
        ids.append(numbers)
    return _compiled(graph, ids[0], ids[1], duplicates="error", steps=steps or None)


def _compiled(
    graph: EdgeList,
    activations: NDArray[np.int32],
    aggregations: NDArray[np.int32],
    *,
    duplicates: Duplicates,
    steps: int | None,
) -> tuple[Definition, Tensor]:
    inputs, nodes = graph.num_inputs, graph.num_nodes
    pairs = np.stack([graph.src, graph.dst], axis=1)
    edge_map, rests = None, False
    if steps is None:
        topology, order = compile_topology(
            pairs,
            num_inputs=inputs,
            outputs=graph.outputs,
            num_nodes=nodes,
            activations=activations,
            aggregations=aggregations,
            duplicates=duplicates,
        )
        edges, node_map = topology.edges, topology.node_ids[inputs:] - inputs
    else:
        src, dst, number = distinct_edges(graph, aggregations, duplicates)
        edges, order = torch.from_numpy(np.stack([src, dst], axis=1).astype(np.int64)), torch.from_numpy(number)
        unrolled = unroll(
            edges,
            num_inputs=inputs,
            outputs=graph.outputs,
            num_nodes=nodes,
            steps=steps,
            aggregations=aggregations,
        )
        resting = unrolled.node_map < 0
        rests = bool(resting.any())
        copies = unrolled.node_map.clamp(min=0).numpy()  # input 0's ids are those of resting nodes: identity and sum
        topology, places = compile_topology(
            unrolled.edges,
            num_inputs=inputs,
            outputs=unrolled.outputs,
            num_nodes=unrolled.num_nodes,
            activations=activations[copies],
            aggregations=aggregations[copies],
        )
        edge_map = torch.empty_like(places)
        edge_map[places] = unrolled.edge_map
        node_map = torch.where(resting, -1, unrolled.node_map - inputs)[topology.node_ids[inputs:]]
    definition = Definition(
        edges=edges,
        outputs=torch.from_numpy(graph.outputs.copy()),
        activations=torch.from_numpy(activations),
        aggregations=torch.from_numpy(aggregations),
        num_inputs=inputs,
        num_nodes=nodes,
        steps=steps,
        topology=topology,
        edge_map=None if edge_map is None else unless_identity(edge_map, len(edges)),
        node_map=unless_identity(node_map, nodes - inputs),
        rests=rests,
    )
    return definition, order


def unless_identity(numbers: Tensor, size: int) -> Tensor | None:
    """Numbers to index by, or None where they are 0, 1, …, size − 1 and so lead everything to its own place.

    Args:
        numbers: whole numbers.
        size: of what they index.

    Example:
        >>> unless_identity(torch.tensor([0, 1]), 2), unless_identity(torch.tensor([0, 1]), 3)
        (None, tensor([0, 1]))
    """
    return None if torch.equal(numbers, torch.arange(size, device=numbers.device)) else numbers


def _ids(names: Names, graph: EdgeList, what: str, to_id: Callable[[str], int], other: str) -> NDArray[np.int32]:
    """Ids of names by user's node id, (N,); inputs' are 0."""
    inputs, nodes = graph.num_inputs, graph.num_nodes
    ids = np.zeros(nodes, np.int32)
    if isinstance(names, str):
        ids[inputs:] = to_id(names)
    elif isinstance(names, Mapping):
        ids[inputs:] = to_id(other)
        for node, name in names.items():
            if not isinstance(node, int | np.integer) or not inputs <= node < nodes:
                raise TopologyError(
                    f"{what} names node {node!r}; nodes that have one are {inputs} … {nodes - 1} (inputs have none)"
                )
            ids[node] = to_id(name)
    else:
        expected = f"expected a name, a list of {nodes} names, one for each node, or {{node: name}}"
        try:
            listed = list(names)
        except TypeError:
            raise ValueError(f"{what} is {names!r}; {expected}") from None
        if len(listed) != nodes:
            raise TopologyError(
                f"{what} lists {len(listed)} names, expected one for each of the {nodes} nodes, inputs included "
                "(theirs mean nothing); to name some nodes alone, pass {node: name}"
            )
        computed = listed[inputs:]
        strange = [name for name in computed if not isinstance(name, str)]
        if strange:
            raise ValueError(f"{what} lists {strange[0]!r}; {expected}")
        found = {name: to_id(name) for name in set(computed)}
        ids[inputs:] = [found[name] for name in computed]
    return ids
