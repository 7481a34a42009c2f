"""Snapshot-parallel training of dynamic graph networks: the strategy and what it is made of, handed on lazily.

After ``import fulgurite.plugins.snapshot_parallel``, Lightning knows ``Trainer(strategy="snapshot_parallel")``.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fulgurite.plugins.late_registration import register_strategy

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.exchange import Exchange as Exchange
    from fulgurite.plugins.snapshot_parallel.exchange import GroupExchange as GroupExchange
    from fulgurite.plugins.snapshot_parallel.exchange import Traffic as Traffic
    from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs as SnapshotGraphs
    from fulgurite.plugins.snapshot_parallel.partitioning import Partition as Partition
    from fulgurite.plugins.snapshot_parallel.partitioning import Split as Split
    from fulgurite.plugins.snapshot_parallel.partitioning import partition as partition
    from fulgurite.plugins.snapshot_parallel.shard import Block as Block
    from fulgurite.plugins.snapshot_parallel.shard import Shard as Shard
    from fulgurite.plugins.snapshot_parallel.strategy import SnapshotParallelStrategy as SnapshotParallelStrategy
    from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike as TimelineLike

_HOMES = {
    "Block": "fulgurite.plugins.snapshot_parallel.shard",
    "Exchange": "fulgurite.plugins.snapshot_parallel.exchange",
    "GroupExchange": "fulgurite.plugins.snapshot_parallel.exchange",
    "Partition": "fulgurite.plugins.snapshot_parallel.partitioning",
    "Shard": "fulgurite.plugins.snapshot_parallel.shard",
    "SnapshotGraphs": "fulgurite.plugins.snapshot_parallel.graphs",
    "SnapshotParallelStrategy": "fulgurite.plugins.snapshot_parallel.strategy",
    "Split": "fulgurite.plugins.snapshot_parallel.partitioning",
    "TimelineLike": "fulgurite.plugins.snapshot_parallel.timeline",
    "Traffic": "fulgurite.plugins.snapshot_parallel.exchange",
    "partition": "fulgurite.plugins.snapshot_parallel.partitioning",
}
__all__ = [
    "Block",
    "Exchange",
    "GroupExchange",
    "Partition",
    "Shard",
    "SnapshotGraphs",
    "SnapshotParallelStrategy",
    "Split",
    "TimelineLike",
    "Traffic",
    "partition",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# Like Lightning's own, it has names that start ranks by fork (for notebooks) and by spawn beside that of scripts.
for _name, _method in (("", "popen"), ("_fork", "fork"), ("_spawn", "spawn")):
    register_strategy(
        f"snapshot_parallel{_name}",
        "fulgurite.plugins.snapshot_parallel.strategy:SnapshotParallelStrategy",
        f"timelines cut along time over processes that are started by {_method!r}",
        start_method=_method,
    )
