"""Layered networks to start from: a dense one to prune, a sparse one drawn at random, one of RadiX-Net's topology."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.radix import radix_net

Distribution = Literal["erdos_renyi", "uniform"]


class DenseMLP(nn.Sequential):
    """A dense multilayer perceptron: linear layers with ReLU between them, to be pruned.

    Args:
        layer_sizes: from inputs to outputs.

    Shape:
        (B, first size) → (B, last size).

    Raises:
        ValueError: fewer than two sizes, or one below 1.

    Example:
        >>> DenseMLP([4, 3, 2])(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    def __init__(self, layer_sizes: list[int]) -> None:
        _check_sizes(layer_sizes)
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(layer_sizes):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        super().__init__(*layers[:-1])


class SparseMLP(SparseNetwork):
    r"""A multilayer perceptron that is sparse from the start, its edges drawn at random.

    With ``erdos_renyi``, after D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive
    sparse connectivity", `doi:10.1038/s41467-018-04316-3 <https://doi.org/10.1038/s41467-018-04316-3>`__, the density
    of the layer from :math:`n` to :math:`m` nodes is

    .. math:: d = ε \frac{n + m}{n m},

    with ε such that all layers together have the density asked for; small layers are denser, none over 1.

    Args:
        layer_sizes: from inputs to outputs.
        density: share of the dense network's edges, in (0, 1].
        distribution: ``erdos_renyi``, or ``uniform``: the same density everywhere.
        seed: of the edges; weights are drawn from torch's global generator.
        backend: see :class:`~fulgurite.models.sparse_network.SparseNetwork`.

    Shape:
        (…, first size) → (…, last size); hidden nodes are ReLU, outputs linear.

    Raises:
        ValueError: sizes or density out of range.

    Example:
        >>> network = SparseMLP([100, 50, 10], density=0.1)
        >>> network.num_edges, network(torch.zeros(3, 100)).shape
        (550, torch.Size([3, 10]))
    """

    def __init__(
        self,
        layer_sizes: list[int],
        *,
        density: float = 0.05,
        distribution: Distribution = "erdos_renyi",
        seed: int = 0,
        backend: str = "auto",
    ) -> None:
        _check_sizes(layer_sizes)
        starts = [sum(layer_sizes[:layer]) for layer in range(len(layer_sizes) + 1)]
        super().__init__(
            random_layers(layer_sizes, density=density, distribution=distribution, seed=seed),
            num_inputs=layer_sizes[0],
            outputs=range(starts[-2], starts[-1]),
            num_nodes=starts[-1],
            activation=dict.fromkeys(range(starts[-2], starts[-1]), "identity"),
            backend=backend,
        )


class RadixClassifier(SparseNetwork):
    """RadiX-Net's topology with weights to be learned, and a dense read-out of a few classes.

    The topology of the GraphChallenge (:func:`~fulgurite.models.sparse_network.radix_net`): 32 edges into and out of
    every node; with ``layers`` of 6 at width 1024, one block, every input reaches every node by equally many paths.

    Args:
        neurons: width: 1024, 4096, 16384 or 65536.
        layers: sparse layers before the read-out.
        num_classes: outputs.
        seed: of the topology; weights are drawn from torch's global generator.
        backend: see :class:`~fulgurite.models.sparse_network.SparseNetwork`.

    Shape:
        (…, neurons) → (…, num_classes).

    Example:
        >>> network = RadixClassifier(1024, layers=2)
        >>> network.num_edges == 2 * 32 * 1024 + 10 * 1024, network(torch.zeros(1, 1024)).shape
        (True, torch.Size([1, 10]))
    """

    def __init__(
        self, neurons: int = 1024, *, layers: int = 6, num_classes: int = 10, seed: int = 0, backend: str = "auto"
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"got num_classes={num_classes}; want at least 1")
        radix = radix_net(neurons, layers, seed=seed)
        first = neurons * (layers + 1)
        outputs = torch.arange(first, first + num_classes)
        readout = torch.cartesian_prod(torch.arange(first - neurons, first), outputs)
        super().__init__(
            torch.cat([radix.edges.long(), readout]),
            num_inputs=neurons,
            outputs=outputs.tolist(),
            num_nodes=first + num_classes,
            activation=dict.fromkeys(outputs.tolist(), "identity"),
            backend=backend,
        )


def random_layers(layer_sizes: Sequence[int], *, density: float, distribution: Distribution, seed: int = 0) -> Tensor:
    """Draw the edges of a layered network at random.

    Args:
        layer_sizes: from inputs to outputs; nodes are numbered layer by layer.
        density: share of the dense network's edges over all layers, in (0, 1].
        distribution: how it is shared out, see :class:`SparseMLP`.
        seed: of a generator of its own.

    Returns:
        (E, 2) int64, rows (source, target), sorted.

    Raises:
        ValueError: sizes or density out of range.

    Example:
        >>> random_layers([2, 2], density=1, distribution="uniform").tolist()
        [[0, 2], [0, 3], [1, 2], [1, 3]]
    """
    _check_sizes(layer_sizes)
    if distribution not in ("erdos_renyi", "uniform"):
        raise ValueError(f"got distribution={distribution!r}; choose from erdos_renyi, uniform")
    if not 0 < density <= 1:
        raise ValueError(f"got density={density}; want more than 0 and at most 1")
    pairs = list(itertools.pairwise(layer_sizes))
    generator = torch.Generator().manual_seed(seed)
    start, found = 0, []
    for (before, after), count in zip(pairs, _layer_counts(pairs, density, distribution), strict=True):
        chosen = torch.randperm(before * after, generator=generator)[:count].sort().values
        found.append(torch.stack([start + chosen // after, start + before + chosen % after], dim=1))
        start += before
    return torch.cat(found)


def _layer_counts(pairs: Sequence[tuple[int, int]], density: float, distribution: Distribution) -> list[int]:
    places = [before * after for before, after in pairs]
    if distribution == "uniform":
        return [max(1, round(density * count)) for count in places]
    wanted = density * sum(places)
    full: set[int] = set()
    while True:  # a layer that would have to be denser than dense is full, and the others share what is left
        rest = wanted - sum(places[layer] for layer in full)
        open_layers = [layer for layer in range(len(pairs)) if layer not in full]
        scale = rest / sum(sum(pairs[layer]) for layer in open_layers) if open_layers else math.inf
        over = {layer for layer in open_layers if scale * sum(pairs[layer]) > places[layer]}
        if not over:
            break
        full |= over
    return [places[layer] if layer in full else max(1, round(scale * sum(pairs[layer]))) for layer in range(len(pairs))]


def _check_sizes(layer_sizes: Sequence[int]) -> None:
    if len(layer_sizes) < 2 or min(layer_sizes) < 1:
        raise ValueError(f"got layer_sizes={list(layer_sizes)}; want two sizes or more, each at least 1")
