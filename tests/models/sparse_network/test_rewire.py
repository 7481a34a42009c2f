import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fulgurite.models.sparse_network import SparseNetwork, TopologyError
from fulgurite.models.sparse_network.layered import SparseMLP
from fulgurite.models.sparse_network.places import find_places
from fulgurite.models.sparse_network.rewire import (
    Call,
    RewireError,
    candidate_gradients,
    check_optimizer,
    prune_and_grow,
    remap_state,
    rewire,
)

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
}


def make(seed=0, sizes=(6, 8, 5, 3), density=0.4):
    torch.manual_seed(seed)
    return SparseMLP(list(sizes), density=density, seed=seed, backend="reference").double()


def train(network, optimizer, seed, steps=3):
    for step in range(steps):
        x = torch.randn(16, network.num_inputs, generator=torch.Generator().manual_seed(seed + step)).double()
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def by_edge(network, values):
    return {tuple(edge): value for edge, value in zip(network.edges.tolist(), values.tolist(), strict=True)}


def missing(network):
    return torch.cat(
        [
            places.free(network.edges, limit=10**6, generator=torch.Generator())
            for places in find_places(network, "layers")
        ]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("more", [0, 3, -4])
def test_a_rewired_network_trains_like_one_that_is_rebuilt(name, more):
    network = make()
    optimizer = OPTIMIZERS[name](network.parameters())
    train(network, optimizer, seed=1)
    old_weights = by_edge(network, network.weight)
    parameter, bias_state = network.weight, copy.deepcopy(optimizer.state[network.bias])
    old_state = {
        key: by_edge(network, value) if value.ndim else value.clone()
        for key, value in optimizer.state[parameter].items()
    }
    drop = torch.tensor([0, 7, 3, 11, 12])
    gone = {tuple(edge) for edge in network.edges[drop].tolist()}
    add = missing(network)[: 5 + more]

    change = rewire(network, drop=drop, add=add, optimizers=[optimizer])

    edges = [edge for edge in old_weights if edge not in gone] + [tuple(edge) for edge in add.tolist()]
    assert {tuple(edge) for edge in change.dropped.tolist()} == gone
    assert change.added.tolist() == add.tolist()
    assert network.weight is parameter
    assert network.weight.grad is None

    rebuilt = SparseNetwork(
        edges,
        num_inputs=6,
        outputs=range(19, 22),
        num_nodes=22,
        activation=dict.fromkeys(range(19, 22), "identity"),
        weight=torch.tensor([old_weights.get(edge, 0.0) for edge in edges], dtype=torch.float64),
        bias=network.bias.detach().clone(),
        backend="reference",
        dtype=torch.float64,
    )
    assert rebuilt.edges.tolist() == network.edges.tolist()
    fresh = OPTIMIZERS[name](rebuilt.parameters())
    order = [tuple(edge) for edge in rebuilt.edges.tolist()]
    fresh.state[rebuilt.weight] = {
        key: torch.tensor([value.get(edge, 0.0) for edge in order], dtype=torch.float64)
        if isinstance(value, dict)
        else value
        for key, value in old_state.items()
    }
    fresh.state[rebuilt.bias] = bias_state
    train(network, optimizer, seed=5)
    train(rebuilt, fresh, seed=5)
    assert torch.equal(network.weight, rebuilt.weight)
    assert torch.equal(network.bias, rebuilt.bias)


def test_new_edges_take_the_weights_given():
    network = make()
    add = missing(network)[:2]
    rewire(network, drop=torch.tensor([], dtype=torch.int64), add=add, weight=torch.tensor([2.5, -1.0]))
    weights = by_edge(network, network.weight)
    assert [weights[tuple(edge)] for edge in add.tolist()] == [2.5, -1.0]


def test_nothing_changes_where_edges_cannot_be_changed():
    network = make()
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=2)
    x = torch.ones(4, 6).double()

    def closure():
        optimizer.zero_grad()
        loss = network(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    edges, weight = network.edges.clone(), network.weight.detach().clone()
    add, none = missing(network)[:1], torch.tensor([], dtype=torch.int64)
    with pytest.raises(RewireError, match=r"LBFGS keeps a history of all parameters together.*use SGD, Adam"):
        rewire(network, drop=none, add=add, optimizers=[optimizer])
    with pytest.raises(RewireError, match="is there already"):
        rewire(network, drop=none, add=network.edges[:1])
    with pytest.raises(RewireError, match="given twice"):
        rewire(network, drop=none, add=torch.cat([add, add]))
    with pytest.raises(RewireError, match="edge numbers from 999 to 999"):
        rewire(network, drop=torch.tensor([999]), add=add)
    with pytest.raises(RewireError, match="2 weights for 1 new edges"):
        rewire(network, drop=none, add=add, weight=torch.ones(2))
    hidden = network.edges[network.edges[:, 0] >= 6][0]
    with pytest.raises(TopologyError, match="cycle"):
        rewire(network, drop=none, add=hidden.flip(0)[None])
    assert torch.equal(network.edges, edges)
    assert torch.equal(network.weight, weight)


def test_an_optimizer_that_does_not_know_the_weights_is_left_alone():
    other = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([other])
    other.grad = torch.ones(3)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    remap_state(optimizer, torch.nn.Parameter(torch.ones(2)), torch.tensor([0, -1]), 2)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.parametrize("calls", [1, 2])
def test_candidate_gradients_are_the_slopes_of_the_loss(calls):
    """Against differences of the loss itself, edge by edge."""
    network = make()
    torch.nn.init.uniform_(network.bias, 0.1, 0.5)  # a unit without edges would stand at the kink of its ReLU
    xs = [torch.randn(7, 6, generator=torch.Generator().manual_seed(n)).double() for n in range(calls)]
    target = torch.ones(7, 3).double()
    captured = []
    for x in xs:
        y = network(x)
        leaf = y.detach().requires_grad_()
        functional.mse_loss(leaf, target).backward()
        captured.append(Call(x, leaf.grad))
    candidates = missing(network)
    gradients = candidate_gradients(network, candidates, captured)
    weights, step = network.weight.detach(), 1e-6
    for number in range(0, len(candidates), 7):
        losses = []
        for size in (step, -step):
            probe = copy.deepcopy(network)
            probe.replace_edges(
                torch.cat([network.edges, candidates[number : number + 1]]),
                torch.cat([weights, weights.new_tensor([size])]),
            )
            losses.append(sum(functional.mse_loss(probe(x), target).item() for x in xs))
        assert gradients[number].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-7)
    assert (gradients != 0).any()


def test_candidate_gradients_leave_the_network_as_it_was():
    network = make()
    network(torch.ones(2, 6).double()).sum().backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradient = network.weight.grad.clone()
    call = Call(torch.ones(2, 6), torch.ones(2, 3))
    candidate_gradients(network, missing(network), [call])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network.weight.grad, gradient)
    assert candidate_gradients(network, missing(network)[:0], [call]).shape == (0,)
    assert candidate_gradients(network, missing(network), []).abs().sum() == 0


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.35, 1.0]))
def test_each_layer_swaps_its_weakest_edges_for_the_steepest_places(seed, fraction):
    """Against a plain loop over layers."""
    network = make(seed)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed)).double()
    call = Call(x, torch.randn(9, 3, generator=torch.Generator().manual_seed(seed + 1)).double())
    places = find_places(network, "layers")
    weights = by_edge(network, network.weight.detach().abs())
    candidates = missing(network)
    slopes = candidate_gradients(network, candidates, [call]).abs().tolist()
    slope = dict(zip(map(tuple, candidates.tolist()), slopes, strict=True))
    dropped, steepest = set(), {}
    for group in places:
        block = {tuple(pair) for pair in group.pairs(torch.arange(group.total)).tolist()}
        mine = sorted((edge for edge in weights if edge in block), key=weights.__getitem__)
        free = sorted((slope[edge] for edge in slope if edge in block), reverse=True)
        count = min(int(fraction * len(mine)), len(free))
        dropped |= set(mine[:count])
        steepest[id(group)] = (block, free[:count])

    change = prune_and_grow(network, places=places, fraction=fraction, method="rigl", calls=[call])

    assert {tuple(edge) for edge in change.dropped.tolist()} == dropped
    for block, wanted in steepest.values():
        got = [slope[tuple(edge)] for edge in change.added.tolist() if tuple(edge) in block]
        assert sorted(got, reverse=True) == wanted  # slopes, since equal ones (dead units) may be exchanged
    assert not {tuple(edge) for edge in change.added.tolist()} & set(weights)
    assert len(network.edges) == len(weights)
    new = by_edge(network, network.weight)
    assert all(new[tuple(edge)] == 0 for edge in change.added.tolist())


def test_growth_at_random_depends_on_the_seed_alone():
    first, again, other = (make() for _ in range(3))
    for network, seed in ((first, 1), (again, 1), (other, 2)):
        torch.rand(3)  # the global generator does not matter
        prune_and_grow(network, places=find_places(network, "layers"), fraction=0.5, method="set", seed=seed)
    assert torch.equal(first.edges, again.edges)
    assert not torch.equal(first.edges, other.edges)


def test_gradients_are_averaged_before_they_decide():
    """One of two processes sees nothing; the other one's gradients decide for both."""
    alone, with_help = make(), make()
    call = Call(torch.randn(9, 6).double(), torch.randn(9, 3).double())
    heard = []

    def keep(gradient):
        heard.append(gradient)
        return gradient

    options = {"fraction": 0.3, "method": "rigl"}
    prune_and_grow(with_help, places=find_places(with_help, "layers"), calls=[call], reduce=keep, **options)
    prune_and_grow(
        alone, places=find_places(alone, "layers"), calls=[], reduce=lambda zeros: zeros + heard[0], **options
    )
    assert torch.equal(alone.edges, with_help.edges)


def test_a_full_layer_stays_and_gradients_that_are_no_numbers_do_not_decide():
    network = make(sizes=(4, 6, 2), density=0.8)
    full = {tuple(edge) for edge in network.edges.tolist() if edge[0] >= 4}
    assert len(full) == 12, "the small layer is dense"
    call = Call(torch.full((2, 4), float("nan")), torch.ones(2, 2))
    change = prune_and_grow(network, places=find_places(network, "layers"), fraction=0.5, method="rigl", calls=[call])
    assert len(change.added) == len(change.dropped) > 0
    assert full <= {tuple(edge) for edge in network.edges.tolist()}


def test_edges_into_nodes_that_do_not_sum_stay():
    network = SparseNetwork(
        [[0, 3], [1, 3], [0, 4], [3, 5], [4, 5]],
        num_inputs=3,
        outputs=[5],
        aggregation={3: "product"},
        weight=torch.tensor([1e-9, 1e-9, 1.0, 1.0, 1.0]),
    )
    for _ in range(5):
        prune_and_grow(network, places=find_places(network, "acyclic"), fraction=1.0, method="set")
        assert {(0, 3), (1, 3)} <= {tuple(edge) for edge in network.edges.tolist()}


def test_few_candidates_of_many_are_looked_at():
    network = make()
    change = prune_and_grow(
        network,
        places=find_places(network, "layers"),
        fraction=0.5,
        method="rigl",
        calls=[Call(torch.ones(2, 6), torch.ones(2, 3))],
        max_candidates=1,
    )
    assert len(change.added) == len(change.dropped) > 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["rigl", "set"])
def test_a_gpu_decides_as_the_cpu_does(method):
    networks = {}
    x, grad = torch.randn(32, 6), torch.randn(32, 3)
    for device in ("cpu", "cuda"):
        network = make().float().to(device)
        network.backend = "auto"
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        network(x.to(device)).backward(grad.to(device))
        optimizer.step()
        call = Call(x.to(device), grad.to(device))
        prune_and_grow(
            network,
            places=find_places(network, "layers"),
            fraction=0.4,
            method=method,
            calls=[call],
            optimizers=[optimizer],
        )
        network(x.to(device)).backward(grad.to(device))
        optimizer.step()
        networks[device] = network
    assert torch.equal(networks["cpu"].edges, networks["cuda"].edges.cpu())
    torch.testing.assert_close(networks["cuda"].weight.cpu(), networks["cpu"].weight, rtol=1e-4, atol=1e-4)


def test_optimizers_are_checked_by_what_they_keep_and_will_keep():
    network = make()
    weight, bias = network.weight, network.bias
    with pytest.raises(RewireError, match="LBFGS keeps a history"):
        check_optimizer(torch.optim.LBFGS([bias, weight]), weight)
    check_optimizer(torch.optim.LBFGS([bias]), weight)
    optimizer = torch.optim.SGD([weight])
    optimizer.state[weight] = {"step": torch.tensor(3.0), "momentum": torch.zeros_like(weight)}
    check_optimizer(optimizer, weight)
    for foreign in (torch.eye(2), [torch.zeros(1)]):
        optimizer.state[weight]["basis"] = foreign
        with pytest.raises(RewireError, match="SGD keeps 'basis', which does not belong to single weights"):
            check_optimizer(optimizer, weight)
