"""Networks and the LightningModules around them, handed on lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.detection.module import ObjectDetector as ObjectDetector
    from fulgurite.models.dynamic_gnn.edge_classification import DynamicEdgeClassifier as DynamicEdgeClassifier
    from fulgurite.models.dynamic_gnn.link_prediction import DynamicLinkPredictor as DynamicLinkPredictor
    from fulgurite.models.dynamic_gnn.network import CDGCN as CDGCN
    from fulgurite.models.dynamic_gnn.network import TGCN as TGCN
    from fulgurite.models.dynamic_gnn.network import TMGCN as TMGCN
    from fulgurite.models.dynamic_gnn.network import WDGCN as WDGCN
    from fulgurite.models.dynamic_gnn.network import EvolveGCNH as EvolveGCNH
    from fulgurite.models.dynamic_gnn.network import EvolveGCNO as EvolveGCNO
    from fulgurite.models.dynamic_gnn.network import GConvGRU as GConvGRU
    from fulgurite.models.dynamic_gnn.node_classification import DynamicNodeClassifier as DynamicNodeClassifier
    from fulgurite.models.image_classification.module import ImageClassifier as ImageClassifier
    from fulgurite.models.implicit_gnn.gcn import GCN as GCN
    from fulgurite.models.implicit_gnn.network import ImplicitGNN as ImplicitGNN
    from fulgurite.models.implicit_gnn.node_classification import ImplicitNodeClassifier as ImplicitNodeClassifier
    from fulgurite.models.repgraph.global_context import GlobalContext2d as GlobalContext2d
    from fulgurite.models.repgraph.insert import insert_context as insert_context
    from fulgurite.models.repgraph.layer import RepGraph2d as RepGraph2d
    from fulgurite.models.repgraph.non_local import NonLocal2d as NonLocal2d
    from fulgurite.models.routing import RoutingExperiment as RoutingExperiment
    from fulgurite.models.segmentation.mmseg_module import MmsegSegmenter as MmsegSegmenter
    from fulgurite.models.segmentation.module import SemanticSegmenter as SemanticSegmenter
    from fulgurite.models.softmax_probe import SoftmaxProbe as SoftmaxProbe
    from fulgurite.models.sparse_network.classifier import SparseClassifier as SparseClassifier
    from fulgurite.models.sparse_network.network import SparseNetwork as SparseNetwork
    from fulgurite.models.sparse_network.population import SparsePopulation as SparsePopulation
    from fulgurite.models.speech.deepspeech import DeepSpeech2 as DeepSpeech2
    from fulgurite.models.speech.module import SpeechRecognizer as SpeechRecognizer
    from fulgurite.models.translation.module import Translator as Translator
    from fulgurite.models.translation.rnn import GNMT as GNMT
    from fulgurite.models.translation.transformer import TranslationTransformer as TranslationTransformer

_HOMES = {
    "CDGCN": "fulgurite.models.dynamic_gnn.network",
    "DeepSpeech2": "fulgurite.models.speech.deepspeech",
    "DynamicEdgeClassifier": "fulgurite.models.dynamic_gnn.edge_classification",
    "DynamicLinkPredictor": "fulgurite.models.dynamic_gnn.link_prediction",
    "DynamicNodeClassifier": "fulgurite.models.dynamic_gnn.node_classification",
    "EvolveGCNH": "fulgurite.models.dynamic_gnn.network",
    "EvolveGCNO": "fulgurite.models.dynamic_gnn.network",
    "GCN": "fulgurite.models.implicit_gnn.gcn",
    "GConvGRU": "fulgurite.models.dynamic_gnn.network",
    "GNMT": "fulgurite.models.translation.rnn",
    "GlobalContext2d": "fulgurite.models.repgraph.global_context",
    "ImageClassifier": "fulgurite.models.image_classification.module",
    "ImplicitGNN": "fulgurite.models.implicit_gnn.network",
    "ImplicitNodeClassifier": "fulgurite.models.implicit_gnn.node_classification",
    "MmsegSegmenter": "fulgurite.models.segmentation.mmseg_module",
    "NonLocal2d": "fulgurite.models.repgraph.non_local",
    "ObjectDetector": "fulgurite.models.detection.module",
    "RepGraph2d": "fulgurite.models.repgraph.layer",
    "RoutingExperiment": "fulgurite.models.routing",
    "SemanticSegmenter": "fulgurite.models.segmentation.module",
    "SoftmaxProbe": "fulgurite.models.softmax_probe",
    "SparseClassifier": "fulgurite.models.sparse_network.classifier",
    "SparseNetwork": "fulgurite.models.sparse_network.network",
    "SparsePopulation": "fulgurite.models.sparse_network.population",
    "SpeechRecognizer": "fulgurite.models.speech.module",
    "TGCN": "fulgurite.models.dynamic_gnn.network",
    "TMGCN": "fulgurite.models.dynamic_gnn.network",
    "TranslationTransformer": "fulgurite.models.translation.transformer",
    "Translator": "fulgurite.models.translation.module",
    "WDGCN": "fulgurite.models.dynamic_gnn.network",
    "insert_context": "fulgurite.models.repgraph.insert",
}
__all__ = [
    "CDGCN",
    "GCN",
    "GNMT",
    "TGCN",
    "TMGCN",
    "WDGCN",
    "DeepSpeech2",
    "DynamicEdgeClassifier",
    "DynamicLinkPredictor",
    "DynamicNodeClassifier",
    "EvolveGCNH",
    "EvolveGCNO",
    "GConvGRU",
    "GlobalContext2d",
    "ImageClassifier",
    "ImplicitGNN",
    "ImplicitNodeClassifier",
    "MmsegSegmenter",
    "NonLocal2d",
    "ObjectDetector",
    "RepGraph2d",
    "RoutingExperiment",
    "SemanticSegmenter",
    "SoftmaxProbe",
    "SparseClassifier",
    "SparseNetwork",
    "SparsePopulation",
    "SpeechRecognizer",
    "TranslationTransformer",
    "Translator",
    "insert_context",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
