"""Speech recognition with connectionist temporal classification: a DeepSpeech2-like network and its LightningModule."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.speech.decoding import ctc_greedy_decode as ctc_greedy_decode
    from fulgurite.models.speech.deepspeech import DeepSpeech2 as DeepSpeech2
    from fulgurite.models.speech.module import SpeechRecognizer as SpeechRecognizer

_HOMES = {
    "DeepSpeech2": "fulgurite.models.speech.deepspeech",
    "SpeechRecognizer": "fulgurite.models.speech.module",
    "ctc_greedy_decode": "fulgurite.models.speech.decoding",
}
__all__ = ["DeepSpeech2", "SpeechRecognizer", "ctc_greedy_decode"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
