import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fulgurite.models import SparseNetwork
from fulgurite.models.sparse_network import TopologyError
from fulgurite.models.sparse_network.activations import ACTIVATIONS

SMOOTH = ("identity", "tanh", "sigmoid", "gauss", "sin")


def random_graph(seed, *, inputs=4, nodes=18, edges=50):
    """Edges between ids in random order, so that the user's numbers are not the topological ones."""
    random = np.random.default_rng(seed)
    pairs = {tuple(sorted(pair)) for pair in random.integers(0, nodes, (edges, 2)).tolist()}
    pairs = [(a, b) for a, b in pairs if a < b and b >= inputs]
    names = np.concatenate([np.arange(inputs), inputs + random.permutation(nodes - inputs)])
    chosen = names[random.permutation(len(names))[:5]]
    shuffled = [pairs[i] for i in random.permutation(len(pairs))]
    return [(int(names[a]), int(names[b])) for a, b in shuffled], chosen.tolist(), random


def random_network(seed, **options):
    edges, outputs, random = random_graph(seed)
    values = torch.from_numpy(random.normal(size=len(edges)))
    options = {"activation": random.choice(SMOOTH, 18).tolist(), "weight": values, "num_nodes": 18} | options
    bias = torch.from_numpy(random.normal(size=14))
    return SparseNetwork(edges, num_inputs=4, outputs=outputs, bias=bias, **options)


def results(network, x, backend):
    """Output and all gradients."""
    network.backend = backend
    x = x.clone().requires_grad_()
    y = network(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    parameters = [parameter for parameter in network.parameters() if parameter is not None]
    # Where no output depends on a parameter, plain torch operations leave it out and the operator gives zeros.
    return y, *torch.autograd.grad((y * weights).sum(), [x, *parameters], allow_unused=True, materialize_grads=True)


def by_hand(edges, weight, bias, x, *, inputs, nodes, outputs, activation=torch.tanh):
    """Node after node, by the user's own numbers."""
    values = {node: x[:, node] for node in range(inputs)}
    while len(values) < nodes:
        for node in range(inputs, nodes):
            into = [(number, source) for number, (source, target) in enumerate(edges) if target == node]
            if node not in values and all(source in values for _, source in into):
                total = sum((weight[number] * values[source] for number, source in into), x.new_zeros(len(x)))
                values[node] = activation(total + bias[node - inputs])
    return torch.stack([values[node] for node in outputs], dim=1)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([1, 3, 70]))
@pytest.mark.parametrize("backend", ["cpu", "dense", "reference", "auto"])
def test_equals_the_formula_by_the_users_own_numbers(backend, seed, batch):
    edges, outputs, random = random_graph(seed)
    weight, bias = torch.from_numpy(random.normal(size=len(edges))), torch.from_numpy(random.normal(size=14))
    network = SparseNetwork(
        edges,
        num_inputs=4,
        outputs=outputs,
        num_nodes=18,
        activation="tanh",
        weight=weight,
        bias=bias,
        backend=backend,
    )
    x = torch.from_numpy(random.normal(size=(batch, 4)))
    expected = by_hand(edges, weight, bias, x, inputs=4, nodes=18, outputs=outputs)
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), steps=st.sampled_from([None, 1, 3]), response=st.booleans())
@pytest.mark.parametrize("backend", ["cpu", "dense"])
def test_gradients_are_the_references(backend, seed, steps, response):
    network = random_network(seed, steps=steps, response=response)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(7, 4)))
    for got, expected in zip(results(network, x, backend), results(network, x, "reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_in_which_edges_are_given_means_nothing(seed):
    edges, outputs, random = random_graph(seed)
    weight = torch.from_numpy(random.normal(size=len(edges)))
    order = random.permutation(len(edges))
    options = {"num_inputs": 4, "outputs": outputs, "num_nodes": 18, "activation": "tanh"}
    one = SparseNetwork(edges, weight=weight, **options)
    two = SparseNetwork(np.array(edges).reshape(-1, 2)[order], weight=weight[order], **options)
    assert torch.equal(one.edges, two.edges)
    assert torch.equal(one.weight, two.weight)
    assert sorted(map(tuple, one.edges.tolist())) == sorted(edges)
    given_weights = dict(zip(edges, weight.tolist(), strict=True))
    assert [given_weights[tuple(edge)] for edge in one.edges.tolist()] == one.weight.tolist()


def test_names_by_node_and_by_mapping():
    edges = [(0, 1), (1, 3), (0, 2), (2, 3)]
    one = SparseNetwork(edges, num_inputs=1, outputs=[3], activation=["", "tanh", "relu", "identity"])
    two = SparseNetwork(edges, num_inputs=1, outputs=[3], activation={1: "tanh", 3: "identity"})
    assert one.definition.activations.tolist() == two.definition.activations.tolist()
    assert one.definition.activations.tolist()[1:] == [ACTIVATIONS[name].id for name in ("tanh", "relu", "identity")]
    three = SparseNetwork(edges, num_inputs=1, outputs=[3], aggregation={3: "product"}, weight=[1.0, 2.0, 3.0, 4.0])
    assert three(torch.tensor([[2.0]])).tolist() == [[2.0 * 2 * 6 * 4]]


def recur(network, x, steps, activation):
    """k synchronous updates of all nodes, by the definition."""
    values = torch.cat([x, x.new_zeros(len(x), network.num_nodes - network.num_inputs)], dim=1)
    for _ in range(steps):
        sums = x.new_zeros(len(x), network.num_nodes)
        sums = sums.index_add(1, network.edges[:, 1], values[:, network.edges[:, 0]] * network.weight)
        after = activation(sums[:, network.num_inputs :] + network.bias)
        values = torch.cat([x, after], dim=1)
    return values[:, network.definition.outputs]


@pytest.mark.parametrize("backend", ["cpu", "dense", "reference"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_run_synchronous_updates_with_tied_weights(backend, steps):
    edges = [(0, 2), (2, 3), (3, 2), (3, 3), (1, 4), (4, 3), (2, 4)]
    network = SparseNetwork(
        edges,
        num_inputs=2,
        outputs=[3, 0, 4],
        activation="tanh",
        steps=steps,
        weight=torch.linspace(-1, 1.4, 7, dtype=torch.float64),
        bias=[0.3, -0.2, 0.1],
        backend=backend,
    )
    assert (network.num_edges, network.num_nodes, network.weight.shape) == (7, 5, (7,))
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    expected = recur(network, x, steps, torch.tanh)
    torch.testing.assert_close(network(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
    for got, want in zip(
        torch.autograd.grad(network(x).square().sum(), list(network.parameters())), wanted, strict=True
    ):
        torch.testing.assert_close(got, want)


def test_steps_with_nodes_that_do_not_sum_read_zeros_at_first():
    """A product with a state that is still 0 is 0, whatever the other factor."""
    network = SparseNetwork(
        [(0, 1), (2, 1), (1, 2)],
        num_inputs=1,
        outputs=[1],
        activation={1: "identity", 2: "sigmoid"},
        aggregation={1: "product"},
        steps=3,
        weight=[1.0, 1.0, 1.0],
        bias=[1.0, 0.5],
        response=[2.0, 3.0],
    )
    x = torch.tensor([[2.0], [-1.0]])
    one, two = torch.zeros(2), torch.zeros(2)
    for _ in range(3):
        one, two = 1 + 2 * x[:, 0] * two, torch.sigmoid(0.5 + 3 * one)
    torch.testing.assert_close(network(x)[:, 0], one)
    network.backend = "reference"
    torch.testing.assert_close(network(x)[:, 0], one)


@pytest.mark.parametrize("steps", [None, 2])
def test_duplicates_add_up(steps):
    given = [(0, 1), (0, 1), (1, 2), (0, 1)]
    network = SparseNetwork(
        given,
        num_inputs=1,
        outputs=[2],
        weight=[1.0, 2.0, 5.0, 3.0],
        duplicates="sum",
        steps=steps,
        activation="identity",
    )
    assert network.edges.tolist() == [[0, 1], [1, 2]]
    assert network.weight.tolist() == [6.0, 5.0]
    assert network(torch.ones(1, 1)).tolist() == [[30.0]]


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4), (2, 0, 4)])
@pytest.mark.parametrize("backend", ["auto", "cpu", "dense", "reference"])
def test_shapes(backend, shape):
    network = random_network(1, backend=backend)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = network(x)
    assert y.shape == (*shape[:-1], 5)
    y.sum().backward()
    assert x.grad.shape == shape
    assert network.weight.grad.shape == network.weight.shape
    if x.numel() > 4:
        torch.testing.assert_close(y.reshape(-1, 5)[0], network(x.reshape(-1, 4)[0]))


def test_orphans_inputs_as_outputs_and_no_edges():
    network = SparseNetwork([], num_inputs=2, outputs=[3, 1, 1], num_nodes=4, activation="sigmoid", bias=[0.0, 2.0])
    y = network(torch.tensor([[5.0, 6.0], [7.0, 8.0]]))
    torch.testing.assert_close(y[:, 0], torch.sigmoid(torch.tensor([2.0, 2.0])))
    assert y[:, 1:].tolist() == [[6.0, 6.0], [8.0, 8.0]]
    assert network.num_edges == 0
    alone = SparseNetwork([], num_inputs=2, outputs=[1, 0], backend="dense")
    x = torch.tensor([[1.0, 2.0]])
    y = alone(x)
    assert y.tolist() == [[2.0, 1.0]]
    y[0, 0] = 9.0
    assert x.tolist() == [[1.0, 2.0]], "an output is no view of the input"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 5), r"x has shape \(3, 5\), expected \(…, 4\)"),
        (torch.zeros(()), "x has shape"),
        (torch.zeros(3, 4, dtype=torch.float64), r"pass x.to\(torch.float32\)"),
        (torch.zeros(3, 4, dtype=torch.int64), r"pass x.to\(torch.float32\)"),
        (torch.zeros(3, 4, dtype=torch.float16), r"x is torch.float16 .* pass x.to\(torch.float32\)"),
        (torch.zeros(3, 4, dtype=torch.bfloat16), r"x is torch.bfloat16 .* pass x.to\(torch.float32\)"),
        (torch.zeros(3, 4, device="meta"), "x is on meta and the parameters are on cpu"),
    ],
)
def test_input_that_does_not_fit(x, message):
    network = random_network(0, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        network(x)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"edges": [(0, 2), (2, 3), (3, 2)]}, TopologyError, "2 → 3 → 2; .*steps=k"),
        ({"edges": [(2, 2)]}, TopologyError, "2 → 2"),
        ({"edges": [(0, 2), (0, 2)]}, TopologyError, "edge 0 → 2 is given more than once"),
        ({"edges": [(0, 2), (0, 2)], "steps": 2}, TopologyError, "edge 0 → 2 is given more than once"),
        (
            {"edges": [(0, 2), (0, 2)], "steps": 2, "duplicates": "sum", "aggregation": "max"},
            TopologyError,
            "into a node that does not sum",
        ),
        ({"edges": [(0, 9)], "num_nodes": 4}, TopologyError, "names node 9"),
        ({"edges": [(0, 1)]}, TopologyError, "leads into input 1"),
        ({"edges": [(0, 2, 3)]}, TopologyError, r"expected \(E, 2\)"),
        ({"outputs": []}, TopologyError, "outputs"),
        ({"outputs": [7], "num_nodes": 4}, TopologyError, "output 0 is node 7"),
        ({"activation": "rleu"}, ValueError, "did you mean 'relu'"),
        ({"activation": {2: "tanhh"}}, ValueError, "did you mean 'tanh'"),
        ({"activation": {0: "tanh"}}, TopologyError, "names node 0; nodes that have one are 2 … 3"),
        ({"activation": ["relu"] * 3}, TopologyError, "lists 3 names, expected one for each of the 4 nodes"),
        ({"aggregation": "summ"}, ValueError, "did you mean 'sum'"),
        ({"weight": [1.0]}, ValueError, r"weight has shape \(1,\), expected \(2,\), one for each edge"),
        ({"weight": ["a", "b"]}, ValueError, "weight must be 2 numbers"),
        ({"bias": [1.0, 2.0, 3.0]}, ValueError, r"bias has shape \(3,\), expected \(2,\)"),
        ({"response": [1.0]}, ValueError, r"response has shape \(1,\), expected \(2,\)"),
        ({"steps": 0}, ValueError, "steps is 0; expected .* 1 or more"),
        ({"steps": True}, ValueError, "steps is True"),
        ({"duplicates": "max"}, TopologyError, "duplicates is 'max'"),
        ({"backend": "cuda"}, ValueError, "no backend 'cuda'; "),
        ({"backend": "dense", "aggregation": "max"}, ValueError, "backend='dense' is for"),
        ({"dtype": torch.float16}, ValueError, "float32 and float64"),
    ],
)
def test_what_cannot_be_built_is_told(options, error, message):
    with pytest.raises(error, match=message):
        SparseNetwork(**({"edges": [(0, 2), (2, 3)], "num_inputs": 2, "outputs": [3]} | options))


def test_initial_values_follow_the_fan_in():
    edges = [(i, 300 + j) for j in range(2) for i in range(150 if j else 300)]
    options = {"num_inputs": 300, "outputs": [300, 301]}
    network = SparseNetwork(edges, generator=torch.Generator().manual_seed(1), **options)
    for node, fan_in in ((300, 300), (301, 150)):
        weights = network.weight[network.edges[:, 1] == node].detach()
        bound = (6 / fan_in) ** 0.5
        assert weights.abs().max() <= bound
        torch.testing.assert_close(weights.std(), torch.tensor((2 / fan_in) ** 0.5), rtol=0.1, atol=0)
    assert network.bias.tolist() == [0.0, 0.0]
    again = SparseNetwork(edges, generator=torch.Generator().manual_seed(1), **options)
    assert torch.equal(network.weight, again.weight)
    assert SparseNetwork(edges, bias=False, **options).bias is None
    assert SparseNetwork(edges, response=True, **options).response.tolist() == [1.0, 1.0]


def test_types():
    assert random_network(0).weight.dtype == torch.float64, "that of the weight tensor"
    network = random_network(0, dtype=torch.float32)
    x = torch.linspace(-1, 1, 12).view(3, 4)
    expected = network(x)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(network.double()(x.double()), expected.double(), rtol=1e-5, atol=1e-6)
    network.half()
    with pytest.raises(ValueError, match=r"the parameters are torch.float16; .* call .float\(\)"):
        network(x.half())
    torch.testing.assert_close(network.float()(x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("backend", ["auto", "cpu", "dense", "reference"])
def test_autocast_computes_in_the_parameters_type(backend):
    network = random_network(3, backend=backend, dtype=torch.float32)
    x = torch.linspace(-1, 1, 12).view(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
        low = network(x.bfloat16())
    assert y.dtype == low.dtype == torch.float32
    assert torch.equal(y, network(x))
    torch.testing.assert_close(low, y, rtol=0.1, atol=0.1)
    y.sum().backward()
    assert network.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("options", [{"backend": "cpu"}, {"backend": "dense"}, {"backend": "auto"}, {"steps": 2}])
def test_compiles_in_one_graph(options):
    network = random_network(5, response=True, **options)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for batch in (3, 6, 40):
        x = torch.linspace(-1, 1, 4 * batch, dtype=torch.float64).view(batch, 4)
        torch.testing.assert_close(compiled(x), network(x))
        gradients = torch.autograd.grad(compiled(x).square().sum(), list(network.parameters()))
        expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
        torch.testing.assert_close(gradients, expected)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
    torch._dynamo.reset()


def test_copies_and_pickles():
    network = random_network(2, steps=2, response=True)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    expected = network(x)
    network.node_names = tuple("abc")
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x), expected)
        assert twin.node_names == network.node_names
        with torch.no_grad():
            twin.weight.add_(1)
        assert torch.equal(network(x), expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.02, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.02),
    ],
)
def test_trains_under_optimizers_clipping_and_averages(optimizer):
    torch.manual_seed(0)
    edges = [(i, j) for i in range(3) for j in range(3, 11) if (i + j) % 3] + [(j, 11) for j in range(3, 11)]
    network = SparseNetwork(
        edges, num_inputs=3, outputs=[11], activation={**{j: "tanh" for j in range(3, 11)}, 11: "identity"}
    )
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    x = torch.randn(64, 3)
    target = torch.sin(x.sum(dim=1, keepdim=True))
    steps = optimizer(network.parameters())
    losses = []
    for _ in range(150):
        loss = (network(x) - target).square().mean()
        steps.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        assert torch.isfinite(norm)
        steps.step()
        average.update_parameters(network)
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    torch.testing.assert_close(average(x), network(x), rtol=0.2, atol=0.2)
    assert not torch.equal(average.module.weight, network.weight)


def test_nan_stays_visible():
    network = random_network(1, backend="cpu")
    x = torch.zeros(2, 4, dtype=torch.float64)
    x[1] = torch.nan
    y = network(x)
    assert y[0].isfinite().all()
    reached = by_hand(
        network.edges.tolist(),
        network.weight,
        network.bias,
        x,
        inputs=4,
        nodes=18,
        outputs=network.definition.outputs.tolist(),
    )
    assert torch.equal(y[1].isnan(), reached[1].isnan())
    assert y[1].isnan().any()


@pytest.mark.parametrize("x", [[[1.0, 2.0]], np.ones((1, 2)), None])
def test_what_is_no_tensor_is_told(x):
    network = SparseNetwork([(0, 2)], num_inputs=2, outputs=[2])
    with pytest.raises(TypeError, match=rf"x is a {type(x).__name__}; pass a tensor of shape \(…, 2\)"):
        network(x)


@pytest.mark.parametrize("backend", ["auto", "dense", "reference"])
def test_shapes_without_numbers(backend):
    network = SparseNetwork([(0, 2), (1, 2)], num_inputs=2, outputs=[2, 0], backend=backend).to("meta")
    y = network(torch.ones(3, 2, device="meta"))
    assert y.is_meta
    assert y.shape == (3, 2)


@pytest.mark.parametrize("backend", ["auto", "cpu", "dense", "reference"])
def test_inputs_that_are_outputs_pass_through_a_network_without_nodes(backend):
    net = SparseNetwork(
        torch.empty(0, 2, dtype=torch.int64), num_inputs=2, outputs=[1, 0], num_nodes=2, backend=backend
    )
    assert net(torch.tensor([[1.0, 2.0]])).tolist() == [[2.0, 1.0]]
    assert str(net.explain(4))
