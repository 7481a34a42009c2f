"""Networks that translate, the GNMT way and the Transformer's, and the LightningModule that trains either."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.translation.attention import AdditiveAttention as AdditiveAttention
    from fulgurite.models.translation.decoding import greedy_decode as greedy_decode
    from fulgurite.models.translation.module import Translator as Translator
    from fulgurite.models.translation.network import TranslationNetwork as TranslationNetwork
    from fulgurite.models.translation.rnn import GNMT as GNMT
    from fulgurite.models.translation.transformer import TranslationTransformer as TranslationTransformer

_HOMES = {
    "GNMT": "fulgurite.models.translation.rnn",
    "AdditiveAttention": "fulgurite.models.translation.attention",
    "TranslationNetwork": "fulgurite.models.translation.network",
    "TranslationTransformer": "fulgurite.models.translation.transformer",
    "Translator": "fulgurite.models.translation.module",
    "greedy_decode": "fulgurite.models.translation.decoding",
}
__all__ = [
    "GNMT",
    "AdditiveAttention",
    "TranslationNetwork",
    "TranslationTransformer",
    "Translator",
    "greedy_decode",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
