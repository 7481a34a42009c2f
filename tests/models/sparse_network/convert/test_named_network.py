import copy

import pytest
import torch

from fulgurite.models.sparse_network import SparseNetwork, TopologyError
from fulgurite.models.sparse_network.convert.named_network import named_network, names_of


def test_names_stay_with_the_network():
    net = named_network(
        ["x", ("h", 1), "y"],
        [("x", ("h", 1)), (("h", 1), "y"), ("x", "y")],
        num_inputs=1,
        outputs=["y", "x"],
        weight=torch.tensor([1.0, 2.0, 3.0]),
    )
    assert net.node_names == ("x", ("h", 1), "y")
    assert net(torch.tensor([[1.0]])).tolist() == [[5.0, 1.0]]
    assert copy.deepcopy(net).node_names == net.node_names
    net.replace_edges([(0, 2)], [4.0])
    assert names_of(net) == net.node_names


def test_another_networks_state_has_no_names():
    net = named_network(["x", "y"], [("x", "y")], num_inputs=1, outputs=["y"])
    other = SparseNetwork([(0, 1), (1, 2)], num_inputs=1, outputs=[2])
    net.load_state_dict(other.state_dict())
    assert list(names_of(net)) == [0, 1, 2]


def test_faults_other_than_cycles_are_told_as_they_are():
    with pytest.raises(TopologyError, match="more than once"):
        named_network(["x", "y"], [("x", "y"), ("x", "y")], num_inputs=1, outputs=["y"])
    with pytest.raises(TopologyError, match="cycle: y → y; pass steps=k") as caught:
        named_network(["x", "y"], [("x", "y"), ("y", "y")], num_inputs=1, outputs=["y"])
    assert caught.value.cycle == (1,)
