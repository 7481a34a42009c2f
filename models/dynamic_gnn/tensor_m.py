"""TM-GCN: graph convolutions under the tensor M-product."""

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fulgurite.models.dynamic_gnn.layer import Carry, Coupling, DynamicLayer, graph_linear, own_vertices
from fulgurite.models.dynamic_gnn.propagate import Backend
from fulgurite.models.dynamic_gnn.window import trailing_mean

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

Activation = Literal["selu", "none"]


class TMGCNLayer(DynamicLayer):
    r"""A layer of TM-GCN: features are averaged over the last w steps, then convolved with graphs averaged likewise.

    O. A. Malik, S. Ubaru, L. Horesh, M. E. Kilmer, H. Avron, "Dynamic Graph Convolutional Networks Using the Tensor
    M-Product", `arXiv:1910.07643 <https://arxiv.org/abs/1910.07643>`__:

    .. math::
        Y_t = f(\tilde A^M_t (M X)_t W), \qquad
        (M X)_t = \sum_{k < \min(t + 1, w)} \frac{X_{t-k}}{\min(t + 1, w)},

    without the inverse of M. A timeline with ``m_window`` = w brings :math:`\tilde A^M`, and its features mixed, with
    what was before its first step where it holds that history. Windows over hidden frames restart with each timeline:
    its first frame is averaged with none before. Over several ranks the frames before a rank's own are fetched, or
    vertices redistributed, whichever moves less.

    Args:
        in_channels: F.
        out_channels: F'.
        window: w; of hidden frames it reaches back to the first step of the timeline at hand.
        activation: f, ``"selu"`` or ``"none"``.
        mix_input: multiply the input by M; the timeline's own features come mixed and are left as they are.
        mix_output: multiply the output by M too.
        backend: see :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`.

    Shape:
        (t_p, N, F) → (t_p, N, F').

    Raises:
        ValueError: a window below 1 or an unknown activation; in ``forward``, graphs that are no M-product.

    Example:
        >>> TMGCNLayer(2, 6, window=10)
        TMGCNLayer(
          2, 6, window=10, activation=selu
          (convolution): Linear(in_features=2, out_features=6, bias=False)
        )
    """

    coupling: ClassVar[Coupling] = "window"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        window: int = 20,
        activation: Activation = "selu",
        mix_input: bool = True,
        mix_output: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, backend=backend)
        if window < 1:
            raise ValueError(f"got window={window}; expected 1 or more")
        if activation not in ("selu", "none"):
            raise ValueError(f"got activation={activation!r}; choose from selu, none")
        self.window, self.activation, self.mix_input, self.mix_output = window, activation, mix_input, mix_output
        self.carry_size = int(mix_input) + int(mix_output)
        self.convolution = graph_linear(in_channels, out_channels)

    @property
    def exchanged_channels(self) -> tuple[int, int]:
        """The channels of what is mixed, each way; a halo moves them once."""
        channels = self.in_channels * self.mix_input + self.out_channels * self.mix_output
        return channels, channels

    def initial_carry(self, block: "Block") -> Carry:
        """No frames yet, of each tensor that is mixed."""
        vertices = block.num_nodes if block.uses_halo(self.window - 1) else own_vertices(block)
        mixed = [self.in_channels] * self.mix_input + [self.out_channels] * self.mix_output
        return tuple(self.convolution.weight.new_zeros(0, vertices, channels) for channels in mixed)

    def read(self, block: "Block") -> None:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        super().read(block)
        block.uses_halo(self.window - 1)  # counted once a partition

    def spatial(self, block: "Block", x: Tensor | None) -> Tensor:
        """The convolution of features that are mixed already, (t_p, N, F')."""
        if self.window > 1 and block.graphs.inv_sqrt_degree is not None:
            raise ValueError(
                f"got graphs that are no M-product for a TM-GCN of window={self.window}; give the timeline "
                f"m_window={self.window}"
            )
        y = self.convolve(block, x, self.convolution)
        return torch.nn.functional.selu(y) if self.activation == "selu" else y

    def temporal(self, block: "Block", x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The M-product (t_p, N, C) of frames (t_p, N, C), given the past ones that the block before handed on."""
        exchange, split = block.exchange, block.split
        if block.uses_halo(self.window - 1):
            frames, past = exchange.halo(x, split, width=self.window - 1, carried=past)
            return trailing_mean(frames, self.window, len(x)), past
        frames = torch.cat([past, exchange.to_vertices(x, split)])
        mixed = trailing_mean(frames, self.window, split.num_steps)
        return exchange.to_snapshots(mixed, split), frames[max(0, len(frames) - self.window + 1) :]

    def forward(self, block: "Block", x: Tensor | None, carry: Carry) -> tuple[Tensor, Carry]:
        """See :class:`~fulgurite.models.dynamic_gnn.layer.DynamicLayer`."""
        pasts, kept = list(carry), []
        if self.mix_input:
            past = pasts.pop(0)
            if x is not None:
                x, past = self.temporal(block, x, past)
            kept.append(past)
        y = self.spatial(block, x)
        if self.mix_output:
            y, past = self.temporal(block, y, pasts.pop(0))
            kept.append(past)
        return y, tuple(kept)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{super().extra_repr()}, window={self.window}, activation={self.activation}"
