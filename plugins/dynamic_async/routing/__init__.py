"""Routing, the application of the paper: algebras, their checker, and distance- and path-vector iterations."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fulgurite.plugins.dynamic_async.routing.algebra import Edge as Edge
    from fulgurite.plugins.dynamic_async.routing.algebra import RoutingAlgebra as RoutingAlgebra
    from fulgurite.plugins.dynamic_async.routing.checker import AlgebraReport as AlgebraReport
    from fulgurite.plugins.dynamic_async.routing.checker import check_algebra as check_algebra
    from fulgurite.plugins.dynamic_async.routing.errors import AlgebraError as AlgebraError
    from fulgurite.plugins.dynamic_async.routing.errors import TopologyError as TopologyError
    from fulgurite.plugins.dynamic_async.routing.experiment import RoutingRun as RoutingRun
    from fulgurite.plugins.dynamic_async.routing.experiment import run_routing as run_routing
    from fulgurite.plugins.dynamic_async.routing.metrics import Rip16 as Rip16
    from fulgurite.plugins.dynamic_async.routing.metrics import ShortestPaths as ShortestPaths
    from fulgurite.plugins.dynamic_async.routing.metrics import WidestPaths as WidestPaths
    from fulgurite.plugins.dynamic_async.routing.networks import built_in as built_in
    from fulgurite.plugins.dynamic_async.routing.networks import random_topology as random_topology
    from fulgurite.plugins.dynamic_async.routing.oracle import right_routes as right_routes
    from fulgurite.plugins.dynamic_async.routing.path_vector import PathVector as PathVector
    from fulgurite.plugins.dynamic_async.routing.policy import parse_policy as parse_policy
    from fulgurite.plugins.dynamic_async.routing.policy_paths import PolicyPaths as PolicyPaths
    from fulgurite.plugins.dynamic_async.routing.routing_map import RoutingMap as RoutingMap
    from fulgurite.plugins.dynamic_async.routing.schedules import topology_schedule as topology_schedule
    from fulgurite.plugins.dynamic_async.routing.topology import Topology as Topology
    from fulgurite.plugins.dynamic_async.routing.topology import parse_topology as parse_topology
    from fulgurite.plugins.dynamic_async.routing.topology import read_topology as read_topology
    from fulgurite.plugins.dynamic_async.routing.verdict import RoutingVerdict as RoutingVerdict
    from fulgurite.plugins.dynamic_async.routing.verdict import cycle_free as cycle_free
    from fulgurite.plugins.dynamic_async.routing.verdict import routing_verdict as routing_verdict

_HOMES = {
    "AlgebraError": "fulgurite.plugins.dynamic_async.routing.errors",
    "AlgebraReport": "fulgurite.plugins.dynamic_async.routing.checker",
    "Edge": "fulgurite.plugins.dynamic_async.routing.algebra",
    "PathVector": "fulgurite.plugins.dynamic_async.routing.path_vector",
    "PolicyPaths": "fulgurite.plugins.dynamic_async.routing.policy_paths",
    "Rip16": "fulgurite.plugins.dynamic_async.routing.metrics",
    "RoutingAlgebra": "fulgurite.plugins.dynamic_async.routing.algebra",
    "RoutingMap": "fulgurite.plugins.dynamic_async.routing.routing_map",
    "RoutingRun": "fulgurite.plugins.dynamic_async.routing.experiment",
    "RoutingVerdict": "fulgurite.plugins.dynamic_async.routing.verdict",
    "ShortestPaths": "fulgurite.plugins.dynamic_async.routing.metrics",
    "Topology": "fulgurite.plugins.dynamic_async.routing.topology",
    "TopologyError": "fulgurite.plugins.dynamic_async.routing.errors",
    "WidestPaths": "fulgurite.plugins.dynamic_async.routing.metrics",
    "built_in": "fulgurite.plugins.dynamic_async.routing.networks",
    "check_algebra": "fulgurite.plugins.dynamic_async.routing.checker",
    "cycle_free": "fulgurite.plugins.dynamic_async.routing.verdict",
    "parse_policy": "fulgurite.plugins.dynamic_async.routing.policy",
    "parse_topology": "fulgurite.plugins.dynamic_async.routing.topology",
    "random_topology": "fulgurite.plugins.dynamic_async.routing.networks",
    "read_topology": "fulgurite.plugins.dynamic_async.routing.topology",
    "right_routes": "fulgurite.plugins.dynamic_async.routing.oracle",
    "routing_verdict": "fulgurite.plugins.dynamic_async.routing.verdict",
    "run_routing": "fulgurite.plugins.dynamic_async.routing.experiment",
    "topology_schedule": "fulgurite.plugins.dynamic_async.routing.schedules",
}
__all__ = [
    "AlgebraError",
    "AlgebraReport",
    "Edge",
    "PathVector",
    "PolicyPaths",
    "Rip16",
    "RoutingAlgebra",
    "RoutingMap",
    "RoutingRun",
    "RoutingVerdict",
    "ShortestPaths",
    "Topology",
    "TopologyError",
    "WidestPaths",
    "built_in",
    "check_algebra",
    "cycle_free",
    "parse_policy",
    "parse_topology",
    "random_topology",
    "read_topology",
    "right_routes",
    "routing_verdict",
    "run_routing",
    "topology_schedule",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
