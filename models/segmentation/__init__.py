"""Semantic segmentation: networks with a context layer, torch-only or mmsegmentation's, under Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.segmentation.base import SegmentationModule as SegmentationModule
    from fulgurite.models.segmentation.mmseg_module import MmsegSegmenter as MmsegSegmenter
    from fulgurite.models.segmentation.module import SemanticSegmenter as SemanticSegmenter

_HOMES = {
    "MmsegSegmenter": "fulgurite.models.segmentation.mmseg_module",
    "SegmentationModule": "fulgurite.models.segmentation.base",
    "SemanticSegmenter": "fulgurite.models.segmentation.module",
}
__all__ = [
    "MmsegSegmenter",
    "SegmentationModule",
    "SemanticSegmenter",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
