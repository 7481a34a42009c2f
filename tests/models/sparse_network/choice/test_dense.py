from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fulgurite.models.sparse_network.choice.dense import evaluate_dense, plan_dense
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.topology import compile_topology

SMOOTH = (0, 9, 8, 11)  # identity, tanh, sigmoid, gauss


def topology_of(edges, *, num_inputs, outputs, activations=1, num_nodes=None):
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    return compile_topology(
        pairs, num_inputs=num_inputs, outputs=outputs, num_nodes=num_nodes, activations=activations, aggregations=0
    )[0]


def layered(widths, density, seed=0, **options):
    random = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(widths)])
    edges = []
    for layer in range(len(widths) - 1):
        rows, columns = np.nonzero(random.random((widths[layer], widths[layer + 1])) < density)
        edges.append(np.stack([starts[layer] + rows, starts[layer + 1] + columns], axis=1))
    outputs = np.arange(starts[-2], starts[-1])
    return topology_of(
        np.concatenate(edges), num_inputs=widths[0], outputs=outputs, num_nodes=int(starts[-1]), **options
    )


def parameters(topology, seed=0, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    computed = topology.num_nodes - topology.num_inputs
    shapes = [(6, topology.num_inputs), (topology.num_edges,), (computed,), (computed,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def assert_equals_the_reference(topology, *, response=True):
    given_values = parameters(topology)
    x, weight, bias, factors = given_values if response else (*given_values[:3], None)
    plan = plan_dense(topology)
    expected = evaluate(topology, x, weight, bias, factors)
    got = evaluate_dense(plan, topology, x, weight, bias, factors)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    wanted = [value for value in (x, weight, bias, factors) if value is not None]
    scale = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
    options = {"allow_unused": True, "materialize_grads": True}
    torch.testing.assert_close(
        torch.autograd.grad((got * scale).sum(), wanted, **options),
        torch.autograd.grad((expected * scale).sum(), wanted, **options),
        rtol=1e-9,
        atol=1e-9,
    )
    with torch.no_grad():
        got = evaluate_dense(plan, topology, x, weight, bias, factors)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    return plan


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(4, 30), response=st.booleans())
def test_any_acyclic_network(seed, nodes, response):
    random = np.random.default_rng(seed)
    pairs = np.sort(random.integers(0, nodes, (3 * nodes, 2)), axis=1)
    pairs = np.unique(pairs[(pairs[:, 0] < pairs[:, 1]) & (pairs[:, 1] >= 3)], axis=0)
    topology = topology_of(
        pairs,
        num_inputs=3,
        outputs=random.integers(0, nodes, 4),
        num_nodes=nodes,
        activations=random.choice(SMOOTH, nodes),
    )
    assert_equals_the_reference(topology, response=response)


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_layers_of_mixed_activations(density):
    activations = np.random.default_rng(1).choice(SMOOTH, 5 + 9 + 8 + 4)
    assert_equals_the_reference(layered((5, 9, 8, 4), density, activations=activations))


def test_layers_are_plain_products_without_gathering():
    topology = layered((16, 32, 32, 8), 0.5)
    plan = assert_equals_the_reference(topology)
    assert [(level.rows, level.width) for level in plan.levels] == [(32, 16), (32, 32), (8, 32)]
    assert plan.size == topology.dense_size == 32 * 16 + 32 * 32 + 8 * 32
    x, weight, bias, _ = parameters(topology)
    with Calls() as calls:
        evaluate_dense(plan, topology, x, weight, bias)
    assert calls.count["addmm"] == 3
    assert calls.count["index_select"] == 1, "puts the outputs, which stand by fan-in, in order"
    assert not {"index", "cat", "gather", "clone", "copy_"} & set(calls.count)


def test_a_level_that_reads_little_gathers_and_one_that_reads_most_does_not():
    edges = [(0, 10), (1, 10), *((i, 11) for i in range(9)), (10, 12), (11, 12), (9, 12)]
    plan = assert_equals_the_reference(topology_of(edges, num_inputs=10, outputs=[12]))
    assert [piece.columns is None for piece in plan.levels[0].pieces] == [True]
    assert [(piece.block, piece.columns is None) for piece in plan.levels[1].pieces] == [(0, False), (1, True)]


def test_many_levels_read_at_once():
    nodes = 40
    edges = [(a, b) for b in range(1, nodes) for a in range(b) if (a + b) % 3 or b == a + 1]
    plan = assert_equals_the_reference(topology_of(edges, num_inputs=1, outputs=[nodes - 1, 5], activations=9))
    assert plan.tangled
    assert len(plan.levels) == nodes - 1


def test_blocks_that_nothing_reads_any_more_are_let_go():
    plan = plan_dense(layered((4, 4, 4, 4), 1.0))
    assert [level.done for level in plan.levels] == [(0,), (1,), (2,)]
    skipping = topology_of([(0, 1), (1, 2), (2, 3), (0, 3)], num_inputs=1, outputs=[3, 1])
    assert [level.done for level in plan_dense(skipping).levels] == [(), (), (0, 2)]


def test_only_sums_of_one_network():
    options = {"num_inputs": 1, "outputs": [1], "activations": 1}
    with pytest.raises(ValueError, match="whose nodes all sum"):
        plan_dense(compile_topology([(0, 1)], aggregations=3, **options)[0])
    with pytest.raises(ValueError, match="one network"):
        plan_dense(compile_topology([(0, 1), (0, 2)], aggregations=0, groups=[0, 0, 1], **options)[0])


def test_gradcheck():
    activations = np.random.default_rng(3).choice(SMOOTH, 12)
    topology = layered((3, 5, 4), 0.6, activations=activations)
    plan = plan_dense(topology)
    values = parameters(topology)
    assert torch.autograd.gradcheck(lambda *given_values: evaluate_dense(plan, topology, *given_values), values)
    assert torch.autograd.gradgradcheck(lambda *given_values: evaluate_dense(plan, topology, *given_values), values)
