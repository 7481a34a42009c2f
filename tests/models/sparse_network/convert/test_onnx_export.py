import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network import SparseNetwork, radix_net
from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.convert import onnx_export, onnx_operators
from fulgurite.models.sparse_network.convert.onnx_export import to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": x.float().numpy()})[0]


def check(net, x, folder, **tolerances):
    path = folder / "net.onnx"
    net.to_onnx(path)
    with torch.no_grad():
        expected = net(x).float().numpy()
    np.testing.assert_allclose(run(path, x), expected, **({"rtol": 1e-5, "atol": 1e-5} | tolerances))
    return onnx.load(path)


def test_every_activation_and_aggregation_is_written():
    assert list(onnx_operators.ACTIVATIONS) == list(ACTIVATIONS)
    assert list(onnx_operators.AGGREGATIONS) == list(AGGREGATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, tmp_path):
    net = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1], activation=name, weight=torch.tensor([1.0]))
    points = torch.cat([torch.linspace(-20, 20, 401), torch.tensor([0.0, 1e-8, 30.0, -30.0])])[:, None]
    check(net, points, tmp_path)


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("fan_in", [0, 1, 2, 3, 4, 5])
def test_aggregations(name, fan_in, tmp_path):
    """Two nodes of each, one with a response; ties among messages, too."""
    edges = [(source, target) for target in (5, 6) for source in range(fan_in)]
    net = SparseNetwork(
        torch.tensor(edges, dtype=torch.int64).reshape(-1, 2),
        num_inputs=5,
        outputs=[6, 5],
        num_nodes=7,
        activation="identity",
        aggregation=name,
        weight=torch.randn(len(edges), generator=torch.Generator().manual_seed(0)),
        bias=torch.tensor([0.5, -0.25]),
        response=torch.tensor([1.0, -2.0]),
    )
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(fan_in))
    x[0] = 0
    check(net, x, tmp_path)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_any_network(data, seed, tmp_path_factory):
    num_inputs, num_nodes = data.draw(st.integers(1, 4)), data.draw(st.integers(5, 14))
    pairs = [(u, v) for v in range(num_inputs, num_nodes) for u in range(v)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True, max_size=40))
    generator = torch.Generator().manual_seed(seed)
    net = SparseNetwork(
        torch.tensor(edges, dtype=torch.int64).reshape(-1, 2),
        num_inputs=num_inputs,
        outputs=data.draw(st.lists(st.integers(0, num_nodes - 1), min_size=1, max_size=5)),
        num_nodes=num_nodes,
        activation=[data.draw(st.sampled_from(["tanh", "relu", "neat_gauss", "sigmoid"])) for _ in range(num_nodes)],
        aggregation=[data.draw(st.sampled_from(["sum", "sum", "mean", "median", "maxabs"])) for _ in range(num_nodes)],
        weight=torch.randn(len(edges), generator=generator),
        bias=data.draw(st.sampled_from([True, False])),
        response=torch.randn(num_nodes - num_inputs, generator=generator) if data.draw(st.booleans()) else None,
        steps=data.draw(st.sampled_from([None, 3])),
    )
    x = torch.randn(data.draw(st.sampled_from([0, 1, 7])), num_inputs, generator=generator)
    check(net, x, tmp_path_factory.mktemp("onnx"), rtol=1e-4)


def test_layers_are_matrix_products(tmp_path):
    net = SparseNetwork(
        [
            (source, target)
            for layer in range(3)
            for source in range(4 * layer, 4 * layer + 4)
            for target in range(4 * layer + 4, 4 * layer + 8)
        ],
        num_inputs=4,
        outputs=range(12, 16),
    )
    model = check(net, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), tmp_path)
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Relu", "Identity"]


def test_large_empty_layers_are_written_edge_by_edge(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = radix_net(1024, 2)
    torch.nn.init.uniform_(net.weight, -0.5, 0.5)
    x = torch.rand(3, 1024)
    assert "Gemm" in {node.op_type for node in check(net, x, tmp_path).graph.node}
    monkeypatch.setattr(onnx_export, "_EMPTY", 0.05)
    monkeypatch.setattr(onnx_export, "_LARGE", 2**19)
    model = check(net, x, tmp_path)
    assert "Gemm" not in {node.op_type for node in model.graph.node}
    assert (tmp_path / "net.onnx").stat().st_size < 2_000_000  # matrices alone would be 8 MB


def test_double_precision_and_unusual_batches(tmp_path):
    net = SparseNetwork([(0, 2), (1, 2)], num_inputs=2, outputs=[2, 0, 2], activation="tanh", dtype=torch.float64)
    model = check(net, torch.randn(3, 2, dtype=torch.float64), tmp_path)
    assert run(tmp_path / "net.onnx", torch.zeros(0, 2)).shape == (0, 3)
    shape = model.graph.input[0].type.tensor_type.shape
    assert (shape.dim[0].dim_param, shape.dim[1].dim_value) == ("batch", 2)


def test_the_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("before")
    net = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1])
    monkeypatch.setattr(onnx_export, "_LARGEST", 3)
    with pytest.raises(ValueError, match="larger than 2 GiB"):
        to_onnx(net, path)
    monkeypatch.undo()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(onnx, "save", full)
    with pytest.raises(OSError, match="no space"):
        to_onnx(net, path)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("net.onnx", "before")]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install \"fulgurite\[onnx\]\""):
        to_onnx(SparseNetwork([(0, 1)], num_inputs=1, outputs=[1]), tmp_path / "net.onnx")
