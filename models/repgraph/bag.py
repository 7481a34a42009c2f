"""Sampled attention by ``embedding_bag``: a bilinear sample is a weighted sum of four rows of a table."""

import torch
from torch import Tensor

from fulgurite.models.repgraph.positions import corners
from fulgurite.models.repgraph.scores import add_global_nodes, softmax_over_nodes
from fulgurite.models.repgraph.taps import tap_dots, tap_sums


def attend_by_bag(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    size: tuple[int, int],
    global_key: Tensor | None = None,
    global_value: Tensor | None = None,
) -> Tensor:
    """Do :func:`~fulgurite.models.repgraph.attention.attend_to_nodes` exactly, and never hold a sample.

    ⟨q, Σ_j w_j k_j⟩ = Σ_j w_j ⟨q, k_j⟩ over a sample's four corners j, so that scores need the corners' inner products
    only; and a softmax of samples is one weighted sum of 4 S rows. Memory is O(N · (C' + S)), not O(N · S · C').
    """
    batch, pixels, groups, depth = key.shape
    _, queries, _, nodes, _ = positions.shape
    # Half types are summed in float32, as matrix products in hardware are.
    kind = torch.promote_types(query.dtype, torch.float32)
    rows, weights = corners(positions, size)  # B, N, G, S, 4
    if batch * pixels * groups < 2**31:
        rows = rows.int()
    first = torch.arange(batch, device=rows.device, dtype=rows.dtype).view(-1, 1, 1, 1, 1) * pixels
    group = torch.arange(groups, device=rows.device, dtype=rows.dtype).view(1, 1, -1, 1, 1)
    taps = ((first + rows) * groups + group).reshape(-1, 4 * nodes)
    weights = weights.to(kind)
    keys = key.reshape(-1, depth).to(kind)
    left = keys if query is key else query.reshape(-1, depth).to(kind)
    values = keys if value is key else value.reshape(-1, depth).to(kind)
    logits = (tap_dots(left, keys, taps).view(weights.shape) * weights).sum(dim=-1)
    local, far = softmax_over_nodes(logits, query, global_key)  # B, N, G, S
    shares = local.unsqueeze(-1) * weights
    out = tap_sums(values, taps, shares.reshape(-1, 4 * nodes)).view(batch, queries, groups, depth)
    return add_global_nodes(out, far, global_value).to(query.dtype)
