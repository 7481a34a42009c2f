"""The structure of a sparse network as kernels read it."""

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fulgurite.models.sparse_network.levels import count_sources


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

    def tensors(self) -> list[Tensor]:
        """What kernels are handed: ptr, src, dst, optr, odst, oeid, act_id, agg_id, out_idx, group_ptr, level_ptr."""
        return [
            self.ptr,
            self.src,
            self.dst,
            self.optr,
            self.odst,
            self.oeid,
            self.act_id,
            self.agg_id,
            self.out_idx,
            self.group_ptr,
            self.level_ptr,
        ]

    def to(self, device: torch.device | str) -> "Topology":
        """The same topology with its tensors on a device; itself where they are there already."""
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor)
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
