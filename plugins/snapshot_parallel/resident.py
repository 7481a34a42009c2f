"""The source of a run in one process: a timeline's graphs and features built once on the device and kept there."""

from __future__ import annotations

import torch

from fulgurite.plugins.snapshot_parallel.source import TimelineSource
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike
from fulgurite.plugins.snapshot_parallel.transfer import Transfer


class Resident(TimelineSource):
    """A source that makes what it is asked for once and keeps it, whatever memory there is.

    Args:
        timeline: on the host.
        device: where to keep it; None: where the events lie.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], num_nodes=3, degree_features=True)
        >>> source = Resident(timeline)
        >>> source.graphs(0, 2) is source.graphs(0, 2), source.features(1, 2).shape
        (True, torch.Size([1, 3, 2]))
    """

    def __init__(self, timeline: TimelineLike, *, device: torch.device | str | None = None) -> None:
        place = timeline.edge_index.device if device is None else device
        super().__init__(timeline, [(0, timeline.num_snapshots)], Transfer(place), level="graphs")
