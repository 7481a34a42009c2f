"""The softmax over sampled and global nodes, for the backends that are not fused."""

import torch
from torch import Tensor


def softmax_over_nodes(logits: Tensor, query: Tensor, global_key: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Give each query's shares of its sampled nodes (B, N, G, S), and of the global ones (B, N, G, R).

    Args:
        logits: (B, N, G, S) inner products of queries and sampled keys; the scale 1/√D is applied here.
        query: (B, N, G, D).
        global_key: (B, R, G, D), or ``None``.

    Example:
        >>> query = torch.zeros(1, 1, 1, 2)
        >>> softmax_over_nodes(torch.zeros(1, 1, 1, 3), query, torch.zeros(1, 1, 1, 2))[0].tolist()
        [[[[0.25, 0.25, 0.25]]]]
    """
    scale = query.shape[-1] ** -0.5
    if global_key is None:
        return (logits * scale).softmax(dim=-1), None
    far = torch.einsum("bngd,brgd->bngr", query, global_key).to(logits.dtype)
    shares = (torch.cat([logits, far], dim=-1) * scale).softmax(dim=-1)
    return shares[..., : logits.shape[-1]], shares[..., logits.shape[-1] :]


def add_global_nodes(out: Tensor, far: Tensor | None, global_value: Tensor | None) -> Tensor:
    """Add the global nodes' values (B, R, G, D), in their shares (B, N, G, R), to what the sampled ones gave.

    Example:
        >>> add_global_nodes(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 2)).tolist()
        [[[[0.5, 0.5]]]]
    """
    if far is None or global_value is None:
        return out
    return out + torch.einsum("bngr,brgd->bngd", far.to(global_value.dtype), global_value).to(out.dtype)
