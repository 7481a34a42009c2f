"""Windowed adjacency from raw events: each event is added when its step comes and removed when its life ends."""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.plugins.snapshot_parallel import merge_compiled as compiled
from fulgurite.plugins.snapshot_parallel.checks import check_events
from fulgurite.plugins.snapshot_parallel.merge import Steps, merge_windows
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


@dataclass(frozen=True, eq=False)
class Windows:
    """Windowed sums of consecutive snapshots as one block-diagonal CSR, not normalised.

    Attributes:
        num_nodes: N.
        crow: (t · N + 1,) int32 or int64.
        col: (nnz,) int32, within the snapshot, ascending in a row.
        value: (nnz,) int32 or floats.
    """

    num_nodes: int
    crow: Tensor
    col: Tensor
    value: Tensor

    @property
    def num_snapshots(self) -> int:
        """T."""
        return (self.crow.numel() - 1) // self.num_nodes

    def offsets(self) -> list[int]:
        """Where each snapshot's entries begin, and the end of the last: t + 1 numbers."""
        return self.crow[:: self.num_nodes].tolist()

    def keys(self) -> Tensor:
        """(nnz,) int64: row · 2³² + column within the snapshot, ascending in each."""
        rows = torch.arange(self.num_nodes, device=self.col.device).repeat(self.num_snapshots)
        rows = rows.repeat_interleave(self.crow.diff(), output_size=self.col.numel())
        return rows.bitwise_left_shift_(32).bitwise_or_(self.col)

    def inv_sqrt_degree(self, scale: float, *, first: int = 0) -> Tensor:
        """(t · N,) float64 (float32 on devices without): D^(-1/2) with D = scale · row sums + 1.

        Args:
            scale: of the values.
            first: the number of the first snapshot, for the error.

        Raises:
            ValueError: if negative weights make a degree zero or negative.
        """
        if self.col.device.type == "cpu":
            result = torch.empty(self.crow.numel() - 1, dtype=torch.float64)
            wrong = compiled.inv_sqrt_degrees(self.crow.numpy(), self.value.numpy(), scale, result.numpy())
            if wrong >= 0:
                self._refuse(wrong, float(result[wrong]), first)
            return result
        wide = widest_float(self.col.device)
        if self.value.is_floating_point():
            sums = torch.segment_reduce(self.value.to(wide), "sum", offsets=self.crow.long(), initial=0)
        else:  # exact in any order
            ends = torch.zeros(self.value.numel() + 1, dtype=torch.int64, device=self.value.device)
            torch.cumsum(self.value, 0, dtype=torch.int64, out=ends[1:])
            sums = ends[self.crow.long()].diff().to(wide)
        degree = sums.mul_(scale).add_(1.0)
        if not bool((degree > 0).all()):
            wrong = int((~(degree > 0)).nonzero()[0])
            self._refuse(wrong, float(degree[wrong]), first)
        # Root and quotient are rounded correctly on every device; rsqrt is not.
        return degree.sqrt_().reciprocal_()

    def _refuse(self, row: int, degree: float, first: int) -> NoReturn:
        raise ValueError(
            f"vertex {row % self.num_nodes} has the degree {degree} in the window of snapshot "
            f"{first + row // self.num_nodes}; expected positive degrees for D^(-1/2); do not use signed weights as "
            "they are (take absolute values, or none)"
        )


def widest_float(device: torch.device) -> torch.dtype:
    """The most exact floating type of a device; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Span:
    """Which snapshots and events a run [start, stop) of a timeline is made of.

    Attributes:
        start: the run's first snapshot, in the timeline's numbering.
        stop: the one after its last.
        low: the first snapshot whose windowed sum is needed: up to ``m_window`` − 1 before ``start``.
        first_event_step: the first step whose events are needed, counted from the start of the timeline's *history*.
        low_step: ``low`` counted so.
        stop_step: ``stop`` counted so.
    """

    start: int
    stop: int
    low: int
    first_event_step: int
    low_step: int
    stop_step: int


def span(timeline: TimelineLike, start: int, stop: int) -> Span:
    """What snapshots [start, stop) need; windows and M-products are cut off at the whole timeline's first step.

    Raises:
        ValueError: if the run is no part of the timeline, or the history is too short for its windows.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0] * 9, [1] * 9, range(9), window=3, m_window=2)
        >>> needs = span(timeline, 5, 7)
        >>> needs.first_event_step, needs.low_step, needs.stop_step
        (2, 4, 7)
    """
    if not 0 <= start <= stop <= timeline.num_snapshots:
        raise ValueError(
            f"got snapshots {start} to {stop}; expected 0 <= start <= stop <= {timeline.num_snapshots}, the timeline's "
            "length; count snapshots from the timeline's own first one"
        )
    shift = timeline.history
    if start == stop:
        return Span(start, stop, start, start + shift, start + shift, stop + shift)
    low = start - min(timeline.m_window - 1, timeline.first + start)
    first = low - min(timeline.window - 1, timeline.first + low)
    if first < -timeline.history:
        raise ValueError(
            f"snapshot {start} needs the events of {start - first} steps before it, the timeline brings "
            f"{timeline.history + start}; cut timelines by slice_time, which takes the history along"
        )
    return Span(start, stop, low, first + shift, low + shift, stop + shift)


def windows(timeline: TimelineLike, start: int, stop: int, *, device: torch.device | str | None = None) -> Windows:
    """Windowed (symmetrised: A + Aᵀ) sums of snapshots [start − up to m_window + 1, stop), rebuilt from events."""
    needs = span(timeline, start, stop)
    check_events(timeline, needs.first_event_step, needs.stop_step)
    first, last = int(timeline.offsets[needs.first_event_step]), int(timeline.offsets[needs.stop_step])
    source, target = timeline.edge_index[:, first:last].to(device=device)
    weight = timeline.edge_weight
    if weight is not None:
        weight = weight[first:last].to(device=device)
    offsets = (timeline.offsets[needs.first_event_step : needs.stop_step + 1] - first).tolist()
    return windows_of_events(
        source,
        target,
        weight,
        offsets,
        num_nodes=timeline.num_nodes,
        window=timeline.window,
        symmetrise=timeline.symmetrise,
        union=timeline.union,
        emit=needs.low_step - needs.first_event_step,
    )


def windows_of_events(
    source: Tensor,
    target: Tensor,
    weight: Tensor | None,
    offsets: list[int],
    *,
    num_nodes: int,
    window: int,
    symmetrise: bool,
    union: bool,
    emit: int = 0,
) -> Windows:
    """Windowed sums of events that lie on a device already.

    Args:
        source: (E,) int32, of consecutive steps, sorted by (step, source, target), distinct within a step.
        target: (E,) int32.
        weight: (E,) int32 or float, or None where all are 1.
        offsets: where each step's events begin, and the end of the last.
        num_nodes: N.
        window: how many steps an event lives.
        symmetrise: give A + Aᵀ.
        union: an event counts once in a window (and once in each direction where symmetrised).
        emit: how many of the steps only fill the window; snapshots begin after them.
    """
    steps = Steps.of(source, target, weight, offsets, num_nodes=num_nodes, symmetrise=symmetrise, union=union)
    crow, col, value = merge_windows(steps, window=window, emit=emit)
    return Windows(num_nodes, crow, col, value)


def degree_features(timeline: TimelineLike, start: int, stop: int, device: torch.device | str | None = None) -> Tensor:
    """In- and out-degree of every vertex on the distinct raw events of each step.

    Returns:
        (stop − start, N, 2), in-degree first, in torch's default floating dtype (float32 at least). Neither the
        window nor symmetrising changes them; a self-loop counts in both.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> degree_features(Timeline.from_events([0, 0], [1, 2], [0, 0]), 0, 1).tolist()
        [[[0.0, 2.0], [1.0, 0.0], [1.0, 0.0]]]
    """
    needs = span(timeline, start, stop)
    steps = timeline.offsets[needs.start + timeline.history : needs.stop_step + 1]
    source, target = timeline.edge_index[:, int(steps[0]) : int(steps[-1])].to(device=device)
    return degrees_of_events(source, target, (steps - steps[0]).tolist(), timeline.num_nodes)


def degrees_of_events(source: Tensor, target: Tensor, offsets: list[int], num_nodes: int) -> Tensor:
    """(t, N, 2) in- and out-degrees of events that lie on a device already, distinct within a step."""
    count = len(offsets) - 1
    lengths = torch.tensor(offsets).diff().to(source.device)
    base = torch.repeat_interleave(torch.arange(count, device=source.device) * num_nodes, lengths)
    degrees = [torch.bincount(base + ends, minlength=count * num_nodes) for ends in (target, source)]
    # Half precision would round counts from 257 on.
    kind = torch.promote_types(torch.get_default_dtype(), torch.float32)
    return torch.stack(degrees, 1).view(count, num_nodes, 2).to(kind)


def windowed_nnz(timeline: TimelineLike) -> NDArray[np.int64]:
    """(T,) how many entries each snapshot's graph holds, as it is built (windowed, symmetrised, M-product).

    Counted from the events without building anything: an event is in its key's list until its life ends or the same
    key comes again.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> windowed_nnz(Timeline.from_events([0, 0, 1], [1, 1, 0], [0, 1, 2], window=2)).tolist()
        [1, 1, 2]
    """
    if (known := _counted.get(id(timeline))) is not None and known[0]() is timeline:
        return known[1]
    life = timeline.window + timeline.m_window - 1
    added, removed = window_changes(timeline, life=life, symmetrise=timeline.symmetrise)
    present = np.cumsum(added - removed)
    if timeline.m_window > 1:  # normalised matrices are stored with their diagonal
        added, removed = window_changes(timeline, life=life, symmetrise=False, loops_only=True)
        present += timeline.num_nodes - np.cumsum(added - removed)
    found = present[timeline.history :]
    found.flags.writeable = False
    with suppress(TypeError):  # a timeline of a class without weak references
        number = id(timeline)
        _counted[number] = weakref.ref(timeline, lambda _: _counted.pop(number, None)), found
    return found


# Cutting a timeline and planning its memory ask for the same counts, in every step where timelines have no name.
_counted: dict[int, tuple[weakref.ref[TimelineLike], NDArray[np.int64]]] = {}


def window_changes(
    timeline: TimelineLike,
    *,
    life: int,
    symmetrise: bool,
    loops_only: bool = False,
    steps: tuple[int, int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(S,) how many keys enter and leave the windowed list with each step; no list is built.

    Args:
        timeline: its events.
        life: how many steps an event stays.
        symmetrise: each event with its transpose.
        loops_only: count self-loops only.
        steps: look at the S steps [first, last) only, counted from the history's start; None: at all.
    """
    first, last = steps or (0, timeline.num_snapshots + timeline.history)
    total, bounds = last - first, timeline.offsets[first : last + 1].cpu().numpy()
    source, target = (ends.astype(np.int64) for ends in timeline.edge_index[:, bounds[0] : bounds[-1]].cpu().numpy())
    step = np.repeat(np.arange(total), np.diff(bounds))
    if loops_only:
        source, target, step = (array[source == target] for array in (source, target, step))
    keys = (source << 32) | target
    if symmetrise:
        keys, step = np.concatenate((keys, (target << 32) | source)), np.concatenate((step, step))
    order = np.lexsort((step, keys))
    step, keys = step[order], keys[order]
    until = step + life
    same = keys[1:] == keys[:-1]
    starts, ends = np.ones(len(keys), dtype=bool), np.ones(len(keys), dtype=bool)
    starts[1:] = ~(same & (step[1:] <= until[:-1]))  # what ends as the same key comes again goes on
    ends[:-1] = starts[1:]
    added = np.bincount(step[starts], minlength=total)
    removed = np.bincount(np.minimum(until[ends], total), minlength=total + 1)[:total]
    return added.astype(np.int64), removed.astype(np.int64)
