"""From a timeline's events to the tensors that travel, and on the device back to the same windowed lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.events import Span, Windows, degrees_of_events, windows_of_events
from fulgurite.plugins.snapshot_parallel.formats import Choice
from fulgurite.plugins.snapshot_parallel.merge import COLUMN, row_offsets
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


@dataclass(frozen=True, eq=False)
class Packet:
    """What travels for a run of snapshots.

    Attributes:
        span: the run.
        choice: its formats.
        tensors: kind and content of each, in an order that :func:`unpack` knows; raw events are views of the timeline.
        sizes: entries of each snapshot that is sent whole or as a difference; 0 of others. These few numbers stay on
            the host, which launches the work.
    """

    span: Span
    choice: Choice
    tensors: tuple[tuple[str, Tensor], ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RawEvents:
    """The events of consecutive steps, on some device.

    Attributes:
        first: the first step, counted from the start of the timeline's history.
        last: the one after the last.
        source: (E,) int32.
        target: (E,) int32.
        weight: (E,) int32 or float, or None.
    """

    first: int
    last: int
    source: Tensor
    target: Tensor
    weight: Tensor | None

    @classmethod
    def of(cls, timeline: TimelineLike, first: int, last: int) -> RawEvents:
        """Those of a timeline, as they are, on the host."""
        part = slice(int(timeline.offsets[first]), int(timeline.offsets[last]))
        source, target = timeline.edge_index[:, part].cpu()
        weight = None if timeline.edge_weight is None else timeline.edge_weight[part].cpu()
        return cls(first, last, source, target, weight)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return self.source.nbytes + self.target.nbytes + (0 if self.weight is None else self.weight.nbytes)

    def part(self, timeline: TimelineLike, first: int, last: int) -> tuple[Tensor, Tensor, Tensor | None, list[int]]:
        """Source, target, weight and offsets of fewer of the steps."""
        bounds = (timeline.offsets[first : last + 1] - timeline.offsets[self.first]).tolist()
        here = slice(bounds[0], bounds[-1])
        weight = None if self.weight is None else self.weight[here]
        return self.source[here], self.target[here], weight, [bound - bounds[0] for bound in bounds]

    def windows(self, timeline: TimelineLike, low: int, stop: int, *, symmetrise: bool) -> Windows:
        """Windowed lists of the snapshots of steps [low, stop); what reaches before ``first`` is cut off."""
        start = max(self.first, low - timeline.window + 1)
        return windows_of_events(
            *self.part(timeline, start, stop),
            num_nodes=timeline.num_nodes,
            window=timeline.window,
            symmetrise=symmetrise,
            union=timeline.union,
            emit=low - start,
        )

    def degrees(self, timeline: TimelineLike, low: int, stop: int) -> Tensor:
        """(stop − low, N, 2) in- and out-degrees of the distinct events of each step."""
        source, target, _, bounds = self.part(timeline, low, stop)
        return degrees_of_events(source, target, bounds, timeline.num_nodes)


def pack(timeline: TimelineLike, span: Span, choice: Choice) -> Packet:
    """The tensors of a choice, on the host. Their bytes are those that the choice tells.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> from fulgurite.plugins.snapshot_parallel.events import span
        >>> from fulgurite.plugins.snapshot_parallel.formats import choose
        >>> timeline = Timeline.from_events([0, 1, 2], [1, 2, 0], [0, 1, 2], window=2)
        >>> run = span(timeline, 1, 3)
        >>> packet = pack(timeline, run, choose(timeline, run, "full"))
        >>> [(kind, tensor.tolist()) for kind, tensor in packet.tensors][:3]
        [('coo32', [0, 1]), ('coo32', [1, 2]), ('coo32', [1, 1])]
        >>> lists, _ = unpack(packet, [tensor for _, tensor in packet.tensors], timeline)
        >>> lists.col.tolist()
        [1, 2, 2, 0]
    """
    tensors: list[tuple[str, Tensor]] = []
    for first, last in _ranges(choice.event_steps):
        part = slice(int(timeline.offsets[first]), int(timeline.offsets[last]))
        tensors += [("events", ends[part]) for ends in timeline.edge_index]
        if choice.weight_type is not None and timeline.edge_weight is not None:
            weight = timeline.edge_weight[part]
            if choice.sparse_weights:
                places = (weight != 1).nonzero()[:, 0]
                tensors.append(("events", places.to(torch.int32)))
                weight = weight[places]
            tensors.append(("events", weight.to(choice.weight_type)))
    sizes = [0] * len(choice.formats)
    for begin, end, by_events in _segments(choice):
        if by_events:
            continue
        low, stop = span.low_step + begin, span.low_step + end
        raw = RawEvents.of(timeline, max(span.first_event_step, low - timeline.window + 1), stop)
        lists = raw.windows(timeline, low, stop, symmetrise=timeline.symmetrise and not choice.directed)
        bounds, keys, before = lists.offsets(), lists.keys(), lists.keys()[:0]
        for position in range(begin, end):
            here = slice(bounds[position - begin], bounds[position - begin + 1])
            now, name = keys[here], choice.formats[position]
            sizes[position] = now.numel()
            if name == "diff32":
                stays = torch.isin(now, before, assume_unique=True)
                gone = (~torch.isin(before, now, assume_unique=True)).nonzero()[:, 0]
                fresh = now[~stays]
                sent = [(fresh >> 32).int(), fresh.bitwise_and(COLUMN).int(), gone.int()]
            elif name == "csr32":
                counts = torch.bincount(now >> 32, minlength=timeline.num_nodes)
                sent = [row_offsets(counts, now.numel()), lists.col[here]]
            else:
                sent = [(now >> 32).int(), lists.col[here]]
            if choice.value_bytes:
                sent.append(lists.value[here])
            tensors += [(name, tensor) for tensor in sent]
            before = now
    return Packet(span, choice, tuple(tensors), tuple(sizes))


def unpack(packet: Packet, arrived: list[Tensor], timeline: TimelineLike) -> tuple[Windows, list[RawEvents]]:
    """The windowed lists of the run [span.low, span.stop), and the raw events among what arrived.

    Args:
        packet: what was sent; its own tensors are not read.
        arrived: the same tensors on the device.
        timeline: for N, the window and its options, and its offsets; its events are not read.
    """
    choice, span, tensors = packet.choice, packet.span, iter(arrived)
    events = unpack_events(choice, tensors, timeline)
    parts = []
    for begin, end, by_events in _segments(choice):
        if not by_events:
            parts.append(_lists(packet, tensors, timeline, begin, end))
            continue
        low, stop = span.low_step + begin, span.low_step + end
        start = max(span.first_event_step, low - timeline.window + 1)
        held = holding(events, start, stop)
        parts.append(held.windows(timeline, low, stop, symmetrise=timeline.symmetrise))
    return _joined(parts), events


def unpack_events(choice: Choice, arrived: Iterator[Tensor], timeline: TimelineLike) -> list[RawEvents]:
    """The raw events at the head of what arrived, a piece for each range of consecutive steps."""
    events = []
    for first, last in _ranges(choice.event_steps):
        source, target = next(arrived), next(arrived)
        weight = None
        if choice.weight_type is not None and timeline.edge_weight is not None:
            kind = timeline.edge_weight.dtype
            if choice.sparse_weights:
                places = next(arrived).long()
                weight = torch.ones(source.numel(), dtype=kind, device=source.device)
                weight[places] = next(arrived).to(kind)
            else:
                weight = next(arrived).to(kind)
        events.append(RawEvents(first, last, source, target, weight))
    return events


def holding(events: list[RawEvents], first: int, last: int) -> RawEvents:
    """The piece that has all of the steps [first, last)."""
    return next(part for part in events if part.first <= first and last <= part.last)


def _lists(packet: Packet, arrived: Iterator[Tensor], timeline: TimelineLike, begin: int, end: int) -> Windows:
    n, choice = timeline.num_nodes, packet.choice
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for position in range(begin, end):
        name = choice.formats[position]
        if name == "diff32":
            row, column, gone = next(arrived), next(arrived), next(arrived)
            keys.append(_applied(keys[-1], row.long() << 32 | column, gone))
        elif name == "csr32":
            crow, column = next(arrived), next(arrived)
            rows = torch.arange(n, device=crow.device).repeat_interleave(crow.diff(), output_size=column.numel())
            keys.append(rows << 32 | column)
        else:
            row, column = next(arrived), next(arrived)
            keys.append(row.long() << 32 | column)
        ones = torch.ones_like(keys[-1], dtype=torch.int32) if not choice.value_bytes else None
        values.append(next(arrived) if ones is None else ones)
    key, value = torch.cat(keys), torch.cat(values)
    sizes = torch.tensor(packet.sizes[begin:end])
    row, column = key >> 32, key.bitwise_and_(COLUMN).int()
    if choice.directed:  # every snapshot as a step of its own, whose window is itself: A + Aᵀ
        bounds = [0, *sizes.cumsum(0).tolist()]
        union = timeline.union
        return windows_of_events(row.int(), column, value, bounds, num_nodes=n, window=1, symmetrise=True, union=union)
    block = torch.arange(end - begin, device=key.device).repeat_interleave(sizes.to(key.device))
    counts = torch.bincount(block.mul_(n).add_(row), minlength=(end - begin) * n)
    return Windows(n, row_offsets(counts, key.numel()), column, value)


def _applied(before: Tensor, fresh: Tensor, gone: Tensor) -> Tensor:
    keep = torch.ones(before.numel(), dtype=torch.bool, device=before.device)
    keep[gone.long()] = False
    kept = before[keep]
    place = torch.searchsorted(kept, fresh) + torch.arange(fresh.numel(), device=fresh.device)
    merged = kept.new_empty(kept.numel() + fresh.numel())
    old = torch.ones_like(merged, dtype=torch.bool)
    old[place] = False
    merged[place], merged[old] = fresh, kept
    return merged


def _joined(parts: list[Windows]) -> Windows:
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.crow.diff() for part in parts])
    col = torch.cat([part.col for part in parts])
    return Windows(parts[0].num_nodes, row_offsets(counts, col.numel()), col, torch.cat([part.value for part in parts]))


def _segments(choice: Choice) -> Iterator[tuple[int, int, bool]]:
    position = 0
    for by_events, run in groupby(choice.formats, key=lambda name: name == "events"):
        length = len(list(run))
        yield position, position + length, by_events
        position += length


def _ranges(steps: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive steps, [first, last)."""
    for _, run in groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0]):
        numbers = [step for _, step in run]
        yield numbers[0], numbers[-1] + 1
