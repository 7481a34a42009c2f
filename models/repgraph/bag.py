"""Sampled attention by ``embedding_bag``: a bilinear sample is a weighted sum of four rows of a table."""

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.models.repgraph.positions import corners
from fulgurite.models.repgraph.scores import softmax_over_nodes


def attend_by_bag(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
) -> Tensor:
    """Do :func:`~fulgurite.models.repgraph.attention.attend_to_nodes` exactly, and without atomics on the CPU."""
    batch, pixels, groups, depth = key.shape
    nodes = positions.shape[3]
    rows, weights = corners(positions, size)  # B, N, G, S, 4
    first = torch.arange(batch, device=key.device).view(-1, 1, 1, 1, 1) * pixels
    group = torch.arange(groups, device=key.device).view(1, 1, -1, 1, 1)
    rows = (first + rows) * groups + group
    sampled = functional.embedding_bag(
        rows.view(-1, 4), key.reshape(-1, depth), mode="sum", per_sample_weights=weights.to(key.dtype).view(-1, 4)
    ).view(*query.shape[:3], nodes, depth)
    local, far = softmax_over_nodes(query, sampled, global_key)  # B, N, G, S
    if value is key:
        out = torch.einsum("bngs,bngsd->bngd", local, sampled)
    else:
        shares = (local.to(weights.dtype).unsqueeze(-1) * weights).to(value.dtype)
        out = functional.embedding_bag(
            rows.view(-1, 4 * nodes),
            value.reshape(-1, depth),
            mode="sum",
            per_sample_weights=shares.view(-1, 4 * nodes),
        ).view(query.shape)
    if far is not None:
        assert global_value is not None
        out = out + torch.einsum("bngr,brgd->bngd", far, global_value)
    return out
