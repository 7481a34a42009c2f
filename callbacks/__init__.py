"""Lightning callbacks, handed on lazily: nothing heavy is imported before a name is used."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.callbacks.random_state import RandomState as RandomState
    from fulgurite.callbacks.seqpoint.callback import SeqPoint as SeqPoint

_HOMES = {
    "RandomState": "fulgurite.callbacks.random_state",
    "SeqPoint": "fulgurite.callbacks.seqpoint.callback",
}
__all__ = ["RandomState", "SeqPoint"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
