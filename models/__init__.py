"""Networks and the LightningModules around them, handed on lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.speech.module import SpeechRecognizer as SpeechRecognizer
    from fulgurite.models.translation.module import Translator as Translator

_HOMES = {
    "SpeechRecognizer": "fulgurite.models.speech.module",
    "Translator": "fulgurite.models.translation.module",
}
__all__ = ["SpeechRecognizer", "Translator"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
