"""What a RepGraph layer's nodes do on a map, in a few numbers that are cheap to log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fulgurite.models.repgraph.positions import clamp_to_map
from fulgurite.models.repgraph.sampling_shares import node_shares

if TYPE_CHECKING:
    from fulgurite.models.repgraph.layer import RepGraph2d

# Queries that are looked at; more would cost time and change no number in its third digit.
_QUERIES = 4096


@torch.no_grad()
def node_statistics(layer: RepGraph2d, x: Tensor) -> dict[str, float]:
    """Say how far a layer's nodes reach, how many are stopped by the border, and how evenly they are used.

    Args:
        layer: the layer; its mode is left as it is, and no running average is touched.
        x: (B, C, H, W), what the layer gets; where pixels are many, evenly spread ones are looked at.

    Returns:
        ``reach_median`` and ``reach_p90``: distance from a query to its nodes in pixels; ``reach_share``: the median as
        a share of the map's diagonal; ``clamped_share``: nodes that would lie outside of the map; ``entropy``: mean
        entropy of the sampled nodes' shares over that of equal shares, 1 where all are used alike, 0 where one is.

    Raises:
        ValueError: an empty batch, or a map of other channels.

    Example:
        >>> from fulgurite.models.repgraph.layer import RepGraph2d
        >>> found = node_statistics(RepGraph2d(8, init="zero"), torch.rand(1, 8, 4, 4))
        >>> found["reach_median"], found["clamped_share"], round(found["entropy"], 3)
        (0.0, 0.0, 1.0)
    """
    if x.numel() == 0:
        raise ValueError(f"got a map of shape {tuple(x.shape)}; want at least one image and pixel")
    query, key, _ = layer.embeddings(x)
    height, width = query.shape[2:]
    places = layer.places(query)
    take = torch.linspace(0, height * width - 1, min(height * width, max(1, _QUERIES // len(x)))).long()
    take = take.to(x.device)
    places = places[:, take]
    positions = clamp_to_map(places, (height, width))
    own = torch.stack([take // width, take % width], dim=-1).view(1, -1, 1, 1, 2).to(positions.dtype)
    reach = (positions - own).norm(dim=-1).flatten()
    shares = node_shares(query, key, positions, take, layer.groups)
    entropy = torch.special.entr(shares).sum(dim=-1).mean() / math.log(max(2, layer.num_nodes))
    return {
        "reach_median": reach.median().item(),
        "reach_p90": reach.float().quantile(0.9).item(),
        "reach_share": reach.median().item() / math.hypot(height, width),
        "clamped_share": (places != positions).any(dim=-1).float().mean().item(),
        "entropy": entropy.item(),
    }
