"""A sparse network being put together block by block: what a traced ``nn.Module`` turns into."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wired:
    """What :class:`Wiring` made, in the terms of ``SparseNetwork``'s arguments.

    Args:
        edges: (E, 2) int64, rows (source, target); the inputs are nodes 0 … num_inputs − 1.
        weight: (E,).
        bias: (num_nodes − num_inputs,), or None where no node was given one.
        activations: name of each node, inputs included.
        aggregations: name of each node, inputs included.
        outputs: (O,) node ids.
        num_inputs: input nodes.
        num_nodes: nodes, inputs included.
    """

    edges: Tensor
    weight: Tensor
    bias: Tensor | None
    activations: list[str]
    aggregations: list[str]
    outputs: Tensor
    num_inputs: int
    num_nodes: int


class Wiring:
    """Takes blocks of nodes and edges, and hands them on with needless nodes joined away.

    Every operation makes nodes of its own, read through *wires*: edges with a given factor, one to a node. A node that
    only adds up and whose one reader is a wire into another sum does nothing of its own: :meth:`finish` moves its
    in-edges and its bias to the reader, times the factor. So ``relu(linear(x) + x)`` ends up as one node a unit with
    the linear layer's edges and one edge of weight 1, whatever the number of operations it was written in.

    Args:
        num_inputs: input nodes; they get ids 0 … num_inputs − 1.
        dtype: of weights and biases.

    Example:
        >>> import torch
        >>> wiring = Wiring(2, torch.float32)
        >>> hidden = wiring.linear(torch.arange(2), torch.tensor([[0.0, 3.0], [0.5, 0.0]]))
        >>> wired = wiring.finish(wiring.elementwise(hidden, "relu"))
        >>> wired.edges.tolist(), wired.weight.tolist(), wired.activations[2:]
        ([[1, 2], [0, 3]], [3.0, 0.5], ['relu', 'relu'])
    """

    def __init__(self, num_inputs: int, dtype: torch.dtype) -> None:
        self.num_inputs = num_inputs
        self.num_nodes = num_inputs
        self.dtype = dtype
        self._activations = ["identity"] * num_inputs
        self._aggregations = ["sum"] * num_inputs
        self._bias = [torch.zeros(num_inputs, dtype=dtype)]
        self._has_bias = False
        no_ids = torch.empty(0, dtype=torch.int64)
        self._sources, self._targets = [no_ids], [no_ids]
        self._weights, self._is_wire = [torch.empty(0, dtype=dtype)], [torch.empty(0, dtype=torch.bool)]

    def linear(
        self, sources: Tensor, weight: Tensor, bias: Tensor | None = None, *, kept: Tensor | None = None
    ) -> Tensor:
        """Nodes :math:`W x + b` with one edge for each entry of W that is kept.

        Args:
            sources: (in,) node ids.
            weight: (out, in).
            bias: (out,) or None.
            kept: (out, in) bool; by default the entries that are not 0.

        Returns:
            (out,) ids of the new nodes.
        """
        nodes = self._add(len(weight), bias=bias)
        weight, kept = weight.detach().cpu(), None if kept is None else kept.cpu()
        rows, columns = torch.nonzero(weight if kept is None else kept, as_tuple=True)
        self._connect(sources[columns], nodes[rows], weight[rows, columns], wire=False)
        return nodes

    def affine(self, sources: Tensor, factor: Tensor | float, shift: Tensor | float | None = None) -> Tensor:
        """Nodes :math:`factor · x + shift`; both are one number, or one a feature."""
        bias = None if shift is None else self._vector(shift, len(sources))
        nodes = self._add(len(sources), bias=bias)
        self._connect(sources, nodes, self._vector(factor, len(sources)), wire=True)
        return nodes

    def elementwise(self, sources: Tensor, activation: str) -> Tensor:
        """Nodes φ(x)."""
        nodes = self._add(len(sources), activation=activation)
        self._connect(sources, nodes, self._vector(1.0, len(sources)), wire=True)
        return nodes

    def add(self, left: Tensor, right: Tensor, *, factor: float = 1.0) -> Tensor:
        """Nodes :math:`left + factor · right`."""
        nodes = self._add(len(left))
        self._connect(left, nodes, self._vector(1.0, len(left)), wire=True)
        self._connect(right, nodes, self._vector(factor, len(right)), wire=True)
        return nodes

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """Nodes :math:`left · right`."""
        if bool((left == right).any()):
            right = self.affine(right, 1.0)  # two edges between the same two nodes would be one too many
        nodes = self._add(len(left), aggregation="product")
        for factor in (left, right):
            self._connect(factor, nodes, self._vector(1.0, len(left)), wire=True)
        return nodes

    def finish(self, outputs: Tensor) -> Wired:
        """Join away what only passes on, sum up edges that then lie on one another, and number the rest anew."""
        source, target = torch.cat(self._sources), torch.cat(self._targets)
        weight, bias = torch.cat(self._weights), torch.cat(self._bias)
        root, factor, joined = self._join(source, target, weight, outputs)

        left = ~joined
        source, target = source[left], root[target[left]]
        weight = weight[left] * factor[torch.cat(self._targets)[left]]
        bias = torch.zeros_like(bias).index_add_(0, root, bias * factor)

        kept = root == torch.arange(self.num_nodes)
        number = kept.cumsum(0) - 1
        pairs, place = torch.unique(target * self.num_nodes + source, return_inverse=True)
        summed = torch.zeros(len(pairs), dtype=self.dtype).index_add_(0, place, weight)
        edges = torch.stack([number[pairs % self.num_nodes], number[pairs // self.num_nodes]], dim=1)
        names = [index for index, keep in enumerate(kept.tolist()) if keep]
        return Wired(
            edges=edges,
            weight=summed,
            bias=bias[kept][self.num_inputs :] if self._has_bias else None,
            activations=[self._activations[index] for index in names],
            aggregations=[self._aggregations[index] for index in names],
            outputs=number[outputs],
            num_inputs=self.num_inputs,
            num_nodes=len(names),
        )

    def _join(self, source: Tensor, target: Tensor, weight: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each node the node that it becomes part of (maybe itself) and by what factor; which edges vanish."""
        sums = torch.tensor([name == "sum" for name in self._aggregations], dtype=torch.bool)
        passes_on = sums & torch.tensor([name == "identity" for name in self._activations], dtype=torch.bool)
        passes_on[: self.num_inputs] = False
        passes_on[outputs] = False
        passes_on &= torch.bincount(source, minlength=self.num_nodes) == 1
        joined = torch.cat(self._is_wire) & passes_on[source] & sums[target]

        root = torch.arange(self.num_nodes)
        factor = torch.ones(self.num_nodes, dtype=self.dtype)
        root[source[joined]] = target[joined]
        factor[source[joined]] = weight[joined]
        while not torch.equal(root[root], root):  # doubles the reach each time: chains cost their logarithm
            factor = factor * factor[root]
            root = root[root]
        return root, factor, joined

    def _add(
        self, count: int, *, activation: str = "identity", aggregation: str = "sum", bias: Tensor | None = None
    ) -> Tensor:
        nodes = torch.arange(self.num_nodes, self.num_nodes + count)
        self.num_nodes += count
        self._activations += [activation] * count
        self._aggregations += [aggregation] * count
        self._has_bias |= bias is not None
        self._bias.append(self._vector(0.0 if bias is None else bias, count))
        return nodes

    def _connect(self, source: Tensor, target: Tensor, weight: Tensor, *, wire: bool) -> None:
        self._sources.append(source)
        self._targets.append(target)
        self._weights.append(weight.detach().to("cpu", self.dtype))
        self._is_wire.append(torch.full((len(source),), wire))

    def _vector(self, value: Tensor | float, count: int) -> Tensor:
        values = torch.as_tensor(value).detach().to("cpu", self.dtype)
        return values.reshape(-1).expand(count) if values.numel() == 1 else values
