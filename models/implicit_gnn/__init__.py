"""Implicit graph networks, whose fixed point survives asynchronous workers that come and go."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.models.implicit_gnn.asynchronous import Asynchronous as Asynchronous
    from fulgurite.models.implicit_gnn.blocks import IGNNBlock as IGNNBlock
    from fulgurite.models.implicit_gnn.blocks import NEMONBlock as NEMONBlock
    from fulgurite.models.implicit_gnn.bound import error_bound as error_bound
    from fulgurite.models.implicit_gnn.distributed import Distributed as Distributed
    from fulgurite.models.implicit_gnn.fixed_point import Equation as Equation
    from fulgurite.models.implicit_gnn.fixed_point import NotSolvedError as NotSolvedError
    from fulgurite.models.implicit_gnn.fixed_point import Synchronous as Synchronous
    from fulgurite.models.implicit_gnn.fixed_point import equilibrium as equilibrium
    from fulgurite.models.implicit_gnn.gcn import GCN as GCN
    from fulgurite.models.implicit_gnn.network import ImplicitGNN as ImplicitGNN
    from fulgurite.models.implicit_gnn.network import Prediction as Prediction
    from fulgurite.models.implicit_gnn.node_classification import ImplicitNodeClassifier as ImplicitNodeClassifier

_HOMES = {
    "Asynchronous": "fulgurite.models.implicit_gnn.asynchronous",
    "Distributed": "fulgurite.models.implicit_gnn.distributed",
    "Equation": "fulgurite.models.implicit_gnn.fixed_point",
    "GCN": "fulgurite.models.implicit_gnn.gcn",
    "IGNNBlock": "fulgurite.models.implicit_gnn.blocks",
    "ImplicitGNN": "fulgurite.models.implicit_gnn.network",
    "ImplicitNodeClassifier": "fulgurite.models.implicit_gnn.node_classification",
    "NEMONBlock": "fulgurite.models.implicit_gnn.blocks",
    "NotSolvedError": "fulgurite.models.implicit_gnn.fixed_point",
    "Prediction": "fulgurite.models.implicit_gnn.network",
    "Synchronous": "fulgurite.models.implicit_gnn.fixed_point",
    "equilibrium": "fulgurite.models.implicit_gnn.fixed_point",
    "error_bound": "fulgurite.models.implicit_gnn.bound",
}
__all__ = [
    "GCN",
    "Asynchronous",
    "Distributed",
    "Equation",
    "IGNNBlock",
    "ImplicitGNN",
    "ImplicitNodeClassifier",
    "NEMONBlock",
    "NotSolvedError",
    "Prediction",
    "Synchronous",
    "equilibrium",
    "error_bound",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
