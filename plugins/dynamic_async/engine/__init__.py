"""Peers that iterate a map between processes and machines: frames, transports, membership, hosting, faults."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.engine.faults import Faults as Faults
    from fulgurite.plugins.dynamic_async.engine.faults import FaultyTransport as FaultyTransport
    from fulgurite.plugins.dynamic_async.engine.faults import Striker as Striker
    from fulgurite.plugins.dynamic_async.engine.hosting import assign as assign
    from fulgurite.plugins.dynamic_async.engine.peer import Evaluation as Evaluation
    from fulgurite.plugins.dynamic_async.engine.peer import Peer as Peer
    from fulgurite.plugins.dynamic_async.engine.recorder import Recorder as Recorder
    from fulgurite.plugins.dynamic_async.engine.residual import error_bound as error_bound
    from fulgurite.plugins.dynamic_async.engine.worker import Work as Work
    from fulgurite.plugins.dynamic_async.engine.workers import Workers as Workers

_HOMES = {
    "Evaluation": "fulgurite.plugins.dynamic_async.engine.peer",
    "Faults": "fulgurite.plugins.dynamic_async.engine.faults",
    "FaultyTransport": "fulgurite.plugins.dynamic_async.engine.faults",
    "Peer": "fulgurite.plugins.dynamic_async.engine.peer",
    "Recorder": "fulgurite.plugins.dynamic_async.engine.recorder",
    "Striker": "fulgurite.plugins.dynamic_async.engine.faults",
    "Work": "fulgurite.plugins.dynamic_async.engine.worker",
    "Workers": "fulgurite.plugins.dynamic_async.engine.workers",
    "assign": "fulgurite.plugins.dynamic_async.engine.hosting",
    "error_bound": "fulgurite.plugins.dynamic_async.engine.residual",
}
__all__ = [
    "Evaluation",
    "Faults",
    "FaultyTransport",
    "Peer",
    "Recorder",
    "Striker",
    "Work",
    "Workers",
    "assign",
    "error_bound",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
