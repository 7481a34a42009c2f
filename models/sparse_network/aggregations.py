"""How a node joins the messages m_e = w_e·V[src e] of its in-edges into one number a.

Every kernel mirrors :data:`AGGREGATIONS`; its rows, with the ids that kernels branch on, are::

    id  name     value of k messages                       derivative ∂a/∂m_e              of no message
     0  sum      Σ m                                       1                               0
     1  mean     Σ m / k                                   1/k                             0
     2  product  Π m                                       product of the *other* m's      1
     3  max      largest m                                 1 at the first largest, else 0  0
     4  min      smallest m                                1 at the first smallest, else 0 0
     5  maxabs   the m, signed, whose |m| is largest       1 at the first such, else 0     0
     6  median   the middle one; of an even number the     1 at the middle one, ½ at each  0
                 mean of the two middle ones               of two

Messages stand in edge order, which "first" refers to; the median's sort is stable, so that ties fall in edge order too.
The product's derivative is found without a division, and is right where messages are 0. A NaN among the messages makes
the result NaN. These are neat-python's values; its derivatives do not exist.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fulgurite.plugins.registry import nearest


@dataclass(frozen=True)
class Aggregation:
    """One aggregation function.

    Args:
        id: the number that kernels know it by; never changed once given.
        name: what users call it.
        function: messages (k, B) → (B,), k may be 0; differentiable by autograd, by the rules of this module.

    Example:
        >>> import torch
        >>> AGGREGATIONS["maxabs"].function(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
        tensor([-3.,  2.])
    """

    id: int
    name: str
    function: Callable[[Tensor], Tensor]


def _mean(messages: Tensor) -> Tensor:
    return messages.sum(0) / max(len(messages), 1)


def _pick(messages: Tensor, winner: Tensor) -> Tensor:
    # Indexing rather than amax, which would share the gradient among ties.
    return messages.gather(0, winner[None])[0]


def _max(messages: Tensor) -> Tensor:
    return _pick(messages, messages.argmax(0)) if len(messages) else messages.sum(0)


def _min(messages: Tensor) -> Tensor:
    return _pick(messages, messages.argmin(0)) if len(messages) else messages.sum(0)


def _maxabs(messages: Tensor) -> Tensor:
    return _pick(messages, messages.abs().argmax(0)) if len(messages) else messages.sum(0)


def _median(messages: Tensor) -> Tensor:
    if not len(messages):
        return messages.sum(0)
    ranks = messages.argsort(dim=0, stable=True)
    middle = _pick(messages, ranks[len(messages) // 2])
    if len(messages) % 2 == 0:
        middle = (_pick(messages, ranks[len(messages) // 2 - 1]) + middle) / 2
    return torch.where(messages.isnan().any(0), torch.nan, middle)


# The place in the list is the id, so new ones go to the end.
_TABLE: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("sum", lambda messages: messages.sum(0)),
    ("mean", _mean),
    ("product", lambda messages: messages.prod(0)),
    ("max", _max),
    ("min", _min),
    ("maxabs", _maxabs),
    ("median", _median),
]

AGGREGATIONS: dict[str, Aggregation] = {
    name: Aggregation(id=number, name=name, function=function) for number, (name, function) in enumerate(_TABLE)
}


def aggregation_id(name: str) -> int:
    """The id of an aggregation function.

    Args:
        name: one of :data:`AGGREGATIONS`.

    Raises:
        ValueError: there is none of that name; the nearest ones are told.

    Example:
        >>> aggregation_id("sum"), aggregation_id("median")
        (0, 6)
    """
    if name not in AGGREGATIONS:
        raise ValueError(f"no aggregation {name!r}{nearest(str(name), AGGREGATIONS)}")
    return AGGREGATIONS[name].id
