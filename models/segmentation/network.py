"""Fully convolutional networks with a context layer before their classifier."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from fulgurite.models.backbone import build_backbone
from fulgurite.models.repgraph.contexts import build_context


class ContextHead(nn.Sequential):
    """Turns the last map of a backbone into logits: 3 × 3 convolution, context, 3 × 3 convolution, dropout, classifier.

    Args:
        in_channels: of the map.
        num_classes: K.
        channels: width of the head; ``None``: the context stands on the map itself, before the classifier, with no
            convolutions around it.
        context: name of the layer; see :func:`~fulgurite.models.repgraph.contexts.build_context`.
        context_options: its options.
        dropout: share of channels dropped in training.

    Shape:
        (B, in_channels, H, W) → (B, K, H, W).

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> ContextHead(64, 5, channels=32, context="repgraph")(torch.zeros(1, 64, 8, 8)).shape
        torch.Size([1, 5, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int | None,
        context: str = "none",
        context_options: Mapping[str, Any] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"got dropout={dropout}; want a share from 0 to below 1")
        if channels is not None and channels < 1:
            raise ValueError(f"got head_channels={channels}; want at least 1, or None for a head without convolutions")
        width = in_channels if channels is None else channels
        if channels is not None:
            self.add_module("before", convolution(in_channels, width))
        self.add_module("context", build_context(context, width, **(context_options or {})))
        if channels is not None:
            self.add_module("after", convolution(width, width))
        self.add_module("dropout", nn.Dropout2d(dropout))
        self.add_module("classifier", nn.Conv2d(width, num_classes, 1))


class SegmentationNetwork(nn.Module):
    """A dilated residual network, a head with a context layer, and in training a second, auxiliary head.

    Args:
        num_classes: K.
        backbone: name of the network; see :func:`~fulgurite.models.backbone.build_backbone`.
        context: name of the layer in the head: ``repgraph``, ``non_local``, ``global_context`` or ``none``.
        context_options: its options, such as ``{"num_nodes": 9}``.
        weights: of the backbone.
        in_channels: of the images.
        output_stride: of the last map, at most; the strides beyond are dilations.
        head_channels: width of the head; ``None``: no convolutions around the context.
        dropout: before each classifier.
        auxiliary: whether a fully convolutional head stands on ``layer3``.

    Shape:
        (B, in_channels, H, W) → (B, K, H, W), and of the auxiliary head the same or ``None``; both are brought to the
        images' size bilinearly.

    Raises:
        ValueError: an option out of range, or unknown.

    Example:
        >>> import torch
        >>> logits, auxiliary = SegmentationNetwork(5, backbone="tiny_resnet")(torch.zeros(1, 3, 32, 24))
        >>> logits.shape, auxiliary.shape
        (torch.Size([1, 5, 32, 24]), torch.Size([1, 5, 32, 24]))
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "small_resnet",
        context: str = "repgraph",
        context_options: Mapping[str, Any] | None = None,
        weights: str | None = None,
        in_channels: int = 3,
        output_stride: int = 8,
        head_channels: int | None = 128,
        dropout: float = 0.1,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, weights=weights, in_channels=in_channels, output_stride=output_stride)
        widths = self.backbone.out_channels
        self.head = ContextHead(
            widths["layer4"],
            num_classes,
            channels=head_channels,
            context=context,
            context_options=context_options,
            dropout=dropout,
        )
        self.auxiliary_head = fcn_head(widths["layer3"], num_classes, dropout) if auxiliary else None

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the logits, and in training those of the auxiliary head."""
        maps = self.backbone(x)
        size = (x.shape[2], x.shape[3])
        logits = enlarge(self.head(maps["layer4"]), size)
        if self.auxiliary_head is None or not self.training:
            return logits, None
        return logits, enlarge(self.auxiliary_head(maps["layer3"]), size)


def fcn_head(in_channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Build a head of one 3 × 3 convolution to a quarter of the width, and a classifier of each pixel."""
    width = max(1, in_channels // 4)
    return nn.Sequential(convolution(in_channels, width), nn.Dropout2d(dropout), nn.Conv2d(width, num_classes, 1))


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 3 × 3 convolution, its normalisation and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring logits to an image's size, bilinearly; as they are where they have it."""
    if logits.shape[2:] == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
