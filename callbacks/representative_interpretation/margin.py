"""How far a head prefers one class over its strongest rival, and which way that falls off."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Head = Callable[[Tensor], Tensor]  # (B, K, H, W) features to (B, C) logits

_ELEMENTS = 2**21  # features in one call of the head: 16 MB in float64, and the layers behind them a few times that


class Margins(NamedTuple):
    """The margin g = z_c − z_j at Q points, with its gradient there.

    Args:
        value: g, (Q,).
        rival: j, (Q,) int64.
        gradient: w = ∂g/∂α, (Q, K, H, W).
        logits: z, (Q, C).
    """

    value: Tensor
    rival: Tensor
    gradient: Tensor
    logits: Tensor


def differentiate(head: Head, points: Tensor, *, label: int, rival: Tensor | None = None) -> Margins:
    """Margins and their gradients; one backward a chunk of points, towards the points alone.

    Args:
        head: G, from (B, K, H, W) to (B, C); points must not influence each other (evaluation mode).
        points: (Q, K, H, W).
        label: c.
        rival: j of each point, (Q,); ``None``: the class with the highest logit beside c.

    Example:
        >>> margins = differentiate(lambda x: x.flatten(1) ** 2, torch.tensor([[3.0, 1.0, 2.0]]), label=0)
        >>> margins.value.item(), margins.rival.item(), margins.gradient.tolist()
        (5.0, 2, [[6.0, 0.0, -4.0]])
    """
    if len(points) == 0:
        none = points.new_zeros(0, dtype=torch.long)
        return Margins(points.new_zeros(0), none, points.clone(), points.new_zeros(0, 0))
    columns = []
    with torch.inference_mode(False), torch.enable_grad():
        gradient = torch.empty_like(points)
        for part in chunks(points):
            leaf = points[part].detach().clone().requires_grad_()
            logits = head(leaf * 1)  # a ReLU in place may come first, and refuses a leaf
            chosen = strongest_rival(logits.detach(), label) if rival is None else rival[part]
            value = logits[:, label] - logits.gather(1, chosen[:, None])[:, 0]
            (gradient[part],) = torch.autograd.grad(value.sum(), leaf)
            columns.append((value.detach(), chosen, logits.detach()))
    value, chosen, logits = (torch.cat(column) for column in zip(*columns, strict=True))
    return Margins(value, chosen, gradient, logits)


def margin(head: Head, points: Tensor, *, label: int) -> Tensor:
    """z_c minus the highest other logit, (Q,): not negative where the head chooses ``label``.

    Example:
        >>> margin(lambda x: x.flatten(1), torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), label=0).tolist()
        [1.0, -2.0]
    """
    values = []
    with torch.no_grad():
        for part in chunks(points):
            logits = head(points[part] * 1)  # as above, and what a ReLU in place does must not reach the caller
            rivals = strongest_rival(logits, label)
            values.append(logits[:, label] - logits.gather(1, rivals[:, None])[:, 0])
    return torch.cat(values)


def strongest_rival(logits: Tensor, label: int) -> Tensor:
    """The class with the highest logit beside ``label``, (B,).

    Example:
        >>> strongest_rival(torch.tensor([[3.0, 1.0, 2.0], [0.0, 2.0, 1.0]]), label=0).tolist()
        [2, 1]
    """
    others = logits.clone()
    others[:, label] = -torch.inf
    return others.argmax(dim=1)


def chunks(points: Tensor) -> Iterator[slice]:
    """Slices of the points, few enough at a time for the memory that a head takes.

    Example:
        >>> [part.stop - part.start for part in chunks(torch.empty(5, 2**20))]
        [2, 2, 1]
    """
    size = max(1, _ELEMENTS // max(1, points[0].numel())) if len(points) else 1
    for first in range(0, len(points), size):
        yield slice(first, min(first + size, len(points)))
