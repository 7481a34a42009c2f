"""SparseNetwork: any acyclic network as one fast trainable layer (Gajurel, Louis and Harris, arXiv:2005.04347)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.sparse_network.classifier import SparseClassifier as SparseClassifier
    from fulgurite.models.sparse_network.network import SparseNetwork as SparseNetwork
    from fulgurite.models.sparse_network.population import SparsePopulation as SparsePopulation
    from fulgurite.models.sparse_network.radix import radix_inputs as radix_inputs
    from fulgurite.models.sparse_network.radix import radix_net as radix_net
    from fulgurite.models.sparse_network.topology import Topology as Topology
    from fulgurite.models.sparse_network.topology import TopologyError as TopologyError
    from fulgurite.models.sparse_network.topology import compile_topology as compile_topology

_HOMES = {
    "SparseClassifier": "fulgurite.models.sparse_network.classifier",
    "SparseNetwork": "fulgurite.models.sparse_network.network",
    "SparsePopulation": "fulgurite.models.sparse_network.population",
    "Topology": "fulgurite.models.sparse_network.topology",
    "TopologyError": "fulgurite.models.sparse_network.topology",
    "compile_topology": "fulgurite.models.sparse_network.topology",
    "radix_inputs": "fulgurite.models.sparse_network.radix",
    "radix_net": "fulgurite.models.sparse_network.radix",
}
__all__ = [
    "SparseClassifier",
    "SparseNetwork",
    "SparsePopulation",
    "Topology",
    "TopologyError",
    "compile_topology",
    "radix_inputs",
    "radix_net",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
