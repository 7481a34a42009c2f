"""What stays on the device between epochs: built graphs, else the events that they are built from, else nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fulgurite.plugins.snapshot_parallel.events import windowed_nnz
from fulgurite.plugins.snapshot_parallel.formats import Mode
from fulgurite.plugins.snapshot_parallel.source import TimelineSource, feature_type, joined_runs
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike
from fulgurite.plugins.snapshot_parallel.transfer import Transfer

Level = Literal["graphs", "events", "streamed"]

MARGIN = 0.5
"""The share of free memory that a budget of None takes: activations and the optimizer need the rest."""


_STREAMED = 16  # timelines of which what is sent whole or as differences is kept on the host


class Residency:
    """Gives timelines' graphs and features on a device, and keeps there what the memory allows.

    For each timeline the first level that fits the budget is taken: ``graphs`` (built once, nothing is sent or built
    again), ``events`` (sent once; snapshots are rebuilt whenever they are asked for), ``streamed`` (sent whenever they
    are asked for, the next run while the present one is worked on). A timeline of a name that was seen keeps what it
    had; where several do not fit together, the one used longest ago goes. What is streamed whole or as differences is
    made once and kept on the host; raw events are views of the timeline.

    Args:
        device: where to.
        transfer: what may travel, see :func:`fulgurite.plugins.snapshot_parallel.formats.choose`.
        residency: a level for all timelines, or ``"auto"``.
        budget_bytes: for everything that stays; None: half of the memory that is free when a timeline comes.
        dtype: of features and of an M-product's values; None: features as they are (degrees in torch's default type),
            M-products in float64.
        local_ranks: how many processes share this machine's memory, for a budget of None.

    Raises:
        ValueError: a transfer or residency that is not known, or both that exclude each other.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], num_nodes=3, degree_features=True, name="two")
        >>> residency = Residency("cpu")
        >>> for epoch in range(3):
        ...     source = residency.source(timeline)
        ...     graphs, features = source.graphs(0, 2), source.features(0, 2)
        >>> source.level, residency.bytes
        ('graphs', {'events': 16})
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        transfer: Mode = "auto",
        residency: Literal["auto", "graphs", "events", "streamed"] = "auto",
        budget_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        local_ranks: int = 1,
    ) -> None:
        for name, got, known in (
            ("transfer", transfer, ("auto", "events", "full", "difference")),
            ("residency", residency, ("auto", "graphs", "events", "streamed")),
        ):
            if got not in known:
                raise ValueError(f"got {name}={got!r}; expected one of {', '.join(known)}")
        if residency == "events" and transfer not in ("auto", "events"):
            raise ValueError(
                f"got residency='events' with transfer={transfer!r}; events stay only where events are sent; take "
                "transfer='events', or residency='streamed'"
            )
        if budget_bytes is not None and budget_bytes < 0:
            raise ValueError(f"got budget_bytes={budget_bytes}; expected 0 or more, or None for what is free")
        self.transfer = Transfer(device)
        self.device = self.transfer.device
        self._mode = transfer
        self._residency = residency
        self._budget = budget_bytes
        self._dtype = dtype
        self._local_ranks = local_ranks
        self._sources: OrderedDict[tuple[Any, ...], tuple[TimelineSource, int]] = OrderedDict()
        self._used: TimelineSource | None = None

    @property
    def bytes(self) -> dict[str, int]:
        """Sent so far, by kind; never goes down."""
        return dict(self.transfer.bytes)

    @property
    def nbytes(self) -> int:
        """What stays on the device for the timelines that are known by name."""
        return sum(source.nbytes for source, _ in self._sources.values())

    def source(self, timeline: TimelineLike, runs: Sequence[tuple[int, int]] | None = None) -> TimelineSource:
        """Where a timeline's snapshots come from; the same object for the same name and runs.

        Args:
            timeline: on the host.
            runs: which runs of snapshots [start, stop) will be asked for (a rank's blocks), in order; None: all
                snapshots as one. Others can be asked for, but do not count in the memory that is planned.
        """
        whole = ((0, timeline.num_snapshots),)
        cut = whole if runs is None else tuple((int(start), int(stop)) for start, stop in runs)
        options = ("num_snapshots", "first", "window", "union", "symmetrise", "m_window", "degree_features")
        key = (timeline.name, cut, *(getattr(timeline, option) for option in options))
        if timeline.name is not None and key in self._sources:
            self._sources.move_to_end(key)
            return self._sources[key][0]
        level, needed = self._level(timeline, cut)
        if timeline.name is not None and level != "streamed":
            self._make_room(needed)
        source = TimelineSource(
            timeline,
            cut,
            self.transfer,
            level=level,
            mode="events" if level == "events" else self._mode,
            dtype=self._dtype,
            room=self._room,
            on_use=self._use,
        )
        if timeline.name is not None:
            self._sources[key] = source, needed
            streamed = [known for known, (kept, _) in self._sources.items() if kept.level == "streamed"]
            if len(streamed) > _STREAMED:
                del self._sources[streamed[0]]
        return source

    def clear(self) -> None:
        """Let go of everything that is kept."""
        self._sources.clear()
        self._used = None

    def _use(self, source: TimelineSource) -> None:
        """Only the timeline that is worked on has a run at hand beside what stays."""
        if self._used is not None and self._used is not source:
            self._used.release()
        self._used = source

    def _room(self) -> int:
        return self._total() - self._taken()

    def _taken(self) -> int:
        # What is planned counts before it is built.
        return sum(max(source.nbytes, needed) for source, needed in self._sources.values())

    def _total(self) -> int:
        if self._budget is not None:
            return self._budget
        return int(MARGIN * (free_bytes(self.device, self._local_ranks) + self.nbytes))

    def _level(self, timeline: TimelineLike, runs: tuple[tuple[int, int], ...]) -> tuple[Level, int]:
        graphs, events = resident_bytes(timeline, runs, dtype=self._dtype)
        needs: dict[Level, int] = {"graphs": graphs, "events": events, "streamed": 0}
        if self._residency != "auto":
            return self._residency, needs[self._residency]
        total = self._total()
        for level, needed in needs.items():
            if level == "events" and self._mode not in ("auto", "events"):
                continue
            if needed <= total:
                return level, needed
        return "streamed", 0

    def _make_room(self, needed: int) -> None:
        total = self._total()
        while self._sources and self._taken() + needed > total:
            self._sources.popitem(last=False)


def resident_bytes(
    timeline: TimelineLike, runs: Sequence[tuple[int, int]], *, dtype: torch.dtype | None = None
) -> tuple[int, int]:
    """Bytes on the device of a timeline's built graphs and features, and of its events with the largest built run.

    Either with the targets of the runs. Graphs that are not symmetric count twice but for their degrees: backward
    passes need the transpose.
    """
    nnz = windowed_nnz(timeline)
    kind = dtype or (torch.float64 if timeline.m_window > 1 else torch.int32)
    weight = timeline.edge_weight
    if timeline.m_window == 1:
        real = weight is not None and weight.is_floating_point() and not timeline.union
        kind = weight.dtype if real and weight is not None else torch.int32
    given = timeline.features
    feature = dtype or feature_type(timeline)
    width = 2 * timeline.degree_features + (0 if given is None else given.shape[-1])
    built = []
    for start, stop in runs:
        rows = (stop - start) * timeline.num_nodes
        csr = int(nnz[start:stop].sum()) * (4 + kind.itemsize) + 4 * (rows + 1)
        graphs = csr * (1 if timeline.symmetrise else 2) + (8 * rows if timeline.m_window == 1 else 0)
        built.append(graphs + rows * width * feature.itemsize)
    steps = sum(int(timeline.offsets[last] - timeline.offsets[first]) for first, last in joined_runs(timeline, runs))
    size = 8 + (0 if weight is None or timeline.union else weight.element_size())
    raw = 0 if given is None else given.nbytes
    if given is not None and given.dim() == 3:
        raw = given[0].nbytes * sum(last - first for first, last in joined_runs(timeline, runs, "features"))
    scored = timeline.target_offsets.diff().cpu() * timeline.scored.cpu()
    # Places and times of a target beside its vertices and its label.
    target = 8 * (2 + timeline.target_index.shape[0]) + timeline.target_label.element_size()
    targets = target * sum(int(scored[start:stop].sum()) for start, stop in runs)
    return sum(built) + targets, steps * size + raw + max(built, default=0) + targets


def free_bytes(device: torch.device, local_ranks: int = 1) -> int:
    """Memory that a process may still take: of its GPU, or its share of what the machine has left.

    Example:
        >>> free_bytes(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 2**62  # not told here; then what stays is the user's choice
    available = _fields(meminfo)["MemAvailable"] * 1024
    return min(available, _within_container(Path("/sys/fs/cgroup"))) // local_ranks


def _within_container(root: Path) -> int:
    """What a container's limit leaves (control groups of version 2, or 1); what files fill only is given back."""
    for limit, used, kind in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, taken = root / limit, root / used
        if most.is_file() and taken.is_file() and (text := most.read_text().strip()).isdigit():
            files = _fields(taken.with_name("memory.stat")).get(kind, 0)
            return max(0, int(text) - max(0, int(taken.read_text()) - files))
    return 2**62


def _fields(path: Path) -> dict[str, int]:
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines()) if path.is_file() else ()
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
