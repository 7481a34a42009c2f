"""Random graphs and equations for the tests of implicit networks."""

import pytest
import torch

from fulgurite.models.implicit_gnn.constraint import project_rows
from fulgurite.models.implicit_gnn.fixed_point import Equation, damping_for
from fulgurite.models.implicit_gnn.graph import propagation


def _edges(nodes, edges, seed, *, undirected=False):
    made = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(seed))
    return torch.cat([made, made.flip(0)], dim=1) if undirected else made


def _equation(seed=0, *, nodes=9, channels=4, kappa=0.8, activation="tanh", normalisation="mean", nemon=False):
    random = torch.Generator().manual_seed(seed)
    edges = _edges(nodes, 2 * nodes, seed, undirected=normalisation == "symmetric")
    graph = propagation(edges, nodes, normalisation=normalisation, dtype=torch.float64)
    weight = torch.randn(channels, channels, dtype=torch.float64, generator=random)
    if nemon:
        weight -= 3 * torch.eye(channels, dtype=torch.float64)
    own = graph.self_weight if nemon else 0.0
    weight = project_rows(weight, kappa, perron=graph.perron, self_weight=own)
    injection = torch.randn(nodes, channels, dtype=torch.float64, generator=random)
    return Equation(graph, weight, injection, activation, damping_for(graph, weight) if nemon else 1.0)


@pytest.fixture(scope="session")
def make_edges():
    """``make_edges(nodes, edges, seed, undirected=False)``: a random edge_index."""
    return _edges


@pytest.fixture(scope="session")
def make_equation():
    """``make_equation(seed, nodes=, channels=, kappa=, activation=, normalisation=, nemon=)`` in double precision."""
    return _equation
