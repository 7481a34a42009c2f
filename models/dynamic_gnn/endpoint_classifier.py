"""Classifies vertices, or pairs of them, by their embeddings, and keeps little for backward."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

Head = Literal["linear", "product"]

# Pairs whose embeddings are gathered at a time; 262,144 pairs of 64 channels are 128 MB in float32.
_CHUNK = 1 << 18


class EndpointClassifier(nn.Module):
    r"""A classifier on the embeddings of k vertices, linear, or with the product of two.

    .. math:: z = W [h_u \| h_v] + b \qquad \text{or} \qquad z = W [h_u \| h_v] + V (h_u \circ h_v) + b

    The linear one is applied as :math:`W_u h_u + W_v h_v + b`; it so gives every source the same order of targets,
    however well these are embedded. The product tells who belongs to whom.

    Where there are more targets than vertices (twenty pairs for each edge) each vertex is multiplied once: what is then
    gathered for each pair is C numbers wide, not k·F. Products are made in chunks and made again in backward, so that
    nothing k·F wide is kept for the pairs.

    Args:
        in_channels: F.
        ends: k.
        num_classes: C.
        head: ``linear``, or ``product`` for k = 2.

    Raises:
        ValueError: a product of other than two.

    Example:
        >>> head = EndpointClassifier(4, ends=2, num_classes=3, head="product")
        >>> head(torch.zeros(2, 5, 4), torch.tensor([0, 1]), torch.tensor([[0, 4], [3, 2]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_channels: int, *, ends: int, num_classes: int, head: Head = "linear") -> None:
        super().__init__()
        if head not in ("linear", "product"):
            raise ValueError(f"got head={head!r}; choose from linear, product")
        if head == "product" and ends != 2:
            raise ValueError(f"got head='product' for targets of {ends} vertices; it is for pairs, take 'linear'")
        self.ends = ends
        self.linear = nn.Linear(ends * in_channels, num_classes)
        self.product = nn.Linear(in_channels, num_classes, bias=False) if head == "product" else None

    @override
    def forward(self, embeddings: Tensor, step: Tensor, index: Tensor) -> Tensor:
        """Give the logits (M, C) of vertices ``index`` (k, M) at steps (M,) of embeddings (t, N, F)."""
        _, num_nodes, channels = embeddings.shape
        flat = embeddings.reshape(-1, channels)
        rows = step * num_nodes + index
        logits = self._linear(flat, rows)
        if self.product is None:
            return logits
        with torch.autocast(flat.device.type, enabled=False):
            weight = self.product.weight
            return logits + _PairProduct.apply(flat.to(weight.dtype), weight, *rows)

    def _linear(self, flat: Tensor, rows: Tensor) -> Tensor:
        # One matrix for each end: (k, C, F).
        weight = self.linear.weight.unflatten(1, (self.ends, flat.shape[1])).transpose(0, 1)
        if rows.shape[1] < len(flat):
            gathered = flat.index_select(0, rows.flatten()).view(*rows.shape, flat.shape[1])
            ends = torch.stack([functional.linear(h, w) for h, w in zip(gathered, weight, strict=True)])
        else:
            projected = functional.linear(flat, weight.flatten(0, 1)).view(-1, weight.shape[1])
            places = rows * self.ends + torch.arange(self.ends, device=rows.device)[:, None]
            ends = projected.index_select(0, places.flatten()).view(*rows.shape, weight.shape[1])
        return ends.sum(dim=0) + self.linear.bias


class _PairProduct(torch.autograd.Function):
    """``(flat[u] * flat[v]) @ weight.T`` that keeps its inputs only."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(flat, weight, u, v)
        logits = flat.new_empty(len(u), len(weight))
        for low in range(0, len(u), _CHUNK):
            part = slice(low, low + _CHUNK)
            torch.mm(flat[u[part]] * flat[v[part]], weight.T, out=logits[part])
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        flat, weight, u, v = ctx.saved_tensors
        of_flat, of_weight = torch.zeros_like(flat), torch.zeros_like(weight)
        for low in range(0, len(u), _CHUNK):
            part = slice(low, low + _CHUNK)
            ends_u, ends_v = flat[u[part]], flat[v[part]]
            of_weight += gradient[part].T @ (ends_u * ends_v)
            of_pair = gradient[part] @ weight
            of_flat.index_add_(0, u[part], of_pair * ends_v)
            of_flat.index_add_(0, v[part], of_pair * ends_u)
        return of_flat, of_weight, None, None
