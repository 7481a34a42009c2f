"""RepGraph's attention as one fused Triton kernel; Triton itself is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.repgraph.gpu.operator import attend_by_triton as attend_by_triton
    from fulgurite.models.repgraph.gpu.operator import supported as supported

_HOMES = {
    "attend_by_triton": "fulgurite.models.repgraph.gpu.operator",
    "supported": "fulgurite.models.repgraph.gpu.operator",
}
__all__ = ["attend_by_triton", "supported"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
