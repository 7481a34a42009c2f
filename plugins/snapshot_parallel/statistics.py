"""What a plan needs to know of a timeline: its size, not its content. And a stand-in of that size, to be run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
import torch

from fulgurite.plugins.snapshot_parallel.partitioning import Balance, Partition, partition, snapshot_costs
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


class StatisticsError(ValueError):
    """Sizes of which no timeline can be."""


@dataclass(frozen=True)
class Statistics:
    """The size of a timeline.

    Args:
        snapshots: T.
        nodes: N.
        nnz: (T,) stored entries of each snapshot's windowed adjacency, without the identity.
        features: F of the input, degrees included.
        events: distinct raw events over all snapshots: what travels to the device.
        dtype: of features and activations.
        symmetric: every snapshot equals its transpose, so that backward needs no second copy of it.
        m_window: w of TM-GCN's M-product; above 1 the graphs are normalised floats, and ``nnz`` counts their diagonal.

    Raises:
        StatisticsError: a size out of its range.

    Example:
        >>> statistics = Statistics.parse("snapshots=4,nodes=10,nnz=30,features=2")
        >>> statistics.nnz, statistics.total_nnz
        ((30, 30, 30, 30), 120)
    """

    snapshots: int
    nodes: int
    nnz: tuple[int, ...] = field(repr=False)
    features: int
    events: int
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    symmetric: bool = True
    m_window: int = 1

    def __post_init__(self) -> None:
        for name in ("snapshots", "nodes", "features", "m_window"):
            if getattr(self, name) < 1:
                raise StatisticsError(f"got {name}={getattr(self, name)}; expected 1 or more")
        if len(self.nnz) != self.snapshots or min(self.nnz) < 0 or self.events < 0:
            raise StatisticsError(
                f"got nnz of {len(self.nnz)} snapshots and {self.events} events; expected 0 or more for each of "
                f"{self.snapshots}"
            )
        if self.dtype not in DTYPES:
            raise StatisticsError(f"got dtype={self.dtype}; expected {', '.join(DTYPES)}")

    @classmethod
    def of(cls, timeline: TimelineLike, *, dtype: torch.dtype | None = None) -> Self:
        """The size of a timeline, its windowed non-zeros counted exactly.

        Args:
            timeline: events on the host.
            dtype: of the computation; None takes the features', or float32.
        """
        given = timeline.features
        kind = dtype or (torch.float32 if given is None else given.dtype)
        return cls(
            snapshots=timeline.num_snapshots,
            nodes=timeline.num_nodes,
            nnz=tuple(int(cost) for cost in snapshot_costs(timeline, "nnz")),
            features=2 * timeline.degree_features + (0 if given is None else given.shape[-1]),
            events=timeline.edge_index.shape[1],
            dtype=str(kind).removeprefix("torch."),  # type: ignore[arg-type]  # checked after
            symmetric=timeline.symmetrise,
            m_window=timeline.m_window,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``snapshots=200,nodes=1000000,nnz=5000000,features=2``: nnz is the mean of a snapshot.

        Further words: ``events`` (of all snapshots; else a tenth of all nnz, as many as an edge life of ten leaves),
        ``dtype`` (``float32``, ``float64``, ``bfloat16``, ``float16``), ``symmetric`` (``true`` or ``false``),
        ``m_window``. Numbers may be written ``1e6`` or ``1_000_000``.

        Raises:
            StatisticsError: a word that is not known, missing, or not a number.

        Example:
            >>> Statistics.parse("snapshots=2,nodes=1e3,nnz=5e3")
            Traceback (most recent call last):
            fulgurite.plugins.snapshot_parallel.statistics.StatisticsError: statistics: features is missing; expected
            snapshots=T,nodes=N,nnz=MEAN,features=F
        """
        known = [f.name for f in fields(cls)]
        words: dict[str, Any] = {}
        for word in filter(None, text.replace(" ", "").split(",")):
            name, _, value = word.partition("=")
            if name not in known:
                raise StatisticsError(f"statistics: got {word!r}; expected NAME=VALUE of {', '.join(known)}")
            words[name] = value
        for name in ("snapshots", "nodes", "nnz", "features"):
            if name not in words:
                raise StatisticsError(
                    f"statistics: {name} is missing; expected snapshots=T,nodes=N,nnz=MEAN,features=F"
                )
        for name in words.keys() & {"snapshots", "nodes", "nnz", "features", "events", "m_window"}:
            words[name] = _whole(name, words[name])
        if "symmetric" in words:
            if words["symmetric"] not in ("true", "false"):
                raise StatisticsError(f"statistics: got symmetric={words['symmetric']}; expected true or false")
            words["symmetric"] = words["symmetric"] == "true"
        words["nnz"] = (words["nnz"],) * max(words["snapshots"], 0)
        words.setdefault("events", sum(words["nnz"]) // 10)
        return cls(**words)

    @property
    def total_nnz(self) -> int:
        """Stored entries over all snapshots."""
        return sum(self.nnz)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of features and activations."""
        return DTYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.torch_dtype.itemsize

    def partition(self, ranks: int, blocks: int = 1, *, balance: Balance = "nnz") -> Partition:
        """Who owns what, balanced as the strategy does it."""
        costs = np.asarray(self.nnz, dtype=np.int64) + (self.nodes if balance == "nnz+nodes" else 0)
        return partition(costs, self.nodes, ranks, blocks)

    def scaled(self, nodes: int) -> Self:
        """The same timeline over fewer vertices, as many entries a vertex as before."""
        share = nodes / self.nodes
        return type(self)(
            **{
                **self.to_dict(),
                "nodes": nodes,
                "nnz": tuple(round(count * share) for count in self.nnz),
                "events": round(self.events * share),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {"nnz": list(self.nnz)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_dict`."""
        return cls(**{**state, "nnz": tuple(state["nnz"])})


def _whole(name: str, text: str) -> int:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value == int(value)):
        raise StatisticsError(f"statistics: got {name}={text}; expected a whole number")
    return int(value)
