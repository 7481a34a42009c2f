"""How far a head prefers one class over its strongest rival, and which way that falls off."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Head = Callable[[Tensor], Tensor]  # (B, K, H, W) features to (B, C) logits

_ELEMENTS = 2**21  # features in one call of the head: 16 MB in float64
_ACTIVATIONS = 2**25  # numbers that a call of the head may hold: 256 MB in float64


class MeasuredHead:
    """A head that knows from its first call how much memory an image takes in it.

    Behind an early cut the layers may hold a hundred times as many numbers as the features are, and all of them where
    gradients are asked for.

    Args:
        head: G, from (B, K, H, W) to (B, C).

    Attributes:
        largest: numbers of the largest activation, an image; 0 before the first call.
        all: numbers of all activations, an image.

    Example:
        >>> head = MeasuredHead(lambda x: x.repeat(1, 5, 1, 1).relu().flatten(1).sum(1, keepdim=True))
        >>> _ = head(torch.ones(2, 3, 1, 1))
        >>> head.largest, head.all
        (15, 31)
    """

    def __init__(self, head: Head) -> None:
        self.largest = self.all = 0
        self._head = head

    def __call__(self, points: Tensor) -> Tensor:
        """Logits, and at the first time the measures."""
        if self.largest:
            return self._head(points)
        with _Activations() as seen:
            logits = self._head(points)
        self.largest, self.all = max(1, seen.largest // len(points)), max(1, seen.all // len(points))
        return logits

    def room(self, *, graph: bool) -> int:
        """How many images may go together; 1 as long as that is not known."""
        # Without a graph what goes into a layer, what comes out, and a kernel's working memory.
        return max(1, _ACTIVATIONS // (self.all if graph else 4 * self.largest)) if self.largest else 1


class _Activations(TorchDispatchMode):
    """Counts the numbers of the tensors that operators make; views and what is written in place are none."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.all = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self.largest = max(self.largest, tensor.numel())
                self.all += tensor.numel()
        return out


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
        head: G, from (B, K, H, W) to (B, C); points must not influence each other (evaluation mode). Of a
            :class:`MeasuredHead` no more points go together than its activations have room.
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
        for part in _parts(head, points, graph=True):
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
        for part in _parts(head, points, graph=False):
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
    size = _fitting(points)
    for first in range(0, len(points), size):
        yield slice(first, min(first + size, len(points)))


def _parts(head: Head, points: Tensor, *, graph: bool) -> Iterator[slice]:
    """As :func:`chunks`, and no more than a measured head has room for, which its first call tells."""
    first = 0
    while first < len(points):
        room = head.room(graph=graph) if isinstance(head, MeasuredHead) else len(points)
        size = min(_fitting(points), room)
        yield slice(first, min(first + size, len(points)))
        first += size


def _fitting(points: Tensor) -> int:
    return max(1, _ELEMENTS // max(1, points[0].numel())) if len(points) else 1
