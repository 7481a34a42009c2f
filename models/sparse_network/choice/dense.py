"""The dense backend: every level a matrix product, zeros and all."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.structure import Topology

_FUNCTIONS = tuple(entry.function for entry in ACTIVATIONS.values())
_IDENTITY = ACTIVATIONS["identity"].id
_FEW = 8  # blocks that are joined for a level before a buffer of all nodes is the quicker way


@dataclass(frozen=True)
class Piece:
    """Columns of one level's matrix that read one block of nodes.

    Args:
        block: 0 for the inputs, otherwise the level.
        columns: (c,) int64 places within the block, ascending; None: all of them.
    """

    block: int
    columns: Tensor | None


@dataclass(frozen=True)
class DenseLevel:
    """What one level needs.

    Args:
        rows: its nodes.
        width: columns of its matrix, the nodes that it reads.
        place: (edges of the level,) int64 where each edge's weight stands in the flattened (rows, width) matrix.
        pieces: what its columns read.
        gathered: (width,) int64 the same as places among all nodes, where the pieces are many; else None.
        nodes: (rows,) int64 the node of each row, counted from the level's first; None: as they stand.
        activations: (id, number of rows) for each activation in turn; rows of one stand together.
        done: blocks that nothing after this level reads.
    """

    rows: int
    width: int
    place: Tensor
    pieces: tuple[Piece, ...]
    gathered: Tensor | None
    nodes: Tensor | None
    activations: tuple[tuple[int, int], ...]
    done: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DensePlan:
    """The way through a topology by one matrix a level, made by :func:`plan_dense`.

    Args:
        levels: in order.
        outputs: what the outputs read, once each.
        order: (O,) int64 the column of those that each output is; None: as they stand.
        edges: number of edges of each level.
        size: numbers in all matrices.
        pieces: number of pieces of all levels.
        tangled: whether some level reads many blocks.
    """

    levels: tuple[DenseLevel, ...]
    outputs: tuple[Piece, ...]
    order: Tensor | None
    edges: tuple[int, ...]
    size: int
    pieces: int
    tangled: bool

    def __deepcopy__(self, memo: dict[int, object]) -> "DensePlan":
        return self  # never changed, only replaced


def plan_dense(topology: Topology) -> DensePlan:
    """Find each level's matrix: a column for each node that it reads, which for layers is the layer before.

    Nodes of a level stand by activation, so that each function runs on a slice. Where a level reads half of a block or
    more, it reads all of it and has zero columns for the rest, which saves gathering.

    Args:
        topology: one group, whose nodes all sum.

    Raises:
        ValueError: another aggregation, or several groups.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> edges = [(0, 2), (1, 3), (2, 4), (3, 4)]
        >>> topology, _ = compile_topology(edges, num_inputs=2, outputs=[4], activations=1, aggregations=0)
        >>> [(level.rows, level.width) for level in plan_dense(topology).levels]
        [(2, 2), (1, 2)]
    """
    if len(topology.group_ptr) > 2 or bool((topology.agg_id != 0).any()):
        raise ValueError("backend='dense' is for one network whose nodes all sum; use backend='auto'")
    return _Planner(topology).plan()


class _Planner:
    """Nodes are put in a new order, by (level, activation), in which every level is one block."""

    def __init__(self, topology: Topology) -> None:
        inputs, nodes = topology.num_inputs, topology.num_nodes
        self._device = topology.device
        ptr, src, dst, act, outputs, bounds = (
            tensor.cpu().numpy()
            for tensor in (
                topology.ptr,
                topology.src,
                topology.dst,
                topology.act_id,
                topology.out_idx,
                topology.level_ptr,
            )
        )
        self._starts = np.concatenate([[0], bounds])  # block b is nodes starts[b] … starts[b + 1] − 1
        self._first_edge = ptr[bounds - inputs]
        self._place = np.arange(nodes)
        self._orders: list[NDArray[np.int64] | None] = []
        self._activations = []
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            ids = act[start - inputs : stop - inputs]
            order = None
            if (ids[1:] < ids[:-1]).any():
                order = np.argsort(ids, kind="stable")
                self._place[start + order] = np.arange(start, stop)
                ids = ids[order]
            self._orders.append(order)
            edges = np.flatnonzero(np.diff(ids, prepend=-1, append=-1))
            self._activations.append(tuple(zip(ids[edges[:-1]].tolist(), np.diff(edges).tolist(), strict=True)))
        self._source = self._place[src]
        self._row = self._place[dst]
        self._outputs = self._place[outputs]
        self._column = np.empty(nodes, np.int64)

    def plan(self) -> DensePlan:
        """Lay out every level, then the outputs."""
        found = []
        for level in range(1, len(self._starts) - 1):
            first, last = self._first_edge[level - 1], self._first_edge[level]
            found.append(self._read(self._source[first:last]))
        outputs, output_columns, _ = self._read(self._outputs)
        last_reader: dict[int, int] = {}
        for level, (pieces, _, _) in enumerate(found):
            last_reader.update({piece.block: level for piece in pieces})
        for piece in outputs:
            last_reader.pop(piece.block, None)
        done: list[list[int]] = [[] for _ in found]
        for block, level in last_reader.items():
            done[level].append(block)

        levels = []
        for number, (pieces, columns, width) in enumerate(found):
            start, stop = int(self._starts[number + 1]), int(self._starts[number + 2])
            first, last = self._first_edge[number], self._first_edge[number + 1]
            order = self._orders[number]
            levels.append(
                DenseLevel(
                    rows=stop - start,
                    width=width,
                    place=self._tensor((self._row[first:last] - start) * width + columns),
                    pieces=pieces,
                    gathered=self._tensor(self._flat(pieces)) if len(pieces) > _FEW else None,
                    nodes=None if order is None else self._tensor(order),
                    activations=self._activations[number],
                    done=tuple(done[number]),
                )
            )
        natural = len(output_columns) == sum(self._width(piece) for piece in outputs) and bool(
            (output_columns == np.arange(len(output_columns))).all()
        )
        return DensePlan(
            levels=tuple(levels),
            outputs=outputs,
            order=None if natural else self._tensor(output_columns),
            edges=tuple(np.diff(self._first_edge).tolist()),
            size=sum(level.rows * level.width for level in levels),
            pieces=sum(len(level.pieces) for level in levels),
            tangled=any(level.gathered is not None for level in levels),
        )

    def _read(self, places: NDArray[np.int64]) -> tuple[tuple[Piece, ...], NDArray[np.int64], int]:
        """The pieces that hold some places, the column of each place among them, and the number of columns."""
        if len(places) == 0:
            return (), places, 0
        low = int(places.min())
        seen = np.zeros(int(places.max()) + 1 - low, np.bool_)
        seen[places - low] = True
        read = np.flatnonzero(seen) + low
        blocks = np.searchsorted(self._starts, read, side="right") - 1
        edges = np.flatnonzero(np.diff(blocks, prepend=-1, append=-1))
        pieces, width = [], 0
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            block, own = int(blocks[first]), read[first:last]
            start, size = int(self._starts[block]), int(self._starts[block + 1] - self._starts[block])
            if 2 * len(own) >= size:
                self._column[own] = width + own - start
                pieces.append(Piece(block, None))
                width += size
            else:
                self._column[own] = width + np.arange(len(own))
                pieces.append(Piece(block, self._tensor(own - start)))
                width += len(own)
        return tuple(pieces), self._column[places], width

    def _width(self, piece: Piece) -> int:
        if piece.columns is not None:
            return len(piece.columns)
        return int(self._starts[piece.block + 1] - self._starts[piece.block])

    def _flat(self, pieces: tuple[Piece, ...]) -> NDArray[np.int64]:
        """Places among all nodes of what pieces read."""
        parts = []
        for piece in pieces:
            start, stop = self._starts[piece.block], self._starts[piece.block + 1]
            parts.append(np.arange(start, stop) if piece.columns is None else start + piece.columns.cpu().numpy())
        return np.concatenate(parts)

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def evaluate_dense(
    plan: DensePlan, topology: Topology, x: Tensor, weight: Tensor, bias: Tensor, response: Tensor | None = None
) -> Tensor:
    """Evaluate a network level by level as dense matrix products, in plain torch.

    This is the way of 4Ward (F. Boccato et al., `arXiv:2209.02037 <https://arxiv.org/abs/2209.02037>`__), for networks
    dense enough that zeros cost less than finding out where they are. The matrices are made of the flat weights in
    every call, so that there are gradients of real edges alone and nothing is kept that could go stale.

    Args:
        plan: of the topology.
        topology: of N nodes, F of them inputs, E edges and O outputs.
        x: (B, F).
        weight: (E,) in edge order.
        bias: (N − F,) in the topology's order of nodes.
        response: (N − F,) likewise; None: all 1.

    Returns:
        (B, O).

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=1, aggregations=0)
        >>> x, weight, bias = torch.tensor([[3.0, 1.0]]), torch.tensor([2.0, 1.0]), torch.tensor([0.5])
        >>> evaluate_dense(plan_dense(topology), topology, x, weight, bias)
        tensor([[7.5000]])
    """
    if response is not None:
        weight = weight * response[topology.dst.long() - topology.num_inputs]
    # One split each: slices taken one by one would each have a gradient of full length.
    weights, biases = weight.split(plan.edges), bias.split([level.rows for level in plan.levels])
    buffer = None
    if plan.tangled and not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))):
        buffer = x.new_empty(len(x), topology.num_nodes)
        buffer[:, : topology.num_inputs] = x
    blocks: list[Tensor | None] = [x]
    place = topology.num_inputs
    for level, level_weight, level_bias in zip(plan.levels, weights, biases, strict=True):
        if buffer is not None and level.gathered is not None:
            inputs = buffer.index_select(1, level.gathered)
        else:
            inputs = _joined(level.pieces, blocks) if level.pieces else x[:, :0]
        values = _level(level, inputs, level_weight, level_bias)
        if buffer is not None:
            buffer[:, place : place + level.rows] = values
            place += level.rows
        blocks.append(values)
        for block in level.done:
            blocks[block] = None
    y = _joined(plan.outputs, blocks)
    if plan.order is not None:
        return y.index_select(1, plan.order)
    return y.clone() if y is x else y


def _level(level: DenseLevel, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    matrix = weight.new_zeros(level.rows * level.width).scatter_(0, level.place, weight).view(level.rows, level.width)
    z = functional.linear(inputs, matrix, bias if level.nodes is None else bias[level.nodes])
    if len(level.activations) == 1:
        return _activate(z, level.activations[0][0])
    parts = z.split([count for _, count in level.activations], dim=1)
    return torch.cat(
        [_activate(part, number) for part, (number, _) in zip(parts, level.activations, strict=True)], dim=1
    )


def _activate(z: Tensor, number: int) -> Tensor:
    return z if number == _IDENTITY else _FUNCTIONS[number](z)


def _joined(pieces: tuple[Piece, ...], blocks: list[Tensor | None]) -> Tensor:
    parts = []
    for piece in pieces:
        block = blocks[piece.block]
        assert block is not None  # the plan keeps what is still read
        parts.append(block if piece.columns is None else block.index_select(1, piece.columns))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
