"""Where the edges of a network may go: sets of places that keep it acyclic, too many to be written down."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fulgurite.models.sparse_network.network import SparseNetwork

Rule = Literal["layers", "acyclic"]


@dataclass(frozen=True)
class Places:
    """A set of (source, target) pairs in which every target's sources are consecutive in one order of the nodes.

    Attributes:
        order: (N,) user ids, sorted by rank.
        position: (N,) where in ``order`` each user id is.
        targets: (T,) user ids.
        low: (T,) first position of each target's sources.
        high: (T,) position after its last one.

    Example:
        >>> two = torch.tensor([0, 1])
        >>> places = Places(torch.arange(4), torch.arange(4), torch.tensor([2, 3]), 0 * two, 2 + 0 * two)
        >>> places.total, places.pairs(torch.arange(4)).tolist()
        (4, [[0, 2], [1, 2], [0, 3], [1, 3]])
    """

    order: Tensor
    position: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor

    @property
    def total(self) -> int:
        """How many places there are."""
        return int((self.high - self.low).sum())

    def numbers(self, edges: Tensor) -> Tensor:
        """Number each of the edges (E, 2) by its place, from 0; −1 for an edge outside, (E,)."""
        row = torch.full_like(self.order, -1)
        row[self.targets] = torch.arange(len(self.targets))
        row = row[edges[:, 1]]
        place = self.position[edges[:, 0]]
        inside = (row >= 0) & (place >= self.low[row]) & (place < self.high[row])
        return torch.where(inside, self._first[row] + place - self.low[row], -1)

    def pairs(self, numbers: Tensor) -> Tensor:
        """The (source, target) user ids of numbered places, (M, 2)."""
        row = torch.searchsorted(self._first, numbers, right=True) - 1
        return torch.stack([self.order[self.low[row] + numbers - self._first[row]], self.targets[row]], dim=1)

    def free(self, edges: Tensor, *, limit: int, generator: torch.Generator) -> Tensor:
        """Places that no edge takes, in random order.

        Args:
            edges: (E, 2) the present edges; those outside do not matter.
            limit: give a random sample of about so many at most; all of them where there are fewer.
            generator: on the CPU.

        Returns:
            (M, 2) user ids, each pair once.
        """
        total, taken = self.total, self.numbers(edges)
        taken = taken[taken >= 0]
        if total - len(taken) <= limit or total <= 4 * limit:
            free = torch.ones(total, dtype=torch.bool)
            free[taken] = False
            numbers = torch.nonzero(free).flatten()
            numbers = numbers[torch.randperm(len(numbers), generator=generator)[:limit]]
        else:
            # So few of so many that the taken ones and the doubles are worth no second draw.
            drawn = torch.randint(total, (limit,), generator=generator).unique()
            numbers = drawn[~torch.isin(drawn, taken)]
            numbers = numbers[torch.randperm(len(numbers), generator=generator)]
        return self.pairs(numbers)

    @property
    def _first(self) -> Tensor:
        sizes = self.high - self.low
        return sizes.cumsum(0) - sizes


def node_ranks(network: SparseNetwork) -> Tensor:
    """Rank of each node by user id, (N,): its level, the longest path from the inputs.

    A node that nothing feeds, as pruning leaves behind, counts as a member of the layer before the first one that it
    feeds, rather than of the first layer of all. Every edge goes from a lower rank to a higher one; a set of edges for
    which this stays true has no cycle.

    Raises:
        ValueError: a network with ``steps``, whose edges may form cycles.

    Example:
        >>> node_ranks(SparseNetwork([[0, 1], [1, 2], [3, 2]], num_inputs=1, outputs=[2])).tolist()
        [0, 1, 2, 1]
    """
    if getattr(network, "steps", None) is not None:
        raise ValueError(
            f"got a network unrolled over steps={network.steps}; edges are only dropped and grown where there are no "
            "cycles (steps=None)"
        )
    topology, edges = network.topology, network.edges.cpu()
    rank = torch.empty(network.num_nodes, dtype=torch.int64)
    rank[topology.node_ids.cpu()] = topology.level.cpu().long()
    fed = torch.zeros(network.num_nodes, dtype=torch.bool)
    fed[: network.num_inputs] = True
    fed[edges[:, 1]] = True
    none = torch.iinfo(torch.int64).max
    next_rank = torch.full_like(rank, none).scatter_reduce(0, edges[:, 0], rank[edges[:, 1]], "amin")
    moves = ~fed & (next_rank < none)
    rank[moves] = next_rank[moves] - 1
    return rank


def find_places(network: SparseNetwork, rule: Rule, ranks: Tensor | None = None) -> list[Places]:
    """Find where edges of a network may lie.

    Only nodes that sum take new edges: an edge of weight 0 into another aggregation would change the network.

    Args:
        network: without ``steps``.
        rule: ``layers``: one set for each pair of ranks between which there are edges now: the weight matrices of a
            layered network. ``acyclic``: one set of all pairs from a lower to a higher rank, skips included.
        ranks: (N,) of the nodes, as :func:`node_ranks` gave them earlier; ``None``: as they are now.

    Raises:
        ValueError: an unknown rule, or a network with ``steps``.

    Example:
        >>> network = SparseNetwork([[0, 2], [1, 3], [2, 4]], num_inputs=2, outputs=[4])
        >>> [places.total for places in find_places(network, "layers")]
        [4, 2]
        >>> [places.total for places in find_places(network, "acyclic")]
        [8]
    """
    if rule not in ("layers", "acyclic"):
        raise ValueError(f"got the rule {rule!r} for places; choose from layers, acyclic")
    ranks = node_ranks(network) if ranks is None else ranks
    order = torch.argsort(ranks, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order))
    starts = torch.searchsorted(ranks[order], torch.arange(int(ranks.max()) + 2))
    summing = summing_nodes(network)
    if rule == "acyclic":
        targets = order[network.num_inputs :]
        targets = targets[summing[targets]]
        return [Places(order, position, targets, torch.zeros_like(targets), starts[ranks[targets]])]
    edges = network.edges.cpu()
    edges = edges[summing[edges[:, 1]]]
    found = []
    for before, after in torch.stack([ranks[edges[:, 0]], ranks[edges[:, 1]]], dim=1).unique(dim=0).tolist():
        targets = order[starts[after] : starts[after + 1]]
        targets = targets[summing[targets]]
        low, high = (torch.full_like(targets, int(starts[rank])) for rank in (before, before + 1))
        found.append(Places(order, position, targets, low, high))
    return found


def summing_nodes(network: SparseNetwork) -> Tensor:
    """Whether each node, by user id, sums what enters it, (N,) bool; inputs do not."""
    topology = network.topology
    summing = torch.zeros(network.num_nodes, dtype=torch.bool)
    summing[topology.node_ids.cpu()[network.num_inputs :]] = topology.agg_id.cpu() == 0
    return summing
