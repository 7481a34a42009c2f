import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.layered import DenseMLP, RadixClassifier, SparseMLP, random_layers
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.radix import radix_net


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=5),
    st.floats(0.01, 1.0),
    st.sampled_from(["erdos_renyi", "uniform"]),
    st.integers(0, 1000),
)
def test_edges_join_neighbouring_layers_and_are_as_many_as_asked(sizes, density, distribution, seed):
    edges = random_layers(sizes, density=density, distribution=distribution, seed=seed)
    layer = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    assert (layer[edges[:, 1]] == layer[edges[:, 0]] + 1).all()
    assert len(edges.unique(dim=0)) == len(edges)
    places = sum(before * after for before, after in itertools.pairwise(sizes))
    assert abs(len(edges) - density * places) <= len(sizes)  # rounding, and at least one edge a layer
    assert torch.equal(edges, random_layers(sizes, density=density, distribution=distribution, seed=seed))


def test_small_layers_are_denser():
    edges = random_layers([784, 300, 100, 10], density=0.02, distribution="erdos_renyi")
    counts = [
        int(((edges[:, 0] >= low) & (edges[:, 0] < high)).sum()) for low, high in ((0, 784), (784, 1084), (1084, 1184))
    ]
    densities = [count / places for count, places in zip(counts, (784 * 300, 300 * 100, 1000), strict=True)]
    assert densities[0] < densities[1] < densities[2]
    scale = counts[0] / (784 + 300)
    assert counts[1] == pytest.approx(scale * 400, abs=1)
    assert counts[2] == pytest.approx(scale * 110, abs=1)
    uniform = random_layers([784, 300, 100, 10], density=0.02, distribution="uniform")
    assert int((uniform[:, 0] >= 1084).sum()) == 20


def test_a_layer_that_would_be_more_than_dense_is_dense():
    edges = random_layers([100, 100, 2], density=0.3, distribution="erdos_renyi")
    assert int((edges[:, 0] >= 100).sum()) == 200
    assert len(edges) == 0.3 * 10_200


def test_the_sparse_perceptron_computes_what_its_matrices_do():
    network = SparseMLP([7, 9, 4], density=0.5)
    matrices = [torch.zeros(9, 7), torch.zeros(4, 9)]
    for (source, target), weight in zip(network.edges.tolist(), network.weight.detach(), strict=True):
        if source < 7:
            matrices[0][target - 7, source] = weight
        else:
            matrices[1][target - 16, source - 7] = weight
    with torch.no_grad():
        network.bias.uniform_(-1, 1)
        x = torch.randn(5, 7)
        hidden = (x @ matrices[0].T + network.bias[:9]).relu()
        wanted = hidden @ matrices[1].T + network.bias[9:]
    torch.testing.assert_close(network(x), wanted)
    assert (network(x) < 0).any(), "outputs are linear"


def test_full_density_is_the_dense_network():
    torch.manual_seed(0)
    dense = DenseMLP([5, 6, 3])
    assert SparseMLP([5, 6, 3], density=1).num_edges == SparseNetwork.from_sequential(dense).num_edges == 48


def test_the_radix_classifier_has_the_challenges_edges_and_a_read_out():
    network, radix = RadixClassifier(1024, layers=3, num_classes=4), radix_net(1024, 3)
    edges = {tuple(edge) for edge in network.edges.tolist()}
    assert {tuple(edge) for edge in radix.edges.tolist()} <= edges
    assert len(edges) == radix.num_edges + 4 * 1024
    assert network.weight.unique().numel() > 1000, "weights are its own"
    y = network(torch.rand(2, 1024))
    y.sum().backward()
    assert (network.weight.grad != 0).any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer_sizes": [3]}, "two sizes or more"),
        ({"layer_sizes": [3, 0]}, "at least 1"),
        ({"layer_sizes": [3, 2], "density": 0}, "density=0"),
        ({"layer_sizes": [3, 2], "density": 1.5}, "density=1.5"),
        ({"layer_sizes": [3, 2], "distribution": "gamma"}, "choose from erdos_renyi, uniform"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        SparseMLP(**options)


def test_bad_sizes_of_others():
    with pytest.raises(ValueError, match="two sizes or more"):
        DenseMLP([3])
    with pytest.raises(ValueError, match="num_classes=0"):
        RadixClassifier(1024, num_classes=0)
