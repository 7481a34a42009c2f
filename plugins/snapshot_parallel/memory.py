"""Bytes that a rank will need, found by running its shard in small; and the fewest blocks with which they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from torch import nn

from fulgurite.plugins.snapshot_parallel.exchange import HaloMode
from fulgurite.plugins.snapshot_parallel.partitioning import Balance, Partition
from fulgurite.plugins.snapshot_parallel.replay import Call, Usage, in_small, run_once
from fulgurite.plugins.snapshot_parallel.shard import Collectives
from fulgurite.plugins.snapshot_parallel.statistics import Statistics

# Vertices of each rank in the smaller of two runs in small. Below, what does not grow with N weighs too much, and an
# LSTM of 12 or more channels takes torch's kernel for few vertices, which keeps several times as much.
_LEAST_NODES = 704
# How many blocks are looked at: finer steps would hardly change what fits.
_BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

_TURNED = 1.5  # once so much more is needed than with fewer blocks, still more blocks will not help


@dataclass(frozen=True)
class Coefficients:
    """Bytes of a rank's shard as a line over the number of vertices: measured at two sizes, exact in between.

    Everything that a shard holds grows by the vertex (entries, too, at a given number of entries a vertex), but for
    what belongs to the weights. Time is not taken apart: windows, carries and the number of blocks make bytes bend
    over T, so the runs in small have the plan's own T, blocks and boundaries.

    Args:
        per_vertex: kind → bytes for each of the N vertices.
        fixed: kind → bytes that do not grow with N.
        calls: the collectives of a step, as they were recorded.
    """

    per_vertex: Mapping[str, float]
    fixed: Mapping[str, float]
    calls: tuple[Call, ...] = ()

    @classmethod
    def through(cls, small: Usage, large: Usage) -> Self:
        """The line through two runs with different numbers of vertices, or through one, flat."""
        first, second = small.bytes, large.bytes
        distance = large.nodes - small.nodes
        slopes = {kind: (second[kind] - first[kind]) / distance if distance else 0.0 for kind in first}
        fixed = {kind: second[kind] - slopes[kind] * large.nodes for kind in first}
        return cls(slopes, fixed, large.calls)

    def at(self, nodes: int) -> dict[str, int]:
        """Bytes by kind for so many vertices."""
        return {kind: max(0, round(self.fixed[kind] + self.per_vertex[kind] * nodes)) for kind in self.fixed}


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank needs at the peak of a step, by what they hold.

    Args:
        rank: p.
        parameters: weights, their gradients, and the optimizer's state.
        topology: graphs of the rank's snapshots, resident, transposes included where they differ.
        features: its input features.
        activations: the most that forward and backward of a block hold beside the rest, embeddings and their gradient
            included.
        carries: what is handed from block to block, and results that are kept for the next step.
        saved: outputs of collectives that are kept for the second computation.
    """

    rank: int
    parameters: int
    topology: int
    features: int
    activations: int
    carries: int
    saved: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.topology + self.features + self.activations + self.carries + self.saved

    @property
    def working(self) -> int:
        """What a step allocates and lets go: activations, carries and saved collectives."""
        return self.activations + self.carries + self.saved


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the ranks that were looked at, for one choice of blocks and collectives.

    Args:
        ranks: P.
        blocks: nb.
        collectives: "none": no checkpoints; "save" and "resend" as the strategy has them.
        per_rank: the ranks that own most snapshots and most entries, at least.
        calls: rank → its collectives in a step.
        partition: who owns what.
    """

    ranks: int
    blocks: int
    collectives: Collectives
    per_rank: tuple[RankMemory, ...]
    calls: Mapping[int, tuple[Call, ...]] = field(default_factory=dict, repr=False)
    partition: Partition | None = field(default=None, repr=False)

    @property
    def worst(self) -> RankMemory:
        """The rank that needs most."""
        return max(self.per_rank, key=lambda memory: memory.total)

    @property
    def total(self) -> int:
        """Bytes of the rank that needs most."""
        return self.worst.total

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "ranks": self.ranks,
            "blocks": self.blocks,
            "collectives": self.collectives,
            "total": self.total,
            "per_rank": [asdict(memory) | {"total": memory.total} for memory in self.per_rank],
        }


def probe(
    network: nn.Module,
    statistics: Statistics,
    part: Partition,
    rank: int,
    *,
    collectives: Collectives,
    halo: HaloMode = "auto",
) -> Coefficients:
    """Run a rank's shard in small, forward and backward, with two numbers of vertices, and count bytes.

    Any network with ``coupling``, ``initial_carry`` and ``forward`` will do; what it holds is counted, not known. It
    runs on a copy, on the network's own device; random state is left as it was.

    Args:
        network: what a shard runs.
        statistics: of the timeline.
        part: who owns what of it.
        rank: p.
        collectives: "none" for no checkpoints.
        halo: as the strategy's option.
    """
    small = part.ranks * _LEAST_NODES
    if statistics.nodes <= 2 * small:
        usage = run_once(network, in_small(statistics, part, rank, statistics.nodes), collectives, halo=halo)
        return Coefficients.through(usage, usage)
    runs = (
        run_once(network, in_small(statistics, part, rank, nodes), collectives, halo=halo)
        for nodes in (small, 2 * small)
    )
    return Coefficients.through(*runs)


def predict(
    network: nn.Module,
    statistics: Statistics,
    *,
    ranks: int = 1,
    blocks: int = 1,
    collectives: Collectives = "none",
    optimizer_states: int = 2,
    balance: Balance = "nnz",
    halo: HaloMode = "auto",
    resident: bool = True,
) -> MemoryPlan:
    """What the ranks that need most will need.

    Args:
        network: any dynamic network.
        statistics: of the timeline.
        ranks: P.
        blocks: nb.
        collectives: "none" (no checkpoints, only with everything kept), "save" or "resend".
        optimizer_states: numbers that the optimizer keeps for a weight; 2 is Adam's.
        balance: the cost by which snapshots are dealt out.
        halo: as the strategy's option.
        resident: graphs and features stay on the device; else only those of one block do, and the next one's.

    Example:
        >>> from fulgurite.models.dynamic_gnn import WDGCN
        >>> statistics = Statistics.parse("snapshots=8,nodes=1000,nnz=2000,features=2")
        >>> whole = predict(WDGCN(2), statistics)
        >>> halves = predict(WDGCN(2), statistics, blocks=4, collectives="resend")
        >>> halves.worst.activations < whole.worst.activations
        True
    """
    part = statistics.partition(ranks, blocks, balance=balance)
    looked_at = _heaviest(statistics, part)
    found = {rank: probe(network, statistics, part, rank, collectives=collectives, halo=halo) for rank in looked_at}
    weights = sum(parameter.numel() for parameter in network.parameters()) * statistics.itemsize
    at_hand = 1.0 if resident else min(1.0, 2 / blocks)
    per_rank = []
    for rank, coefficients in found.items():
        bytes_ = coefficients.at(statistics.nodes)
        bytes_ |= {kind: round(at_hand * bytes_[kind]) for kind in ("topology", "features")}
        per_rank.append(RankMemory(rank=rank, parameters=(2 + optimizer_states) * weights, **bytes_))
    calls = {rank: coefficients.calls for rank, coefficients in found.items()}
    return MemoryPlan(ranks, blocks, collectives, tuple(per_rank), calls, part)


def choose_blocks(
    network: nn.Module,
    statistics: Statistics,
    *,
    free_bytes: int,
    ranks: int = 1,
    blocks: int | Literal["auto"] = "auto",
    collectives: Literal["save", "resend", "auto"] = "auto",
    optimizer_states: int = 2,
    balance: Balance = "nnz",
    halo: HaloMode = "auto",
    resident: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> MemoryPlan:
    """The fewest blocks with which a step fits, keeping what collectives bring if that fits at all.

    In this order: no checkpoints; the fewest blocks with "save"; the fewest with "resend", which sends more to keep
    less. Where nothing fits, what needs least; compare its ``total`` with ``free_bytes``. The answer is the same on
    every rank if ``free_bytes`` is: take the least of all ranks.

    Args:
        network: any dynamic network.
        statistics: of the timeline.
        free_bytes: of the device with the least, before the model lies on it.
        ranks: P.
        blocks: a number leaves only the collectives to choose.
        collectives: likewise.
        optimizer_states: numbers that the optimizer keeps for a weight; 2 is Adam's.
        balance: the cost by which snapshots are dealt out.
        halo: as the strategy's option.
        resident: graphs and features stay on the device; else only those of one block do, and the next one's.
        progress: told what is being looked at.

    Raises:
        ValueError: more blocks than snapshots.
    """
    if blocks != "auto" and not 1 <= blocks <= statistics.snapshots:
        raise ValueError(
            f"got {blocks} blocks for {statistics.snapshots} snapshots; expected 1 to {statistics.snapshots}"
        )
    counts = [count for count in _BLOCKS if count <= statistics.snapshots] if blocks == "auto" else [blocks]

    def look(count: int, kept: Collectives) -> MemoryPlan:
        progress(f"{count} {'block' if count == 1 else 'blocks'}, {kept}")
        return predict(
            network,
            statistics,
            ranks=ranks,
            blocks=count,
            collectives=kept,
            optimizer_states=optimizer_states,
            balance=balance,
            halo=halo,
            resident=resident,
        )

    def fewest(kept: Collectives) -> MemoryPlan:
        return _fewest(counts, lambda count: look(count, kept), free_bytes)

    if counts[0] == 1 and (plan := look(1, "none")).total <= free_bytes:
        return plan
    if collectives != "auto":
        return fewest(collectives)
    saving = fewest("save")
    if saving.total <= free_bytes or ranks == 1:
        return saving
    return min(saving, fewest("resend"), key=lambda plan: plan.total)


def _fewest(counts: list[int], look: Callable[[int], MemoryPlan], free: int) -> MemoryPlan:
    """The first that fits, else the one that needs least: activations shrink with more blocks, but carries grow."""
    best: MemoryPlan | None = None
    for count in counts:
        plan = look(count)
        if best is None or plan.total < best.total:
            best = plan
        if plan.total <= free or plan.total > _TURNED * best.total:
            break
    assert best is not None
    return best


def _heaviest(statistics: Statistics, part: Partition) -> list[int]:
    """The rank with most snapshots in a block or in all, and the one with most entries; the others need less."""
    owned = [part.owned(rank) for rank in range(part.ranks)]
    longest = [max(split.steps_each[rank] for split in part.blocks) for rank in range(part.ranks)]
    entries = [sum(statistics.nnz[step] for step in steps) for steps in owned]
    return sorted({_largest(map(len, owned)), _largest(longest), _largest(entries)})


def _largest(values: Iterable[int]) -> int:
    found = list(values)
    return found.index(max(found))
