import networkx
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import SparseNetwork, TopologyError
from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.convert.graphs import from_csr, from_networkx, to_networkx


@st.composite
def networks(draw):
    num_inputs, num_nodes = draw(st.integers(1, 4)), draw(st.integers(5, 12))
    pairs = [(u, v) for v in range(num_inputs, num_nodes) for u in range(v)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=25))
    nodes = num_nodes - num_inputs
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return SparseNetwork(
        torch.tensor(edges, dtype=torch.int64).reshape(-1, 2),
        num_inputs=num_inputs,
        outputs=draw(st.lists(st.integers(0, num_nodes - 1), min_size=1, max_size=4)),
        num_nodes=num_nodes,
        activation=draw(
            st.lists(st.sampled_from(["tanh", "relu", "neat_gauss", "sin"]), min_size=num_nodes, max_size=num_nodes)
        ),
        aggregation=draw(st.lists(st.sampled_from(sorted(AGGREGATIONS)), min_size=num_nodes, max_size=num_nodes)),
        weight=torch.randn(len(edges), generator=generator, dtype=torch.float64),
        bias=torch.randn(nodes, generator=generator, dtype=torch.float64) if draw(st.booleans()) else False,
        response=torch.randn(nodes, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None,
        steps=draw(st.sampled_from([None, 2])),
        dtype=torch.float64,
    )


@settings(deadline=None, max_examples=40)
@given(net=networks(), seed=st.integers(0, 2**32 - 1))
def test_there_and_back(net, seed):
    again = SparseNetwork.from_networkx(
        net.to_networkx(), dtype=torch.float64, **({"bias": False} if net.bias is None else {})
    )
    x = torch.randn(3, net.num_inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)
    assert torch.equal(again.edges, net.edges)
    assert again.steps == net.steps
    for name in ("bias", "response"):
        assert (getattr(again, name) is None) == (getattr(net, name) is None)


def test_everything_is_an_attribute():
    net = SparseNetwork(
        [(0, 2), (1, 2), (2, 3)],
        num_inputs=2,
        outputs=[3, 2],
        activation={2: "sin"},
        aggregation={3: "max"},
        weight=torch.tensor([1.0, 2.0, 3.0]),
        bias=torch.tensor([0.5, 0.25]),
        response=torch.tensor([1.0, 2.0]),
    )
    graph = to_networkx(net)
    assert graph.graph == {"inputs": [0, 1], "outputs": [3, 2]}
    assert dict(graph.nodes(data=True)) == {
        0: {},
        1: {},
        2: {"activation": "sin", "aggregation": "sum", "bias": 0.5, "response": 1.0},
        3: {"activation": "relu", "aggregation": "max", "bias": 0.25, "response": 2.0},
    }
    assert set(graph.edges(data="weight")) == {(0, 2, 1.0), (1, 2, 2.0), (2, 3, 3.0)}


def test_inputs_and_outputs_are_found():
    graph = networkx.DiGraph()
    graph.add_node("constant", bias=2.0)
    graph.add_edges_from([("a", "h"), ("b", "h"), ("h", "y"), ("constant", "y"), ("b", "z")], weight=1.0)
    net = from_networkx(graph)
    assert net.node_names[:2] == ("a", "b")
    assert [net.node_names[node] for node in net.definition.outputs.tolist()] == ["y", "z"]
    assert net(torch.tensor([[1.0, 5.0]])).tolist() == [[8.0, 5.0]]
    chosen = from_networkx(graph, inputs=["b", "a"], outputs=["h"])
    assert chosen.node_names[:2] == ("b", "a")
    assert chosen(torch.tensor([[1.0, 5.0]])).tolist() == [[6.0]]


def test_without_weights_they_are_drawn():
    graph = networkx.gn_graph(30, seed=1).reverse()
    torch.manual_seed(0)
    net = from_networkx(graph)
    assert net.num_edges == 29
    assert net.weight.unique().numel() == 29
    assert (net.bias == 0).all()


def test_parallel_edges_are_summed_where_that_is_wanted():
    graph = networkx.MultiDiGraph()
    graph.add_weighted_edges_from([("x", "y", 1.0), ("x", "y", 2.5)])
    with pytest.raises(TopologyError, match="more than once"):
        from_networkx(graph)
    net = from_networkx(graph, duplicates="sum")
    assert net(torch.tensor([[2.0]])).tolist() == [[7.0]]


def test_graphs_that_are_none():
    graph = networkx.DiGraph([("x", "a"), ("a", "b"), ("b", "a"), ("b", "y")])
    with pytest.raises(TopologyError, match=r"cycle: (a → b → a|b → a → b); pass steps=k"):
        from_networkx(graph)
    assert from_networkx(graph, steps=2).steps == 2
    with pytest.raises(ValueError, match="the graph is undirected; want a DiGraph"):
        from_networkx(graph.to_undirected())
    with pytest.raises(ValueError, match=r"the inputs \['q'\] are no nodes of the graph"):
        from_networkx(graph, inputs=["x", "q"])
    with pytest.raises(ValueError, match="the graph has no input nodes; pass inputs="):
        from_networkx(networkx.DiGraph([(0, 1), (1, 0)]))
    graph = networkx.DiGraph([("x", "y"), ("x", "z")])
    graph.edges["x", "y"]["weight"] = 1.0
    with pytest.raises(ValueError, match=r"edges such as \('x', 'z'\) have no weight, others have one"):
        from_networkx(graph)
    with pytest.raises(TopologyError):
        from_networkx(networkx.DiGraph([("x", "y")]), inputs=["x", "y"], outputs=["y"])


def layers(seed, widths):
    generator = np.random.default_rng(seed)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    matrices = [generator.normal(size=shape) * (generator.random(shape) < 0.4) for shape in shapes]
    return matrices, [generator.normal(size=out) for out, _ in shapes]


def as_torch_csr(matrix):
    return torch.from_numpy(matrix).to_sparse_csr()


FORMATS = {
    "csr_array": scipy.sparse.csr_array,
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_array,
    "coo": scipy.sparse.coo_array,
    "torch_csr": as_torch_csr,
    "torch_coo": lambda matrix: torch.from_numpy(matrix).to_sparse(),
    "tensor": torch.from_numpy,
    "array": lambda matrix: matrix,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    kinds=st.lists(st.sampled_from(sorted(FORMATS)), min_size=4, max_size=4),
)
def test_equals_the_product_of_its_matrices(seed, widths, kinds):
    matrices, biases = layers(seed, widths)
    given_matrices = [FORMATS[kind](matrix) for kind, matrix in zip(kinds, matrices, strict=False)]
    names = ["tanh"] * (len(matrices) - 1) + ["identity"]
    net = SparseNetwork.from_csr(given_matrices, biases=biases, activation=names, dtype=torch.float64)
    y = x = torch.randn(4, widths[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for matrix, bias, name in zip(matrices, biases, names, strict=True):
        y = ACTIVATIONS[name].function(y @ torch.from_numpy(matrix).T + torch.from_numpy(bias))
    torch.testing.assert_close(net(x), y, rtol=1e-12, atol=1e-12)
    assert net.num_edges == sum(np.count_nonzero(matrix) for matrix in matrices)
    assert net.num_nodes == sum(widths)


def test_stored_zeros_are_edges_and_stored_duplicates_are_summed():
    matrix = scipy.sparse.coo_array(([1.0, 2.0, 0.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    net = from_csr(matrix)
    assert net.edges.tolist() == [[1, 2], [0, 3]]
    assert net.weight.tolist() == [3.0, 0.0]
    assert matrix.nnz == 3


def test_biases_may_be_numbers_vectors_or_none():
    matrices, _ = layers(0, [3, 4, 2])
    assert from_csr(matrices).bias is None
    assert from_csr(matrices, biases=-0.3, dtype=torch.float64).bias.tolist() == [-0.3] * 6
    assert from_csr(matrices, biases=[None, torch.ones(2)]).bias.tolist() == [0, 0, 0, 0, 1, 1]


def test_the_type_is_that_of_tensors():
    matrices, _ = layers(0, [3, 4, 2])
    assert from_csr(matrices).weight.dtype == torch.float32  # NumPy's doubles mean nothing
    assert from_csr([matrices[0], torch.from_numpy(matrices[1])]).weight.dtype == torch.float64
    assert from_csr(torch.eye(3, dtype=torch.int64)).weight.dtype == torch.float32
    assert from_csr(matrices, dtype=torch.float64).weight.dtype == torch.float64


def test_matrices_that_do_not_fit():
    matrices, biases = layers(0, [3, 4, 2])
    with pytest.raises(ValueError, match=r"matrix 1 has shape \(4, 3\), and 4 features come to it"):
        from_csr([matrices[0], matrices[0]])
    with pytest.raises(ValueError, match="got 1 biases for 2 matrices"):
        from_csr(matrices, biases=biases[:1])
    with pytest.raises(ValueError, match="got 3 activations for 2 matrices"):
        from_csr(matrices, activation=["relu"] * 3)
    with pytest.raises(ValueError, match=r"bias 0 has shape \(2,\); want \(4,\) or a number"):
        from_csr(matrices, biases=biases[::-1])
    with pytest.raises(ValueError, match=r"got a matrix of shape \(3,\); want \(out, in\)"):
        from_csr([torch.ones(3)])
    with pytest.raises(ValueError, match="got no matrix"):
        from_csr([])
