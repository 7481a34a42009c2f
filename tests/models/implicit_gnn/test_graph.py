import numpy as np
import pytest
import torch

from fulgurite.models.implicit_gnn.graph import propagation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
@pytest.mark.parametrize("self_loops", [False, True])
def test_weights_and_perron_value_agree_with_a_dense_solve(make_edges, dtype, normalisation, self_loops):
    edges = make_edges(12, 20, 1, undirected=True)
    graph = propagation(edges, 12, normalisation=normalisation, self_loops=self_loops, dtype=dtype)
    counts = np.zeros((12, 12))
    for source, target in edges.T.tolist():
        counts[target, source] += 1
    counts += np.eye(12) * self_loops
    degree = counts.sum(axis=1)
    inverse = np.where(degree > 0, 1 / np.maximum(degree, 1), 0)
    expected = counts * inverse[:, None]
    if normalisation == "symmetric":
        expected = counts * np.sqrt(inverse)[:, None] * np.sqrt(inverse)
    np.testing.assert_allclose(graph.matrix.to_dense().numpy(), expected, rtol=1e-6)
    dense = graph.numpy().toarray()
    radius = np.abs(np.linalg.eigvals(dense)).max()
    assert radius * (1 - 1e-9) <= graph.perron <= radius * (1 + 1e-6)
    w = graph.norm_weight.numpy()
    assert (dense @ w <= graph.perron * w).all()
    assert graph.self_weight == pytest.approx(np.diag(dense).min())


def test_of_a_graph_without_edges_nothing_is_read():
    graph = propagation(torch.zeros(2, 0, dtype=torch.int64), 3, self_loops=False)
    assert graph.matrix._nnz() == 0
    assert (graph.perron, graph.self_weight) == (1.0, 0.0)


def test_rows_of_own_and_others_add_up(make_edges):
    graph = propagation(make_edges(7, 20, 2, undirected=True), 7, normalisation="symmetric", dtype=torch.float64)
    own, others = graph.own_and_others
    torch.testing.assert_close(own, graph.matrix.to_dense().diagonal())
    torch.testing.assert_close(own + others, torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("edges", "options", "named"),
    [
        (torch.tensor([[0], [3]]), {}, "0 … 2"),
        (torch.tensor([[-1], [0]]), {}, "-1"),
        (torch.tensor([[0.0], [1.0]]), {}, "float32"),
        (torch.zeros(3, 2, dtype=torch.int64), {}, r"\(3, 2\)"),
        (torch.tensor([[0], [1]]), {"normalisation": "symmetric"}, "directed"),
        (torch.tensor([[0], [1]]), {"normalisation": "sum"}, "'sum'"),
    ],
)
def test_a_bad_graph_is_refused(edges, options, named):
    with pytest.raises(ValueError, match=named):
        propagation(edges, 3, **options)


def test_a_graph_needs_a_node():
    with pytest.raises(ValueError, match="num_nodes=0"):
        propagation(torch.zeros(2, 0, dtype=torch.int64), 0)
