"""RepGraph: long-range context from a few learned representative nodes (Yu et al., arXiv:2008.05202)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.repgraph.attention import attend_to_nodes as attend_to_nodes
    from fulgurite.models.repgraph.contexts import build_context as build_context
    from fulgurite.models.repgraph.global_context import GlobalContext2d as GlobalContext2d
    from fulgurite.models.repgraph.insert import insert_context as insert_context
    from fulgurite.models.repgraph.layer import RepGraph2d as RepGraph2d
    from fulgurite.models.repgraph.node_picture import visualize_nodes as visualize_nodes
    from fulgurite.models.repgraph.non_local import NonLocal2d as NonLocal2d
    from fulgurite.models.repgraph.statistics import node_statistics as node_statistics

_HOMES = {
    "GlobalContext2d": "fulgurite.models.repgraph.global_context",
    "NonLocal2d": "fulgurite.models.repgraph.non_local",
    "RepGraph2d": "fulgurite.models.repgraph.layer",
    "attend_to_nodes": "fulgurite.models.repgraph.attention",
    "build_context": "fulgurite.models.repgraph.contexts",
    "insert_context": "fulgurite.models.repgraph.insert",
    "node_statistics": "fulgurite.models.repgraph.statistics",
    "visualize_nodes": "fulgurite.models.repgraph.node_picture",
}
__all__ = [
    "GlobalContext2d",
    "NonLocal2d",
    "RepGraph2d",
    "attend_to_nodes",
    "build_context",
    "insert_context",
    "node_statistics",
    "visualize_nodes",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
