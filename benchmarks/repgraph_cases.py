"""The layers that are timed against each other, and at which sizes: for repgraph.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fulgurite.models import NonLocal2d, RepGraph2d

Direction = Literal["forward", "training"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "training")
SIZES = ((64, 64), (97, 97), (128, 256))
VARIANTS = {"tied bottleneck": ("bottleneck", True), "untied simple": ("simple", False)}
METHODS = {
    "RepGraph, bag": (RepGraph2d, "bag"),
    "RepGraph, Triton": (RepGraph2d, "triton"),
    "RepGraph, grid_sample": (RepGraph2d, "grid_sample"),
    "non-local, SDPA": (NonLocal2d, "sdpa"),
    "non-local, matmul": (NonLocal2d, "matmul"),
}


@dataclass(frozen=True)
class Case:
    """A layer of some method at a size.

    Attributes:
        method: of ``METHODS``.
        variant: of ``VARIANTS``.
        size: (H, W).
        channels: C.
        inter: C'.
    """

    method: str
    variant: str
    size: tuple[int, int]
    channels: int = 512
    inter: int = 256

    def layer(self) -> nn.Module:
        """One that is no identity any more, and whose nodes have moved off the pixels and apart from each other's."""
        torch.manual_seed(0)
        kind, backend = METHODS[self.method]
        variant, tied = VARIANTS[self.variant]
        options: dict[str, Any] = {"inter_channels": self.inter, "variant": variant, "tied": tied, "backend": backend}
        layer = kind(self.channels, **options)
        torch.manual_seed(1)
        nn.init.normal_(layer.project[-1].weight, std=0.1)
        if isinstance(layer, RepGraph2d):
            # Some pixels of standard deviation: rows are read as irregularly as by a trained layer.
            nn.init.normal_(layer.offset.weight, std=3 / (self.inter * 9) ** 0.5)
        return layer

    def map(self) -> Tensor:
        """(1, C, H, W), as it comes from a network: with a gradient to hand on."""
        torch.manual_seed(2)
        return torch.randn(1, self.channels, *self.size)


def affinity_bytes(size: tuple[int, int], *, element: int = 4) -> int:
    """Of the non-local layer's affinities."""
    return (size[0] * size[1]) ** 2 * element
