"""What people do without SparseNetwork, over the same compiled topology: peers for benchmarks/sparse_network.py.

Every peer is made from a topology, weights in its edge order and biases in its node order, and computes the same
function of a (B, F) batch with ReLU capped at 32 (RadiX) or plain ReLU. All of them differentiate with respect to the
weights, but for the scalar loop and neat-python.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from fulgurite.models.sparse_network import Topology

Forward = Callable[[Tensor], Tensor]


def _level_ranges(topology: Topology) -> list[tuple[int, int]]:
    ends = topology.level_ptr.tolist()
    return list(pairwise(ends))


def _activate(cap: float | None) -> Callable[[Tensor], Tensor]:
    return torch.relu if cap is None else lambda z: z.clamp(0.0, cap)


@numba.njit(nogil=True, cache=False)
def _scalar(
    x: np.ndarray,
    ptr: np.ndarray,
    src: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    cap: float,
    values: np.ndarray,
) -> None:
    inputs = x.shape[1]
    for sample in range(x.shape[0]):
        for i in range(inputs):
            values[sample, i] = x[sample, i]
        for v in range(len(ptr) - 1):
            total = bias[v]
            for e in range(ptr[v], ptr[v + 1]):
                total += weight[e] * values[sample, src[e]]
            values[sample, inputs + v] = min(max(total, 0.0), cap)


def scalar_loop(topology: Topology, weight: Tensor, bias: Tensor, cap: float | None) -> Forward:
    """The paper's sequential baseline, compiled: sample by sample, node by node, edge by edge."""
    ptr, src = topology.ptr.numpy(), topology.src.numpy()
    weights, biases = weight.detach().numpy(), bias.detach().numpy()
    out = topology.out_idx.numpy()

    def forward(x: Tensor) -> Tensor:
        values = np.empty((len(x), topology.num_nodes), dtype=np.float32)
        _scalar(x.numpy(), ptr, src, weights, biases, np.float32(np.inf if cap is None else cap), values)
        return torch.from_numpy(values[:, out])

    return forward


def csr_per_level(topology: Topology, weight: Tensor, bias: Tensor, cap: float | None) -> Forward:
    """A torch CSR matrix a level, over all nodes before it, times feature-major activations.

    The matrices are built anew from the flat weights in every call where these want gradients, as training does.
    """
    act = _activate(cap)
    parts = []
    first = topology.num_inputs
    for low, high in _level_ranges(topology):
        begin, end = int(topology.ptr[low - first]), int(topology.ptr[high - first])
        rows = (topology.ptr[low - first : high - first + 1] - begin).to(torch.int32)
        columns = topology.src[begin:end]
        # Layered networks read the level before alone; then the matrix needs no other columns.
        base = int(columns.min()) if end > begin else 0
        parts.append((low, high, begin, end, rows, columns - base, base))

    def matrix(part: tuple[Any, ...]) -> Tensor:
        low, high, begin, end, rows, columns, base = part
        return torch.sparse_csr_tensor(rows, columns, weight[begin:end], size=(high - low, low - base))

    ready = None if weight.requires_grad else [matrix(part) for part in parts]

    def forward(x: Tensor) -> Tensor:
        rows = _Rows(x, topology.num_nodes, pieces=weight.requires_grad)
        for number, part in enumerate(parts):
            low, high, base = part[0], part[1], part[6]
            z = (ready[number] if ready is not None else matrix(part)) @ rows.between(base, low)
            rows.add(low, act(z + bias[low - first : high - first, None]))
        return rows.outputs(topology.out_idx)

    return forward


class _Rows:
    """Feature-major activations of the levels so far: one buffer, or pieces where autograd must see them."""

    def __init__(self, x: Tensor, num_nodes: int, *, pieces: bool) -> None:
        self.last, self.start = x.t().contiguous(), 0
        self.pieces = [(0, self.last)]
        self.buffer = None if pieces else x.new_empty(num_nodes, len(x))
        if self.buffer is not None:
            self.buffer[: len(self.last)] = self.last

    def between(self, low: int, high: int) -> Tensor:
        """Node rows low … high, without a copy where that can be."""
        if self.buffer is not None:
            return self.buffer[low:high]
        if low >= self.start:
            return self.last[low - self.start : high - self.start]
        needed = [(start, rows) for start, rows in self.pieces if start < high and start + len(rows) > low]
        return torch.cat([rows for _, rows in needed])[low - needed[0][0] : high - needed[0][0]]

    def add(self, start: int, rows: Tensor) -> None:
        self.last, self.start = rows, start
        if self.buffer is not None:
            self.buffer[start : start + len(rows)] = rows
        else:
            self.pieces.append((start, rows))

    def outputs(self, index: Tensor) -> Tensor:
        if self.buffer is not None:
            return self.buffer[index].t()
        if int(index.min()) >= self.start:
            return self.last[index - self.start].t()
        return torch.cat([rows for _, rows in self.pieces])[index].t()


def dense_per_level(topology: Topology, weight: Tensor, bias: Tensor, cap: float | None) -> Forward:
    """A masked dense matrix a level over the nodes that it reads (4Ward's way)."""
    act = _activate(cap)
    first = topology.num_inputs
    parts = []
    for low, high in _level_ranges(topology):
        begin, end = int(topology.ptr[low - first]), int(topology.ptr[high - first])
        reads, column = torch.unique(topology.src[begin:end].long(), return_inverse=True)
        row = topology.dst[begin:end].long() - low
        base, stop = (int(reads[0]), int(reads[-1]) + 1) if len(reads) else (0, 0)
        parts.append((low, high, begin, end, row, column, reads, base, stop))

    def matrix(part: tuple[Any, ...]) -> Tensor:
        low, high, begin, end, row, column, reads = part[:7]
        return weight.new_zeros(high - low, len(reads)).index_put((row, column), weight[begin:end])

    ready = None if weight.requires_grad else [matrix(part) for part in parts]

    def forward(x: Tensor) -> Tensor:
        rows = _Rows(x, topology.num_nodes, pieces=weight.requires_grad)
        for number, part in enumerate(parts):
            low, high, reads, base, stop = part[0], part[1], part[6], part[7], part[8]
            before = rows.between(base, stop)
            if len(before) != len(reads):
                before = before[reads - base]
            z = (ready[number] if ready is not None else matrix(part)) @ before
            rows.add(low, act(z + bias[low - first : high - first, None]))
        return rows.outputs(topology.out_idx)

    return forward


def gather_index_add(topology: Topology, weight: Tensor, bias: Tensor, cap: float | None) -> Forward:
    """Message passing: gather the sources of a level's edges, scale, add up by target."""
    act = _activate(cap)
    first = topology.num_inputs
    src, dst = topology.src.long(), topology.dst.long()
    parts = []
    for low, high in _level_ranges(topology):
        begin, end = int(topology.ptr[low - first]), int(topology.ptr[high - first])
        parts.append((low, high, begin, end, int(src[begin:end].min()) if end > begin else 0))

    def forward(x: Tensor) -> Tensor:
        rows = _Rows(x, topology.num_nodes, pieces=weight.requires_grad)
        for low, high, begin, end, base in parts:
            messages = rows.between(base, low)[src[begin:end] - base] * weight[begin:end, None]
            z = messages.new_zeros(high - low, len(x)).index_add(0, dst[begin:end] - low, messages)
            rows.add(low, act(z + bias[low - first : high - first, None]))
        return rows.outputs(topology.out_idx)

    return forward


def masked_linear(topology: Topology, weight: Tensor, bias: Tensor, cap: float | None) -> Forward:
    """Layered networks alone: nn.Linear with a 0/1 mask multiplied in at every call (torch.nn.utils.prune's way)."""
    act = _activate(cap)
    first = topology.num_inputs
    layers = []
    before = 0
    for low, high in _level_ranges(topology):
        begin, end = int(topology.ptr[low - first]), int(topology.ptr[high - first])
        row, column = topology.dst[begin:end].long() - low, topology.src[begin:end].long() - before
        full = weight.detach().new_zeros(high - low, low - before)
        mask = full.index_put((row, column), torch.ones(end - begin))
        values = full.index_put((row, column), weight.detach()[begin:end]).requires_grad_(weight.requires_grad)
        layers.append((values, mask, bias[low - first : high - first]))
        before = low

    def forward(x: Tensor) -> Tensor:
        for values, mask, offset in layers:
            x = act(torch.nn.functional.linear(x, values * mask, offset))
        return x

    return forward


PEERS: dict[str, Callable[[Topology, Tensor, Tensor, float | None], Forward]] = {
    "compiled scalar loop": scalar_loop,
    "torch CSR a level": csr_per_level,
    "masked dense a level": dense_per_level,
    "gather + index_add": gather_index_add,
    "masked nn.Linear": masked_linear,
}
