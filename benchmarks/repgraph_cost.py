"""Multiply-adds of the layers, counted on the meta device beside the closed form: for repgraph.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fulgurite.models import NonLocal2d, RepGraph2d
from fulgurite.models.repgraph.cost import count_macs, layer_macs

SIZES = ((512, 64, 64), (512, 97, 97), (512, 128, 256), (2048, 128, 256))  # C, H, W
TIED: dict[str, Any] = {"variant": "bottleneck", "tied": True, "inter_channels": 256}
UNTIED: dict[str, Any] = {"variant": "simple", "tied": False, "inter_channels": 256}
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "non-local, 4 projections": (NonLocal2d, UNTIED),
    "non-local, tied": (NonLocal2d, TIED),
    "RepGraph, tied, 3 × 3 offsets": (RepGraph2d, TIED | {"backend": "grid_sample"}),
    "RepGraph, tied, 1 × 1 offsets": (RepGraph2d, TIED | {"backend": "grid_sample", "offset_kernel": 1}),
    "RepGraph, tied, 3 × 3 offsets, as the bag computes it": (RepGraph2d, TIED | {"backend": "bag"}),
    "RepGraph, untied, 3 × 3 offsets": (RepGraph2d, UNTIED | {"backend": "grid_sample"}),
}


def measure(quick: bool) -> dict[str, Any]:
    """Every layer at every size, and the non-local layer without its output projection at the last."""
    sizes = SIZES[:1] if quick else SIZES
    rows = []
    for name, (kind, options) in LAYERS.items():
        counted, closed = [], []
        for channels, height, width in sizes:
            with torch.device("meta"):
                layer, x = kind(channels, **options).eval(), torch.empty(1, channels, height, width)
                counted.append(count_macs(layer, x))
            closed.append(layer_macs(layer, (height, width)))
        rows.append({"layer": name, "counted": counted, "closed": closed})
        print(f"cost {name}: counted {counted}, closed form {closed}", flush=True)
    channels, height, width = sizes[-1]
    dense = rows[0]["counted"][-1] - height * width * channels * 256
    return {"sizes": [f"{h} × {w}, C = {c}" for c, h, w in sizes], "rows": rows, "without_output": dense}
