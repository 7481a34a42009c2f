import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from neat.activations import ActivationFunctionSet
from neat.aggregations import AggregationFunctionSet
from neat.nn import RecurrentNetwork

from fulgurite.models.sparse_network.activations import ACTIVATIONS, activation_id
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS, aggregation_id
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.edge_list import TopologyError
from fulgurite.models.sparse_network.topology import compile_topology
from fulgurite.models.sparse_network.unroll import unroll

TAMED = ["tanh", "sigmoid", "sin", "gauss", "relu", "identity", "clamped", "abs", "hat", "softplus"]


def run(edges, weight, bias, response, *, x, num_inputs, num_nodes, outputs, steps, activations, aggregations):
    """k updates by way of unrolling; bias, response and names of every node by its id."""
    aggregation_ids = torch.tensor([aggregation_id(name) for name in aggregations])
    unrolled = unroll(
        edges, num_inputs=num_inputs, num_nodes=num_nodes, outputs=outputs, steps=steps, aggregations=aggregation_ids
    )
    activation_ids = torch.tensor([activation_id(name) for name in activations] + [activation_id("identity")])
    topology, order = compile_topology(
        unrolled.edges,
        num_inputs=num_inputs,
        num_nodes=unrolled.num_nodes,
        outputs=unrolled.outputs,
        activations=activation_ids[unrolled.node_map],
        aggregations=torch.cat([aggregation_ids, torch.zeros(1, dtype=torch.long)])[unrolled.node_map],
    )
    own = torch.empty(len(order), dtype=weight.dtype).index_copy(0, order, weight[unrolled.edge_map])
    inner = topology.node_ids[num_inputs:]
    spread = [torch.cat([values, values.new_zeros(1)])[unrolled.node_map][inner] for values in (bias, response)]
    return evaluate(topology, x, own, *spread)


@hypothesis_settings(deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 5),
    num_inputs=st.integers(1, 3),
    inner=st.integers(1, 5),
    sums_only=st.booleans(),
)
def test_answers_as_neat_pythons_recurrent_network(data, seed, steps, num_inputs, inner, sums_only):
    num_nodes = num_inputs + inner
    pairs = [(u, v) for u in range(num_nodes) for v in range(num_inputs, num_nodes)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=14))
    outputs = data.draw(st.lists(st.integers(0, num_nodes - 1), min_size=1, max_size=3, unique=True))
    kinds = ["sum"] if sums_only else list(AGGREGATIONS)
    aggregations = data.draw(st.lists(st.sampled_from(kinds), min_size=num_nodes, max_size=num_nodes))
    activations = data.draw(st.lists(st.sampled_from(TAMED), min_size=num_nodes, max_size=num_nodes))
    rng = np.random.default_rng(seed)
    weight, bias, response = (rng.uniform(-1, 1, size) for size in (len(edges), num_nodes, num_nodes))
    x = rng.uniform(-1, 1, (2, num_inputs))

    functions, joins = ActivationFunctionSet(), AggregationFunctionSet()
    evals = [
        (
            v,
            functions.get(activations[v]),
            joins.get(aggregations[v]),
            bias[v],
            response[v],
            [(edge[0], weight[i]) for i, edge in sorted(enumerate(edges), key=lambda row: row[1]) if edge[1] == v],
        )
        for v in range(num_inputs, num_nodes)
    ]
    expected = []
    for row in x:
        network = RecurrentNetwork(list(range(num_inputs)), outputs, evals)
        for _ in range(steps):
            answer = network.activate(row.tolist())
        expected.append(answer)
    got = run(
        edges,
        *(torch.from_numpy(values) for values in (weight, bias, response)),
        x=torch.from_numpy(x),
        num_inputs=num_inputs,
        num_nodes=num_nodes,
        outputs=outputs,
        steps=steps,
        activations=[f"neat_{name}" for name in activations],
        aggregations=aggregations,
    )
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_gradients_add_up_over_the_copies():
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.0, 0.2], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    got = run(
        [(0, 1), (1, 1)], weight, bias, torch.ones(2, dtype=torch.float64), x=x, num_inputs=1, num_nodes=2, outputs=[1],
        steps=4, activations=["tanh"] * 2, aggregations=["sum"] * 2,
    )  # fmt: skip
    state = torch.zeros(2, dtype=torch.float64)
    for _ in range(4):
        state = torch.tanh(weight[0] * x[:, 0] + weight[1] * state + bias[1])
    torch.testing.assert_close(got[:, 0], state)
    for one, other in zip(
        torch.autograd.grad(got.sum(), [weight, bias]), torch.autograd.grad(state.sum(), [weight, bias]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_enough_steps_of_an_acyclic_network_are_the_network():
    edges, options = [(0, 2), (1, 2), (2, 3), (0, 3), (3, 4)], {"num_inputs": 2, "num_nodes": 5, "outputs": [4, 2]}
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in [(5,), (5,), (6, 2)])
    topology, order = compile_topology(edges, **options, activations=9, aggregations=0)
    plain = evaluate(topology, x, torch.empty(5).index_copy(0, order, weight), bias[topology.node_ids[2:]])
    for steps in (3, 5):
        names = {"activations": ["tanh"] * 5, "aggregations": ["sum"] * 5}
        torch.testing.assert_close(run(edges, weight, bias, torch.ones(5), x=x, steps=steps, **options, **names), plain)


def test_sums_need_no_resting_nodes():
    edges = [(0, 1), (1, 2), (2, 1), (2, 2)]
    summed = unroll(edges, num_inputs=1, outputs=[2, 0], steps=3)
    assert (summed.num_nodes, len(summed.edges), int(summed.node_map.min())) == (1 + 3 * 2, 1 + 4 + 4, 0)
    assert summed.outputs.tolist() == [6, 0]
    assert summed.node_map.tolist() == [0, 1, 2, 1, 2, 1, 2]
    mixed = unroll(edges, num_inputs=1, outputs=[2], steps=3, aggregations=[0, 0, aggregation_id("max")])
    assert mixed.node_map.tolist() == [*summed.node_map.tolist(), -1, -1]
    assert mixed.edges.tolist()[:3] == [[0, 1], [7, 2], [8, 2]]
    assert mixed.edge_map.tolist() == [0, 1, 3, 0, 1, 2, 3, 0, 1, 2, 3]


def test_one_step_of_sums_reads_inputs_alone():
    unrolled = unroll([(0, 1), (1, 1)], num_inputs=1, outputs=[1], steps=1)
    assert unrolled.edges.tolist() == [[0, 1]]
    assert unroll([(1, 1)], num_inputs=1, outputs=[1], steps=1).edges.shape == (0, 2)


@pytest.mark.parametrize("steps", [0, -1, 1.0, "3", None])
def test_steps_must_be_a_count(steps):
    with pytest.raises(TopologyError, match=r"steps is .*, expected a whole number of updates, at least 1"):
        unroll([(0, 1)], num_inputs=1, outputs=[1], steps=steps)


def test_faults_are_named_by_the_graphs_own_ids():
    with pytest.raises(TopologyError, match=r"edge 2 → 1 is given more than once, in rows 1 and 2"):
        unroll([(0, 1), (2, 1), (2, 1)], num_inputs=1, outputs=[1], steps=3)
    doubled = unroll([(0, 1), (1, 1), (1, 1)], num_inputs=1, outputs=[1], steps=2, duplicates="sum")
    topology, order = compile_topology(
        doubled.edges, num_inputs=1, outputs=doubled.outputs, activations=0, aggregations=0, duplicates="sum"
    )
    assert topology.num_edges == 3
    assert order.tolist() == [0, 1, 2, 2]
    with pytest.raises(TopologyError, match="leads into input 0"):
        unroll([(1, 0)], num_inputs=1, outputs=[1], steps=3)
    with pytest.raises(TopologyError, match="aggregations"):
        unroll([(0, 1)], num_inputs=1, outputs=[1], steps=3, aggregations=[0, 0, 0])


def test_names_of_activations_used_here_exist():
    assert {f"neat_{name}" for name in TAMED} <= set(ACTIVATIONS)
