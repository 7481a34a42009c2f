import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.models import SparseNetwork
from fulgurite.models.sparse_network import TopologyError
from fulgurite.models.sparse_network.definition import STATE_KEYS


def small(**options):
    options = {"edges": [(0, 3), (1, 3), (2, 4), (3, 4)], "num_inputs": 3, "outputs": [4]} | options
    return SparseNetwork(generator=torch.Generator().manual_seed(0), **options)


def other(**options):
    return small(
        edges=[(0, 2), (2, 5), (1, 4), (4, 5), (2, 3)],
        num_inputs=2,
        outputs=[5, 3],
        activation={2: "tanh", 5: "identity"},
        aggregation={5: "max"},
        **options,
    )


X2 = torch.linspace(-1, 1, 10).view(5, 2)


@pytest.mark.parametrize("options", [{}, {"steps": 3}, {"response": True}, {"bias": False}, {"dtype": torch.float64}])
def test_a_state_of_another_topology_changes_the_network(options, tmp_path):
    network, source = small(**options), other(**options)
    kept = dict(network.named_parameters())
    torch.save(source.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert str(network.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    x = X2.to(source.weight.dtype)
    torch.testing.assert_close(network(x), source(x), rtol=0, atol=0)
    assert torch.equal(network.edges, source.edges)
    assert network.topology.digest() == source.topology.digest()
    assert (network.num_inputs, network.num_outputs, network.steps) == (2, 2, options.get("steps"))
    for name, parameter in network.named_parameters():
        assert parameter is kept[name]
    network(x).sum().backward()
    assert network.weight.grad.shape == source.weight.shape


def test_a_state_may_change_steps():
    network, source = other(), other(steps=4)
    network.load_state_dict(source.state_dict())
    assert network.steps == 4
    assert torch.equal(network(X2), source(X2))
    source.load_state_dict(other().state_dict())
    assert source.steps is None


def test_as_part_of_a_larger_module_and_assigned():
    model = nn.Sequential(nn.Linear(2, 2), other(), nn.Linear(2, 1))
    fresh = nn.Sequential(nn.Linear(2, 2), small(), nn.Linear(2, 1))
    fresh.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(fresh(X2), model(X2), rtol=0, atol=0)
    assert {f"1.{name}" for name in STATE_KEYS} <= set(model.state_dict())
    assert not list(model.buffers()), "DDP would send buffers around"


def test_a_state_that_numbers_edges_otherwise():
    source = other()
    state = source.state_dict()
    order = torch.tensor([4, 2, 0, 1, 3])
    state["edges"], state["weight"] = state["edges"][order], state["weight"][order]
    network = small()
    network.load_state_dict(state)
    assert torch.equal(network.weight, source.weight)
    assert torch.equal(network(X2), source(X2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": None}, r"Missing key\(s\).*edges"),
        ({"weight": None}, r"Missing key\(s\).*weight"),
        ({"bias": None}, r"Missing key\(s\).*bias"),
        ({"response": torch.ones(4)}, r"Unexpected key\(s\).*response"),
        ({"edges": torch.tensor([[0, 2], [2, 3], [3, 2], [2, 4], [4, 5]])}, "2 → 3 → 2"),
        ({"edges": torch.zeros(5, 3, dtype=torch.int64)}, r"edges has shape \(5, 3\)"),
        ({"weight": torch.zeros(4)}, r"weight has shape \(4,\), but edges has 5"),
        ({"sizes": torch.tensor([2, 6])}, "sizes has shape"),
        ({"activations": torch.zeros(3, dtype=torch.int32)}, r"activations has shape \(3,\)"),
        ({"activations": torch.full((6,), 99, dtype=torch.int32)}, "known are"),
        ({"bias": torch.zeros(7)}, "size mismatch for bias"),
    ],
)
@pytest.mark.parametrize("steps", [None, 2])
def test_a_state_that_is_not_one(change, message, steps):
    if steps and "→" in message:
        return  # cycles are what steps are for
    state = other(steps=steps).state_dict() | change
    state = {name: value for name, value in state.items() if value is not None}
    network = small(steps=steps)
    with pytest.raises(RuntimeError, match=message):
        network.load_state_dict(state)


def test_weights_alone_load_loosely():
    network = small()
    network.load_state_dict({"weight": torch.ones(4)}, strict=False)
    assert network.weight.tolist() == [1.0] * 4
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({"weight": torch.ones(4)})


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), kept=st.integers(0, 4), added=st.integers(0, 4), steps=st.sampled_from([None, 2])
)
def test_replaced_edges_equal_a_network_built_anew(seed, kept, added, steps):
    random = np.random.default_rng(seed)
    places = [(a, b) for b in range(3, 7) for a in range(b)]
    random.shuffle(places)
    before, new = places[:4], places[4 : 4 + added]
    network = small(edges=before, outputs=[6, 4], num_nodes=7, steps=steps)
    parameter, old_weight, old_edges = network.weight, network.weight.detach().clone(), network.edges.tolist()
    storage = parameter.data_ptr()
    network(torch.ones(1, 3)).sum().backward()
    chosen = random.permutation(4)[:kept]
    edges = [old_edges[i] for i in chosen] + [list(edge) for edge in new]
    weight = torch.cat([old_weight[chosen], torch.from_numpy(random.normal(size=added)).float()])
    origin = network.replace_edges(edges, weight)
    rebuilt = small(
        edges=np.array(edges, np.int64).reshape(-1, 2), outputs=[6, 4], num_nodes=7, weight=weight, steps=steps
    )
    x = torch.linspace(-1, 1, 9).view(3, 3)
    assert network.weight is parameter
    assert parameter.grad is None
    assert torch.equal(network(x), rebuilt(x))
    assert torch.equal(network.edges, rebuilt.edges)
    assert torch.equal(parameter, rebuilt.weight)
    if len(edges) == 4:
        assert parameter.data_ptr() == storage
    for number, (edge, was) in enumerate(zip(network.edges.tolist(), origin.tolist(), strict=True)):
        assert was == (old_edges.index(edge) if edge in old_edges else -1)
        if was >= 0:
            assert parameter[number] == old_weight[was]


@pytest.mark.parametrize(
    ("edges", "weight", "error"),
    [
        ([(3, 4), (4, 3)], [1.0, 2.0], TopologyError),
        ([(0, 3), (0, 3)], [1.0, 2.0], TopologyError),
        ([(0, 9)], [1.0], TopologyError),
        ([(0, 3)], [1.0, 2.0], ValueError),
    ],
)
def test_edges_that_cannot_be_leave_the_network_as_it_was(edges, weight, error):
    network = small()
    x = torch.ones(2, 3)
    before, known = network(x), network.edges.tolist()
    with pytest.raises(error):
        network.replace_edges(edges, weight)
    assert torch.equal(network(x), before)
    assert network.edges.tolist() == known


@pytest.mark.parametrize("born", [False, True])
def test_moves_and_meta(born):
    with torch.device("meta" if born else "cpu"):
        network = small()
    assert network.to("meta").weight.device.type == "meta"
    network.to_empty(device="cpu")
    network.load_state_dict(other().state_dict())
    assert torch.equal(network(X2), other()(X2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_moves_to_a_gpu_and_back():
    network = other()
    expected = network(X2)
    network.cuda()
    assert network.edges.is_cuda
    assert network.topology.ptr.is_cuda
    torch.testing.assert_close(network(X2.cuda()).cpu(), expected)
    origin = network.replace_edges(network.edges[:3], network.weight[:3])
    assert origin.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="x is on cpu and the parameters are on cuda"):
        network(X2)
    torch.testing.assert_close(network.cpu()(X2).shape, expected.shape)
