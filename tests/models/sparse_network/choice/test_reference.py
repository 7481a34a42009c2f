import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from neat.activations import ActivationFunctionSet
from neat.aggregations import AggregationFunctionSet
from neat.nn import FeedForwardNetwork

from fulgurite.models.sparse_network.activations import ACTIVATIONS, activation_id
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS, aggregation_id
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.topology import compile_topology

# Those whose compositions stay of a size at which 1e-9 means something.
TAMED = [
    "sigmoid",
    "tanh",
    "sin",
    "gauss",
    "relu",
    "elu",
    "lelu",
    "selu",
    "softplus",
    "identity",
    "clamped",
    "abs",
    "hat",
]


@st.composite
def acyclic(draw, max_inner=8):
    """Edges of any acyclic graph, num_inputs, num_nodes and outputs; node ids at random."""
    num_inputs = draw(st.integers(1, 3))
    num_nodes = num_inputs + draw(st.integers(0, max_inner))
    pairs = [(u, v) for v in range(num_inputs, num_nodes) for u in range(v)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=24)) if pairs else []
    number = [*range(num_inputs), *draw(st.permutations(range(num_inputs, num_nodes)))]
    outputs = draw(st.lists(st.integers(0, num_nodes - 1), min_size=1, max_size=4))
    return [(number[u], number[v]) for u, v in edges], num_inputs, num_nodes, outputs


def answer(graph, x, weight, bias, activations, aggregations=0, response=None):
    """Evaluate by weights as edges were given, and bias and response of every node by its id."""
    edges, num_inputs, num_nodes, outputs = graph
    topology, order = compile_topology(
        edges,
        num_inputs=num_inputs,
        num_nodes=num_nodes,
        outputs=outputs,
        activations=activations,
        aggregations=aggregations,
    )
    inner = topology.node_ids[num_inputs:]
    return evaluate(
        topology, x, weight[torch.argsort(order)], bias[inner], None if response is None else response[inner]
    )


def draw_numbers(seed, graph, batch=3):
    edges, num_inputs, num_nodes, _ = graph
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(rng.uniform(-1, 1, shape)) for shape in [(batch, num_inputs), len(edges), num_nodes, num_nodes]
    ]


@hypothesis_settings(deadline=None)
@given(graph=acyclic(), seed=st.integers(0, 2**32 - 1))
def test_sums_are_dense_matrices(graph, seed):
    """V ← φ(VW + b) with inputs held, as often as there are nodes: by then every path has been walked."""
    edges, num_inputs, num_nodes, outputs = graph
    x, weight, bias, _ = (values.requires_grad_() for values in draw_numbers(seed, graph))
    got = answer(graph, x, weight, bias, activation_id("tanh"))

    dense = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    if edges:
        dense = dense.index_put(tuple(torch.tensor(edges).T), weight)
    state = torch.zeros(len(x), num_nodes, dtype=torch.float64)
    for _ in range(num_nodes):
        state = torch.cat([x, torch.tanh(state @ dense + bias)[:, num_inputs:]], dim=1)
    expected = state[:, outputs]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)

    weights = torch.linspace(1, 2, expected.numel(), dtype=torch.float64).view_as(expected)
    wanted = torch.autograd.grad((weights * expected).sum(), [x, weight, bias], materialize_grads=True)
    found = torch.autograd.grad((weights * got).sum(), [x, weight, bias], materialize_grads=True, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@hypothesis_settings(deadline=None)
@given(graph=acyclic(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_answers_as_neat_pythons_network(graph, seed, data):
    edges, num_inputs, num_nodes, outputs = graph
    x, weight, bias, response = draw_numbers(seed, graph)
    draw = data.draw
    activations = draw(st.lists(st.sampled_from(TAMED), min_size=num_nodes, max_size=num_nodes))
    aggregations = draw(st.lists(st.sampled_from(list(AGGREGATIONS)), min_size=num_nodes, max_size=num_nodes))

    network = networkx.DiGraph(edges)
    network.add_nodes_from(range(num_nodes))
    functions, joins = ActivationFunctionSet(), AggregationFunctionSet()
    evals = [
        (
            v,
            functions.get(activations[v]),
            joins.get(aggregations[v]),
            bias[v].item(),
            response[v].item(),
            [(u, weight[edges.index((u, v))].item()) for u in network.predecessors(v)],
        )
        for v in networkx.topological_sort(network)
        if v >= num_inputs
    ]
    theirs = FeedForwardNetwork(list(range(num_inputs)), outputs, evals)
    expected = torch.tensor([theirs.activate(row) for row in x.tolist()], dtype=torch.float64)

    phi = [activation_id(f"neat_{name}") for name in activations]
    got = answer(graph, x, weight, bias, phi, [aggregation_id(name) for name in aggregations], response)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@hypothesis_settings(deadline=None)
@given(graph=acyclic(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_numbering_does_not_matter(graph, seed, data):
    edges, num_inputs, num_nodes, outputs = graph
    x, weight, bias, response = draw_numbers(seed, graph)
    kinds = st.lists(st.integers(0, len(AGGREGATIONS) - 1), min_size=num_nodes, max_size=num_nodes)
    aggregations = data.draw(kinds)
    number = torch.tensor([*range(num_inputs), *data.draw(st.permutations(range(num_inputs, num_nodes)))])
    places = data.draw(st.permutations(range(len(edges))))
    renamed = (
        [(int(number[edges[i][0]]), int(number[edges[i][1]])) for i in places],
        num_inputs,
        num_nodes,
        number[outputs].tolist(),
    )
    by_id = torch.argsort(number)
    other = answer(renamed, x, weight[places], bias[by_id], 9, torch.tensor(aggregations)[by_id], response[by_id])
    torch.testing.assert_close(other, answer(graph, x, weight, bias, 9, aggregations, response), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradients_are_finite_differences(aggregation):
    graph = ([(0, 3), (1, 3), (2, 3), (3, 4), (1, 4), (0, 4), (2, 5), (4, 5)], 3, 7, [5, 3, 6, 1])
    x, weight, bias, response = (values.requires_grad_() for values in draw_numbers(1, graph))

    def run(x, weight, bias, response):
        return answer(graph, x, weight, bias, activation_id("tanh"), aggregation_id(aggregation), response)

    assert torch.autograd.gradcheck(run, (x, weight, bias, response))


def test_twice_differentiable():
    graph = ([(0, 1), (1, 2)], 1, 3, [2])
    x, weight, bias, _ = (values.requires_grad_() for values in draw_numbers(2, graph))
    assert torch.autograd.gradgradcheck(lambda *given: answer(graph, *given, activation_id("tanh")), (x, weight, bias))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_every_activation_and_batch(name, batch):
    x = torch.rand(batch, 1, generator=torch.Generator().manual_seed(0))
    got = answer(([(0, 1)], 1, 2, [1, 0]), x, torch.tensor([0.5]), torch.zeros(2), activation_id(name))
    assert got.shape == (batch, 2)
    torch.testing.assert_close(got, torch.cat([ACTIVATIONS[name].function(0.5 * x), x], dim=1))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_orphans_give_their_bias_and_empty_batches_nothing(aggregation):
    graph = ([(0, 1), (2, 1)], 1, 3, [2, 1])
    bias, response, agg = torch.tensor([0.0, 0.0, 0.25]), torch.full((3,), 0.5), aggregation_id(aggregation)
    empty = 0.5 if aggregation == "product" else 0.0
    got = answer(graph, torch.ones(2, 1), torch.ones(2), bias, 0, agg, response)
    assert got[:, 0].tolist() == [0.25 + empty] * 2
    assert answer(graph, torch.ones(0, 1), torch.ones(2), bias, 0, agg, response).shape == (0, 2)


def test_nan_is_felt_where_it_is_read():
    graph = ([(0, 2), (1, 3)], 2, 4, [2, 3])
    x = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])
    got = answer(graph, x, torch.ones(2), torch.zeros(4), activation_id("relu"))
    assert got.isnan().tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_is_kept(dtype):
    graph = ([(0, 1), (1, 2)], 1, 4, [2, 3])
    x, weight, bias = (torch.ones(shape, dtype=dtype) for shape in [(2, 1), (2,), (4,)])
    assert answer(graph, x, weight, bias, activation_id("relu")).dtype == dtype


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(3, 3)}, r"x has shape \(3, 3\), expected \(B, 2\): one column an input"),
        ({"x": torch.zeros(2)}, r"x has shape \(2,\), expected \(B, 2\)"),
        ({"weight": torch.zeros(2, 1)}, r"weight has shape \(2, 1\), expected \(2,\) by the topology"),
        ({"bias": torch.zeros(3)}, r"bias has shape \(3,\), expected \(1,\)"),
        ({"response": torch.zeros(3)}, r"response has shape \(3,\), expected \(1,\)"),
    ],
)
def test_other_shapes_are_refused(changed, message):
    topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=0, aggregations=0)
    given = {"x": torch.zeros(3, 2), "weight": torch.zeros(2), "bias": torch.zeros(1), **changed}
    with pytest.raises(ValueError, match=message):
        evaluate(topology, **given)
