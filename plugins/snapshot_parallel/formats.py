"""Four ways to send the windowed graphs of a run of snapshots, each in exact bytes, and which is the smallest.

=========  =========================================================================================================
csr32      every snapshot whole: column and value of each entry and N + 1 row offsets, 8 B/nnz + 4 (N + 1)
coo32      every snapshot whole: row, column and value of each entry, 12 B/nnz
diff32     what a snapshot adds to and takes from the one before: 8 B per added, 4 B per removed entry (its place in
           the list); for sums also all values, 4 B/nnz, since they change where no entry does
events     the raw events, from which the device slides the window itself: 8 B per distinct event and step, once
=========  =========================================================================================================

Values are left out where all are 1 (unions; unweighted graphs at window 1), and are of their own size where they are
floats. Weights of events go as the smallest whole type that holds them, as (place, weight) of those that are not 1
where that is less: at most 4 B an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.events import Span, window_changes
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

Format = Literal["csr32", "coo32", "diff32", "events"]
Mode = Literal["auto", "events", "full", "difference"]


def csr32_bytes(nnz: int, num_nodes: int, *, value_bytes: int = 4) -> int:
    """Bytes of a snapshot as int32 CSR.

    Example:
        >>> csr32_bytes(10, 100), coo32_bytes(10), diff32_bytes(3, 2), diff32_bytes(3, 2, nnz=10)
        (484, 120, 32, 72)
    """
    return (4 + value_bytes) * nnz + 4 * (num_nodes + 1)


def coo32_bytes(nnz: int, *, value_bytes: int = 4) -> int:
    """Bytes of a snapshot as int32 COO."""
    return (8 + value_bytes) * nnz


def diff32_bytes(added: int, removed: int, *, nnz: int = 0, value_bytes: int = 4) -> int:
    """Bytes of a snapshot as the difference to the one before; ``nnz`` where values have to come along."""
    return 8 * added + 4 * removed + value_bytes * nnz


@dataclass(frozen=True)
class Choice:
    """How a run of snapshots is sent.

    Attributes:
        formats: of every snapshot, those included that only the M-product needs.
        bytes: by kind of format; kinds that are not used are left out.
        event_steps: which steps of the timeline (counted from its history's start) are sent as events, ascending.
        sparse_weights: weights of events go as (place, weight) of those that are not 1.
        weight_type: the type in which weights of events go; None: there are none.
        value_bytes: of an entry of csr32, coo32 and diff32; 0: all values are 1.
        directed: whole snapshots and differences are of A, and the device makes A + Aᵀ; else they are of the graph as
            it is used.
    """

    formats: tuple[Format, ...]
    bytes: dict[str, int]
    event_steps: tuple[int, ...]
    sparse_weights: bool
    weight_type: torch.dtype | None
    value_bytes: int
    directed: bool

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.bytes.values())


def value_bytes(timeline: TimelineLike) -> int:
    """Bytes of a value in windowed lists: 0 where all are 1, 4 for counts, a weight's own for floats."""
    weight = timeline.edge_weight
    if timeline.union or (weight is None and timeline.window == 1):
        return 0
    return 4 if weight is None or not weight.is_floating_point() else weight.element_size()


def choose(timeline: TimelineLike, span: Span, mode: Mode = "auto") -> Choice:
    """The formats of fewest bytes in all that a mode allows; counted from the events, no graph is built.

    A difference needs the whole snapshot or difference before it; an event that was sent serves all later snapshots;
    so the best sequence is found by dynamic programming over snapshots and the number of snapshots since events were
    last used.

    Args:
        timeline: the events.
        span: which snapshots; see :func:`fulgurite.plugins.snapshot_parallel.events.span`.
        mode: ``"events"`` and ``"full"`` (the smaller of csr32 and coo32 for each snapshot, of the graph as it is
            used) allow one way only; ``"difference"`` the first snapshot whole, then what is smaller; ``"auto"`` all.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> from fulgurite.plugins.snapshot_parallel.events import span
        >>> timeline = Timeline.from_events([0, 1, 2], [1, 2, 0], [0, 1, 2], window=2)
        >>> choose(timeline, span(timeline, 0, 3)).bytes
        {'events': 24}
    """
    weight, union = timeline.edge_weight, timeline.union
    real = weight is not None and weight.is_floating_point() and not union
    # Float sums depend on their order: those of A + Aᵀ cannot be made from those of A to the bit.
    directed = timeline.symmetrise and not real and mode != "full"
    symmetric = timeline.symmetrise and not directed
    size = value_bytes(timeline)
    if symmetric and size == 0:
        size = 4  # A + Aᵀ of a union is 1 or 2
    steps = (span.first_event_step, span.stop_step)
    added, removed = window_changes(timeline, life=timeline.window, symmetrise=symmetric, steps=steps)
    here = slice(span.low_step - span.first_event_step, None)
    nnz = np.cumsum(added - removed)[here]
    csr = (4 + size) * nnz + 4 * (timeline.num_nodes + 1)
    coo = (8 + size) * nnz
    full = np.minimum(csr, coo)
    difference = 8 * added[here] + 4 * removed[here] + size * nnz
    count = timeline.offsets.diff().cpu().numpy()
    each, sparse, weight_type = _event_bytes(timeline, count, span)
    names = _cheapest(full, np.minimum(full, difference), each, span, timeline.window, mode)
    formats: list[Format] = []
    total: dict[str, int] = {}
    needed: set[int] = set()
    for position, name in enumerate(names):
        step = span.low_step + position
        if name == "events":
            formats.append("events")
            needed.update(range(max(span.first_event_step, step - timeline.window + 1), step + 1))
            continue
        whole: Format = "csr32" if csr[position] <= coo[position] else "coo32"
        chosen: Format = "diff32" if name == "next" and difference[position] < full[position] else whole
        formats.append(chosen)
        sent = difference[position] if chosen == "diff32" else full[position]
        total[chosen] = total.get(chosen, 0) + int(sent)
    if needed:
        total["events"] = int(sum(each[step - span.first_event_step] for step in needed))
    return Choice(tuple(formats), total, tuple(sorted(needed)), sparse, weight_type, size, directed)


def _event_bytes(
    timeline: TimelineLike, count: NDArray[np.int64], span: Span
) -> tuple[NDArray[np.int64], bool, torch.dtype | None]:
    """Bytes of every step of the span as events, whether weights are sent sparsely, and as what type."""
    steps = slice(span.first_event_step, span.stop_step)
    plain = 8 * count[steps]
    if timeline.edge_weight is None or timeline.union:
        return plain, False, None
    bounds = timeline.offsets[steps.start : steps.stop + 1].cpu()
    weight = timeline.edge_weight[int(bounds[0]) : int(bounds[-1])].cpu()
    kind = _narrowest(weight)
    unlike = np.concatenate(([0], np.cumsum((weight != 1).numpy())))[(bounds - bounds[0]).numpy()]
    sparse = (4 + kind.itemsize) * np.diff(unlike)
    if sparse.sum() < kind.itemsize * weight.numel():
        return plain + sparse, True, kind
    return plain + kind.itemsize * count[steps], False, kind


def _narrowest(weight: Tensor) -> torch.dtype:
    if weight.is_floating_point() or not weight.numel():
        return weight.dtype
    least, most = int(weight.min()), int(weight.max())
    kinds = (torch.uint8, torch.int16, torch.int32)
    return next(kind for kind in kinds if torch.iinfo(kind).min <= least and most <= torch.iinfo(kind).max)


def _cheapest(
    full: NDArray[np.int64],
    follow: NDArray[np.int64],
    steps: NDArray[np.int64],
    span: Span,
    window: int,
    mode: Mode,
) -> list[Literal["events", "whole", "next"]]:
    """For every snapshot: events, a whole one, or one that may build on the one before."""
    count = len(full)
    if mode == "events":
        return ["events"] * count
    if mode != "auto":
        return [("whole" if mode == "full" or not position else "next") for position in range(count)]
    sums = np.concatenate(([0], np.cumsum(steps)))
    window = min(window, len(steps))
    # State j: events were last used j snapshots ago; j = window: nothing of them is of use any more.
    infinite = np.iinfo(np.int64).max // 2
    cost = np.full(window + 1, infinite, dtype=np.int64)
    cost[window] = 0
    came: list[NDArray[np.int64]] = []
    for position in range(count):
        last = span.low_step - span.first_event_step + position
        ages = np.arange(window + 1)
        since = np.maximum(np.maximum(last - window + 1, 0), last - ages)
        by_events = cost + (sums[last + 1] - sums[since])
        best = int(by_events.argmin())
        ahead = np.full(window + 1, infinite, dtype=np.int64)
        origin = np.zeros(window + 1, dtype=np.int64)
        ahead[0], origin[0] = by_events[best], best
        whole = cost + np.where((ages == 0) | (position == 0), full[position], follow[position])
        ahead[1:], origin[1:] = whole[:-1], ages[:-1]
        if whole[window] < ahead[window]:
            ahead[window], origin[window] = whole[window], window
        cost = np.minimum(ahead, infinite)
        came.append(origin)
    state = int(cost.argmin())
    names: list[Literal["events", "whole", "next"]] = []
    for position in range(count - 1, -1, -1):
        before = int(came[position][state])
        names.append("events" if state == 0 else "whole" if before == 0 or position == 0 else "next")
        state = before
    return names[::-1]
