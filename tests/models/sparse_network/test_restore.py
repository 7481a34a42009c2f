import pytest
import torch
from torch import nn

from fulgurite.models.sparse_network.layered import SparseMLP
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.restore import network_from_state, room_for_sparse


class Holder(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.inner = nn.Module()
        self.inner.network = network
        self.other = nn.Linear(2, 2)
        room_for_sparse(self.inner, "network")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("response", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_is_built_from_its_state(bias, response, dtype):
    network = SparseNetwork(
        [[0, 3], [1, 3], [2, 4], [3, 4]],
        num_inputs=3,
        outputs=[4, 0],
        activation={3: "tanh", 4: "sin"},
        aggregation={4: "max"},
        bias=bias,
        response=torch.tensor([2.0, 3.0]) if response else None,
        dtype=dtype,
    )
    again = network_from_state(network.state_dict())
    x = torch.randn(5, 3, dtype=dtype)
    assert torch.equal(again(x), network(x))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in network.named_parameters()]


def test_a_nested_dense_network_gives_way():
    trained, fresh = Holder(SparseMLP([4, 5, 2], density=0.5)), Holder(nn.Sequential(nn.Linear(4, 2)))
    fresh.load_state_dict(trained.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(fresh.inner.network(x), trained.inner.network(x))


def test_other_states_load_as_ever():
    first, second = Holder(nn.Linear(4, 2)), Holder(nn.Linear(4, 2))
    second.load_state_dict(first.state_dict())
    assert isinstance(second.inner.network, nn.Linear)
    assert torch.equal(first.inner.network.weight, second.inner.network.weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({})
    with pytest.raises(ValueError, match="got a state of weight, bias; want that of a SparseNetwork"):
        network_from_state(nn.Linear(2, 2).state_dict())


@pytest.mark.parametrize("network", [lambda: nn.Linear(4, 2), lambda: None])
def test_a_network_goes_where_the_dense_one_was(network):
    trained = nn.Module()
    trained.network = SparseMLP([4, 5, 2], density=0.5)
    fresh = nn.Module()
    fresh.network = network()
    fresh.other = nn.Linear(2, 2)
    fresh.to("meta")
    room_for_sparse(fresh, "network")
    with pytest.warns(UserWarning, match="copying from a non-meta parameter"):  # torch's, as of any other network
        fresh.load_state_dict(trained.state_dict(), strict=False)
    assert {parameter.device.type for parameter in fresh.network.parameters()} == {"meta"}
    again = nn.Module()
    again.network = nn.Linear(4, 2, device="meta")
    room_for_sparse(again, "network")
    again.load_state_dict(trained.state_dict(), assign=True)
    x = torch.randn(3, 4)
    assert torch.equal(again.network(x), trained.network(x))


def test_a_network_goes_beside_others_by_its_own_device():
    trained, fresh = nn.Module(), nn.Module()
    trained.network = SparseMLP([4, 5, 2], density=0.5)
    fresh.other = nn.Linear(2, 2, device="meta")
    fresh.network = nn.Linear(4, 2)
    room_for_sparse(fresh, "network")
    fresh.load_state_dict(trained.state_dict(), strict=False)
    assert torch.equal(fresh.network.weight, trained.network.weight)
