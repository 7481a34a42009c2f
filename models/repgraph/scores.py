"""The softmax over sampled and global nodes, for the backends that keep the samples."""

import torch
from torch import Tensor


def softmax_over_nodes(query: Tensor, sampled: Tensor, global_key: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Give each query's shares of its sampled nodes (B, N, G, S), and of the global ones (B, N, G, R).

    Args:
        query: (B, N, G, D).
        sampled: (B, N, G, S, D) keys at the sampled positions.
        global_key: (B, R, G, D), or ``None``.

    Example:
        >>> softmax_over_nodes(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 3, 2), torch.zeros(1, 1, 1, 2))[0].tolist()
        [[[[0.25, 0.25, 0.25]]]]
    """
    scale = query.shape[-1] ** -0.5
    logits = torch.einsum("bngd,bngsd->bngs", query, sampled)
    if global_key is None:
        return (logits * scale).softmax(dim=-1), None
    far = torch.einsum("bngd,brgd->bngr", query, global_key)
    shares = (torch.cat([logits, far], dim=-1) * scale).softmax(dim=-1)
    return shares.split([sampled.shape[3], far.shape[-1]], dim=-1)  # type: ignore[return-value]
