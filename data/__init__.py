"""LightningDataModules, each with an embedded default that needs no download; handed on lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.data.gettext_translation import GettextTranslation as GettextTranslation
    from fulgurite.data.speech_folder import SpeechFolder as SpeechFolder

_HOMES = {
    "GettextTranslation": "fulgurite.data.gettext_translation",
    "SpeechFolder": "fulgurite.data.speech_folder",
}
__all__ = ["GettextTranslation", "SpeechFolder"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
