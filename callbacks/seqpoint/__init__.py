"""SeqPoint: profile an epoch of variable-length training from a handful of representative iterations."""

from importlib import import_module
from typing import TYPE_CHECKING

# Not lazily: select is the name of its module too, and a later import of that would put the module in its place.
from fulgurite.callbacks.seqpoint.select import select as select

if TYPE_CHECKING:
    from fulgurite.callbacks.seqpoint.callback import SeqPoint as SeqPoint
    from fulgurite.callbacks.seqpoint.plan import Plan as Plan
    from fulgurite.callbacks.seqpoint.plan import PlanError as PlanError
    from fulgurite.callbacks.seqpoint.plan import Point as Point
    from fulgurite.callbacks.seqpoint.plan import Projection as Projection

_HOMES = {
    "Plan": "fulgurite.callbacks.seqpoint.plan",
    "PlanError": "fulgurite.callbacks.seqpoint.plan",
    "Point": "fulgurite.callbacks.seqpoint.plan",
    "Projection": "fulgurite.callbacks.seqpoint.plan",
    "SeqPoint": "fulgurite.callbacks.seqpoint.callback",
}
__all__ = ["Plan", "PlanError", "Point", "Projection", "SeqPoint", "select"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
