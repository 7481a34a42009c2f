"""The softmax over sampled and global nodes, for the backends that are not fused."""

import torch
from torch import Tensor
from torch.nn import functional


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


def global_cells(x: Tensor, side: int) -> Tensor:
    """Pool a map (B, C, H, W) to side × side averages, as ``adaptive_avg_pool2d`` does.

    Where a graph is exported, its cells would be fixed to the example's size, and on CUDA its backward pass adds in any
    order: there two products with the cells' rows and columns do the same.

    Example:
        >>> global_cells(torch.arange(6.0).view(1, 1, 2, 3), 2).tolist()
        [[[[0.5, 1.5], [3.5, 4.5]]]]
    """
    ordered = x.is_cuda and torch.are_deterministic_algorithms_enabled()
    if not (ordered or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
        return functional.adaptive_avg_pool2d(x, side)
    return average_cells(x, side)


def average_cells(x: Tensor, side: int) -> Tensor:
    """Do :func:`global_cells` by matrix products, for any size that is known only when it runs."""
    rows, columns = (_cells(x, length, side) for length in (x.shape[2], x.shape[3]))
    return torch.einsum("ih,bchw,jw->bcij", rows, x, columns)


def _cells(like: Tensor, length: int, side: int) -> Tensor:
    """Give each cell's average over 0 … length − 1, as a row of shares (side, length)."""
    cell = torch.arange(side, device=like.device).unsqueeze(1)
    first, end = cell * length // side, ((cell + 1) * length + side - 1) // side
    place = torch.arange(length, device=like.device)
    inside = (place >= first) & (place < end)
    return (inside / (end - first)).to(like.dtype)
