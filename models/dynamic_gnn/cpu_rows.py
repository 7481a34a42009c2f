"""Vertices whose gates a wide recurrence computes at once, and the threads that walk over them."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from fulgurite.models.sparse_network.cpu import threads

# Gates that each thread computes at once: they stay in the second cache between a product and what follows it.
_NUMBERS = 2**18
# What a gate costs in a walk, in the units of threads.for_each.
_GATE_COST = 8


def runs(vertices: int, gates: int) -> list[tuple[int, int]]:
    """First vertex and end of each run that is carried through all steps before the next one.

    Args:
        vertices: n.
        gates: of a vertex.

    Example:
        >>> len(runs(10**6, 2**18)) * torch.get_num_threads() >= 10**6
        True
    """
    length = max(1, torch.get_num_threads() * _NUMBERS // gates)
    return [(start, min(start + length, vertices)) for start in range(0, vertices, length)]


def by_rows(function: Callable[..., None], *tensors: Tensor) -> None:
    """Call a kernel with arrays, the first row and the end of rows, on as many threads as torch is set to use.

    Args:
        function: the kernel.
        tensors: what it is given as arrays; the first has the rows and as many columns as there are gates.

    Example:
        >>> by_rows(lambda x, start, stop: x[start:stop].fill(1), ones := torch.zeros(3, 2))
        >>> ones.sum().item()
        6.0
    """
    arrays = [tensor.numpy() for tensor in tensors]
    rows, parts = len(tensors[0]), torch.get_num_threads()
    cuts = [rows * part // parts for part in range(parts + 1)]
    work = _GATE_COST * tensors[0].numel()
    threads.for_each(lambda start, stop: function(*arrays, start, stop), list(itertools.pairwise(cuts)), work=work)
