"""LightningDataModules, each with an embedded default that needs no download; handed on lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.data.coco_detection import CocoDetectionData as CocoDetectionData
    from fulgurite.data.digit_scenes import DigitScenes as DigitScenes
    from fulgurite.data.digits import Digits as Digits
    from fulgurite.data.gettext_translation import GettextTranslation as GettextTranslation
    from fulgurite.data.graph_chains import GraphChains as GraphChains
    from fulgurite.data.image_folder import ImageFolder as ImageFolder
    from fulgurite.data.length_batches import LengthBatchSampler as LengthBatchSampler
    from fulgurite.data.length_batches import padded_shapes as padded_shapes
    from fulgurite.data.mmseg_data import MmsegData as MmsegData
    from fulgurite.data.mnist import MNIST5k as MNIST5k
    from fulgurite.data.scikit_sample import ScikitSample as ScikitSample
    from fulgurite.data.segmentation_folder import SegmentationFolder as SegmentationFolder
    from fulgurite.data.speech_folder import SpeechFolder as SpeechFolder
    from fulgurite.data.temporal_graph import TemporalGraph as TemporalGraph
    from fulgurite.data.timeline import Timeline as Timeline
    from fulgurite.data.tone_speech import write_librispeech as write_librispeech
    from fulgurite.data.voc_detection import VocDetection as VocDetection

_HOMES = {
    "CocoDetectionData": "fulgurite.data.coco_detection",
    "DigitScenes": "fulgurite.data.digit_scenes",
    "Digits": "fulgurite.data.digits",
    "GettextTranslation": "fulgurite.data.gettext_translation",
    "GraphChains": "fulgurite.data.graph_chains",
    "ImageFolder": "fulgurite.data.image_folder",
    "LengthBatchSampler": "fulgurite.data.length_batches",
    "MNIST5k": "fulgurite.data.mnist",
    "MmsegData": "fulgurite.data.mmseg_data",
    "ScikitSample": "fulgurite.data.scikit_sample",
    "SegmentationFolder": "fulgurite.data.segmentation_folder",
    "SpeechFolder": "fulgurite.data.speech_folder",
    "TemporalGraph": "fulgurite.data.temporal_graph",
    "Timeline": "fulgurite.data.timeline",
    "VocDetection": "fulgurite.data.voc_detection",
    "padded_shapes": "fulgurite.data.length_batches",
    "write_librispeech": "fulgurite.data.tone_speech",
}
__all__ = [
    "CocoDetectionData",
    "DigitScenes",
    "Digits",
    "GettextTranslation",
    "GraphChains",
    "ImageFolder",
    "LengthBatchSampler",
    "MNIST5k",
    "MmsegData",
    "ScikitSample",
    "SegmentationFolder",
    "SpeechFolder",
    "TemporalGraph",
    "Timeline",
    "VocDetection",
    "padded_shapes",
    "write_librispeech",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
