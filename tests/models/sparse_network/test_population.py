import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models import SparseNetwork
from fulgurite.models.sparse_network import SparsePopulation

SMOOTH = ("identity", "tanh", "sigmoid", "neat_gauss", "sin")


def member(random, *, inputs=3, **options):
    """A network of any size, unlike the others."""
    nodes = inputs + int(random.integers(1, 9))
    pairs = np.sort(random.integers(0, nodes, (3 * nodes, 2)), axis=1)
    pairs = np.unique(pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 1] >= inputs)], axis=0)
    computed = nodes - inputs
    options = {
        "bias": torch.from_numpy(random.normal(size=computed)) if random.random() < 0.7 else False,
        "response": torch.from_numpy(random.normal(size=computed)) if random.random() < 0.4 else None,
        "steps": 2 if random.random() < 0.3 else None,
        "aggregation": random.choice(["sum", "mean", "max", "product"], nodes, p=[0.7, 0.1, 0.1, 0.1]).tolist(),
        "activation": random.choice(SMOOTH, nodes).tolist(),
    } | options
    return SparseNetwork(
        pairs,
        num_inputs=inputs,
        num_nodes=nodes,
        outputs=random.integers(0, nodes, int(random.integers(1, 4))),
        weight=torch.from_numpy(random.normal(size=len(pairs))),
        **options,
    )


def one_by_one(networks, x):
    size = max(network.num_outputs for network in networks)
    rows = []
    for number, network in enumerate(networks):
        y = network(x if x.dim() == 2 else x[number])
        rows.append(torch.cat([y, y.new_zeros(len(y), size - y.shape[1])], dim=1))
    return torch.stack(rows)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 6),
    batch=st.sampled_from([0, 1, 5, 70]),
    shared=st.booleans(),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_equals_its_members_one_by_one(seed, size, batch, shared, backend):
    random = np.random.default_rng(seed)
    networks = [member(random) for _ in range(size)]
    population = SparsePopulation(networks, backend=backend)
    x = torch.from_numpy(random.normal(size=(batch, 3) if shared else (size, batch, 3))).requires_grad_()
    got, expected = population(x), one_by_one(networks, x)
    assert got.shape == (size, batch, max(network.num_outputs for network in networks))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert population.mask.sum(dim=1).tolist() == [network.num_outputs for network in networks]
    assert not got[~population.mask[:, None].expand_as(got)].any()

    scale = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
    mine = {name: [p] for name, p in population.named_parameters()}
    theirs = {
        name: [p for network in networks if (p := getattr(network, name)) is not None]
        for name in ("weight", "bias", "response")
    }
    options = {"allow_unused": True, "materialize_grads": True}
    for name, parameters in theirs.items():
        assert (name in mine) == bool(parameters)
        if parameters:
            whole = torch.autograd.grad((got * scale).sum(), [x, *mine[name]], retain_graph=True, **options)
            parts = torch.autograd.grad((expected * scale).sum(), [x, *parameters], retain_graph=True, **options)
            torch.testing.assert_close(whole[0], parts[0], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(whole[1], torch.cat(parts[1:]), rtol=1e-9, atol=1e-9)


def test_one_step_trains_every_member_as_if_alone():
    random = np.random.default_rng(0)
    networks = [member(random, aggregation="sum", steps=None) for _ in range(5)]
    population = SparsePopulation(networks)
    x = torch.from_numpy(random.normal(size=(20, 3)))
    target = torch.from_numpy(random.normal(size=(20, 1)))
    optimizer = torch.optim.Adam(population.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        losses = ((population(x) - target).square() * population.mask[:, None]).sum(dim=(1, 2))
        losses.sum().backward()
        optimizer.step()
    for number, network in enumerate(networks):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (network(x) - target).square().sum().backward()
            optimizer.step()
        trained = population[number]
        for (name, got), (_, expected) in zip(trained.named_parameters(), network.named_parameters(), strict=True):
            torch.testing.assert_close(got, expected, msg=f"{name} of member {number}")
    assert torch.equal(population[-1].weight, population.networks()[4].weight)


def test_members_are_copies():
    random = np.random.default_rng(1)
    networks = [member(random) for _ in range(3)]
    population = SparsePopulation(networks)
    with torch.no_grad():
        networks[0].weight.add_(1)
        before = population.weight.clone()
        population[1].weight.add_(1)
        population.networks()[2].weight.add_(1)
    assert torch.equal(population.weight, before)
    assert len(population) == len(list(population)) == 3
    with pytest.raises(IndexError):
        population[3]


def test_a_slice_gives_a_list():
    random = np.random.default_rng(7)
    networks = [member(random) for _ in range(5)]
    population = SparsePopulation(networks)
    for part in (slice(0, 1), slice(None, None, -2), slice(9, None)):
        got = population[part]
        assert isinstance(got, list)
        assert len(got) == len(networks[part])
        for copied, own in zip(got, networks[part], strict=True):
            assert torch.equal(copied.weight, own.weight)


def test_backend_can_be_changed():
    random = np.random.default_rng(8)
    population = SparsePopulation([member(random) for _ in range(3)])
    x = torch.from_numpy(random.normal(size=(4, 3)))
    expected = population(x)
    for backend in ("reference", "cpu"):
        population.backend = backend
        assert f"backend={backend}" in repr(population)
        torch.testing.assert_close(population(x), expected)


def test_what_is_frozen_in_all_members_stays_so():
    random = np.random.default_rng(9)
    networks = [member(random, bias=bias, response=None) for bias in (True, False, True)]
    for network in networks:
        network.weight.requires_grad_(False)
    population = SparsePopulation(networks)
    assert not population.weight.requires_grad
    assert population.bias.requires_grad
    assert [copied.weight.requires_grad for copied in population] == [False] * 3
    assert population[0].bias.requires_grad
    networks[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"bias is trained in member 0 and frozen in member 2 .* of their own"):
        SparsePopulation(networks)


def test_a_thousand_unlike_networks_in_one_call():
    random = np.random.default_rng(2)
    kinds = [member(random, inputs=4, steps=None) for _ in range(50)]
    networks = [kinds[number] for number in random.integers(0, 50, 1000)]
    population = SparsePopulation(networks)
    x = torch.from_numpy(random.normal(size=(64, 4)))
    y = population(x)
    assert y.shape == (1000, 64, 3)
    expected = {id(network): network(x) for network in kinds}
    for number in range(0, 1000, 37):
        size = networks[number].num_outputs
        torch.testing.assert_close(y[number, :, :size], expected[id(networks[number])])
    y.square().sum().backward()
    assert population.weight.grad.shape == (sum(network.num_edges for network in networks),)


def test_saves_loads_copies_and_moves(tmp_path):
    random = np.random.default_rng(3)
    networks = [member(random, response=None, bias=True) for _ in range(4)]
    population = SparsePopulation(networks)
    x = torch.from_numpy(random.normal(size=(5, 3)))
    torch.save(population.state_dict(), tmp_path / "state.pt")
    fresh = SparsePopulation(networks)
    with torch.no_grad():
        fresh.weight.zero_()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for twin in (fresh, copy.deepcopy(population), pickle.loads(pickle.dumps(population))):
        assert torch.equal(twin(x), population(x))
    single = copy.deepcopy(population).float()
    assert single(x.float()).dtype == single[0].weight.dtype == torch.float32
    other = SparsePopulation(networks[::-1])
    with pytest.raises(RuntimeError, match="a population of other networks"):
        other.load_state_dict(population.state_dict())
    state = population.state_dict()
    del state["digest"]
    with pytest.raises(RuntimeError, match=r"Missing key.*digest"):
        fresh.load_state_dict(state)


@pytest.mark.parametrize("dims", [2, 3])
def test_compiles_in_one_graph(dims):
    random = np.random.default_rng(4)
    population = SparsePopulation([member(random) for _ in range(3)])
    x = torch.from_numpy(random.normal(size=(3, 6, 3)[3 - dims :]))
    compiled = torch.compile(population, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), population(x))
    torch._dynamo.reset()


def test_what_cannot_be_is_told():
    random = np.random.default_rng(5)
    one = member(random)
    with pytest.raises(ValueError, match="got no networks"):
        SparsePopulation([])
    with pytest.raises(ValueError, match="member 1 is a Linear"):
        SparsePopulation([one, torch.nn.Linear(3, 1)])
    with pytest.raises(ValueError, match="differ in num_inputs: member 0 has 3, member 1 has 4"):
        SparsePopulation([one, member(random, inputs=4)])
    with pytest.raises(ValueError, match="differ in dtype"):
        SparsePopulation([one, member(random, dtype=torch.float32)])
    with pytest.raises(ValueError, match="backend is 'dense'; a population has auto, cpu"):
        SparsePopulation([one], backend="dense")
    with pytest.raises(TypeError, match=r"networks is one SparseNetwork; pass a list, \[network\]"):
        SparsePopulation(one)
    population = SparsePopulation([one, one])
    for backend in ("gpu", "dense"):
        with pytest.raises(ValueError, match=f"backend is '{backend}'; a population has auto, cpu"):
            population.backend = backend
    assert population.backend == "auto"
    with pytest.raises(TypeError, match=r"x is a list; pass a tensor of shape \(B, 3\) or \(2, B, 3\)"):
        population([[0.0, 0.0, 0.0]])
    for shape in ((3,), (5, 4), (3, 5, 3), (2, 2, 5, 3)):
        with pytest.raises(ValueError, match="the same for all members"):
            population(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x is torch.float32"):
        population(torch.zeros(2, 3))
    assert repr(population).startswith("SparsePopulation(members=2, inputs=3, ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    random = np.random.default_rng(6)
    networks = [member(random) for _ in range(5)]
    population = SparsePopulation(networks)
    for shape in ((7, 3), (5, 7, 3)):
        x = torch.from_numpy(random.normal(size=shape))
        expected = population.cpu()(x)
        torch.testing.assert_close(population.cuda()(x.cuda()).cpu(), expected, rtol=1e-8, atol=1e-8)
    assert population[0].weight.is_cuda
