"""Dynamic graph networks as stateless cells with explicit state, and the LightningModules around them; lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.dynamic_gnn.edge_classification import DynamicEdgeClassifier as DynamicEdgeClassifier
    from fulgurite.models.dynamic_gnn.link_prediction import DynamicLinkPredictor as DynamicLinkPredictor
    from fulgurite.models.dynamic_gnn.network import CDGCN as CDGCN
    from fulgurite.models.dynamic_gnn.network import TGCN as TGCN
    from fulgurite.models.dynamic_gnn.network import TMGCN as TMGCN
    from fulgurite.models.dynamic_gnn.network import WDGCN as WDGCN
    from fulgurite.models.dynamic_gnn.network import DynamicNetwork as DynamicNetwork
    from fulgurite.models.dynamic_gnn.network import EvolveGCNH as EvolveGCNH
    from fulgurite.models.dynamic_gnn.network import EvolveGCNO as EvolveGCNO
    from fulgurite.models.dynamic_gnn.network import GConvGRU as GConvGRU
    from fulgurite.models.dynamic_gnn.network import NoGraph as NoGraph
    from fulgurite.models.dynamic_gnn.network import StaticGCN as StaticGCN
    from fulgurite.models.dynamic_gnn.node_classification import DynamicNodeClassifier as DynamicNodeClassifier

_HOMES = {
    "CDGCN": "fulgurite.models.dynamic_gnn.network",
    "DynamicEdgeClassifier": "fulgurite.models.dynamic_gnn.edge_classification",
    "DynamicLinkPredictor": "fulgurite.models.dynamic_gnn.link_prediction",
    "DynamicNetwork": "fulgurite.models.dynamic_gnn.network",
    "DynamicNodeClassifier": "fulgurite.models.dynamic_gnn.node_classification",
    "EvolveGCNH": "fulgurite.models.dynamic_gnn.network",
    "EvolveGCNO": "fulgurite.models.dynamic_gnn.network",
    "GConvGRU": "fulgurite.models.dynamic_gnn.network",
    "NoGraph": "fulgurite.models.dynamic_gnn.network",
    "StaticGCN": "fulgurite.models.dynamic_gnn.network",
    "TGCN": "fulgurite.models.dynamic_gnn.network",
    "TMGCN": "fulgurite.models.dynamic_gnn.network",
    "WDGCN": "fulgurite.models.dynamic_gnn.network",
}
__all__ = [
    "CDGCN",
    "TGCN",
    "TMGCN",
    "WDGCN",
    "DynamicEdgeClassifier",
    "DynamicLinkPredictor",
    "DynamicNetwork",
    "DynamicNodeClassifier",
    "EvolveGCNH",
    "EvolveGCNO",
    "GConvGRU",
    "NoGraph",
    "StaticGCN",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
