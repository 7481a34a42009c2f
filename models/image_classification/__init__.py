"""Classifiers of images: networks by name and the LightningModule around them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.image_classification.module import ImageClassifier as ImageClassifier
    from fulgurite.models.image_classification.network import build_network as build_network
    from fulgurite.models.image_classification.network import gap_cnn as gap_cnn
    from fulgurite.models.image_classification.network import small_cnn as small_cnn

_HOMES = {
    "ImageClassifier": "fulgurite.models.image_classification.module",
    "build_network": "fulgurite.models.image_classification.network",
    "gap_cnn": "fulgurite.models.image_classification.network",
    "small_cnn": "fulgurite.models.image_classification.network",
}
__all__ = [
    "ImageClassifier",
    "build_network",
    "gap_cnn",
    "small_cnn",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
