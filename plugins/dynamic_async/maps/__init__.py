"""Maps that are ready to be iterated: affine, PageRank, value iteration, implicit GNN, anchored objective."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.maps.affine import AffineMap as AffineMap
    from fulgurite.plugins.dynamic_async.maps.anchored import AnchoredMap as AnchoredMap
    from fulgurite.plugins.dynamic_async.maps.anchored import complete_weights as complete_weights
    from fulgurite.plugins.dynamic_async.maps.block_affine import BlockAffineMap as BlockAffineMap
    from fulgurite.plugins.dynamic_async.maps.block_affine import damped_walk as damped_walk
    from fulgurite.plugins.dynamic_async.maps.curvature import objective_bounds as objective_bounds
    from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap as ImplicitGraphMap
    from fulgurite.plugins.dynamic_async.maps.losses import LogisticLoss as LogisticLoss
    from fulgurite.plugins.dynamic_async.maps.losses import QuadraticLoss as QuadraticLoss
    from fulgurite.plugins.dynamic_async.maps.losses import SoftmaxLoss as SoftmaxLoss
    from fulgurite.plugins.dynamic_async.maps.page_rank import PageRankMap as PageRankMap
    from fulgurite.plugins.dynamic_async.maps.value_iteration import ValueIterationMap as ValueIterationMap

_HOMES = {
    "AffineMap": "fulgurite.plugins.dynamic_async.maps.affine",
    "AnchoredMap": "fulgurite.plugins.dynamic_async.maps.anchored",
    "BlockAffineMap": "fulgurite.plugins.dynamic_async.maps.block_affine",
    "ImplicitGraphMap": "fulgurite.plugins.dynamic_async.maps.implicit_graph",
    "LogisticLoss": "fulgurite.plugins.dynamic_async.maps.losses",
    "PageRankMap": "fulgurite.plugins.dynamic_async.maps.page_rank",
    "QuadraticLoss": "fulgurite.plugins.dynamic_async.maps.losses",
    "SoftmaxLoss": "fulgurite.plugins.dynamic_async.maps.losses",
    "ValueIterationMap": "fulgurite.plugins.dynamic_async.maps.value_iteration",
    "complete_weights": "fulgurite.plugins.dynamic_async.maps.anchored",
    "damped_walk": "fulgurite.plugins.dynamic_async.maps.block_affine",
    "objective_bounds": "fulgurite.plugins.dynamic_async.maps.curvature",
}
__all__ = [
    "AffineMap",
    "AnchoredMap",
    "BlockAffineMap",
    "ImplicitGraphMap",
    "LogisticLoss",
    "PageRankMap",
    "QuadraticLoss",
    "SoftmaxLoss",
    "ValueIterationMap",
    "complete_weights",
    "damped_walk",
    "objective_bounds",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
