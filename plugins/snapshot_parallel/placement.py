"""From a timeline to what one rank works on: cut by cost, agreed on by all ranks, on the device."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module

from fulgurite.plugins.snapshot_parallel import heap
from fulgurite.plugins.snapshot_parallel.exchange import Exchange
from fulgurite.plugins.snapshot_parallel.formats import Mode
from fulgurite.plugins.snapshot_parallel.partitioning import Balance, Partition, partition, snapshot_costs
from fulgurite.plugins.snapshot_parallel.residency import Residency, free_bytes
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

log = logging.getLogger(__name__)

Collectives = Literal["none", "save", "resend"]
_REMEMBERED = 16  # timelines whose cut is kept: training, validation and test, and windows of them
# What ranks compare before they cut; equal on all, or they would wait for each other's collectives.
_OPTIONS = ("num_snapshots", "num_nodes", "first", "history", "window", "m_window")
_SWITCHES = ("union", "symmetrise", "degree_features")
_CONTENT = ("edge_index", "offsets", "edge_weight", "features", "target_index", "target_label", "scored")
_PIECE = 1 << 20  # elements whose bits are summed at once
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Cut:
    """How a timeline is worked on.

    Attributes:
        partition: who owns what.
        collectives: ``none`` without checkpoints, ``save`` or ``resend`` with them.
        content: numbers that events, features and targets have, by which ranks see that theirs are the same.
    """

    partition: Partition
    collectives: Collectives
    content: tuple[int, ...]


class Placement:
    """Cuts timelines for one rank, and keeps what lies on the device already.

    Args:
        exchange: with the ranks that share a timeline.
        device: where shards go.
        network: what runs on them; asked how much memory it takes where something is ``"auto"``.
        balance: the cost by which snapshots are dealt out.
        blocks: how many blocks a timeline is worked on in, or ``"auto"``: as few as fit.
        collectives: in checkpointed blocks; ``"auto"``: ``save`` if that fits.
        transfer: what travels to the device.
        residency: what stays there.
        local_ranks: how many processes share this machine's memory.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        device: torch.device,
        network: Module,
        balance: Balance = "nnz",
        blocks: int | Literal["auto"] = 1,
        collectives: Literal["save", "resend", "auto"] = "auto",
        transfer: Mode = "auto",
        residency: Literal["auto", "graphs", "events", "streamed"] = "auto",
        local_ranks: int = 1,
    ) -> None:
        self._exchange = exchange
        self._device = device
        self._network = network
        self._balance = balance
        self._blocks = blocks
        self._collectives = collectives
        self._local_ranks = local_ranks
        self._dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
        self._residency = Residency(
            device, transfer=transfer, residency=residency, dtype=self._dtype, local_ranks=local_ranks
        )
        self._stays = residency != "streamed"
        self._cuts: OrderedDict[tuple[Any, ...], Cut] = OrderedDict()

    def shard(self, timeline: TimelineLike) -> Shard:
        """This rank's part.

        Raises:
            ValueError: no snapshot or vertex; ranks that were given different timelines.
        """
        if timeline.num_snapshots < 1 or timeline.num_nodes < 1:
            raise ValueError(
                f"got a timeline of {timeline.num_snapshots} snapshots and {timeline.num_nodes} vertices; "
                "expected 1 or more of each"
            )
        cut = self._cut(timeline)
        runs = [split.steps[self._exchange.rank] for split in cut.partition.blocks]
        source = self._residency.source(timeline, runs)
        return Shard.build(timeline, cut.partition, self._exchange, source=source, collectives=cut.collectives)

    def transferred(self) -> dict[str, int]:
        """Bytes that went to the device, by kind."""
        return self._residency.bytes

    def _cut(self, timeline: TimelineLike) -> Cut:
        key = (timeline.name, *(getattr(timeline, name) for name in _OPTIONS + _SWITCHES), len(timeline.target_label))
        known = self._cuts.get(key) if timeline.name is not None else None
        content = _content(timeline) if known is None else known.content
        self._agree(timeline, content)
        if known is not None:
            return known
        cut = self._decide(timeline, content)
        self._cuts[key] = cut
        if len(self._cuts) > _REMEMBERED:
            self._cuts.popitem(last=False)
        return cut

    def _agree(self, timeline: TimelineLike, content: tuple[int, ...]) -> None:
        if self._exchange.size == 1:
            return
        mine = [int(getattr(timeline, name)) for name in _OPTIONS + _SWITCHES] + [
            timeline.edge_index.shape[1],
            *content,
        ]
        rows = torch.zeros(self._exchange.size, len(mine), dtype=torch.int64)
        rows[self._exchange.rank] = torch.tensor(mine)
        everyone = self._exchange.sum(rows.to(self._device)).tolist()
        others = [rank for rank, row in enumerate(everyone) if row != everyone[0]]
        if others:
            named = [*_OPTIONS, *_SWITCHES, "number of events", *_CONTENT]
            what = next(name for i, name in enumerate(named) if everyone[others[0]][i] != everyone[0][i])
            raise ValueError(
                f"got different timelines on the ranks that share one: rank {others[0]} of them has another {what} "
                "than rank 0; expected the same: seed what is drawn or shuffled by (seed, epoch), not by rank"
            )

    def _decide(self, timeline: TimelineLike, content: tuple[int, ...]) -> Cut:
        costs = snapshot_costs(timeline, self._balance)
        size, steps = self._exchange.size, timeline.num_snapshots
        blocks: int | Literal["auto"] = self._blocks if self._blocks == "auto" else min(self._blocks, steps)
        collectives: Collectives = "none"
        if blocks == "auto" or (blocks > 1 and self._collectives == "auto"):
            blocks, collectives = self._fit(timeline, blocks)
        elif blocks > 1:
            collectives = self._collectives  # type: ignore[assignment]  # not "auto" here
        part = partition(costs, timeline.num_nodes, size, blocks)
        idle = sum(not part.owned(rank) for rank in range(size))
        log.info(
            f"{timeline.name or 'a timeline'}: {steps} snapshots over {size} ranks in {blocks} blocks, "
            f"collectives: {collectives}, cost max/mean {part.max_over_mean(costs):.2f}"
        )
        if idle and self._exchange.rank == 0:
            log.warning(
                f"{idle} of {size} ranks own none of {steps} snapshots in {blocks} blocks and only wait; take fewer "
                "processes or blocks, or snapshot_ranks, so that others train on batches of their own"
            )
        return Cut(part, collectives, content)

    def _fit(self, timeline: TimelineLike, blocks: int | Literal["auto"]) -> tuple[int, Collectives]:
        from fulgurite.plugins.snapshot_parallel.memory import choose_blocks
        from fulgurite.plugins.snapshot_parallel.statistics import Statistics

        heap.give_back()  # what earlier steps freed is free
        free = torch.zeros(self._exchange.size, dtype=torch.int64)
        free[self._exchange.rank] = free_bytes(self._device, self._local_ranks)
        plan = choose_blocks(
            self._network,
            Statistics.of(timeline, dtype=self._dtype),
            free_bytes=int(self._exchange.sum(free.to(self._device)).min()),
            ranks=self._exchange.size,
            blocks=blocks,
            collectives=self._collectives,
            balance=self._balance,
            halo=self._exchange.halo_mode,
            resident=self._stays,
        )
        return plan.blocks, plan.collectives


def _content(timeline: TimelineLike) -> tuple[int, ...]:
    return tuple(_bits(getattr(timeline, name)) for name in _CONTENT)


def _bits(tensor: Tensor | None) -> int:
    """A number that changes with any bit and place of a tensor, but for one chance in very many."""
    if tensor is None:
        return 0
    total = 1
    for part in tensor.reshape(-1).split(_PIECE):
        bits = part.view(_WHOLE[part.element_size()]).long()
        odd = torch.arange(1, 2 * len(bits), 2, device=bits.device)
        total = (total * 1_000_003 + int((bits * odd).sum())) % (1 << 53)  # exact wherever it is summed up
    return total
