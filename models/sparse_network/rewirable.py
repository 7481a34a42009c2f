"""What lies beneath SparseNetwork: flat parameters that follow a graph, which may change and is saved with them."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.sparse_network.definition import STATE_KEYS, Definition, from_state
from fulgurite.models.sparse_network.edge_list import TopologyError
from fulgurite.models.sparse_network.structure import Topology

Values = Tensor | Sequence[float]


class RewirableModule(nn.Module):
    """A module whose parameters belong to the edges and nodes of a :class:`Definition`.

    The graph is no buffer: DDP would send it around in every step, and averages of models would average node numbers.
    It is in the ``state_dict`` all the same, as plain tensors.

    Args:
        definition: the graph.
        weight: (E,) in edge order.
        bias: (N − F,) by user's id, or None.
        response: likewise.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    response: nn.Parameter | None

    def __init__(self, definition: Definition, weight: Tensor, bias: Tensor | None, response: Tensor | None) -> None:
        super().__init__()
        self._definition = definition
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.response = None if response is None else nn.Parameter(response)

    def _settle(self) -> None:
        """Called whenever topology, device or type have changed."""
        raise NotImplementedError(f"{type(self).__name__} has to say what follows from another topology: _settle()")

    @property
    def definition(self) -> Definition:
        """What the network is apart from its parameters and their device."""
        return self._definition

    @property
    def topology(self) -> Topology:
        """The compiled graph, unrolled where there are ``steps``; see :meth:`Definition.spread` for its parameters."""
        return self._definition.topology

    @property
    def edges(self) -> Tensor:
        """(E, 2) source and target of each edge, in the order of ``weight``."""
        return self._definition.edges

    @property
    def num_inputs(self) -> int:
        """F."""
        return self._definition.num_inputs

    @property
    def num_outputs(self) -> int:
        """O."""
        return len(self._definition.outputs)

    @property
    def num_nodes(self) -> int:
        """N, inputs included."""
        return self._definition.num_nodes

    @property
    def num_edges(self) -> int:
        """E, the number of weights."""
        return len(self._definition.edges)

    @property
    def steps(self) -> int | None:
        """Synchronous updates, or None for an acyclic network."""
        return self._definition.steps

    @property
    def depth(self) -> int:
        """Levels of the compiled topology."""
        return self._definition.topology.depth

    @property
    def density(self) -> float:
        """Share of the dense matrices, one a level, that edges fill."""
        return self._definition.topology.density

    @torch.no_grad()
    def replace_edges(self, edges: ArrayLike | Tensor, weight: Values) -> Tensor:
        """Join the same nodes by other edges, in place; ``weight`` stays the same Parameter, and loses its gradient.

        Args:
            edges: (E', 2) rows (source, target).
            weight: (E',) as ``edges`` are given. Where E' is E, values are copied in place, so that whoever holds the
                Parameter's memory keeps it.

        Returns:
            (E',) int64: for each edge, as ``self.edges`` has them afterwards, its number in ``self.edges`` before, or
            −1 where it was not there.

        Raises:
            TopologyError: the edges do not make a network. Nothing has changed then.

        Example:
            >>> from fulgurite.models import SparseNetwork
            >>> net = SparseNetwork([(0, 2), (1, 2)], num_inputs=2, outputs=[2], weight=[3.0, 4.0])
            >>> net.replace_edges([(1, 2)], [5.0]).tolist(), net.weight.tolist()
            ([1], [5.0])
        """
        old = self._definition
        new, order = old.with_edges(edges)
        given = flat_values(weight, "weight", len(order), self.weight.dtype, "one for each edge as given")
        values = torch.empty_like(given)
        values[order] = given
        self._definition = new.to(old.topology.device)
        _refill(self.weight, values.to(self.weight.device))
        self._settle()
        return self._definition.origin(old)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        topology, dtype = self.topology, self.weight.dtype
        super()._apply(fn, recurse)
        device = self.weight.device
        if device.type == "meta":
            return self  # the graph stays where it can be read
        if device != topology.device:
            self._definition = self._definition.to(device)
        if device != topology.device or dtype != self.weight.dtype:
            self._settle()
        return self

    @override
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor for name, tensor in self._definition.state().items()})

    @override
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        state_dict = dict(state_dict)
        graph = {name: state_dict.pop(prefix + name) for name in STATE_KEYS if prefix + name in state_dict}
        graph = {name: torch.as_tensor(value) for name, value in graph.items()}
        missing = [prefix + name for name in STATE_KEYS if name not in graph]
        if strict:
            missing_keys.extend(missing)
        weight = state_dict.get(prefix + "weight")
        if not missing and isinstance(weight, Tensor) and not self._definition.equals(graph):
            try:
                state_dict[prefix + "weight"] = self._adopt(graph, weight)
            except TopologyError as error:
                error_msgs.append(f"the topology under {prefix or 'the top'!r} is not one: {error}")
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    @torch.no_grad()
    def _adopt(self, graph: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Take over the graph of a state, make room for its parameters, and give its weight in edge order."""
        new, order = from_state(graph)
        if weight.shape != order.shape:
            raise TopologyError(f"weight has shape {tuple(weight.shape)}, but edges has {len(order)}")
        self._definition = new.to(self.topology.device)
        for parameter, size in (
            (self.weight, len(order)),
            (self.bias, new.num_nodes - new.num_inputs),
            (self.response, new.num_nodes - new.num_inputs),
        ):
            if parameter is not None and len(parameter) != size:
                _refill(parameter, parameter.new_zeros(size))
        self._settle()
        return torch.empty_like(weight).index_copy_(0, order.to(weight.device), weight)


def flat_values(values: Values, name: str, count: int, dtype: torch.dtype, meaning: str) -> Tensor:
    """A new tensor (count,) on the CPU of numbers that a user gave.

    Raises:
        ValueError: they have another shape, or are no numbers.

    Example:
        >>> flat_values([1, 2], "weight", 2, torch.float32, "one for each edge")
        tensor([1., 2.])
    """
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be {count} numbers, {meaning}; got {type(values).__name__} ({error})") from None
    if tensor.shape != (count,):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({count},), {meaning}")
    return tensor.detach().to("cpu", dtype, copy=True)


def _refill(parameter: nn.Parameter, values: Tensor) -> None:
    if parameter.shape == values.shape:
        parameter.copy_(values)
    else:
        parameter.data = values
    parameter.grad = None
