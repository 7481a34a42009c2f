"""Maps that are ready to be iterated: affine, PageRank, value iteration, implicit GNN, anchored objective."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.maps.affine import AffineMap as AffineMap
    from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap as ImplicitGraphMap
    from fulgurite.plugins.dynamic_async.maps.page_rank import PageRankMap as PageRankMap
    from fulgurite.plugins.dynamic_async.maps.value_iteration import ValueIterationMap as ValueIterationMap

_HOMES = {
    "AffineMap": "fulgurite.plugins.dynamic_async.maps.affine",
    "ImplicitGraphMap": "fulgurite.plugins.dynamic_async.maps.implicit_graph",
    "PageRankMap": "fulgurite.plugins.dynamic_async.maps.page_rank",
    "ValueIterationMap": "fulgurite.plugins.dynamic_async.maps.value_iteration",
}
__all__ = [
    "AffineMap",
    "ImplicitGraphMap",
    "PageRankMap",
    "ValueIterationMap",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
