import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn.propagate import csr_product, edge_product, edges_of, matrix_of, propagate
from fulgurite.models.sparse_network.cpu import threads
from fulgurite.plugins.snapshot_parallel.graphs import build


def graphs_of(seed=0, *, steps=4, nodes=7, events=40, weighted=False, **options):
    draw = np.random.default_rng(seed)
    source, target = draw.integers(0, nodes, (2, events))
    weight = draw.random(events) + 0.5 if weighted else None
    timeline = Timeline.from_events(
        source,
        target,
        draw.integers(0, max(steps, 1), events),
        num_nodes=nodes,
        num_snapshots=steps,
        weight=weight,
        **{"window": 2, **options},
    )
    return build(timeline, 0, steps)


def features(graphs, width=3, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(graphs.num_snapshots, graphs.num_nodes, width, generator=generator, dtype=torch.float64).to(
        dtype
    )


KINDS = [{}, {"symmetrise": True}, {"weighted": True}, {"m_window": 3}, {"m_window": 3, "symmetrise": True}]


@pytest.mark.parametrize("backend", ["csr", "edges"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_product_and_its_gradient_are_those_of_dense_matrices(backend, options):
    graphs = graphs_of(**options)
    x = features(graphs).requires_grad_()
    reference = features(graphs).requires_grad_()
    y = propagate(graphs, x, backend=backend)
    expected = graphs.dense() @ reference
    weight = features(graphs, seed=1)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(x.grad, reference.grad, rtol=0, atol=1e-13)


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(0, 4),
    nodes=st.integers(1, 9),
    events=st.integers(0, 30),
    width=st.integers(0, 9),
    window=st.integers(1, 4),
    symmetrise=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_any_graph(seed, steps, nodes, events, width, window, symmetrise):
    events = events if steps else 0
    graphs = graphs_of(seed, steps=steps, nodes=nodes, events=events, window=window, symmetrise=symmetrise)
    x = features(graphs, width, seed=seed)
    expected = graphs.dense() @ x
    for backend in ("csr", "edges"):
        torch.testing.assert_close(propagate(graphs, x, backend=backend), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_gradcheck(options):
    graphs = graphs_of(steps=2, nodes=4, events=12, **options)
    x = features(graphs, 2).requires_grad_()
    for backend in ("csr", "edges"):
        assert torch.autograd.gradcheck(lambda x, b=backend: propagate(graphs, x, backend=b), x)
        assert torch.autograd.gradgradcheck(lambda x, b=backend: propagate(graphs, x.tanh(), backend=b), x)


# opcheck itself looks at gradients of copies of its arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck():
    graphs = graphs_of()
    matrix = matrix_of(graphs, transpose=True)
    x = features(graphs).flatten(0, 1).requires_grad_()
    arguments = (x, *matrix.forward, *matrix.backward, matrix.inv_sqrt_degree, matrix.scale, matrix.num_nodes)
    torch.library.opcheck(torch.ops.fulgurite.snapshot_product, arguments)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_one_matrix_a_snapshot(options):
    graphs = graphs_of(**options)
    x = features(graphs).requires_grad_()
    matrices = matrix_of(graphs, transpose=True).snapshots(graphs.num_snapshots, graphs.num_nodes)
    y = torch.stack([csr_product(matrix, row) for matrix, row in zip(matrices, x, strict=True)])
    expected = propagate(graphs, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    weight = features(graphs, seed=1)
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_threads_change_no_bit():
    graphs = graphs_of(steps=30, nodes=500, events=30_000, window=10)
    x = features(graphs, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = propagate(graphs, x)
        torch.set_num_threads(3)
        assert torch.equal(propagate(graphs, x), alone)
    finally:
        torch.set_num_threads(before)
        threads.close()
    torch.testing.assert_close(alone, propagate(graphs, x, backend="edges"), rtol=0, atol=1e-12)


def test_single_precision_and_features_of_any_layout():
    graphs = graphs_of()
    x = features(graphs, 5)
    expected = (graphs.dense() @ x).float()
    torch.testing.assert_close(propagate(graphs, x.float()), expected)
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(propagate(graphs, strided), propagate(graphs, x))


def test_half_precision_takes_edges_and_sums_in_single():
    graphs = graphs_of(events=400, nodes=5)
    x = features(graphs, 5, dtype=torch.bfloat16)
    y = propagate(graphs, x)
    assert y.dtype == torch.bfloat16
    # One rounding of the result: half a unit in 8 bits.
    torch.testing.assert_close(y.double(), graphs.dense() @ x.double(), rtol=2**-8, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"m_window": 3}], ids=str)
def test_edges_compile_as_one_graph(dtype, options):
    torch._dynamo.reset()
    # One compile thread: inductor's pool would outlive the test.
    compiled = torch.compile(edge_product, fullgraph=True, options={"compile_threads": 1})
    for seed in (0, 1):  # other graphs of other sizes, given as arguments
        graphs = graphs_of(seed, events=40 + seed, **options)
        x = features(graphs, dtype=dtype).requires_grad_()
        weight = features(graphs, seed=2, dtype=dtype)
        expected = torch.autograd.grad((edge_product(edges_of(graphs), x) * weight).sum(), x)[0]
        y = compiled(edges_of(graphs), x)
        tolerance = {} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2**-6}
        torch.testing.assert_close(y, propagate(graphs, x, backend="edges"), **tolerance)
        torch.testing.assert_close(torch.autograd.grad((y * weight).sum(), x)[0], expected, **tolerance)


@pytest.mark.parametrize("symmetrise", [False, True])
def test_csr_stays_one_graph_too(symmetrise):
    torch._dynamo.reset()
    graphs = graphs_of(symmetrise=symmetrise)
    x = features(graphs).requires_grad_()
    matrix = matrix_of(graphs, transpose=True)
    compiled = torch.compile(lambda matrix, x: csr_product(matrix, x.tanh()), fullgraph=True, backend="aot_eager")
    y = compiled(matrix, x)
    expected = propagate(graphs, x.tanh())
    assert torch.equal(y, expected)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)


def test_graphs_that_need_no_gradient_are_not_transposed():
    graphs = graphs_of()
    with torch.no_grad():
        propagate(graphs, features(graphs).requires_grad_())
    propagate(graphs, features(graphs))
    before = graphs.nbytes
    propagate(graphs, features(graphs).requires_grad_()).sum().backward()
    assert graphs.nbytes > before


def test_bad_arguments_are_refused():
    graphs = graphs_of()
    with pytest.raises(ValueError, match=r"got x of shape \(4, 8, 3\); expected \(4, 7, features\)"):
        propagate(graphs, torch.zeros(4, 8, 3))
    with pytest.raises(ValueError, match="got backend='dense'; choose from auto, csr, edges"):
        propagate(graphs, features(graphs), backend="dense")
    with pytest.raises(ValueError, match='use "edges" or "auto"'):
        propagate(graphs, features(graphs, dtype=torch.bfloat16), backend="csr")
    with pytest.raises(ValueError, match="expected floats"):
        propagate(graphs, torch.zeros(4, 7, 3, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_gpu_gives_the_numbers_of_the_cpu(options):
    graphs = graphs_of(**options)
    x, weight = features(graphs).requires_grad_(), features(graphs, seed=1)
    expected = propagate(graphs, x)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), x)
    there = graphs.to("cuda")
    moved = x.detach().cuda().requires_grad_()
    for backend in ("csr", "edges"):
        y = propagate(there, moved, backend=backend)
        (grad,) = torch.autograd.grad((y * weight.cuda()).sum(), moved)
        torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(grad.cpu(), expected_grad, rtol=0, atol=1e-12)
    matrices = matrix_of(there, transpose=True).snapshots(graphs.num_snapshots, graphs.num_nodes)
    y = torch.stack([csr_product(matrix, row) for matrix, row in zip(matrices, moved, strict=True)])
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=1e-12)
