"""The structure of a sparse network as kernels read it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fulgurite.models.sparse_network.levels import count_sources

# What kernels read, with its type; in packed all is int32, which numbers of nodes and edges fit in.
_PACKED = {
    "ptr": torch.int64,
    "src": torch.int32,
    "dst": torch.int32,
    "optr": torch.int64,
    "odst": torch.int32,
    "oeid": torch.int32,
    "act_id": torch.int32,
    "agg_id": torch.int32,
    "out_idx": torch.int64,
    "group_ptr": torch.int64,
    "level_ptr": torch.int64,
}
_ALIGNED = 4


def unpack(packed: Tensor) -> dict[str, Tensor]:
    """From :attr:`Topology.packed` to the tensors of :class:`Topology` that kernels read, by name.

    Those of int32 share its memory, but do not keep the tensor itself alive.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=1, aggregations=0)
        >>> unpack(topology.packed)["src"].tolist()
        [0, 1]
    """
    sizes = packed[: len(_PACKED)].tolist()
    return {name: view.to(_PACKED[name]) for name, view in _views(packed, sizes).items()}


def _views(packed: Tensor, sizes: Sequence[int]) -> dict[str, Tensor]:
    views, begin = {}, len(_PACKED) + -len(_PACKED) % _ALIGNED
    for name, size in zip(_PACKED, sizes, strict=True):
        # A slice would hold on to the tensor that it is one of, by which kernels remember what they know.
        views[name] = packed.new_empty(0).set_(packed.untyped_storage(), begin, (size,), (1,))
        begin += size + -size % _ALIGNED
    return views


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """The compiled structure of a network of N nodes and E edges.

    Made by :func:`~fulgurite.models.sparse_network.topology.compile_topology`.

    Nodes are renumbered: inputs first, unchanged, then by (group, level, fan-in, user's id), so that every edge leads
    to a higher number and nodes of like work stand together. Levels are the dependency groups that guide the
    computation in A. Gajurel, S. J. Louis, F. C. Harris, *GPU Acceleration of Sparse Neural Networks*,
    `arXiv:2005.04347 <https://arxiv.org/abs/2005.04347>`__: here a node's level is its longest path from an input.
    Edges are in *edge order*: by (target, source), which depends on the graph alone and not on how it was given.
    All tensors are on one device. Two topologies compare by :meth:`digest`.

    Args:
        num_inputs: F.
        num_nodes: N, inputs included; n = N − F are computed.
        num_edges: E.
        ptr: (n + 1,) int64; node v is reached by the edges ptr[v − F] … ptr[v − F + 1] − 1.
        src: (E,) int32 source of each edge.
        dst: (E,) int32 target of each edge, ascending.
        optr: (N + 1,) int64; node v's out-edges begin at optr[v] in odst and oeid.
        odst: (E,) int32 target of each out-edge.
        oeid: (E,) int32 the edge's number in edge order.
        act_id: (n,) int32, see :data:`~fulgurite.models.sparse_network.activations.ACTIVATIONS`.
        agg_id: (n,) int32, see :data:`~fulgurite.models.sparse_network.aggregations.AGGREGATIONS`.
        out_idx: (O,) int64 the node of each output; may be an input, may repeat.
        group_ptr: (G + 1,) int64; nodes group_ptr[g] … group_ptr[g + 1] − 1 are group g; no edge joins two groups.
        level_ptr: (L + 1,) int64, the same for levels 1 … L where G is 1; (0,) where there are several groups.
        node_ids: (N,) int64 the user's id of each node.
        level: (N,) int32 each node's level; 0 for inputs.

    Attributes:
        packed: (P,) int32, what kernels are handed: all that they read, in one tensor (see :func:`unpack`), since each
            argument of an operator takes its time. The tensors above that are int32 are views of its memory.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology(
        ...     [(0, 3), (1, 2), (2, 3)], num_inputs=2, outputs=[3], activations=1, aggregations=0
        ... )
        >>> topology, topology.level.tolist()
        (Topology(2 inputs, 4 nodes, 3 edges, 1 outputs, depth 2), [0, 0, 1, 2])
    """

    num_inputs: int
    num_nodes: int
    num_edges: int
    ptr: Tensor
    src: Tensor
    dst: Tensor
    optr: Tensor
    odst: Tensor
    oeid: Tensor
    act_id: Tensor
    agg_id: Tensor
    out_idx: Tensor
    group_ptr: Tensor
    level_ptr: Tensor
    node_ids: Tensor
    level: Tensor
    packed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        tensors = [getattr(self, name) for name in _PACKED]
        sizes = [len(tensor) for tensor in tensors]
        pieces = [torch.tensor(sizes, dtype=torch.int32, device=self.device), *(tensor.int() for tensor in tensors)]
        # Of a kernel's arrays, each begins where 16 bytes do.
        padded = [torch.nn.functional.pad(piece, (0, -len(piece) % _ALIGNED)) for piece in pieces]
        object.__setattr__(self, "packed", torch.cat(padded).contiguous())
        for name, view in _views(self.packed, sizes).items():
            if getattr(self, name).dtype == torch.int32:
                object.__setattr__(self, name, view)

    def __repr__(self) -> str:
        return (
            f"Topology({self.num_inputs} inputs, {self.num_nodes} nodes, {self.num_edges} edges, "
            f"{self.num_outputs} outputs, depth {self.depth})"
        )

    @property
    def num_outputs(self) -> int:
        """O."""
        return len(self.out_idx)

    @cached_property
    def depth(self) -> int:
        """The highest level; 0 where nothing is computed."""
        return int(self.level.max())

    @property
    def fan_in(self) -> Tensor:
        """Number of in-edges of each node that is no input, (n,) int64."""
        return self.ptr.diff()

    @property
    def edges(self) -> Tensor:
        """The edges by the user's node ids in edge order, (E, 2) int64."""
        return torch.stack([self.node_ids[self.src.long()], self.node_ids[self.dst.long()]], dim=1)

    @cached_property
    def dense_size(self) -> int:
        """Numbers in the dense matrices, one a level, from all nodes that the level reads to all of its nodes.

        Where there are several groups, every one has matrices of its own.
        """
        level = self.level.cpu().numpy()
        begins = np.zeros(self.num_nodes, np.bool_)
        begins[1:] = level[1:] != level[:-1]
        starts = self.group_ptr.cpu().numpy()[:-1]
        begins[starts[starts < self.num_nodes]] = True
        block = np.cumsum(begins, dtype=np.int32)
        rows = np.bincount(block[self.num_inputs :], minlength=int(block[-1]) + 1)
        return int((rows * count_sources(self.src.cpu().numpy(), block[self.dst.cpu().numpy()], len(rows))).sum())

    @property
    def density(self) -> float:
        """The share of those dense matrices that edges fill; 1 where there are no edges."""
        return self.num_edges / self.dense_size if self.num_edges else 1.0

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.ptr.device

    def to(self, device: torch.device | str) -> "Topology":
        """The same topology with its tensors on a device; itself where they are there already."""
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if field.init and isinstance(getattr(self, field.name), Tensor)
        }
        if all(tensor is getattr(self, name) for name, tensor in moved.items()):
            return self
        return dataclasses.replace(self, **moved)

    def digest(self) -> str:
        """A hash of all that the topology computes: equal graphs have equal ones, however and wherever given.

        Example:
            >>> from fulgurite.models.sparse_network.topology import compile_topology
            >>> options = {"num_inputs": 2, "outputs": [2], "activations": 1, "aggregations": 0}
            >>> first, _ = compile_topology([(0, 2), (1, 2)], **options)
            >>> second, _ = compile_topology([(1, 2), (0, 2)], **options)
            >>> first.digest() == second.digest()
            True
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        # edges and nodes stand in canonical order; all other tensors follow from these.
        digest = hashlib.sha256(f"{self.num_inputs} {self.num_nodes} {self.num_edges}".encode())
        for tensor in (
            self.ptr,
            self.src,
            self.act_id,
            self.agg_id,
            self.out_idx,
            self.group_ptr,
            self.node_ids,
        ):
            array = tensor.cpu().numpy()
            digest.update(str(len(array)).encode())
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()
