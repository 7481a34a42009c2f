"""Object detection: torchvision's R-CNNs with a context layer, under Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.detection.module import ObjectDetector as ObjectDetector

_HOMES = {
    "ObjectDetector": "fulgurite.models.detection.module",
}
__all__ = [
    "ObjectDetector",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
