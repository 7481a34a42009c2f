"""Networks and the LightningModules around them, handed on lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.image_classification.module import ImageClassifier as ImageClassifier
    from fulgurite.models.sparse_network.classifier import SparseClassifier as SparseClassifier
    from fulgurite.models.sparse_network.network import SparseNetwork as SparseNetwork
    from fulgurite.models.sparse_network.population import SparsePopulation as SparsePopulation
    from fulgurite.models.speech.deepspeech import DeepSpeech2 as DeepSpeech2
    from fulgurite.models.speech.module import SpeechRecognizer as SpeechRecognizer
    from fulgurite.models.translation.module import Translator as Translator
    from fulgurite.models.translation.rnn import GNMT as GNMT
    from fulgurite.models.translation.transformer import TranslationTransformer as TranslationTransformer

_HOMES = {
    "DeepSpeech2": "fulgurite.models.speech.deepspeech",
    "GNMT": "fulgurite.models.translation.rnn",
    "ImageClassifier": "fulgurite.models.image_classification.module",
    "SparseClassifier": "fulgurite.models.sparse_network.classifier",
    "SparseNetwork": "fulgurite.models.sparse_network.network",
    "SparsePopulation": "fulgurite.models.sparse_network.population",
    "SpeechRecognizer": "fulgurite.models.speech.module",
    "TranslationTransformer": "fulgurite.models.translation.transformer",
    "Translator": "fulgurite.models.translation.module",
}
__all__ = [
    "GNMT",
    "DeepSpeech2",
    "ImageClassifier",
    "SparseClassifier",
    "SparseNetwork",
    "SparsePopulation",
    "SpeechRecognizer",
    "TranslationTransformer",
    "Translator",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
