"""The RepGraph layer: every pixel gathers from a few learned representative nodes."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.repgraph.attention import BACKENDS, Backend, attend_to_nodes, choose_backend
from fulgurite.models.repgraph.block import ContextBlock2d, Norm, Variant, map_of, rows_of
from fulgurite.models.repgraph.positions import Init, clamp_to_map, place_nodes, start_nodes
from fulgurite.models.repgraph.scores import global_cells


class RepGraph2d(ContextBlock2d):
    r"""Long-range context for a feature map from S sampled nodes a pixel, in place of all H · W.

    C. Yu, Y. Liu, C. Gao, C. Shen, N. Sang, `Representative Graph Neural Network
    <https://arxiv.org/abs/2008.05202>`_, ECCV 2020. Where a non-local layer compares every pixel with every other, this
    one samples a few features for each pixel at learned offsets:

    .. math:: y_i = \sum_{s=1}^{S} a_{is}\, v(p_i + b_s + \Delta_{is}), \qquad
        a_i = \mathrm{softmax}_s(\langle q_i, k(p_{is})\rangle/\sqrt{C'/G}), \qquad
        \mathrm{out}_i = x_i + W y_i.

    The last weights start at zero, so that the new layer is the identity and may be put into a trained network.

    Args:
        in_channels: C.
        inter_channels: C', the width at which nodes are compared; a quarter of C for a bottleneck, else half of it.
        num_nodes: S.
        groups: groups of channels with nodes and a softmax of their own.
        variant: ``bottleneck`` or ``simple``; see :class:`~fulgurite.models.repgraph.block.ContextBlock2d`.
        tied: one embedding is query, key and value.
        init: where nodes start; see :func:`~fulgurite.models.repgraph.positions.start_nodes`.
        global_nodes: g; adds the g² cells of an average pooling to every pixel's softmax.
        offset_kernel: side of the convolution that gives the offsets from the queries' embedding.
        norm: of a bottleneck: ``batch``, ``group`` or ``none``.
        backend: ``bag``, ``triton`` or ``grid_sample``; ``auto`` chooses
            (:func:`~fulgurite.models.repgraph.attention.choose_backend`), and ``layer.last_backend`` tells what ran.

    Shape:
        (B, C, H, W) → (B, C, H, W).

    Raises:
        ValueError: an option out of range; a map of other channels.

    Example:
        >>> import torch
        >>> layer = RepGraph2d(64, num_nodes=9)
        >>> x = torch.rand(2, 64, 16, 24)
        >>> torch.equal(layer.eval()(x), x)
        True
    """

    _abbr_ = "repgraph"  # under which mmcv names a plugin of a block
    base: Tensor

    def __init__(
        self,
        in_channels: int,
        *,
        inter_channels: int | None = None,
        num_nodes: int = 9,
        groups: int = 1,
        variant: Variant = "bottleneck",
        tied: bool = True,
        init: Init = "spread",
        global_nodes: int = 0,
        offset_kernel: int = 3,
        norm: Norm = "batch",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            in_channels, inter_channels=inter_channels, groups=groups, variant=variant, tied=tied, norm=norm
        )
        if global_nodes < 0:
            raise ValueError(f"got global_nodes={global_nodes}; want 0 or more")
        if offset_kernel < 1 or offset_kernel % 2 == 0:
            raise ValueError(f"got offset_kernel={offset_kernel}; want an odd number, such as 1 or 3")
        if backend not in BACKENDS:
            raise ValueError(f"got backend={backend!r}; choose from {', '.join(BACKENDS)}")
        base, self._relative = start_nodes(num_nodes, init)
        self.num_nodes = num_nodes
        self.global_nodes = global_nodes
        self.backend = backend
        self.last_backend: Backend | None = None  # the path that the last call took
        self.register_buffer("base", base)
        self.offset = nn.Conv2d(self.inter_channels, 2 * num_nodes * groups, offset_kernel, padding=offset_kernel // 2)
        self._start_at_base()

    @override
    def init_weights(self) -> None:
        """Become the identity again, with nodes where they started."""
        super().init_weights()
        self._start_at_base()

    def places(self, query: Tensor) -> Tensor:
        """Give where each pixel would look, (B, H · W, G, S, 2), from its embedding (B, C', H, W); also off the map."""
        batch, _, height, width = query.shape
        # bfloat16 would round an offset of 20 pixels to 1/8.
        with _without_autocast(query):
            offsets = self.offset(query.to(self.offset.weight.dtype))
        offsets = offsets.permute(0, 2, 3, 1).reshape(batch, height * width, self.groups, self.num_nodes, 2)
        return place_nodes(offsets, self.base, (height, width), relative=self._relative)

    def positions(self, query: Tensor) -> Tensor:
        """Give where each pixel looks, (B, H · W, G, S, 2) positions (y, x) within the map, from its embedding."""
        return clamp_to_map(self.places(query), (query.shape[2], query.shape[3]))

    def visualize_nodes(self, image: Tensor, path: str | os.PathLike[str], **options: Any) -> Path:
        """Draw where pixels look: :func:`~fulgurite.models.repgraph.node_picture.visualize_nodes` of this layer."""
        from fulgurite.models.repgraph.node_picture import visualize_nodes

        return visualize_nodes(self, image, path, **options)

    @override
    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Let every pixel attend to its nodes."""
        size = (query.shape[2], query.shape[3])
        far_key = far_value = None
        if self.global_nodes:
            far_key = far_value = rows_of(global_cells(key, self.global_nodes), self.groups)
            if value is not key:
                far_value = rows_of(global_cells(value, self.global_nodes), self.groups)
        keys = rows_of(key, self.groups)
        queries = keys if query is key else rows_of(query, self.groups)
        values = keys if value is key else rows_of(value, self.groups)
        chosen = choose_backend(self.backend, queries, keys, values)
        if not torch.compiler.is_compiling():
            self.last_backend = chosen
        rows = attend_to_nodes(
            queries,
            keys,
            values,
            self.places(query),
            size,
            global_key=far_key,
            global_value=far_value,
            backend=chosen,
        )
        return map_of(rows, size)

    def _start_at_base(self) -> None:
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]


def _without_autocast(like: Tensor) -> AbstractContextManager[object]:
    kind = like.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
