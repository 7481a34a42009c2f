"""Networks as ONNX files that run anywhere, without this package."""

import os
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.sparse_network.activations import ACTIVATIONS as OUR_ACTIVATIONS
from fulgurite.models.sparse_network.aggregations import AGGREGATIONS as OUR_AGGREGATIONS
from fulgurite.models.sparse_network.convert.onnx_operators import ACTIVATIONS, AGGREGATIONS
from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.plugins.files import replacing

_OPSET = 18  # oldest in which all Reduce operators take their axes as an input
_IR_VERSION = 8  # what came with it, so that runtimes as old read the file
_LARGEST = 2**31 - 2**20  # bytes; a protobuf message ends at 2 GiB
# A matrix of more entries than this, and fewer than this share of them in use, is written edge by edge.
_LARGE, _EMPTY = 2**20, 0.02


def to_onnx(net: SparseNetwork, path: str | os.PathLike[str]) -> None:
    """Write a network as an ONNX file of standard operators, level by level.

    Of each level, nodes of one activation are one ``Gather`` of what they read and one ``Gemm`` with the matrix of
    their edges; where that would be large and empty (under 2 % used), and for aggregations other than the sum, nodes of
    one fan-in are a ``Gather`` of their edges' sources, a ``Mul`` and a ``Reduce…``. The file has one input ``input``
    (batch, num_inputs), one output ``output`` (batch, num_outputs), float32 whatever the network's dtype (runtimes have
    many operators in float32 alone), and any batch size. ``steps`` are written unrolled.

    Args:
        net: the network.
        path: the file; it is written whole or not at all.

    Raises:
        ImportError: the extra ``fulgurite[onnx]`` is not installed.
        ValueError: the file would be larger than 2 GiB, which ONNX does not take.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> net = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_onnx(net, f"{folder}/net.onnx")
        ...     Path(f"{folder}/net.onnx").stat().st_size > 0
        True
    """
    try:
        onnx = import_module("onnx")
    except ImportError as error:
        raise ImportError('to_onnx needs the onnx package; run: pip install "fulgurite[onnx]"') from error
    model = _Export(net, onnx).model()
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


class _Export:
    """One network on its way into one ONNX graph.

    Nodes come in blocks: tensors (batch, nodes) of one level and activation. ``block`` and ``place`` tell of each node
    which block it is in and which column of it.
    """

    def __init__(self, net: SparseNetwork, onnx: Any) -> None:
        self.onnx = onnx
        self.operators: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.bytes = 0
        self._read(net)
        self.blocks: list[tuple[str, int]] = [("input", self.num_inputs)]
        self.block = np.zeros(self.num_nodes, np.int64)
        self.place = np.arange(self.num_nodes)

    def _read(self, net: SparseNetwork) -> None:
        topology = net.topology.to("cpu")
        self.num_inputs, self.num_nodes = topology.num_inputs, topology.num_nodes
        count = self.num_nodes - self.num_inputs
        self.ptr, self.src = topology.ptr.numpy(), topology.src.numpy().astype(np.int64)
        self.out_idx, self.level_ptr = topology.out_idx.numpy(), topology.level_ptr.numpy()
        self.act_id, self.agg_id = topology.act_id.numpy(), topology.agg_id.numpy()

        weight, bias, response = net.definition.spread(net.weight, net.bias, net.response)
        self.weight, self.bias = _float32(weight), _float32(bias)
        self.response = np.ones(count, np.float32) if response is None else _float32(response)

    def model(self) -> Any:
        for start, stop in zip(self.level_ptr[:-1].tolist(), self.level_ptr[1:].tolist(), strict=True):
            rows = np.arange(start, stop) - self.num_inputs
            sums = self.agg_id[rows] == 0
            fan_in = self.ptr[rows + 1] - self.ptr[rows]
            # Nodes that sum may differ in fan-in within a block; the others may not.
            kinds = np.stack([self.act_id[rows], self.agg_id[rows], np.where(sums & (fan_in > 0), -1, fan_in)])
            kinds, kind_of = np.unique(kinds, axis=1, return_inverse=True)
            for number, (act, agg, same_fan_in) in enumerate(kinds.T.tolist()):
                self._block(rows[kind_of.reshape(-1) == number], act, agg, same_fan_in)
        self.op("Identity", self._gather(self.out_idx), name="output")
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.operators,
            "SparseNetwork",
            [helper.make_tensor_value_info("input", kind, ["batch", self.num_inputs])],
            [helper.make_tensor_value_info("output", kind, ["batch", len(self.out_idx)])],
            list(self.initializers.values()),
        )
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="fulgurite")

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append an operator, and name its value (of ``TopK``, the values rather than their places)."""
        name = name or f"v{len(self.operators)}"
        outputs = [name, f"{name}_places"] if kind == "TopK" else [name]
        self.operators.append(self.onnx.helper.make_node(kind, list(inputs), outputs, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Keep a number or an array, and name it; equal small ones are kept once."""
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
        key = f"c{array.dtype}{array.shape}{array.tobytes().hex()}" if array.size <= 4 else f"c{len(self.initializers)}"
        if key not in self.initializers:
            self.bytes += array.nbytes
            if self.bytes > _LARGEST:
                raise ValueError("the ONNX file would be larger than 2 GiB, which the format does not take")
            self.initializers[key] = self.onnx.numpy_helper.from_array(array, key)
        return key

    def _block(self, rows: NDArray[np.int64], act: int, agg: int, fan_in: int) -> None:
        """Write nodes of one level, activation and aggregation; of one fan-in, unless that is −1."""
        widths = self.ptr[rows + 1] - self.ptr[rows]
        target = np.repeat(np.arange(len(rows)), widths)
        edges = np.arange(len(target)) + np.repeat(self.ptr[rows] - (np.cumsum(widths) - widths), widths)
        if fan_in == 0:
            z = self._constants(rows, empty=1.0 if list(OUR_AGGREGATIONS)[agg] == "product" else 0.0)
        elif fan_in > 0:
            z = self._by_edges(rows, edges, agg, fan_in)
        else:
            sources = np.unique(self.src[edges])
            if len(sources) * len(rows) > _LARGE and len(edges) < _EMPTY * len(sources) * len(rows):
                for width in np.unique(widths).tolist():
                    self._block(rows[widths == width], act, agg, width)
                return
            z = self._by_matrix(rows, sources, edges, target)
        value = ACTIVATIONS[list(OUR_ACTIVATIONS)[act]](self, z)
        nodes = rows + self.num_inputs
        self.block[nodes], self.place[nodes] = len(self.blocks), np.arange(len(rows))
        self.blocks.append((value, len(rows)))

    def _constants(self, rows: NDArray[np.int64], *, empty: float) -> str:
        values = self.bias[rows] + empty * self.response[rows]
        batch = self.op("Gather", self.op("Shape", "input"), self.constant(np.array([0])))
        shape = self.op("Concat", batch, self.constant(np.array([len(rows)])), axis=0)
        return self.op("Expand", self.constant(values[None]), shape)

    def _by_matrix(
        self, rows: NDArray[np.int64], sources: NDArray[np.int64], edges: NDArray[np.int64], target: NDArray[np.int64]
    ) -> str:
        # In the order of blocks, so that gathering them needs no second sorting.
        sources = sources[np.lexsort((self.place[sources], self.block[sources]))]
        column = np.empty(self.num_nodes, np.int64)
        column[sources] = np.arange(len(sources))
        matrix = np.zeros((len(sources), len(rows)), np.float32)
        matrix[column[self.src[edges]], target] = self.weight[edges] * self.response[rows][target]
        return self.op("Gemm", self._gather(sources), self.constant(matrix), self.constant(self.bias[rows]))

    def _by_edges(self, rows: NDArray[np.int64], edges: NDArray[np.int64], agg: int, fan_in: int) -> str:
        shape = self.constant(np.array([0, len(rows), fan_in]))
        values = self.op("Reshape", self._gather(self.src[edges]), shape)
        messages = self.op("Mul", values, self.constant(self.weight[edges].reshape(len(rows), fan_in)))
        joined = AGGREGATIONS[list(OUR_AGGREGATIONS)[agg]](self, messages, fan_in)
        if (self.response[rows] != 1).any():
            joined = self.op("Mul", joined, self.constant(self.response[rows]))
        return self.op("Add", joined, self.constant(self.bias[rows]))

    def _gather(self, nodes: NDArray[np.int64]) -> str:
        """Columns of values, one for each of the nodes, which may repeat."""
        order = np.argsort(self.block[nodes], kind="stable")
        parts = []
        for number in np.unique(self.block[nodes]).tolist():
            value, count = self.blocks[number]
            places = self.place[nodes[order]][self.block[nodes[order]] == number]
            whole = len(places) == count and bool((places == np.arange(count)).all())
            parts.append(value if whole else self.op("Gather", value, self.constant(places), axis=1))
        joined = parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=1)
        if (order == np.arange(len(order))).all():
            return joined
        return self.op("Gather", joined, self.constant(np.argsort(order)), axis=1)


def _float32(parameter: Tensor) -> NDArray[np.float32]:
    return parameter.detach().float().cpu().numpy()
