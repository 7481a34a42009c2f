"""A made-up timeline of a given size: random graphs and features to run a rank's shard on, before there is data."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs
from fulgurite.plugins.snapshot_parallel.statistics import Statistics


def _empty(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.zeros(*shape, dtype=torch.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class StandIn:
    """A timeline of so many snapshots and vertices, without an event or target in it (see :class:`TimelineLike`).

    Its graphs are not built from events: :class:`StandInSource` makes them up, in the numbers that statistics tell.

    Example:
        >>> StandIn(num_snapshots=4, num_nodes=10).slice_time(1, 3).num_snapshots
        2
    """

    num_snapshots: int
    num_nodes: int
    first: int = 0
    history: int = 0
    window: int = 1
    union: bool = False
    symmetrise: bool = True
    m_window: int = 1
    degree_features: bool = False
    name: str | None = None
    edge_index: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.int32))
    edge_weight: Tensor | None = None
    features: Tensor | None = None
    target_index: Tensor = field(default_factory=_empty(1, 0))
    target_label: Tensor = field(default_factory=_empty(0))

    @property
    def offsets(self) -> Tensor:
        """(T + 1,) zeros: no event."""
        return torch.zeros(self.num_snapshots + 1, dtype=torch.int64)

    @property
    def target_offsets(self) -> Tensor:
        """(T + 1,) zeros: no target."""
        return torch.zeros(self.num_snapshots + 1, dtype=torch.int64)

    @property
    def scored(self) -> Tensor:
        """(T,) all True."""
        return torch.ones(self.num_snapshots, dtype=torch.bool)

    def slice_time(self, start: int, stop: int) -> Self:
        """Snapshots [start, stop)."""
        return type(self)(
            num_snapshots=stop - start,
            num_nodes=self.num_nodes,
            first=self.first + start,
            symmetrise=self.symmetrise,
        )


class StandInSource:
    """Graphs and features of a made-up timeline; made when first asked for, then resident, as on a device.

    Args:
        statistics: how many snapshots, vertices, entries and features.
        device: where they lie.
        seed: of the random entries, which are spread evenly over all pairs of vertices.

    Example:
        >>> source = StandInSource(Statistics.parse("snapshots=2,nodes=50,nnz=100,features=3"))
        >>> source.graphs(0, 2).nnz, source.features(0, 1).shape
        (200, torch.Size([1, 50, 3]))
    """

    def __init__(self, statistics: Statistics, *, device: torch.device | str = "cpu", seed: int = 0) -> None:
        self.statistics = statistics
        self.device = torch.device(device)
        self._seed = seed
        self._kept: dict[Hashable, Any] = {}

    def graphs(self, start: int, stop: int) -> SnapshotGraphs:
        """The graphs of snapshots [start, stop)."""
        return self._once(("graphs", start, stop), lambda: self._make_graphs(start, stop))

    def features(self, start: int, stop: int) -> Tensor:
        """(stop − start, N, F) normal numbers."""
        size = (stop - start, self.statistics.nodes, self.statistics.features)
        return self._once(("features", start, stop), lambda: self._normal(start, size))

    def cached(self, key: Hashable, start: int, stop: int, make: Callable[[], Any]) -> Any:
        """What ``make()`` gives, made once for the snapshots [start, stop)."""
        return self._once((key, start, stop), make)

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of all graphs and of all features made so far, without what was cached."""
        graphs = sum(value.nbytes for value in self._kept.values() if isinstance(value, SnapshotGraphs))
        features = sum(value.nbytes for key, value in self._kept.items() if _is_features(key))
        return graphs, features

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _normal(self, start: int, size: tuple[int, ...]) -> Tensor:
        generator = torch.Generator(device=self.device).manual_seed(self._seed + start)
        kind = self.statistics.torch_dtype
        return torch.randn(size, generator=generator, device=self.device, dtype=torch.float32).to(kind)

    def _make_graphs(self, start: int, stop: int) -> SnapshotGraphs:
        n, device = self.statistics.nodes, self.device
        generator = torch.Generator(device=device).manual_seed(self._seed + start)
        columns = [torch.zeros(0, dtype=torch.int32, device=device)]
        counts = [torch.zeros(0, dtype=torch.int64, device=device)]
        for entries in self.statistics.nnz[start:stop]:
            pairs = torch.randint(n * n, (entries,), generator=generator, device=device).sort().values
            columns.append((pairs % n).int())
            counts.append(torch.bincount(pairs // n, minlength=n))
        degree = torch.cat(counts)
        crow = torch.zeros(degree.numel() + 1, dtype=torch.int64, device=device)
        torch.cumsum(degree, 0, out=crow[1:])
        col = torch.cat(columns)
        mixed = self.statistics.m_window > 1
        value = torch.ones_like(col)
        return SnapshotGraphs(
            num_snapshots=stop - start,
            num_nodes=n,
            crow=crow.int() if col.numel() < 2**31 else crow,
            col=col,
            value=value.to(self.statistics.torch_dtype) if mixed else value,
            symmetric=self.statistics.symmetric,
            inv_sqrt_degree=None if mixed else (degree.double() + 1).rsqrt(),
        )


def _is_features(key: Hashable) -> bool:
    return isinstance(key, tuple) and key[0] == "features"
