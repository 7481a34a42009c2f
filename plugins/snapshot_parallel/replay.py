"""One rank's shard run alone: what other ranks would send is made up, in the right shapes, and what they'd get counted.

A plan for 128 ranks needs no 128 processes: compute and memory of a rank depend on the shapes of what it receives, not
on the values.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.calibration import timed
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, HaloMode
from fulgurite.plugins.snapshot_parallel.halo import Halo
from fulgurite.plugins.snapshot_parallel.live_bytes import LiveBytes
from fulgurite.plugins.snapshot_parallel.partitioning import Partition, Split
from fulgurite.plugins.snapshot_parallel.shard import Collectives, Shard, Source
from fulgurite.plugins.snapshot_parallel.stand_in import StandIn, StandInSource
from fulgurite.plugins.snapshot_parallel.statistics import Statistics
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


@dataclass(frozen=True)
class Call:
    """One collective of a step, said without a number of vertices, so that its bytes can be told for any.

    Args:
        kind: as :class:`Traffic` names it, without "/backward".
        backward: it brings gradients back.
        block: index of the block.
        row: numbers for one vertex of one snapshot; for a gather, for one snapshot.
        itemsize: bytes of a number.
        width: past frames, of a halo.
    """

    kind: str
    backward: bool
    block: int
    row: int
    itemsize: int
    width: int = 0

    def sent(self, part: Partition) -> NDArray[np.int64]:
        """Bytes that each rank sends to others: (P,), by the formulas of :class:`Split`."""
        split = part.blocks[self.block]
        steps, vertices = np.array(split.steps_each), np.array(split.vertices_each)
        scale = self.row * self.itemsize
        if self.kind == "gather":
            return ((split.num_steps - steps) if self.backward else (part.ranks - 1) * steps) * scale
        if self.kind == "halo":
            return self._halo(split) * part.num_nodes * scale
        if (self.kind == "to_vertices") != self.backward:
            return steps * (part.num_nodes - vertices) * scale
        return vertices * (split.num_steps - steps) * scale

    def _halo(self, split: Split) -> NDArray[np.int64]:
        frames = []
        for rank in range(split.ranks):
            route = Halo(split, rank, self.width, torch.Size((1,)))
            sizes = route.receive_sizes if self.backward else route.send_sizes
            frames.append(sum(sizes) - sizes[rank])
        return np.array(frames, dtype=np.int64)


class ReplayExchange(Exchange):
    """The exchange of one rank of many that has no others: it receives made-up numbers, and notes every collective.

    Everything but the sending itself, packing and unpacking included, is that of a real exchange, so that compute and
    memory are, too.

    Args:
        rank: p.
        part: who owns what.
        halo_mode: as for :class:`Exchange`.

    Attributes:
        made: the collectives so far.

    Example:
        >>> from fulgurite.plugins.snapshot_parallel.partitioning import partition
        >>> part = partition([1] * 6, num_nodes=8, ranks=4)
        >>> exchange = ReplayExchange(0, part)
        >>> exchange.to_vertices(torch.ones(2, 8, 3), part.blocks[0]).shape
        torch.Size([6, 2, 3])
        >>> exchange.traffic.bytes, int(exchange.made[0].sent(part)[0])
        ({'to_vertices': 144}, 144)
    """

    def __init__(self, rank: int, part: Partition, *, halo_mode: HaloMode = "auto") -> None:
        super().__init__(halo_mode=halo_mode)
        self.rank, self.size = rank, part.ranks
        self.made: list[Call] = []
        self._blocks = {split.start: index for index, split in enumerate(part.blocks)}
        self._current: tuple[Split, int, int] | None = None
        self._known: dict[tuple[str, tuple[int, ...], tuple[int, ...]], Call] = {}

    @override
    def to_vertices(self, x: Tensor, split: Split) -> Tensor:
        self._current = (split, math.prod(x.shape[2:]), 0)
        return super().to_vertices(x, split)

    @override
    def to_snapshots(self, x: Tensor, split: Split) -> Tensor:
        self._current = (split, math.prod(x.shape[2:]), 0)
        return super().to_snapshots(x, split)

    @override
    def halo(self, x: Tensor, split: Split, *, width: int, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._current = (split, math.prod(x.shape[2:]), width)
        return super().halo(x, split, width=width, carried=carried)

    @override
    def gather_steps(self, x: Tensor, split: Split) -> Tensor:
        self._current = (split, math.prod(x.shape[1:]), 0)
        return super().gather_steps(x, split)

    @override
    def _send(self, kind: str, flat: Tensor, send_sizes: list[int], receive_sizes: list[int]) -> Tensor:
        name, backward = kind.removesuffix("/backward"), kind.endswith("/backward")
        if backward:
            # It goes back the way that forward came: the same sizes, swapped.
            call = replace(self._known[name, tuple(receive_sizes), tuple(send_sizes)], backward=True)
        else:
            assert self._current is not None
            split, row, width = self._current
            call = Call(name, False, self._blocks[split.start], row, flat.element_size(), width)
            self._known[name, tuple(send_sizes), tuple(receive_sizes)] = call
        self.made.append(call)
        self.traffic.add(kind, (flat.numel() - send_sizes[self.rank]) * flat.element_size())
        return flat.new_full((sum(receive_sizes),), 0.1)


@dataclass(frozen=True)
class Usage:
    """What a step of a shard took.

    Args:
        nodes: N of the run.
        bytes: kind → bytes, kinds as of :class:`RankMemory` but for the parameters.
        calls: its collectives.
    """

    nodes: int
    bytes: dict[str, int]
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Scene:
    """A shard to be run in the place of rank ``rank``: the timeline's size, who owns what, and the timeline if any."""

    statistics: Statistics
    part: Partition
    rank: int
    timeline: TimelineLike | None = None

    def shard(self, device: torch.device, collectives: Collectives, halo: HaloMode) -> tuple[Shard, ReplayExchange]:
        """The shard, and the exchange that notes its collectives; made up where there is no timeline."""
        exchange = ReplayExchange(self.rank, self.part, halo_mode=halo)
        timeline: TimelineLike
        source: Source
        if self.timeline is None:
            blank = StandIn(num_snapshots=self.statistics.snapshots, num_nodes=self.statistics.nodes)
            timeline = cast("TimelineLike", blank)  # a frozen one, whose attributes nobody sets
            source = StandInSource(self.statistics, device=device)
        else:
            from fulgurite.plugins.snapshot_parallel.resident import Resident

            timeline, source = self.timeline, Resident(self.timeline, device=device)
        shard = Shard.build(timeline, self.part, exchange, source=source, collectives=collectives)
        return shard, exchange


def in_small(statistics: Statistics, part: Partition, rank: int, nodes: int) -> Scene:
    """The same snapshots, blocks and boundaries over ``nodes`` vertices."""
    bounds = [-(-nodes * place // part.ranks) for place in range(part.ranks + 1)]
    vertices = tuple(itertools.pairwise(bounds))
    blocks = tuple(replace(split, vertices=vertices) for split in part.blocks)
    small = statistics if nodes == statistics.nodes else statistics.scaled(nodes)
    return Scene(small, Partition(blocks, part.num_snapshots, nodes), rank)


def run_once(network: nn.Module, scene: Scene, collectives: Collectives, *, halo: HaloMode = "auto") -> Usage:
    """Run a shard forward and backward once on random data and count bytes by kind.

    Args:
        network: a copy of it runs, on its own device.
        scene: what is run.
        collectives: "none" for no checkpoints.
        halo: as the strategy's option.
    """
    network, device = _copied(network, scene.statistics.torch_dtype)
    shard, exchange = scene.shard(device, collectives, halo)
    topology, features = load(shard)
    # Graphs and features are there already, so what is counted is the step's own.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), LiveBytes(device.type) as count:
        output = shard.run(network)
        kept = count.live - output.untyped_storage().nbytes()
        gradient = torch.full_like(output, 0.1)
        if output.requires_grad:
            output.backward(gradient)
    saved = _saved(exchange.made, scene) if collectives == "save" else 0
    carries = max(0, kept - saved) if collectives != "none" else 0
    gradients = sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    found = {
        "topology": topology,
        "features": features,
        "activations": max(0, count.peak - saved - carries - gradients),
        "carries": carries,
        "saved": saved,
    }
    return Usage(scene.statistics.nodes, found, tuple(exchange.made))


def step_seconds(network: nn.Module, shard: Shard, *, repeats: int = 3) -> float:
    """Median seconds of a shard's forward and backward, with its graphs resident.

    Args:
        network: it is run as it is; its gradients are dropped afterwards.
        shard: of one rank, with any exchange that needs no other process.
        repeats: steps that are timed, after one that is not; fewer where they take seconds.
    """
    load(shard)
    device = next(network.parameters(), torch.zeros(0)).device

    def step() -> None:
        output = shard.run(network)
        if output.requires_grad:
            output.backward(torch.full_like(output, 0.1))

    seconds = timed(step, device, repeats=repeats, limit=3.0)
    for parameter in network.parameters():
        parameter.grad = None
    return seconds


def load(shard: Shard) -> tuple[int, int]:
    """Fetch a shard's graphs, transposes included, and features; their bytes."""
    topology = features = 0
    for block in shard.blocks:
        graphs = block.graphs
        graphs.transposed()
        topology += graphs.nbytes
        features += block.features.nbytes
    return topology, features


def copied_for(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy to run on made-up data, in training mode, in the type of the features."""
    return _copied(network, dtype)[0]


def _copied(network: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, torch.device]:
    copied = copy.deepcopy(network).to(dtype).train()
    copied.zero_grad(set_to_none=True)
    return copied, next(copied.parameters(), torch.zeros(0)).device


def _saved(made: Sequence[Call], scene: Scene) -> int:
    """Bytes on the tapes: what forward collectives brought to this rank, what it gave itself included."""
    total = 0
    for call in made:
        if not call.backward:
            split = scene.part.blocks[call.block]
            steps, vertices = split.steps_each[scene.rank], split.vertices_each[scene.rank]
            elements: Any = {
                "to_vertices": split.num_steps * vertices,
                "to_snapshots": steps * split.num_vertices,
                "gather": split.num_steps,
                "halo": min(call.width, split.steps[scene.rank][0]) * split.num_vertices * (steps > 0),
            }[call.kind]
            total += elements * call.row * call.itemsize
    return total
