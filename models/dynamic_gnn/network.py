"""Dynamic graph networks: layers on one another, and the named ones of the literature."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast, get_args

import torch
from torch import Tensor, nn

from fulgurite.models.dynamic_gnn.baselines import GCNLayer, VertexLayer, VertexLSTMLayer
from fulgurite.models.dynamic_gnn.evolve_gcn import EvolveGCNHLayer, EvolveGCNOLayer, EvolvingLayer, WeightCell
from fulgurite.models.dynamic_gnn.gconv_gru import GConvGRULayer
from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer
from fulgurite.models.dynamic_gnn.propagate import Backend
from fulgurite.models.dynamic_gnn.recurrent_layers import CDGCNLayer, TGCNLayer, WDGCNLayer
from fulgurite.models.dynamic_gnn.tensor_m import TMGCNLayer

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

_STRENGTHS = get_args(Coupling)
_LayerMaker = Callable[[int, int], DynamicLayer]


class DynamicNetwork(nn.Module):
    """A stack of layers over a timeline of graphs, whose memory is handed in and out.

    Nothing is remembered from one timeline to the next: states, hidden frames of a window and weights that evolve begin
    anew with each (:meth:`initial_carry`), and are carried from block to block inside it.

    Args:
        layers: first to last; each takes the channels that the one before gives.

    Attributes:
        coupling: the strongest of the layers', in the order none, weights, window, recurrent, graph.
        in_channels: of the first layer.
        out_channels: of the last one.

    Shape:
        ``forward(block, carry)`` gives (t_p, N, out_channels) and the carry for the next block.

    Raises:
        ValueError: no layers, or channels that do not follow one another.

    Example:
        >>> network = DynamicNetwork([GCNLayer(2, 6), WDGCNLayer(6, 4)])
        >>> network.coupling, network.in_channels, network.out_channels
        ('recurrent', 2, 4)
    """

    def __init__(self, layers: Iterable[DynamicLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        if not len(self.layers):
            raise ValueError("got no layers; expected one or more")
        for before, after in itertools.pairwise(self._layers()):
            if before.out_channels != after.in_channels:
                raise ValueError(
                    f"got a layer of {before.out_channels} output channels before one of {after.in_channels} input "
                    "channels; give them the same number"
                )

    @property
    def coupling(self) -> Coupling:
        """See the class."""
        return max((layer.coupling for layer in self._layers()), key=_STRENGTHS.index)

    @property
    def in_channels(self) -> int:
        """See the class."""
        return self._layers()[0].in_channels

    @property
    def out_channels(self) -> int:
        """See the class."""
        return self._layers()[-1].out_channels

    def initial_carry(self, block: "Block") -> Carry:
        """What the first block is given: every layer's carry, one after another."""
        return tuple(tensor for layer in self._layers() for tensor in layer.initial_carry(block))

    def forward(self, block: "Block", carry: Carry) -> tuple[Tensor, Carry]:
        """Run over one block of the timeline.

        Args:
            block: this rank's snapshots of it.
            carry: :meth:`initial_carry`, or what the block before gave.

        Returns:
            Embeddings of this rank's snapshots (t_p, N, out_channels), and what the next block is to be given.

        Raises:
            ValueError: a timeline of another number of features than in_channels, or not as many tensors of carry as
                the layers hold.
        """
        if torch.compiler.is_compiling() and not block.is_read:
            block = self.read(block)
        sizes = [layer.carry_size for layer in self._layers()]
        if len(carry) != sum(sizes):
            raise ValueError(
                f"got {len(carry)} tensors of carry; expected {sum(sizes)}; begin with initial_carry(block)"
            )
        x: Tensor | None = None
        rest, kept = iter(carry), []
        for layer, size in zip(self._layers(), sizes, strict=True):
            x, own = layer(block, x, tuple(itertools.islice(rest, size)))
            kept.extend(own)
        return cast("Tensor", x), tuple(kept)

    @torch.compiler.disable
    def read(self, block: "Block") -> "Block":
        """Read all that :meth:`forward` needs of a block, so that from there on it is tensors alone.

        ``torch.compile`` makes one graph of ``forward`` given the result; given a block that was not read it begins
        with this call, its one break in the graph.

        Args:
            block: this rank's snapshots of it.

        Returns:
            The same block with graphs, features and their neighbour sums at hand.
        """
        read = block.read(self._layers()[0].to_be_cached(block))
        for layer in self._layers():
            layer.read(read)
        return read

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.in_channels} → {self.out_channels}, coupling={self.coupling}"

    def _layers(self) -> list[DynamicLayer]:
        return [cast("DynamicLayer", layer) for layer in self.layers]


class WDGCN(DynamicNetwork):
    """WD-GCN: :class:`~fulgurite.models.dynamic_gnn.recurrent_layers.WDGCNLayer` on one another.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> WDGCN(2, (6, 4)).out_channels
        4
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, backend: Backend = "auto") -> None:
        super().__init__(_stack(in_channels, hidden_channels, lambda f, g: WDGCNLayer(f, g, backend=backend)))


class CDGCN(DynamicNetwork):
    """CD-GCN: :class:`~fulgurite.models.dynamic_gnn.recurrent_layers.CDGCNLayer` on one another.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> CDGCN(2).coupling
        'recurrent'
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, backend: Backend = "auto") -> None:
        super().__init__(_stack(in_channels, hidden_channels, lambda f, g: CDGCNLayer(f, g, backend=backend)))


class TGCN(DynamicNetwork):
    """T-GCN: :class:`~fulgurite.models.dynamic_gnn.recurrent_layers.TGCNLayer` on one another.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> TGCN(2).coupling
        'recurrent'
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, backend: Backend = "auto") -> None:
        super().__init__(_stack(in_channels, hidden_channels, lambda f, g: TGCNLayer(f, g, backend=backend)))


class TMGCN(DynamicNetwork):
    """TM-GCN: :class:`~fulgurite.models.dynamic_gnn.tensor_m.TMGCNLayer` on one another, the last one linear.

    Args:
        in_channels: F of the timeline, which has ``m_window`` = window.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        window: w of the M-product; windows over hidden frames restart with each timeline.
        mix_hidden: multiply by M before every layer but the first, whose input comes multiplied.
        mix_output: multiply the embeddings by M too.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels or a window below 1.

    Example:
        >>> TMGCN(2, window=10).coupling
        'window'
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (6, 6),
        *,
        window: int = 20,
        mix_hidden: bool = True,
        mix_output: bool = False,
        backend: Backend = "auto",
    ) -> None:
        last = len(hidden_channels) - 1
        channels = itertools.pairwise((in_channels, *hidden_channels))
        super().__init__(
            TMGCNLayer(
                before,
                after,
                window=window,
                activation="none" if number == last else "selu",
                mix_input=mix_hidden and number > 0,
                mix_output=mix_output and number == last,
                backend=backend,
            )
            for number, (before, after) in enumerate(channels)
        )


class EvolveGCNO(DynamicNetwork):
    """EvolveGCN-O: :class:`~fulgurite.models.dynamic_gnn.evolve_gcn.EvolveGCNOLayer`, the last one linear.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        cell: of the weights' recurrence, ``"lstm"`` or ``"gru"``.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, channels below 1, or an unknown cell.

    Example:
        >>> EvolveGCNO(2).coupling
        'weights'
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (6, 6),
        *,
        cell: WeightCell = "lstm",
        backend: Backend = "auto",
    ) -> None:
        layers = _stack(in_channels, hidden_channels, lambda f, g: EvolveGCNOLayer(f, g, cell=cell, backend=backend))
        super().__init__(_last_linear(layers))


class EvolveGCNH(DynamicNetwork):
    """EvolveGCN-H: :class:`~fulgurite.models.dynamic_gnn.evolve_gcn.EvolveGCNHLayer`, the last one linear.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer, none above the number of vertices; the last one's are those of the embeddings.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> EvolveGCNH(2).coupling
        'weights'
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, backend: Backend = "auto") -> None:
        layers = _stack(in_channels, hidden_channels, lambda f, g: EvolveGCNHLayer(f, g, backend=backend))
        super().__init__(_last_linear(layers))


class GConvGRU(DynamicNetwork):
    """GConvGRU: :class:`~fulgurite.models.dynamic_gnn.gconv_gru.GConvGRULayer` on one another; on one rank only.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        order: K, terms of each Chebyshev polynomial.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels or an order below 1.

    Example:
        >>> GConvGRU(2).coupling
        'graph'
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int] = (6, 6),
        *,
        order: int = 2,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            _stack(in_channels, hidden_channels, lambda f, g: GConvGRULayer(f, g, order=order, backend=backend))
        )


class StaticGCN(DynamicNetwork):
    """A baseline that sees each snapshot alone: graph convolutions, the last one linear.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        backend: of the neighbour sums, see :func:`~fulgurite.models.dynamic_gnn.propagate.propagate`.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> StaticGCN(2).coupling
        'none'
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, backend: Backend = "auto") -> None:
        layers = _stack(in_channels, hidden_channels, lambda f, g: GCNLayer(f, g, backend=backend))
        super().__init__(_last_linear(layers))


class NoGraph(DynamicNetwork):
    """A baseline that sees each vertex alone: a multilayer perceptron on its features, the last layer linear.

    With memory it is an LSTM along each vertex's timeline
    (:class:`~fulgurite.models.dynamic_gnn.baselines.VertexLSTMLayer`): a dynamic network that does no better has no use
    for its graph, as one that does no better than :class:`StaticGCN` has none for its memory.

    Args:
        in_channels: F of the timeline.
        hidden_channels: of each layer; the last one's are those of the embeddings.
        memory: LSTMs on one another instead of the perceptron.

    Raises:
        ValueError: no layers, or channels below 1.

    Example:
        >>> NoGraph(2).coupling, NoGraph(2, memory=True).coupling
        ('none', 'recurrent')
    """

    def __init__(self, in_channels: int, hidden_channels: Sequence[int] = (6, 6), *, memory: bool = False) -> None:
        layer: _LayerMaker = VertexLSTMLayer if memory else VertexLayer
        super().__init__(_last_linear(_stack(in_channels, hidden_channels, layer)))


def _stack(in_channels: int, hidden_channels: Sequence[int], make: _LayerMaker) -> list[DynamicLayer]:
    return [make(before, after) for before, after in itertools.pairwise((in_channels, *hidden_channels))]


def _last_linear(layers: list[DynamicLayer]) -> list[DynamicLayer]:
    for layer in layers[-1:]:
        if isinstance(layer, GCNLayer | VertexLayer | EvolvingLayer):
            layer.activation = False
    return layers
