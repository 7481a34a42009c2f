"""What one rank gets of a timeline: its snapshots block by block, its targets, and a run of a network over them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from fulgurite.plugins.snapshot_parallel.blocks import checkpointed
from fulgurite.plugins.snapshot_parallel.exchange import Exchange
from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs
from fulgurite.plugins.snapshot_parallel.halo import halo_moves_less
from fulgurite.plugins.snapshot_parallel.partitioning import Partition, Split, partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

Collectives = Literal["none", "save", "resend"]
Made = TypeVar("Made")


class Source(Protocol):
    """Gives the graphs and features of a run of snapshots on the device.

    It may also have ``cached(key, start, stop, make)``, which keeps what ``make()`` gave for a run as long as the
    graphs themselves stay; ``send(tensor, kind)``, which brings a tensor to the device and counts its bytes; and
    ``sent_once(key, send)``, which keeps what ``send()`` sent where anything stays.
    """

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        ...

    def graphs(self, start: int, stop: int) -> SnapshotGraphs:
        """Graphs of snapshots [start, stop); the run may be empty."""
        ...

    def features(self, start: int, stop: int) -> Tensor:
        """(stop - start, N, F)."""
        ...


class Block:
    """One rank's part of one block of the timeline.

    Graphs and features are asked of the source whenever they are read (once inside :meth:`held`), so that a block that
    is not running holds none.

    Args:
        partition: who owns what.
        index: which block.
        exchange: with the other ranks.
        source: of graphs and features.
        features: (t_p, N, F), in the place of the source's; they may need a gradient.

    Attributes:
        split: who owns what in this block.
        rank: this rank.
        start: its first own snapshot, in the timeline's numbering.
        stop: the one after its last.
        num_nodes: N.
        given_features: the features given in the place of the source's, or None.
        is_read: graphs and features are at hand, see :meth:`read`.
    """

    def __init__(
        self,
        partition: Partition,
        index: int,
        exchange: Exchange,
        *,
        source: Source | None = None,
        features: Tensor | None = None,
    ) -> None:
        self.partition = partition
        self.index = index
        self.exchange = exchange
        self.source = source
        self.given_features = features
        self.split: Split = partition.blocks[index]
        self.rank = exchange.rank
        self.start, self.stop = self.split.steps[self.rank]
        self.num_nodes = partition.num_nodes
        self.is_read = False
        self._held: dict[Hashable, Any] | None = None

    @property
    def graphs(self) -> SnapshotGraphs:
        """The own snapshots' graphs."""
        return self._read("graphs", lambda: self._source.graphs(self.start, self.stop))

    @property
    def features(self) -> Tensor:
        """(t_p, N, F) the own snapshots' features."""
        if self.given_features is not None:
            return self.given_features
        return self._read("features", lambda: self._source.features(self.start, self.stop))

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make()`` gives for this block; made once where the source keeps its graphs.

        Args:
            key: names it; equal keys mean equal results.
            make: works it out from graphs and features alone, without parameters.
        """
        if self.is_read and self._held is not None and ("cached", key) in self._held:
            return self._held["cached", key]
        kept = getattr(self.source, "cached", None)
        if self.given_features is not None or kept is None:
            return make()
        return _lasting(lambda: kept(key, self.start, self.stop, make))

    def uses_halo(self, width: int) -> bool:
        """Whether an operation over a window gets past frames by halo rather than by redistributing; see ``halo_mode``.

        Args:
            width: how many frames before its own a snapshot needs; w - 1 for a window of w.
        """
        mode = self.exchange.halo_mode
        return halo_moves_less(self.partition, width) if mode == "auto" else mode == "always"

    def with_features(self, features: Tensor) -> Block:
        """The same block with other features."""
        return Block(self.partition, self.index, self.exchange, source=self.source, features=features)

    def read(self, cached: Iterable[tuple[Hashable, Callable[[], Any]]] = ()) -> Block:
        """The same block with its graphs and features at hand, for as long as the result lives.

        Reading is Python and compiled loops, which ``torch.compile`` cannot follow; what is done with a block that was
        read is tensors alone.

        Args:
            cached: keys and makers that :meth:`cached` will be asked for; done now where the source would keep them.

        Raises:
            ValueError: the block has no source to read from, or its timeline no features.
        """
        block = Block(self.partition, self.index, self.exchange, source=self.source, features=self.given_features)
        block._held = {"graphs": self.graphs}
        if self.given_features is None:
            block._held["features"] = self.features
            block._held.update({("cached", key): self.cached(key, make) for key, make in cached})
        block.is_read = True
        return block

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, what was read once is kept."""
        outer, self._held = self._held, {} if self._held is None else self._held
        try:
            yield
        finally:
            self._held = outer

    @property
    def _source(self) -> Source:
        if self.source is None:
            raise ValueError("got a block without a source; give it one to read graphs from")
        return self.source

    def _read(self, name: Hashable, fetch: Callable[[], Made]) -> Made:
        if self._held is None:
            return _lasting(fetch)
        if name not in self._held:
            self._held[name] = _lasting(fetch)
        return self._held[name]


@torch.compiler.disable
def _lasting(fetch: Callable[[], Made]) -> Made:
    # What a source makes while validating is used again in training, which inference tensors cannot be.
    with torch.inference_mode(False), torch.no_grad():
        return fetch()


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be predicted at this rank's own snapshots.

    Attributes:
        step: (M,) int64, where the snapshot lies among the rank's own (all blocks behind each other).
        time: (M,) int64, the snapshot on the whole timeline.
        index: (k, M) int64, vertices or pairs of vertices.
        label: (M,) classes, or floats to regress.
    """

    step: Tensor
    time: Tensor
    index: Tensor
    label: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return self.step.nbytes + self.time.nbytes + self.index.nbytes + self.label.nbytes

    @classmethod
    def of(cls, timeline: TimelineLike, steps: tuple[int, ...]) -> Self:
        """The scored targets of some snapshots of a timeline, in the order of the snapshots given."""
        own = torch.tensor(steps, dtype=torch.int64)
        first, last = timeline.target_offsets.cpu()[torch.stack([own, own + 1])]
        counts = (last - first) * timeline.scored.cpu()[own]
        step = torch.arange(len(own)).repeat_interleave(counts)
        # The n-th target of a snapshot lies n places after its first one.
        within = torch.arange(len(step)) - (counts.cumsum(0) - counts)[step]
        chosen = (first[step] + within).to(timeline.target_label.device)
        time = own[step] + timeline.first
        return cls(step, time, timeline.target_index[:, chosen], timeline.target_label[chosen])


@dataclass(frozen=True, eq=False)
class Shard:
    """One rank's part of a timeline; without a strategy, one process has all of it.

    Attributes:
        timeline: the whole timeline, on the host.
        partition: who owns what.
        exchange: with the other ranks.
        blocks: this rank's part of every block, in time order.
        targets: of this rank's own snapshots, on the device.
        times: (own,) int64, the own snapshots on the whole timeline; in the order of the embeddings.
        collectives: ``"none"`` keeps all activations; ``"save"`` and ``"resend"`` keep a block's carry alone and
            run it again in backward (see :func:`~fulgurite.plugins.snapshot_parallel.blocks.checkpointed`).
    """

    timeline: TimelineLike
    partition: Partition
    exchange: Exchange
    blocks: tuple[Block, ...]
    targets: Targets
    times: Tensor
    collectives: Collectives = "none"

    @property
    def num_snapshots(self) -> int:
        """T, of the whole timeline."""
        return self.partition.num_snapshots

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.partition.num_nodes

    @property
    def num_features(self) -> int:
        """F, the degrees included."""
        given = self.timeline.features
        return 2 * self.timeline.degree_features + (0 if given is None else given.shape[-1])

    @classmethod
    @torch.compiler.disable
    def build(
        cls,
        timeline: TimelineLike,
        partition: Partition,
        exchange: Exchange,
        *,
        source: Source,
        collectives: Collectives = "none",
    ) -> Self:
        """This rank's shard.

        Args:
            timeline: on the host, the same on every rank.
            partition: of the timeline, over as many ranks as the exchange has.
            exchange: with the other ranks.
            source: of graphs and features on the device.
            collectives: see the class.

        Raises:
            ValueError: the partition is of other snapshots, vertices or ranks than the timeline and the exchange.
        """
        got = (partition.num_snapshots, partition.num_nodes, partition.ranks)
        expected = (timeline.num_snapshots, timeline.num_nodes, exchange.size)
        if got != expected:
            raise ValueError(
                "got a partition of {} snapshots, {} vertices and {} ranks; expected {}, {} and {}".format(
                    *got, *expected
                )
            )
        numbers = range(len(partition.blocks))
        blocks = (Block(partition, i, exchange, source=source) for i in numbers)
        own = partition.owned(exchange.rank)
        return cls(
            timeline=timeline,
            partition=partition,
            exchange=exchange,
            blocks=tuple(blocks),
            targets=_targets(timeline, own, source),
            times=torch.tensor(own, dtype=torch.int64) + timeline.first,
            collectives=collectives,
        )

    @classmethod
    def whole(cls, timeline: TimelineLike, device: torch.device | str | None = None) -> Self:
        """All of a timeline in one process and one block, its graphs built once and kept on the device.

        Args:
            timeline: the batch.
            device: where to run; None: where the events lie.

        Raises:
            ValueError: no snapshot, or events that no graphs can be built of.

        Example:
            >>> from fulgurite.data.timeline import Timeline
            >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], num_nodes=3, degree_features=True)
            >>> shard = Shard.whole(timeline)
            >>> shard.blocks[0].features.shape, shard.times.tolist()
            (torch.Size([2, 3, 2]), [0, 1])
        """
        if timeline.num_snapshots < 1:
            raise ValueError("got a timeline without snapshots; expected 1 or more; look at the data's splits")
        single = partition([1] * timeline.num_snapshots, timeline.num_nodes, ranks=1)
        return cls.build(timeline, single, Exchange(), source=Resident(timeline, device=device))

    @torch.compiler.disable(recursive=False)  # blocks are read here, but the network can be compiled
    def run(self, network: nn.Module) -> Tensor:
        """Run a network over the blocks.

        Args:
            network: has ``initial_carry(block)``; ``network(block, carry)`` gives (embeddings (t_p, N, F), carry).

        Returns:
            (own, N, F) the embeddings of the own snapshots. A backward pass from any part of them takes part in every
            collective.

        Raises:
            ValueError: the network is coupled along the graph over time, and there are several ranks.
        """
        if self.exchange.size > 1 and getattr(network, "coupling", None) == "graph":
            raise ValueError(
                f"got {type(network).__name__}, whose state is summed over neighbours at every step, on "
                f"{self.exchange.size} snapshot ranks; expected one; run windows data-parallel (snapshot_ranks=1)"
            )
        carry = _initial_carry(network, self.blocks[0])
        embeddings = []
        with self.exchange.chained() as chain:
            for block in self.blocks:
                if self.collectives == "none":
                    with block.held():
                        out, carry = network(block, carry)
                else:
                    out, carry = checkpointed(network, block, carry, collectives=self.collectives)
                embeddings.append(out)
            return chain.tie(embeddings[0] if len(embeddings) == 1 else torch.cat(embeddings))

    def anchor(self, embeddings: Tensor) -> Tensor:
        """Zero, to be added to the loss: a rank without a loss term runs backward, too, for the others wait for it.

        It is not zero but not a number where an embedding is not finite.
        """
        # Half precision would overflow where no embedding does.
        wide = torch.promote_types(embeddings.dtype, torch.float32)
        return 0.0 * embeddings.sum(dtype=wide)


@torch.compiler.disable
def _initial_carry(network: nn.Module, block: Block) -> Any:
    initial: Any = network.initial_carry
    return initial(block)


def _targets(timeline: TimelineLike, own: tuple[int, ...], source: Source) -> Targets:
    send = getattr(source, "send", lambda tensor, kind: tensor.to(source.device))
    once = getattr(source, "sent_once", lambda key, send: send())

    def sent() -> Targets:
        found = Targets.of(timeline, own)
        return Targets(*(send(part, "targets") for part in (found.step, found.time, found.index, found.label)))

    return _lasting(lambda: once(("targets", own), sent))
