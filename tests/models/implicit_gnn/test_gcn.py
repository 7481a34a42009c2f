import pytest
import torch

from fulgurite.models.implicit_gnn.gcn import GCN


def test_it_is_layer_after_layer_of_dense_products(make_edges):
    torch.manual_seed(0)
    network, features, edges = GCN(3, 2, hidden_channels=5, num_layers=3), torch.randn(8, 3), make_edges(8, 12, 0)
    dense = network.graph(edges, 8).matrix.to_dense()
    hidden = network.encoder(features)
    for layer in network.layers:
        hidden = (dense @ hidden @ layer.weight.T + layer.bias).tanh()
    torch.testing.assert_close(network(features, edges), network.decoder(hidden))


def test_it_sees_as_many_hops_as_it_has_layers():
    chain = torch.stack([torch.arange(9), torch.arange(1, 10)])
    features = torch.zeros(10, 1)
    changed = features.clone()
    changed[0] = 1
    network = GCN(1, 2, num_layers=4)
    differs = (network(features, chain) - network(changed, chain)).abs().sum(dim=1) > 0
    assert differs.tolist() == [True] * 5 + [False] * 5


def test_it_needs_a_layer():
    with pytest.raises(ValueError, match="num_layers=0"):
        GCN(3, 2, num_layers=0)
