"""NetworkX graphs and lists of sparse matrices, to networks and back."""

from collections.abc import Hashable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.convert.named_network import named_network, names_of
from fulgurite.models.sparse_network.network import SparseNetwork


def from_networkx(
    graph: Any,
    *,
    inputs: Iterable[Hashable] | None = None,
    outputs: Iterable[Hashable] | None = None,
    activation: str = "relu",
    aggregation: str = "sum",
    **options: Any,
) -> SparseNetwork:
    """Make a network of a directed NetworkX graph.

    Read are ``weight`` of edges and ``bias``, ``activation``, ``aggregation`` and ``response`` of nodes. Without any
    ``weight`` the network is initialised as usual; a missing bias is 0, a missing response 1.

    Args:
        graph: a ``DiGraph`` or ``MultiDiGraph`` (pass ``duplicates="sum"`` for parallel edges).
        inputs: input nodes in order; by default ``graph.graph["inputs"]``, else the nodes without in-edges that have
            none of the attributes above.
        outputs: output nodes in order; by default ``graph.graph["outputs"]``, else the nodes without out-edges.
        activation: of nodes that name none.
        aggregation: of nodes that name none.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork` (``backend``, ``steps``, …).

    Returns:
        a network whose ``node_names`` are the graph's nodes, inputs first, the others in the graph's order.

    Raises:
        TopologyError: an edge into an input, or a cycle; ``steps=k`` unrolls it.
        ValueError: an undirected graph, an input or output that is no node, or a weight at some edges only.

    Example:
        >>> import networkx
        >>> graph = networkx.DiGraph()
        >>> graph.add_weighted_edges_from([("x", "sum", 0.5), ("y", "sum", 2.0)])
        >>> net = from_networkx(graph, activation="identity")
        >>> net.node_names, net(torch.tensor([[1.0, 1.0]])).tolist()
        (('x', 'y', 'sum'), [[2.5]])
    """
    if not graph.is_directed():
        raise ValueError("the graph is undirected; want a DiGraph, whose edges lead from source to target")
    given = graph.graph.get("inputs") if inputs is None else inputs
    attributes = ("bias", "activation", "aggregation", "response")
    if given is None:
        given = [
            node for node, degree in graph.in_degree if degree == 0 and graph.nodes[node].keys().isdisjoint(attributes)
        ]
    sources = list(given)
    given = graph.graph.get("outputs") if outputs is None else outputs
    if given is None:
        given = [node for node, degree in graph.out_degree if degree == 0 and node not in set(sources)]
    sinks = list(given)
    for what, nodes in (("input", sources), ("output", sinks)):
        if not nodes:
            raise ValueError(f"the graph has no {what} nodes; pass {what}s=")
        if strange := [node for node in nodes if node not in graph]:
            raise ValueError(f"the {what}s {strange[:5]} are no nodes of the graph")

    is_input = set(sources)
    computed = [node for node in graph if node not in is_input]
    edges = list(graph.edges(data="weight"))
    bare = [(source, target) for source, target, weight in edges if weight is None]
    if bare and len(bare) < len(edges):
        raise ValueError(f"edges such as {bare[0]} have no weight, others have one; give all of them one, or none")
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    parameters: dict[str, Any] = {"steps": graph.graph.get("steps")}
    if not bare:
        parameters["weight"] = torch.tensor([weight for *_, weight in edges], dtype=dtype)
    for name, default in (("bias", 0.0), ("response", 1.0)):
        values = [graph.nodes[node].get(name) for node in computed]
        if any(value is not None for value in values):
            parameters[name] = torch.tensor([default if value is None else value for value in values], dtype=dtype)
    return named_network(
        sources + computed,
        [(source, target) for source, target, _ in edges],
        num_inputs=len(sources),
        outputs=sinks,
        activation=["identity"] * len(sources) + [graph.nodes[node].get("activation", activation) for node in computed],
        aggregation=["sum"] * len(sources) + [graph.nodes[node].get("aggregation", aggregation) for node in computed],
        dtype=dtype,
        **(parameters | options),
    )


def to_networkx(net: SparseNetwork) -> Any:
    """Make a NetworkX graph of a network; :func:`from_networkx` makes the network again.

    Args:
        net: the network. Of one with ``steps`` the recurrent graph is given, not what it was unrolled to.

    Returns:
        a ``networkx.DiGraph``: its nodes are the network's ``node_names`` where it has them, else numbers, with
        ``bias``, ``activation``, ``aggregation`` and ``response`` where the network has these; its edges have
        ``weight``; ``graph.graph`` has ``inputs``, ``outputs`` and maybe ``steps``.

    Example:
        >>> net = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1], weight=torch.tensor([3.0]))
        >>> list(to_networkx(net).edges(data="weight"))
        [(0, 1, 3.0)]
    """
    definition, names = net.definition, names_of(net)
    phi, aggregate = list(ACTIVATIONS), list(AGGREGATIONS)  # their places are their ids
    graph = import_module("networkx").DiGraph(
        inputs=[names[node] for node in range(net.num_inputs)],
        outputs=[names[node] for node in definition.outputs.tolist()],
    )
    if net.steps is not None:
        graph.graph["steps"] = net.steps
    graph.add_nodes_from(names[: net.num_inputs])
    parameters = {name: getattr(net, name) for name in ("bias", "response")}
    values = {name: parameter.tolist() for name, parameter in parameters.items() if parameter is not None}
    ids = zip(definition.activations.tolist(), definition.aggregations.tolist(), strict=True)
    for node, (activation, aggregation) in enumerate(ids):
        if node >= net.num_inputs:
            numbers = {name: entries[node - net.num_inputs] for name, entries in values.items()}
            graph.add_node(names[node], activation=phi[activation], aggregation=aggregate[aggregation], **numbers)
    ends = [(names[source], names[target]) for source, target in net.edges.tolist()]
    weights = net.weight.tolist()
    graph.add_weighted_edges_from((*end, weight) for end, weight in zip(ends, weights, strict=True))
    return graph


def from_csr(
    matrices: Any,
    *,
    biases: float | Sequence[Any] | None = None,
    activation: str | Sequence[str] = "relu",
    **options: Any,
) -> SparseNetwork:
    r"""Make a layered network of its weight matrices, :math:`x_{l+1} = φ_l(W_l x_l + b_l)`.

    Every stored entry becomes an edge, stored zeros too, so that they can be trained; of a dense matrix, every entry
    that is not 0.

    Args:
        matrices: one matrix or several, each of shape (out, in): SciPy's in any sparse format, torch's in any sparse
            layout, dense tensors or arrays, also mixed.
        biases: one number for all nodes, or for each layer a vector (out,), a number or None; None: no biases.
        activation: one name, or one for each layer.
        options: passed on to :class:`~fulgurite.models.sparse_network.SparseNetwork`; ``dtype`` is that of
            torch's matrices by default (SciPy's are double precision unless one takes care).

    Returns:
        a network of (…, in of the first) → (…, out of the last). Nodes are numbered layer by layer.

    Raises:
        ValueError: no matrix, shapes that do not follow on one another, or a list of another length.

    Example:
        >>> import scipy.sparse
        >>> layer = scipy.sparse.csr_array([[0.0, 2.0], [1.0, 0.0]])
        >>> net = from_csr([layer, torch.tensor([[1.0, 1.0]])], activation=["relu", "identity"])
        >>> net.num_edges, net(torch.tensor([[3.0, -1.0]])).tolist()
        (4, [[3.0]])
    """
    is_one = scipy.sparse.issparse(matrices) or isinstance(matrices, Tensor | np.ndarray)
    matrices = [matrices] if is_one else list(matrices)
    layers = [_entries(matrix) for matrix in matrices]
    if not layers:
        raise ValueError("got no matrix; want one of shape (out, in) for each layer")
    names = [activation] * len(layers) if isinstance(activation, str) else list(activation)
    by_layer = list(biases) if isinstance(biases, Sequence | Tensor | np.ndarray) else [biases] * len(layers)
    for what, given in (("activations", names), ("biases", by_layer)):
        if len(given) != len(layers):
            raise ValueError(f"got {len(given)} {what} for {len(layers)} matrices; want one for each")

    dtype = options.pop("dtype", None) or _common_dtype(matrices)
    widths = [layers[0][0][1]]
    edges, shifts = [], []
    for number, ((out, fan_in), (rows, columns), _) in enumerate(layers):
        if fan_in != widths[-1]:
            raise ValueError(f"matrix {number} has shape ({out}, {fan_in}), and {widths[-1]} features come to it")
        first = sum(widths)
        edges.append(torch.stack([first - fan_in + columns, first + rows], dim=1))
        shift = torch.as_tensor(0.0 if by_layer[number] is None else by_layer[number], dtype=dtype).detach().cpu()
        if shift.shape not in ((), (out,)):
            raise ValueError(f"bias {number} has shape {tuple(shift.shape)}; want ({out},) or a number")
        shifts.append(shift.expand(out))
        widths.append(out)
    return SparseNetwork(
        torch.cat(edges),
        num_inputs=widths[0],
        outputs=range(sum(widths) - widths[-1], sum(widths)),
        num_nodes=sum(widths),
        activation=["identity"] * widths[0]
        + [n for n, width in zip(names, widths[1:], strict=True) for _ in range(width)],
        weight=torch.cat([values.to(dtype) for _, _, values in layers]),
        bias=False if all(given is None for given in by_layer) else torch.cat(shifts),
        dtype=dtype,
        **options,
    )


def _entries(matrix: Any) -> tuple[tuple[int, int], Tensor, Tensor]:
    """Shape, (2, E) rows and columns, (E,) values; each place once."""
    if scipy.sparse.issparse(matrix):
        stored = matrix.tocsr(copy=True)
        stored.sum_duplicates()
        stored = stored.tocoo()
        coordinates = np.stack([stored.coords[0], stored.coords[1]]).astype(np.int64)
        return matrix.shape, torch.from_numpy(coordinates), torch.from_numpy(stored.data)
    tensor = torch.as_tensor(matrix).detach().cpu()
    if tensor.dim() != 2:
        raise ValueError(f"got a matrix of shape {tuple(tensor.shape)}; want (out, in)")
    shape = (tensor.shape[0], tensor.shape[1])
    if tensor.layout is torch.strided:
        places = tensor.nonzero().T
        return shape, places, tensor[places[0], places[1]]
    tensor = tensor.to_sparse_coo().coalesce()
    return shape, tensor.indices(), tensor.values()


def _common_dtype(matrices: Sequence[Any]) -> torch.dtype:
    dtypes = {matrix.dtype for matrix in matrices if isinstance(matrix, Tensor)} & {torch.float32, torch.float64}
    if not dtypes:
        return torch.get_default_dtype()
    return torch.float64 if torch.float64 in dtypes else torch.float32
