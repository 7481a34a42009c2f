"""Sampled attention by torch's ``grid_sample``: the reference that the other backends are held against."""

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.models.repgraph.scores import add_global_nodes, softmax_over_nodes


def attend_by_grid_sample(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
) -> Tensor:
    """Do :func:`~fulgurite.models.repgraph.attention.attend_to_nodes` as it is written down; can be exported."""
    sampled = sample_rows(key, positions, size)
    local, far = softmax_over_nodes(torch.einsum("bngd,bngsd->bngs", query, sampled), query, global_key)
    values = sampled if value is key else sample_rows(value, positions, size)
    out = torch.einsum("bngs,bngsd->bngd", local.to(values.dtype), values)
    return add_global_nodes(out, far, global_value).to(query.dtype)


def sample_rows(rows: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H · W, G, D) at (B, N, G, S, 2) → (B, N, G, S, D)."""
    height, width = size
    batch, _, groups, depth = rows.shape
    maps = rows.permute(0, 2, 3, 1).reshape(batch * groups, depth, height, width)
    y, x = positions.unbind(-1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    # A grid in halves would name every other column of a wide map; the map is raised to it instead.
    kind = torch.promote_types(maps.dtype, torch.float32)
    grid = grid.transpose(1, 2).flatten(0, 1).to(kind)
    maps = maps.to(kind)
    found = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return (
        found.view(batch, groups, depth, positions.shape[1], positions.shape[3]).permute(0, 3, 1, 4, 2).to(rows.dtype)
    )
