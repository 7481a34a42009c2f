"""Lightning callbacks, handed on lazily: nothing heavy is imported before a name is used."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.callbacks.convergence_certifier import ConvergenceCertifier as ConvergenceCertifier
    from fulgurite.callbacks.fault_injector import FaultInjector as FaultInjector
    from fulgurite.callbacks.graph_challenge import GraphChallenge as GraphChallenge
    from fulgurite.callbacks.neat_evolution import NeatEvolution as NeatEvolution
    from fulgurite.callbacks.prune_to_sparse import PruneToSparse as PruneToSparse
    from fulgurite.callbacks.random_state import RandomState as RandomState
    from fulgurite.callbacks.representative_interpretation.callback import (
        RepresentativeInterpretation as RepresentativeInterpretation,
    )
    from fulgurite.callbacks.seqpoint.callback import SeqPoint as SeqPoint
    from fulgurite.callbacks.sparse_evolution import SparseEvolution as SparseEvolution

_HOMES = {
    "ConvergenceCertifier": "fulgurite.callbacks.convergence_certifier",
    "FaultInjector": "fulgurite.callbacks.fault_injector",
    "GraphChallenge": "fulgurite.callbacks.graph_challenge",
    "NeatEvolution": "fulgurite.callbacks.neat_evolution",
    "PruneToSparse": "fulgurite.callbacks.prune_to_sparse",
    "RandomState": "fulgurite.callbacks.random_state",
    "RepresentativeInterpretation": "fulgurite.callbacks.representative_interpretation.callback",
    "SeqPoint": "fulgurite.callbacks.seqpoint.callback",
    "SparseEvolution": "fulgurite.callbacks.sparse_evolution",
}
__all__ = [
    "ConvergenceCertifier",
    "FaultInjector",
    "GraphChallenge",
    "NeatEvolution",
    "PruneToSparse",
    "RandomState",
    "RepresentativeInterpretation",
    "SeqPoint",
    "SparseEvolution",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
