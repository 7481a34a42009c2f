"""What ranks send each other: from snapshot shards to vertex shards and back, past frames, sums; and its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.collective import Chain, Collective, Tape
from fulgurite.plugins.snapshot_parallel.halo import Halo, source_steps
from fulgurite.plugins.snapshot_parallel.partitioning import Split
from fulgurite.plugins.snapshot_parallel.routes import GatherSteps, Route, ToSnapshots, ToVertices
from fulgurite.plugins.snapshot_parallel.shared_memory import SharedMemory

HaloMode = Literal["auto", "always", "never"]


@dataclass
class Traffic:
    """Bytes that this rank sent to other ranks, and calls, by kind.

    Kinds are ``to_vertices``, ``to_snapshots``, ``halo``, ``gather``, each also with ``/backward``, and ``scalars``
    and ``gradients``; of the last two, which are all-reduced, the size of the tensor is counted.

    Example:
        >>> traffic = Traffic()
        >>> traffic.add("to_vertices", 24)
        >>> traffic.total, traffic.calls
        (24, {'to_vertices': 1})
    """

    bytes: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, sent: int) -> None:
        """Count one call that sent so many bytes."""
        self.bytes[kind] = self.bytes.get(kind, 0) + sent
        self.calls[kind] = self.calls.get(kind, 0) + 1

    def reset(self) -> None:
        """Count from zero again."""
        self.bytes.clear()
        self.calls.clear()

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return sum(self.bytes.values())


class Exchange:
    """The exchange of one process: there is nobody to send to, and nothing is copied.

    Args:
        halo_mode: how an operation over a window of snapshots gets past frames: ``"always"`` by :meth:`halo`,
            ``"never"`` (by redistributing to vertices), ``"auto"`` as moves fewer bytes.

    Attributes:
        rank: this rank, 0 here.
        size: how many ranks, 1 here.
        traffic: what this rank sent.
        chain: ties the collectives of the run under way together; None outside :meth:`chained`.

    Example:
        >>> from fulgurite.plugins.snapshot_parallel.partitioning import partition
        >>> split = partition([1, 1, 1], num_nodes=4, ranks=1).blocks[0]
        >>> exchange, x = Exchange(), torch.ones(3, 4, 2)
        >>> exchange.to_vertices(x, split) is x, exchange.traffic.total
        (True, 0)
    """

    def __init__(self, *, halo_mode: HaloMode = "auto") -> None:
        self.halo_mode = halo_mode
        self.rank = 0
        self.size = 1
        self.traffic = Traffic()
        self.chain: Chain | None = None
        self._recorded: Tape | None = None
        self._replayed: Tape | None = None

    def to_vertices(self, x: Tensor, split: Split) -> Tensor:
        """From all vertices of my snapshots to all snapshots of my vertices.

        Args:
            x: (t_p, N, …).
            split: the block.

        Returns:
            (T_b, n_p, …).

        Raises:
            ValueError: the shape is not that of this rank's shard.
        """
        _expect(x, (split.steps_each[self.rank], split.num_vertices), "snapshots and vertices of this rank")
        return self._move(x, ToVertices(split, self.rank, x.shape[2:])) if self.size > 1 else x

    def to_snapshots(self, x: Tensor, split: Split) -> Tensor:
        """From all snapshots of my vertices to all vertices of my snapshots; undoes :meth:`to_vertices`.

        Args:
            x: (T_b, n_p, …).
            split: the block.

        Returns:
            (t_p, N, …).

        Raises:
            ValueError: the shape is not that of this rank's shard.
        """
        _expect(x, (split.num_steps, split.vertices_each[self.rank]), "the block's snapshots and this rank's vertices")
        return self._move(x, ToSnapshots(split, self.rank, x.shape[2:])) if self.size > 1 else x

    def halo(self, x: Tensor, split: Split, *, width: int, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Put the frames of the ``width`` snapshots before mine, as far as there are any, in front of mine.

        They come from several ranks where runs are short, and from earlier blocks; backward, what they did is added to
        the gradients of those who own them. A rank without snapshots fetches nothing.

        Args:
            x: (t_p, …).
            split: the block.
            width: how many past frames; w - 1 for a window of w.
            carried: the second result of the block before; None in the first block.

        Returns:
            (min(width, first own snapshot) + t_p, …) in time order, and the frames to carry to the next block:
            those of the block's last ``width`` that this rank owns.

        Raises:
            ValueError: ``x`` or ``carried`` does not have as many frames as the split says.
        """
        _expect(x, (split.steps_each[self.rank],), "snapshots of this rank")
        steps = source_steps(split, self.rank, width)
        tail = x[max(0, len(x) - width) :]
        kept = len(steps) - len(tail)
        if (0 if carried is None else len(carried)) != kept:
            raise ValueError(
                f"got {'no' if carried is None else len(carried)} carried frames; expected {kept}, those that this "
                "rank owned of earlier blocks; hand on the second result of the block before"
            )
        if self.size == 1:
            extended = x if carried is None or not kept else torch.cat([carried, x])
            return extended, extended[max(0, len(extended) - width) :]
        source = tail if carried is None else torch.cat([carried, tail])
        before = self._move(source, Halo(split, self.rank, width, x.shape[1:]))
        first = sum(step < split.stop - width for step in steps)
        return torch.cat([before, x]), source[first:]

    def gather_steps(self, x: Tensor, split: Split) -> Tensor:
        """What every rank has for its snapshots, for the whole block, on every rank.

        Backward, a snapshot's gradient is the sum of the gradients of all ranks.

        Args:
            x: (t_p, …).
            split: the block.

        Returns:
            (T_b, …).

        Raises:
            ValueError: ``x`` does not have as many snapshots as this rank.
        """
        _expect(x, (split.steps_each[self.rank],), "snapshots of this rank")
        return self._move(x, GatherSteps(split, self.rank, x.shape[1:])) if self.size > 1 else x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, outside autograd: counts, and losses to log."""
        return x.detach()

    @contextmanager
    def chained(self) -> Iterator[Chain]:
        """Inside, collectives that need a gradient form a chain of their own: backward runs them all, in order."""
        outer, self.chain = self.chain, Chain()
        try:
            yield self.chain
        finally:
            self.chain = outer

    @contextmanager
    def recording(self, tape: Tape) -> Iterator[Tape]:
        """Inside, the outputs of forward collectives go on the tape as well."""
        outer, self._recorded = self._recorded, tape
        try:
            yield tape
        finally:
            self._recorded = outer

    @contextmanager
    def replaying(self, tape: Tape) -> Iterator[Tape]:
        """Inside, forward collectives take their outputs from the tape and send nothing; backward ones send.

        Raises:
            RuntimeError: other collectives ran than were recorded.
        """
        outer, self._replayed = self._replayed, tape
        try:
            yield tape
            tape.close()
        finally:
            self._replayed = outer

    @torch.compiler.disable  # the chain and the tape are Python objects that change
    def _move(self, x: Tensor, route: Route) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            token = None if self.chain is None else self.chain.token
            output, token = Collective.apply(x, token, self._transfer, route, self._replayed)
            if self.chain is not None:
                self.chain.token = token
        else:
            output = self._transfer(route, x, False) if self._replayed is None else self._replayed.replay()
        if self._recorded is not None:
            self._recorded.record(output)
        return output

    def _transfer(self, route: Route, x: Tensor, backward: bool) -> Tensor:
        if backward:
            packed = route.pack_gradient(x)
            received = self._send(f"{route.kind}/backward", packed, route.receive_sizes, route.send_sizes)
            return route.unpack_gradient(received)
        return route.unpack(self._send(route.kind, route.pack(x), route.send_sizes, route.receive_sizes))

    def _send(self, kind: str, flat: Tensor, send_sizes: list[int], receive_sizes: list[int]) -> Tensor:
        raise RuntimeError("one process has nobody to send to; take GroupExchange for several ranks")


class GroupExchange(Exchange):
    """The exchange of a process group, by ``all_to_all_single`` with uneven splits (gloo on the CPU, NCCL on GPUs).

    CPU ranks of one machine read what they get out of each other's memory instead, which gives the same bits
    (:class:`~fulgurite.plugins.snapshot_parallel.shared_memory.SharedMemory`).

    The result of a collective needs a gradient where its input does; callers see to it that this is the same on every
    rank. Whatever a rank owns, none of it included, it takes part in every call.

    Args:
        group: the process group; None is the default one.
        wire_dtype: the floating type that values and gradients have on the way between ranks, such as
            ``torch.bfloat16``; what a rank keeps itself stays exact. None sends them as they are.
        halo_mode: as for :class:`Exchange`.
        shared_memory: False sends through the process group even what could be read out of a neighbour's memory.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        wire_dtype: torch.dtype | None = None,
        halo_mode: HaloMode = "auto",
        shared_memory: bool = True,
    ) -> None:
        super().__init__(halo_mode=halo_mode)
        if wire_dtype is not None and not wire_dtype.is_floating_point:
            raise ValueError(f"got wire_dtype={wire_dtype}; expected a floating type such as torch.bfloat16, or None")
        self.group = group
        self.wire_dtype = wire_dtype
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._shares = shared_memory
        self._memory: SharedMemory | None = None

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, outside autograd: counts, and losses to log."""
        total = x.detach().clone()
        if self.size > 1:
            dist.all_reduce(total, group=self.group)
            self.traffic.add("scalars", total.numel() * total.element_size())
        return total

    @override
    def _transfer(self, route: Route, x: Tensor, backward: bool) -> Tensor:
        memory = self._shared() if x.device.type == "cpu" else None
        if memory is None:
            return super()._transfer(route, x, backward)
        parts, shapes = (
            (route.gradient_parts(x), route.send_shapes) if backward else (route.parts(x), route.receive_shapes)
        )
        wire = self.wire_dtype if self.wire_dtype is not None and x.is_floating_point() else x.dtype
        received = memory.swap(parts, shapes, dtype=wire)
        sent = sum(part.numel() for rank, part in enumerate(parts) if rank != self.rank)
        self.traffic.add(f"{route.kind}/backward" if backward else route.kind, sent * wire.itemsize)
        return route.join_gradient(received) if backward else route.join(received)

    def _shared(self) -> SharedMemory | None:
        if self._shares and self._memory is None:  # in the first exchange: all ranks of the group are in it
            self._memory = SharedMemory.of_group(self.group)
            self._shares = self._memory is not None
        return self._memory

    @override
    def _send(self, kind: str, flat: Tensor, send_sizes: list[int], receive_sizes: list[int]) -> Tensor:
        narrow = self.wire_dtype is not None and flat.is_floating_point() and flat.dtype != self.wire_dtype
        # An expanded gradient, such as a sum's, is flat without being laid out.
        wire = (flat.to(self.wire_dtype) if narrow else flat).contiguous()
        received = wire.new_empty(sum(receive_sizes))
        dist.all_to_all_single(received, wire, receive_sizes, send_sizes, group=self.group)
        self.traffic.add(kind, (flat.numel() - send_sizes[self.rank]) * wire.element_size())
        if narrow:
            received = received.to(flat.dtype)
            own = flat.split(send_sizes)[self.rank]
            received.split(receive_sizes)[self.rank].copy_(own)
        return received


def _expect(x: Tensor, shape: tuple[int, ...], what: str) -> None:
    if tuple(x.shape[: len(shape)]) != shape:
        raise ValueError(f"got a tensor of shape {tuple(x.shape)}; expected it to begin with {shape}, {what}")
