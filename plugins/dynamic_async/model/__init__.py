"""The model without torch or Lightning: schedules, the state function δ, pseudocycles, tags and certificates."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.model.adversary import Adversary as Adversary
    from fulgurite.plugins.dynamic_async.model.certificate import Certificate as Certificate
    from fulgurite.plugins.dynamic_async.model.certification import certify as certify
    from fulgurite.plugins.dynamic_async.model.dynamic_map import Box as Box
    from fulgurite.plugins.dynamic_async.model.dynamic_map import DynamicMap as DynamicMap
    from fulgurite.plugins.dynamic_async.model.dynamic_map import Kernel as Kernel
    from fulgurite.plugins.dynamic_async.model.errors import MapError as MapError
    from fulgurite.plugins.dynamic_async.model.errors import ScheduleError as ScheduleError
    from fulgurite.plugins.dynamic_async.model.errors import TraceError as TraceError
    from fulgurite.plugins.dynamic_async.model.event_simulation import barrier_time as barrier_time
    from fulgurite.plugins.dynamic_async.model.event_simulation import durations as durations
    from fulgurite.plugins.dynamic_async.model.event_simulation import free_time as free_time
    from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule as RandomSchedule
    from fulgurite.plugins.dynamic_async.model.generators import adversarial_schedule as adversarial_schedule
    from fulgurite.plugins.dynamic_async.model.generators import fair_schedule as fair_schedule
    from fulgurite.plugins.dynamic_async.model.periods import Pseudocycle as Pseudocycle
    from fulgurite.plugins.dynamic_async.model.periods import pseudocycles as pseudocycles
    from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule as DenseSchedule
    from fulgurite.plugins.dynamic_async.model.schedule import Schedule as Schedule
    from fulgurite.plugins.dynamic_async.model.simulation import Run as Run
    from fulgurite.plugins.dynamic_async.model.simulation import simulate as simulate
    from fulgurite.plugins.dynamic_async.model.state_function import delta as delta
    from fulgurite.plugins.dynamic_async.model.tags import round_tags as round_tags
    from fulgurite.plugins.dynamic_async.model.trace import Trace as Trace
    from fulgurite.plugins.dynamic_async.model.trace import replay as replay

_HOMES = {
    "Adversary": "fulgurite.plugins.dynamic_async.model.adversary",
    "Box": "fulgurite.plugins.dynamic_async.model.dynamic_map",
    "Certificate": "fulgurite.plugins.dynamic_async.model.certificate",
    "DenseSchedule": "fulgurite.plugins.dynamic_async.model.schedule",
    "DynamicMap": "fulgurite.plugins.dynamic_async.model.dynamic_map",
    "Kernel": "fulgurite.plugins.dynamic_async.model.dynamic_map",
    "MapError": "fulgurite.plugins.dynamic_async.model.errors",
    "Pseudocycle": "fulgurite.plugins.dynamic_async.model.periods",
    "RandomSchedule": "fulgurite.plugins.dynamic_async.model.generators",
    "Run": "fulgurite.plugins.dynamic_async.model.simulation",
    "Schedule": "fulgurite.plugins.dynamic_async.model.schedule",
    "ScheduleError": "fulgurite.plugins.dynamic_async.model.errors",
    "Trace": "fulgurite.plugins.dynamic_async.model.trace",
    "TraceError": "fulgurite.plugins.dynamic_async.model.errors",
    "adversarial_schedule": "fulgurite.plugins.dynamic_async.model.generators",
    "barrier_time": "fulgurite.plugins.dynamic_async.model.event_simulation",
    "certify": "fulgurite.plugins.dynamic_async.model.certification",
    "delta": "fulgurite.plugins.dynamic_async.model.state_function",
    "durations": "fulgurite.plugins.dynamic_async.model.event_simulation",
    "fair_schedule": "fulgurite.plugins.dynamic_async.model.generators",
    "free_time": "fulgurite.plugins.dynamic_async.model.event_simulation",
    "pseudocycles": "fulgurite.plugins.dynamic_async.model.periods",
    "replay": "fulgurite.plugins.dynamic_async.model.trace",
    "round_tags": "fulgurite.plugins.dynamic_async.model.tags",
    "simulate": "fulgurite.plugins.dynamic_async.model.simulation",
}
__all__ = [
    "Adversary",
    "Box",
    "Certificate",
    "DenseSchedule",
    "DynamicMap",
    "Kernel",
    "MapError",
    "Pseudocycle",
    "RandomSchedule",
    "Run",
    "Schedule",
    "ScheduleError",
    "Trace",
    "TraceError",
    "adversarial_schedule",
    "barrier_time",
    "certify",
    "delta",
    "durations",
    "fair_schedule",
    "free_time",
    "pseudocycles",
    "replay",
    "round_tags",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
