"""Attention of every pixel over a few sampled nodes: the one function behind all of the layer's backends."""

from typing import Literal

from torch import Tensor

from fulgurite.models.repgraph.bag import attend_by_bag
from fulgurite.models.repgraph.grid_sample import attend_by_grid_sample

Backend = Literal["auto", "bag", "triton", "grid_sample"]
BACKENDS: tuple[Backend, ...] = ("auto", "bag", "triton", "grid_sample")


def attend_to_nodes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    *,
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Let every query attend to S features sampled at real-valued positions.

    .. math:: y_i = \sum_s a_{is} v(p_{is}), \qquad a_i = \mathrm{softmax}_s(\langle q_i, k(p_{is})\rangle/\sqrt{D}),

    where :math:`k(p)` is bilinear interpolation, as ``grid_sample(align_corners=False, padding_mode="border")`` does
    it. Global nodes join each query's softmax.

    Args:
        query: (B, N, G, D), a row for each of N queries and G groups.
        key: (B, H · W, G, D).
        value: likewise; the same tensor as ``key`` where they are tied, which is then sampled once.
        positions: (B, N, G, S, 2) positions (y, x) in pixels within the map, float32 or float64.
        size: (H, W).
        global_key: (B, R, G, D) nodes that every query sees.
        global_value: likewise.
        backend: ``bag``, ``triton`` or ``grid_sample``; ``auto`` chooses.

    Returns:
        (B, N, G, D).

    Example:
        >>> import torch
        >>> rows = torch.rand(1, 6, 1, 4)
        >>> here = torch.tensor([[y, x] for y in (0.0, 1.0) for x in (0.0, 1.0, 2.0)]).view(1, 6, 1, 1, 2)
        >>> torch.allclose(attend_to_nodes(rows, rows, rows, here, (2, 3)), rows)
        True
    """
    if backend == "grid_sample":
        return attend_by_grid_sample(query, key, value, positions, size, global_key, global_value)
    return attend_by_bag(query, key, value, positions, size, global_key, global_value)
