"""What a layer of a dynamic graph network is: a cell without state, that says how its steps depend on one another."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.propagate import Backend, edges_of, matrix_of, propagate, resolve

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

Coupling = Literal["none", "weights", "window", "recurrent", "graph"]
Carry = tuple[Tensor, ...]


class DynamicLayer(nn.Module):
    r"""A layer over a run of snapshots, whose memory is handed in and out and never kept.

    A layer has a spatial phase inside each snapshot and a temporal phase along each vertex's timeline, after
    V. T. Chakaravarthy et al., "Efficient Scaling of Dynamic Graph Neural Networks",
    `arXiv:2109.07893 <https://arxiv.org/abs/2109.07893>`__. What a rank needs from others goes through the block's
    exchange; in one process that is the identity. A timeline's first block is given :meth:`initial_carry`, so that
    nothing is remembered from one timeline to the next.

    Args:
        in_channels: F of the input.
        out_channels: F' of the output.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Attributes:
        coupling: how a step depends on earlier ones: ``none``; ``weights`` (only the parameters change over time);
            ``window`` (a sum over the last steps); ``recurrent`` (a state of each vertex); ``graph`` (a state that is
            also summed over neighbours, which cannot be split by snapshot).
        sums_neighbours: whether the graph is looked at.
        carry_size: how many tensors the layer carries from block to block.
        exchanged_channels: features of a vertex that go to the vertex shards and that come back.

    Raises:
        ValueError: channels below 1, or an unknown backend.
    """

    coupling: ClassVar[Coupling] = "none"
    sums_neighbours: ClassVar[bool] = True
    carry_size: int = 0

    def __init__(self, in_channels: int, out_channels: int, *, backend: Backend = "auto") -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels < 1:
                raise ValueError(f"got {name}={channels}; expected 1 or more")
        if backend not in get_args(Backend):
            raise ValueError(f"got backend={backend!r}; choose from {', '.join(get_args(Backend))}")
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """See the class."""
        return 0, 0

    def initial_carry(self, block: "Block") -> Carry:
        """What the timeline's first block is given."""
        return ()

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """Run over one block of the timeline.

        Args:
            block: this rank's snapshots of it.
            x: (t_p, N, F); None for the block's own features, whose neighbour sums are kept where graphs stay.
            carry: what the block before gave.

        Returns:
            (t_p, N, F') and what the next block is to be given.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what it does with a block: forward()")

    def features(self, block: "Block", x: Tensor | None) -> Tensor:
        """The input, or the block's features in the type of the parameters.

        Raises:
            ValueError: it has not in_channels features.
        """
        return self._expected(block.features.to(self.parameter_dtype) if x is None else x)

    def neighbours(self, block: "Block", x: Tensor | None) -> Tensor:
        r""":math:`\tilde A X`, (t_p, N, F); of the block's features it is worked out once where graphs stay.

        Raises:
            ValueError: the block's features are not in_channels.
        """
        if x is not None:
            return propagate(block.graphs, x, backend=self.backend)

        return self._expected(block.cached(*self._neighbour_sums(block)))

    def read(self, block: "Block") -> None:
        """Let what is made of graphs be made and kept by them, ahead of a compiled ``forward`` that finds it there.

        Args:
            block: that was read.
        """
        if not self.sums_neighbours:
            return
        for backend in self._backends(block):
            if backend == "csr":
                matrix_of(block.graphs, transpose=torch.is_grad_enabled())
            else:
                edges_of(block.graphs)

    def to_be_cached(self, block: "Block") -> list[tuple[Hashable, Callable[[], Any]]]:
        """What a first layer asks the block to cache, as :meth:`Block.read` takes it."""
        return [self._neighbour_sums(block)] if self.sums_neighbours else []

    def convolve(self, block: "Block", x: Tensor | None, linear: nn.Linear) -> Tensor:
        r""":math:`\tilde A X W + b`, summing neighbours on the narrower side of W."""
        if x is None or linear.out_features >= linear.in_features:
            return linear(self.neighbours(block, x))
        y = propagate(block.graphs, nn.functional.linear(x, linear.weight), backend=self.backend)
        return y if linear.bias is None else y + linear.bias

    @property
    def parameter_dtype(self) -> torch.dtype:
        """The type of the parameters, which features are brought to."""
        return next(self.parameters()).dtype

    def _neighbour_sums(self, block: "Block") -> tuple[Hashable, Callable[[], Tensor]]:
        def make() -> Tensor:
            return propagate(block.graphs, block.features.to(self.parameter_dtype), backend=self.backend)

        return ("neighbour sums", self.parameter_dtype, self.backend), make

    def _backends(self, block: "Block") -> set[str]:
        """All that x may get: under autocast it is of the parameters' type, or of half precision after a product."""
        kind = block.graphs.device.type
        types = {self.parameter_dtype}
        if torch.is_autocast_enabled(kind):
            types.add(torch.get_autocast_dtype(kind))
        named = self.backend != "auto"
        return {self.backend if named else resolve("auto", block.graphs.col.new_empty(0, dtype=x)) for x in types}

    def _expected(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_channels:
            raise ValueError(
                f"got {x.shape[-1]} features a vertex for {type(self).__name__} of in_channels={self.in_channels}; "
                f"give it in_channels={x.shape[-1]}"
            )
        return x

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.in_channels}, {self.out_channels}"


def own_steps(block: "Block") -> slice:
    """Where this rank's snapshots lie among all of the block's."""
    return slice(block.start - block.split.start, block.stop - block.split.start)


def own_vertices(block: "Block") -> int:
    """n_p, how many vertices this rank has in the temporal phase."""
    start, stop = block.split.vertices[block.rank]
    return stop - start


def graph_linear(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Linear:
    """The weight of a graph convolution, from Glorot's uniform distribution; a bias from zero.

    Example:
        >>> graph_linear(2, 3).weight.shape
        torch.Size([3, 2])
    """
    linear = nn.Linear(in_channels, out_channels, bias=bias)
    nn.init.xavier_uniform_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
