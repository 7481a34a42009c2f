"""Checks of the Triton kernels, run by test_triton.py in a process of their own: in the interpreter, or on a device.

Whether kernels are interpreted is settled when they are imported, so the process that runs other tests cannot do it.
"""

import os

import numpy as np
import pytest
import torch

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.gpu import backend
from fulgurite.models.sparse_network.gpu import facts as triton_facts
from fulgurite.models.sparse_network.gpu.facts import facts_of
from fulgurite.models.sparse_network.operator import sparse_network
from fulgurite.models.sparse_network.topology import compile_topology

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
KERNELS = ("threads", "tiles", "levels")
pytestmark = [
    pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="needs TRITON_INTERPRET=1 or a CUDA device"),
    # Of a block of unlike nodes every function takes all values, and NumPy tells of those that nobody selects.
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
SMOOTH = ("tanh", "sigmoid", "sin", "gelu", "softplus", "gauss")


def random_topology(seed, *, inputs=3, computed=9, activations=SMOOTH, aggregations=("sum",), groups=1, fan_in=5):
    rng = np.random.default_rng(seed)
    nodes = inputs + computed
    member = rng.integers(0, groups, nodes)
    edges = []
    for node in range(inputs, nodes):
        sources = [u for u in range(node) if u < inputs or member[u] == member[node]]
        count = min(rng.integers(0, fan_in + 1), len(sources))
        edges += [(u, node) for u in rng.choice(sources, count, replace=False)]
    # An input, nodes that others read, and one twice.
    outputs = [nodes - 1, 0, *rng.choice(nodes, 2), nodes - 1]
    act = [ACTIVATIONS[name].id for name in rng.choice(activations, nodes)]
    agg = [AGGREGATIONS[name].id for name in rng.choice(aggregations, nodes)]
    topology, _ = compile_topology(
        np.array(edges, dtype=np.int64).reshape(-1, 2),
        num_inputs=inputs,
        outputs=outputs,
        num_nodes=nodes,
        activations=act,
        aggregations=agg,
        groups=member if groups > 1 else None,
    )
    return topology.to(DEVICE)


def parameters(topology, batch, seed, *, response=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    computed = topology.num_nodes - topology.num_inputs
    shapes = [(batch, topology.num_inputs), (topology.num_edges,), (computed,), (computed if response else 0,)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(DEVICE, dtype) for tensor in made], generator


def expected(topology, given, grad_y):
    x, weight, bias, response = leaves = [tensor.detach().double().requires_grad_() for tensor in given]
    y = evaluate(topology, x, weight, bias, response if len(response) else None)
    gradients = torch.autograd.grad(y, leaves, grad_y.double(), allow_unused=True, materialize_grads=True)
    return y.detach(), gradients


def check(topology, kernel, batch, *, seed=0, response=True, dtype=torch.float64, tolerance=1e-10, given=None):
    made, generator = parameters(topology, batch, seed, response=response, dtype=dtype)
    given = given or made
    _, weight, bias, responses = given
    grad_y = torch.randn(batch, topology.num_outputs, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    y, gradients = expected(topology, given, grad_y)
    structure = topology.packed
    got, values = backend.forward(*given, structure, True, kernel=kernel)
    assert values.shape == (topology.num_nodes, batch)
    torch.testing.assert_close(got.double(), y, rtol=tolerance, atol=tolerance)
    short, none = backend.forward(*given, structure, False, kernel=kernel)
    assert torch.equal(short, got)
    assert none.shape == (0,)
    back = backend.backward(
        grad_y, values, weight, bias, responses, structure, True, True, True, response, kernel=kernel
    )
    for name, mine, theirs in zip(("x", "weight", "bias", "response"), back, gradients, strict=True):
        torch.testing.assert_close(
            mine.double(), theirs, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"d{name}: {text}"
        )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("seed", "batch", "response"), [(0, 33, False), (1, 1, True), (2, 5, False)])
def test_equals_the_reference(kernel, seed, batch, response):
    check(random_topology(seed), kernel, batch, seed=seed, response=response)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("seed", [3, 4])
def test_every_aggregation(kernel, seed):
    topology = random_topology(seed, computed=8, aggregations=list(AGGREGATIONS))
    check(topology, kernel, 3, seed=seed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_ties_go_to_the_first(kernel):
    names = [name for name in AGGREGATIONS if name not in ("sum", "product")]
    edges = [(source, 4 + node) for node in range(len(names)) for source in range(4)]
    aggregations = [0] * 4 + [AGGREGATIONS[name].id for name in names]
    topology, _ = compile_topology(
        edges, num_inputs=4, outputs=range(4, 4 + len(names)), activations=0, aggregations=aggregations
    )
    topology = topology.to(DEVICE)
    (_, weight, bias, response), _ = parameters(topology, 3, 0, response=False)
    x = torch.tensor([[1.0, 2.0, 2.0, 1.0], [-1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    check(topology, kernel, 3, response=False, given=[x.to(DEVICE), torch.ones_like(weight), bias, response])


@pytest.mark.parametrize("kernel", ["threads", "levels"])
def test_every_activation(kernel):
    # One node for each, over its kinks, its clamps and beyond them.
    points = [-70.0, -13.0, -12.0, -3.4, -1.0, -0.3, -1e-4, 0.0, 1e-7, 1e-4, 0.3, 1.0, 3.4, 4.5, 12.0, 13.0, 25.0, 33.0]
    kinds = [0, *(kind.id for kind in ACTIVATIONS.values())]
    count = len(ACTIVATIONS)
    topology, _ = compile_topology(
        [(0, 1 + node) for node in range(count)],
        num_inputs=1,
        outputs=range(1, 1 + count),
        activations=kinds,
        aggregations=0,
    )
    topology = topology.to(DEVICE)
    x = torch.tensor(points, dtype=torch.float64, device=DEVICE)[:, None]
    zeros = torch.zeros(count, dtype=torch.float64, device=DEVICE)
    given = [x, torch.ones_like(zeros), zeros, zeros[:0]]
    check(topology, kernel, len(points), response=False, given=given)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32(kernel):
    check(random_topology(5, computed=6), kernel, 7, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("batch", [1, 40])
def test_groups(batch):
    topology = random_topology(6, computed=8, groups=3)
    assert facts_of(topology.packed).num_groups == 3
    check(topology, "threads", batch)
    with pytest.raises(ValueError, match="'tiles' needs levels, and 3 groups have none; use 'threads'"):
        check(topology, "tiles", batch)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_samples(kernel):
    check(random_topology(7), kernel, 0)


def test_no_computed_nodes_and_no_edges():
    options = {"num_inputs": 2, "activations": 9, "aggregations": 0}
    for outputs, nodes in (([1, 0], 2), ([2, 0], 3)):
        topology, _ = compile_topology(np.empty((0, 2), np.int64), outputs=outputs, num_nodes=nodes, **options)
        check(topology.to(DEVICE), None, 4, response=False)


def test_a_long_batch_is_split_among_programs():
    topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=9, aggregations=0)
    check(topology.to(DEVICE), "tiles", 700, response=False)


def test_only_what_is_needed():
    topology = random_topology(8, computed=4)
    (x, weight, bias, response), _ = parameters(topology, 3, 0)
    structure = topology.packed
    y, values = backend.forward(x, weight, bias, response, structure, True)
    for place in range(4):
        needs = [place == other for other in range(4)]
        got = backend.backward(torch.ones_like(y), values, weight, bias, response, structure, *needs)
        assert [len(tensor) > 0 for tensor in got] == needs


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_stays_visible(kernel):
    topology, _ = compile_topology(
        [(0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4)],
        num_inputs=2,
        outputs=[2, 3, 4],
        activations=[0, 0, 1, 15, 31],
        aggregations=[0, 0, 0, 3, 6],
    )
    topology = topology.to(DEVICE)
    (x, weight, bias, response), _ = parameters(topology, 2, 0, response=False)
    x[1, 1] = torch.nan
    y, _ = backend.forward(x, weight, bias, response, topology.packed, True, kernel=kernel)
    assert y.isnan().tolist() == [[False] * 3, [True] * 3]


def test_the_operator_finds_a_structures_facts_once(monkeypatch):
    # Else every step would wait for the device, and no graph would ever be replayed.
    topology = random_topology(12, computed=3)
    given, _ = parameters(topology, 2, 0)
    read = []
    original = triton_facts._read
    monkeypatch.setattr(triton_facts, "_read", lambda structure: read.append(1) or original(structure))
    for _ in range(2):
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        sparse_network(*leaves, topology, backend="triton").sum().backward()
        assert all(leaf.grad is not None for leaf in leaves)
    assert len(read) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by opcheck itself
@pytest.mark.parametrize("batch", [1, 3])
def test_the_operator_is_sound(batch):
    topology = random_topology(13, computed=3)
    given, _ = parameters(topology, batch, 0)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    facts = (topology.packed, topology.num_nodes, topology.num_outputs)
    operators = torch.ops.fulgurite
    torch.library.opcheck(operators.sparse_network.default, (*leaves, *facts, True, "triton"))
    torch.library.opcheck(operators.sparse_network.default, (*given, *facts, False, "triton"))
    y, values = operators.sparse_network(*given, *facts, True, "triton")
    rest = (torch.ones_like(y), values, *given[1:], *facts[:2])
    for needs in ((True, True, True, True), (False, True, False, False)):
        torch.library.opcheck(operators.sparse_network_backward.default, (*rest, *needs, "triton"))


def test_inference_uses_rows_again():
    chain = [(node, node + 1) for node in range(6)]
    topology, _ = compile_topology(chain, num_inputs=1, outputs=[6], activations=9, aggregations=0)
    topology = topology.to(DEVICE)
    recycled = facts_of(topology.packed).recycled
    assert recycled is not None
    assert recycled[2] == 2
    for kernel in KERNELS:
        check(topology, kernel, 3, response=False)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
class TestDevice:
    """What only a device shows: graphs, races, large sizes."""

    def test_a_graph_is_replayed_with_other_weights(self):
        topology = random_topology(9, inputs=40, computed=600)
        facts = facts_of(topology.packed)
        for seed in range(4):
            check(topology, "levels", 8, seed=seed)
        assert any(entry.replay is not None for entry in facts.graphs.values())

    def test_what_autograd_saved_is_not_written_over(self):
        topology = random_topology(10, inputs=40, computed=600)
        structure = topology.packed
        kept = []
        for seed in range(4):
            given, _ = parameters(topology, 8, seed)
            _, values = backend.forward(*given, structure, True, kernel="levels")
            kept.append((values, values.clone()))
        assert all(torch.equal(values, copy) for values, copy in kept)

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("batch", [1, 31, 1000])
    def test_large_networks_repeat_bit_by_bit(self, kernel, batch):
        topology = random_topology(11, inputs=64, computed=3000, fan_in=40)
        given, _ = parameters(topology, batch, 0)
        given[1] *= 0.25  # 143 levels of larger weights would blow rounding errors up
        structure = topology.packed
        runs = []
        for _ in range(3):
            y, values = backend.forward(*given, structure, True, kernel=kernel)
            back = backend.backward(
                torch.ones_like(y), values, *given[1:], structure, True, True, True, True, kernel=kernel
            )
            runs.append((y, *back))
        assert all(torch.equal(first, other) for run in runs[1:] for first, other in zip(runs[0], run, strict=True))
        check(topology, kernel, batch, given=given)

    def test_more_than_two_to_the_31_values(self):
        if torch.cuda.mem_get_info()[0] < 40 * 2**30:
            pytest.skip("needs 40 GiB of free device memory")
        topology = random_topology(14, inputs=2, computed=298, activations=["relu"])
        batch, few = 7_200_000, 5
        assert topology.num_nodes * batch > 2**31
        (_, weight, bias, _), _ = parameters(topology, 1, 0, response=False, dtype=torch.float32)
        x = torch.randn(batch, 2, device=DEVICE)
        structure, nothing = topology.packed, x.new_empty(0)
        results = []
        for some in (x, x[-few:]):
            y, values = backend.forward(some, weight, bias, nothing, structure, True, kernel="threads")
            needs = (True, False, False, False)
            dx, *_ = backend.backward(
                torch.ones_like(y), values, weight, bias, nothing, structure, *needs, kernel="threads"
            )
            results.append((y[-few:], dx[-few:]))
        torch.testing.assert_close(results[0], results[1])
