import numpy as np
import pytest
import torch

from fulgurite.callbacks.sparse_evolution_picture import draw_evolution, draw_network
from fulgurite.models.sparse_network.layered import SparseMLP
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.places import find_places, node_ranks
from fulgurite.models.sparse_network.rewire import prune_and_grow


def test_the_heat_map_counts_the_edges_of_each_pixel(tmp_path):
    network = SparseMLP([64, 20, 4], density=0.3)
    first, ranks = network.edges.clone(), node_ranks(network)
    prune_and_grow(network, places=find_places(network, "layers"), fraction=0.5, method="set")
    figure = draw_evolution(network, first, ranks)
    before, after, matrix = figure.axes[:3]
    for axis, edges in ((before, first), (after, network.edges)):
        wanted = np.zeros(64)
        for source, _ in edges.tolist():
            if source < 64:
                wanted[source] += 1
        np.testing.assert_array_equal(axis.images[0].get_array(), wanted.reshape(8, 8))
    new = len(network.edges) - len(set(map(tuple, first.tolist())) & set(map(tuple, network.edges.tolist())))
    assert matrix.get_title(loc="left").endswith(f"{new} new")
    assert len(matrix.collections[1].get_offsets()) == new
    figure.savefig(tmp_path / "picture.png")


@pytest.mark.parametrize("inputs", [50, 49])  # no square, and too small a one for a picture
def test_other_inputs_are_drawn_as_a_matrix(tmp_path, inputs):
    network = SparseMLP([inputs, 20, 4], density=0.3)
    figure = draw_evolution(network, network.edges, node_ranks(network))
    assert len(figure.axes) == 1
    figure.savefig(tmp_path / "picture.png")


def test_small_networks_are_drawn_with_lines_and_large_ones_with_dots(tmp_path):
    small = SparseNetwork([[0, 2], [1, 2], [2, 3], [0, 3]], num_inputs=2, outputs=[3])
    figure = draw_network(small)
    (lines, *_) = figure.axes[0].collections
    assert len(lines.get_segments()) == 4
    figure.savefig(tmp_path / "small.png")
    large = draw_network(SparseMLP([60, 50, 10], density=0.9))
    assert large.axes[0].get_title(loc="left").endswith("edges")
    large.savefig(tmp_path / "large.png")


def test_a_network_without_edges_can_be_drawn(tmp_path):
    network = SparseNetwork(torch.zeros(0, 2, dtype=torch.int64), num_inputs=2, outputs=[2])
    draw_network(network).savefig(tmp_path / "none.png")
    draw_evolution(network, network.edges, node_ranks(network)).savefig(tmp_path / "none.png")
