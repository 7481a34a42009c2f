"""Peers that iterate a map between processes and machines: frames, transports, membership, hosting, faults."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.engine.addresses import check_address as check_address
    from fulgurite.plugins.dynamic_async.engine.curve import CurvePair as CurvePair
    from fulgurite.plugins.dynamic_async.engine.faults import Faults as Faults
    from fulgurite.plugins.dynamic_async.engine.faults import FaultyTransport as FaultyTransport
    from fulgurite.plugins.dynamic_async.engine.faults import Striker as Striker
    from fulgurite.plugins.dynamic_async.engine.frames import Codec as Codec
    from fulgurite.plugins.dynamic_async.engine.frames import FrameError as FrameError
    from fulgurite.plugins.dynamic_async.engine.hosting import assign as assign
    from fulgurite.plugins.dynamic_async.engine.in_process import Hub as Hub
    from fulgurite.plugins.dynamic_async.engine.in_process import InProcessTransport as InProcessTransport
    from fulgurite.plugins.dynamic_async.engine.keys import SharedKey as SharedKey
    from fulgurite.plugins.dynamic_async.engine.keys import new_run as new_run
    from fulgurite.plugins.dynamic_async.engine.keys import run_nonce as run_nonce
    from fulgurite.plugins.dynamic_async.engine.keys import shared_key as shared_key
    from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes as Mailboxes
    from fulgurite.plugins.dynamic_async.engine.merging import merge as merge
    from fulgurite.plugins.dynamic_async.engine.messages import Block as Block
    from fulgurite.plugins.dynamic_async.engine.messages import Bulletin as Bulletin
    from fulgurite.plugins.dynamic_async.engine.messages import Incarnation as Incarnation
    from fulgurite.plugins.dynamic_async.engine.peer import Evaluation as Evaluation
    from fulgurite.plugins.dynamic_async.engine.peer import Peer as Peer
    from fulgurite.plugins.dynamic_async.engine.ray_transport import RayTransport as RayTransport
    from fulgurite.plugins.dynamic_async.engine.recorder import Recorder as Recorder
    from fulgurite.plugins.dynamic_async.engine.recorder import read_log as read_log
    from fulgurite.plugins.dynamic_async.engine.residuals import error_bound as error_bound
    from fulgurite.plugins.dynamic_async.engine.transport import Transport as Transport
    from fulgurite.plugins.dynamic_async.engine.transport import TransportError as TransportError
    from fulgurite.plugins.dynamic_async.engine.worker import Work as Work
    from fulgurite.plugins.dynamic_async.engine.workers import Workers as Workers
    from fulgurite.plugins.dynamic_async.engine.zmq_transport import ZmqTransport as ZmqTransport

_HOMES = {
    "Block": "fulgurite.plugins.dynamic_async.engine.messages",
    "Bulletin": "fulgurite.plugins.dynamic_async.engine.messages",
    "Codec": "fulgurite.plugins.dynamic_async.engine.frames",
    "CurvePair": "fulgurite.plugins.dynamic_async.engine.curve",
    "Evaluation": "fulgurite.plugins.dynamic_async.engine.peer",
    "Faults": "fulgurite.plugins.dynamic_async.engine.faults",
    "FaultyTransport": "fulgurite.plugins.dynamic_async.engine.faults",
    "FrameError": "fulgurite.plugins.dynamic_async.engine.frames",
    "Hub": "fulgurite.plugins.dynamic_async.engine.in_process",
    "InProcessTransport": "fulgurite.plugins.dynamic_async.engine.in_process",
    "Incarnation": "fulgurite.plugins.dynamic_async.engine.messages",
    "Mailboxes": "fulgurite.plugins.dynamic_async.engine.mailboxes",
    "Peer": "fulgurite.plugins.dynamic_async.engine.peer",
    "RayTransport": "fulgurite.plugins.dynamic_async.engine.ray_transport",
    "Recorder": "fulgurite.plugins.dynamic_async.engine.recorder",
    "SharedKey": "fulgurite.plugins.dynamic_async.engine.keys",
    "Striker": "fulgurite.plugins.dynamic_async.engine.faults",
    "Transport": "fulgurite.plugins.dynamic_async.engine.transport",
    "TransportError": "fulgurite.plugins.dynamic_async.engine.transport",
    "Work": "fulgurite.plugins.dynamic_async.engine.worker",
    "Workers": "fulgurite.plugins.dynamic_async.engine.workers",
    "ZmqTransport": "fulgurite.plugins.dynamic_async.engine.zmq_transport",
    "assign": "fulgurite.plugins.dynamic_async.engine.hosting",
    "check_address": "fulgurite.plugins.dynamic_async.engine.addresses",
    "error_bound": "fulgurite.plugins.dynamic_async.engine.residuals",
    "merge": "fulgurite.plugins.dynamic_async.engine.merging",
    "new_run": "fulgurite.plugins.dynamic_async.engine.keys",
    "read_log": "fulgurite.plugins.dynamic_async.engine.recorder",
    "run_nonce": "fulgurite.plugins.dynamic_async.engine.keys",
    "shared_key": "fulgurite.plugins.dynamic_async.engine.keys",
}
__all__ = [
    "Block",
    "Bulletin",
    "Codec",
    "CurvePair",
    "Evaluation",
    "Faults",
    "FaultyTransport",
    "FrameError",
    "Hub",
    "InProcessTransport",
    "Incarnation",
    "Mailboxes",
    "Peer",
    "RayTransport",
    "Recorder",
    "SharedKey",
    "Striker",
    "Transport",
    "TransportError",
    "Work",
    "Workers",
    "ZmqTransport",
    "assign",
    "check_address",
    "error_bound",
    "merge",
    "new_run",
    "read_log",
    "run_nonce",
    "shared_key",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
