"""Classifiers of images: networks by name and the LightningModule around them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.image_classification.module import ImageClassifier as ImageClassifier

_HOMES = {
    "ImageClassifier": "fulgurite.models.image_classification.module",
}
__all__ = [
    "ImageClassifier",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
