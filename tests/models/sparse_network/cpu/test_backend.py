import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.cpu import backend as cpu
from fulgurite.models.sparse_network.cpu import threads
from fulgurite.models.sparse_network.operator import sparse_network
from fulgurite.models.sparse_network.topology import compile_topology


def random_edges(generator, num_inputs, num_nodes, count):
    """Distinct edges from lower to higher numbers."""
    target = generator.integers(num_inputs, num_nodes, size=count)
    source = (generator.random(count) * target).astype(np.int64)
    return np.unique(np.stack([source, target], axis=1), axis=0)


def network(
    seed, *, inputs=5, nodes=40, edges=120, outputs=6, activations=("tanh",), aggregations=("sum",), response=False
):
    """A random topology and random parameters."""
    generator = np.random.default_rng(seed)
    topology, _ = compile_topology(
        random_edges(generator, inputs, nodes, edges),
        num_inputs=inputs,
        outputs=generator.integers(0, nodes, size=outputs),
        num_nodes=nodes,
        activations=[ACTIVATIONS[name].id for name in generator.choice(activations, size=nodes)],
        aggregations=[AGGREGATIONS[name].id for name in generator.choice(aggregations, size=nodes)],
    )
    return topology, parameters(topology, seed, response=response)


def parameters(topology, seed, *, response=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    computed = topology.num_nodes - topology.num_inputs
    scale = (1 / topology.fan_in.clamp(min=1).sqrt()).repeat_interleave(topology.fan_in)
    weight = torch.randn(topology.num_edges, generator=generator, dtype=dtype) * scale
    bias = torch.randn(computed, generator=generator, dtype=dtype) / 2
    r = torch.rand(computed, generator=generator, dtype=dtype) + 0.5 if response else None
    return weight, bias, r


def samples(topology, batch, seed, dtype=torch.float64):
    return torch.randn(batch, topology.num_inputs, generator=torch.Generator().manual_seed(seed + 1), dtype=dtype)


def differentiated(function, topology, x, given):
    """Outputs and the gradients of a weighed sum of them by x and all parameters."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, *given) if tensor is not None]
    parameters = [*leaves[1:], None][:3]
    y = function(leaves[0], *parameters)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape).cos()
    return [y, *torch.autograd.grad(y, leaves, upstream, allow_unused=True, materialize_grads=True)]


def ours(topology, x, given):
    return differentiated(lambda *tensors: sparse_network(*tensors, topology), topology, x, given)


def theirs(topology, x, given):
    return differentiated(lambda *tensors: evaluate(topology, *tensors), topology, x, given)


def assert_equal_to_reference(topology, x, given, tolerance=1e-10):
    for mine, reference in zip(ours(topology, x, given), theirs(topology, x, given), strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(
        sparse_network(x, *given, topology, keep=False),
        evaluate(topology, x, *given),
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
    )


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 8, 9, 16, 31, 33, 64, 65, 130, 520])
def test_any_batch(batch):
    topology, given = network(batch)
    assert_equal_to_reference(topology, samples(topology, batch, 1), given)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_activation(name, dtype):
    topology, given = network(3, nodes=30, edges=60, activations=(name, "identity"))
    given = [tensor if tensor is None else tensor.to(dtype) for tensor in given]
    x = samples(topology, 21, 3, dtype)
    if name in ("neat_inv", "neat_cube", "square", "exp", "neat_exp", "neat_square", "neat_log"):
        x, given = x / 4, [tensor if tensor is None else tensor / 4 for tensor in given]
    assert_equal_to_reference(topology, x, given, tolerance=1e-9 if dtype == torch.float64 else 2e-4)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_over_their_whole_range(name):
    """One node, its input straight from x: kinks, clamps, overflow, ∞ and NaN."""
    topology, _ = compile_topology(
        [(0, 1)], num_inputs=1, outputs=[1], activations=ACTIVATIONS[name].id, aggregations=0
    )
    special = [
        0.0,
        1.0,
        -1.0,
        3.4,
        -3.4,
        12.0,
        -12.0,
        20.0,
        20.5,
        32.0,
        60.0,
        -60.0,
        1e-7,
        88.0,
        -100.0,
        800.0,
        -800.0,
        3e4,
        -1e6,
    ]
    z = torch.tensor([*special, math.inf, -math.inf, math.nan, *np.linspace(-15, 15, 301)], dtype=torch.float64)
    z = z[:, None].clone().requires_grad_()
    y = sparse_network(z, torch.ones(1).double(), torch.zeros(1).double(), None, topology)
    expected = ACTIVATIONS[name].function(z)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13, equal_nan=True)
    (slope,) = torch.autograd.grad(y.sum(), z)
    (expected_slope,) = torch.autograd.grad(expected.sum(), z)
    finite = (expected.isfinite() & z.isfinite())[:, 0]
    # softplus is cut off by its value, torch's by z: at z = 20 their slopes are 2e-9 apart.
    torch.testing.assert_close(slope[finite], expected_slope[finite], rtol=3e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(AGGREGATIONS))
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_every_aggregation(name, batch):
    topology, given = network(7, nodes=24, edges=70, aggregations=(name, "sum"), response=True)
    assert_equal_to_reference(topology, samples(topology, batch, 2), given)


@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_aggregations_of_ties_zeros_and_nan(name):
    x = torch.tensor([[2, 2, -2, 2], [0, 0, 1, 3], [0, 1, 2, 3], [1, math.nan, 5, 0], [-1, -1, -1, -1]]).double()
    for count in (0, 1, 2, 3, 4):
        topology, _ = compile_topology(
            [(i, 4) for i in range(count)],
            num_inputs=4,
            outputs=[4],
            num_nodes=5,
            activations=0,
            aggregations=AGGREGATIONS[name].id,
        )
        given = (torch.ones(count).double(), torch.ones(1).double(), torch.full((1,), 0.5).double())
        assert_equal_to_reference(topology, x, given)


def test_aggregations_beside_one_another_with_every_activation():
    topology, given = network(
        11,
        nodes=80,
        edges=260,
        outputs=20,
        activations=("tanh", "sigmoid", "sin", "gauss", "relu", "gelu", "softplus"),
        aggregations=tuple(AGGREGATIONS),
        response=True,
    )
    assert_equal_to_reference(topology, samples(topology, 70, 4), given)


@pytest.mark.parametrize("fan_in", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 10_000])
@pytest.mark.parametrize("batch", [1, 3, 33])
def test_any_fan_in(fan_in, batch):
    topology, _ = compile_topology(
        [(i, fan_in) for i in range(fan_in)] + [(fan_in, fan_in + 1)],
        num_inputs=fan_in,
        outputs=[fan_in + 1, fan_in],
        num_nodes=fan_in + 2,
        activations=ACTIVATIONS["tanh"].id,
        aggregations=0,
    )
    x, given = samples(topology, batch, 6), parameters(topology, 6)
    for mine, reference in zip(
        ours(topology, x, given),
        differentiated(lambda x, w, b, _: two_layers(x, w, b), topology, x, given),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


def two_layers(x, weight, bias):
    hidden = torch.tanh(x @ weight[:-1] + bias[0])
    return torch.stack([torch.tanh(weight[-1] * hidden + bias[1]), hidden], dim=1)


@pytest.mark.parametrize("batch", [1, 4, 20])
def test_outputs_may_be_inputs_interior_nodes_and_repeat(batch):
    topology, _ = compile_topology(
        [(0, 2), (2, 3), (1, 3), (3, 4)], num_inputs=2, outputs=[1, 3, 4, 3, 1, 0], activations=9, aggregations=0
    )
    assert_equal_to_reference(topology, samples(topology, batch, 0), parameters(topology, 0))


def test_inputs_straight_to_the_outputs():
    topology, _ = compile_topology([], num_inputs=3, outputs=[2, 0], num_nodes=3, activations=1, aggregations=0)
    x = torch.arange(12.0).reshape(4, 3).requires_grad_()
    y = sparse_network(x, torch.empty(0), torch.empty(0), None, topology)
    assert torch.equal(y, x[:, [2, 0]])
    y.sum().backward()
    assert x.grad.tolist() == [[1.0, 0.0, 1.0]] * 4


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 6),
    computed=st.integers(1, 40),
    edges=st.integers(0, 200),
    batch=st.integers(1, 40),
    mixed=st.booleans(),
    response=st.booleans(),
)
def test_any_network(seed, inputs, computed, edges, batch, mixed, response):
    kinds = tuple(AGGREGATIONS) if mixed else ("sum",)
    topology, given = network(
        seed,
        inputs=inputs,
        nodes=inputs + computed,
        edges=edges,
        activations=("tanh", "sigmoid", "sin"),
        aggregations=kinds,
        response=response,
    )
    assert_equal_to_reference(topology, samples(topology, batch, seed % 1000), given, tolerance=1e-9)


def grouped(seed, *, groups, inputs=4, nodes=12, edges=30):
    """Unlike networks beside one another on shared inputs; their outputs in turn."""
    generator = np.random.default_rng(seed)
    rows, outputs, member = [], [], np.zeros(inputs, np.int64)
    start = inputs
    for group in range(groups):
        count = int(generator.integers(1, nodes))
        local = random_edges(generator, inputs, inputs + count, edges)
        rows.append(np.where(local < inputs, local, local - inputs + start))
        outputs.append(start + count - 1)
        member = np.concatenate([member, np.full(count, group)])
        start += count
    return compile_topology(
        np.concatenate(rows),
        num_inputs=inputs,
        outputs=[*outputs[::-1], 1],
        num_nodes=start,
        activations=generator.choice([1, 8, 9, 11], size=start),
        aggregations=generator.choice([0, 0, 0, 1, 3], size=start),
        groups=member,
    )[0]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 6, 70])
def test_groups_on_several_threads(count, batch, monkeypatch, set_threads):
    monkeypatch.setattr(threads, "INLINE_BELOW", 0)
    set_threads(count)
    topology = grouped(5, groups=13)
    assert_equal_to_reference(topology, samples(topology, batch, 8), parameters(topology, 8, response=True))


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    threads.close()


@pytest.mark.parametrize("kind", ["one network", "groups"])
def test_any_number_of_threads_gives_the_same_bits(kind, monkeypatch, set_threads):
    monkeypatch.setattr(threads, "INLINE_BELOW", 0)
    if kind == "groups":
        topology = grouped(9, groups=40)
        given = parameters(topology, 9, dtype=torch.float32)
    else:
        topology, given = network(9, nodes=300, edges=2000, activations=("relu", "tanh"), aggregations=("sum", "max"))
        given = [tensor if tensor is None else tensor.float() for tensor in given]
    x = samples(topology, 300, 9, torch.float32)
    results = []
    for count in (1, 2, 3, 5, 1):
        set_threads(count)
        results.append(
            [*ours(topology, x, given), sparse_network(x, *given, topology), sparse_network(x[:1], *given, topology)]
        )
    for other in results[1:]:
        assert all(torch.equal(first, again) for first, again in zip(results[0], other, strict=True))


def test_inference_gives_what_training_gives():
    topology, given = network(12, nodes=200, edges=900, activations=("relu", "tanh", "elu"))
    x = samples(topology, 100, 12)
    assert torch.equal(sparse_network(x, *given, topology, keep=False), sparse_network(x, *given, topology, keep=True))


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "relu32", "hardtanh", "neat_sigmoid", "neat_gauss", "elu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 6, 100])
def test_nan_stays_visible_and_where_it_is(name, dtype, batch):
    topology, given = network(2, activations=(name,), nodes=20, edges=80)
    given = [tensor if tensor is None else tensor.to(dtype) for tensor in given]
    x = samples(topology, batch, 2, dtype)
    clean = sparse_network(x, *given, topology)
    spoiled = batch // 2
    x[spoiled] = math.nan
    expected = evaluate(topology, x, *given).isnan()
    assert expected[spoiled].any()
    for keep in (False, True):
        y = sparse_network(x, *given, topology, keep=keep)
        assert torch.equal(y.isnan(), expected)
        others = torch.arange(batch) != spoiled
        assert torch.equal(y[others], clean[others])


def test_what_is_computed_beyond_the_batch_reaches_no_sum():
    """There, inputs are 0: here that makes 1/0-like values, ∞ and NaN, in samples that nobody gave."""
    names = ["neat_log", "exp", "exp", "square"]
    topology, _ = compile_topology(
        [(0, 1), (1, 2), (2, 3), (3, 4)],
        num_inputs=1,
        outputs=[4, 3],
        activations=[0, *(ACTIVATIONS[name].id for name in names)],
        aggregations=0,
    )
    weight = torch.tensor([1.0, -1.0, 1.0, 1.0])
    x = torch.full((3, 1), 2.0)
    given = (weight, torch.zeros(4), None)
    padding = evaluate(topology, torch.zeros(1, 1), *given)
    assert not padding.isfinite().all()
    results = ours(topology, x, given)
    assert all(result.isfinite().all() for result in results)
    for mine, reference in zip(results, theirs(topology, x, given), strict=True):
        torch.testing.assert_close(mine, reference)


def test_inference_needs_the_rows_that_live_together(monkeypatch):
    """A chain of 500 layers of 3 nodes: rows are taken over, not added."""
    layers = 500
    edges = [(3 * layer + i, 3 * layer + 3 + j) for layer in range(layers) for i in range(3) for j in range(3)]
    topology, _ = compile_topology(
        edges, num_inputs=3, outputs=range(3 * layers, 3 * layers + 3), activations=9, aggregations=0
    )
    asked = []
    table = cpu._table

    def spy(rows, width, like):
        asked.append(rows)
        return table(rows, width, like)

    monkeypatch.setattr(cpu, "_table", spy)
    given, x = parameters(topology, 0), samples(topology, 10, 0)
    torch.testing.assert_close(sparse_network(x, *given, topology), evaluate(topology, x, *given))
    assert len(asked) == 1
    assert asked[0] <= 6


def test_tiles_follow_from_the_batch():
    for batch in range(1, 3000):
        tiles, width = cpu.tile_shape(batch)
        assert width % 8 == 0
        assert (tiles - 1) * width < batch <= tiles * width
    assert cpu.tile_shape(0)[0] == 0
    assert cpu.tile_shape(128)[0] >= 2


def test_single_precision_is_as_good_as_torchs():
    topology, given = network(21, nodes=400, edges=4000, activations=("tanh", "sigmoid", "elu", "silu", "relu"))
    x = samples(topology, 64, 21)
    exact = theirs(topology, x, given)
    single = [tensor if tensor is None else tensor.float() for tensor in given]
    for mine, torchs, truth in zip(
        ours(topology, x.float(), single), theirs(topology, x.float(), single), exact, strict=True
    ):
        scale = truth.abs().max()
        assert (mine - truth).abs().max() / scale < 3 * (torchs - truth).abs().max() / scale + 1e-6
