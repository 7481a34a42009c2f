import pytest
import torch

from fulgurite.models.implicit_gnn.asynchronous import Asynchronous
from fulgurite.models.implicit_gnn.gcn import GCN
from fulgurite.models.implicit_gnn.gcn_map import GCNMap, gcn_under_schedule
from fulgurite.plugins.dynamic_async.model.certification import certify


def case(make_edges, activation="tanh"):
    torch.manual_seed(0)
    network = GCN(3, 2, hidden_channels=5, num_layers=4, activation=activation).double()
    return network, torch.randn(15, 3, dtype=torch.float64), make_edges(15, 25, 0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("parts", [1, 4, 15])
def test_in_step_it_is_the_gcn(make_edges, parts, activation):
    network, features, edges = case(make_edges, activation)
    in_step = Asynchronous(parts=parts, activation=1.0, max_delay=1, loss=0.0)
    found = gcn_under_schedule(network, features, edges, in_step)
    torch.testing.assert_close(found, network(features, edges).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_out_of_step_it_is_wrong(make_edges, seed):
    network, features, edges = case(make_edges)
    found = gcn_under_schedule(network, features, edges, Asynchronous(parts=5, seed=seed))
    truth = network(features, edges).detach()
    assert (found - truth).abs().max() > 0.05 * truth.abs().max()


def test_no_certificate_is_given(make_edges):
    network, features, edges = case(make_edges)
    assert certify(GCNMap(network, features, edges, parts=3)).verdict != "certified"
