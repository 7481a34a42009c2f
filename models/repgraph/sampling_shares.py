"""Which of its sampled nodes some pixels listen to; for pictures and statistics, not for training."""

import torch
from torch import Tensor

from fulgurite.models.repgraph.block import rows_of
from fulgurite.models.repgraph.grid_sample import sample_rows


def node_shares(query: Tensor, key: Tensor, positions: Tensor, take: Tensor, groups: int) -> Tensor:
    """Give the softmax over sampled nodes alone, (B, M, G, S), of M pixels.

    Args:
        query: (B, C', H, W).
        key: likewise.
        positions: (B, M, G, S, 2) within the map.
        take: (M,) the pixels, as y · W + x.
        groups: G.

    Example:
        >>> x = torch.ones(1, 2, 1, 3)
        >>> node_shares(x, x, torch.zeros(1, 1, 1, 4, 2), torch.tensor([2]), 1).tolist()
        [[[[0.25, 0.25, 0.25, 0.25]]]]
    """
    rows = rows_of(query, groups)[:, take].float()
    sampled = sample_rows(rows_of(key, groups).float(), positions.float(), (query.shape[2], query.shape[3]))
    return (torch.einsum("bngd,bngsd->bngs", rows, sampled) * rows.shape[-1] ** -0.5).softmax(dim=-1)
