"""A graph as its user gives it, read and checked."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fulgurite.models.sparse_network.levels import sort_edges

Duplicates = Literal["error", "sum"]
_LIMIT = 2**31  # of nodes and of edges: kernels number both by int32
_NAMED = 20  # nodes of a cycle that an error message names


class TopologyError(ValueError):
    """A graph that cannot be made a network.

    Args:
        message: what was got, what was expected and what to do.
        cycle: where the fault is a cycle, its nodes; each has an edge to the next, and the last to the first.
    """

    def __init__(self, message: str, cycle: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.cycle = tuple(cycle)


@dataclass(frozen=True)
class EdgeList:
    """A checked graph, by its user's node ids.

    Args:
        src: (E,) int32 source of each edge, as given.
        dst: (E,) int32 target of each edge.
        outputs: (O,) int64 output nodes.
        num_inputs: nodes 0 … num_inputs − 1 are the inputs.
        num_nodes: inputs included.
    """

    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    outputs: NDArray[np.int64]
    num_inputs: int
    num_nodes: int

    def duplicates(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Find edges that are given more than once.

        Returns:
            ``order`` (E,), edges by (target, source), equal ones as they were given; and ``fresh`` (E,), whether each
            of them in that order differs from the one before.
        """
        order = sort_edges(self.src, self.dst, self.num_nodes)
        src, dst = self.src[order], self.dst[order]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = (src[1:] != src[:-1]) | (dst[1:] != dst[:-1])
        return order, fresh

    def refuse_duplicates(self) -> None:
        """See that no edge is given twice.

        Raises:
            TopologyError: one is; it is named, with the rows where it stands.
        """
        order, fresh = self.duplicates()
        if not fresh.all():
            raise TopologyError(
                f'{self.duplicate_of(order, fresh)}; drop one of them, or pass duplicates="sum" to add up their weights'
            )

    def duplicate_of(self, order: NDArray[np.int32], fresh: NDArray[np.bool_]) -> str:
        """Name the first edge that :meth:`duplicates` found to be given again."""
        place = int(np.argmin(fresh))
        first, again = order[place - 1], order[place]
        return f"edge {self.src[again]} → {self.dst[again]} is given more than once, in rows {first} and {again}"


def read_edge_list(
    edges: ArrayLike | Tensor, *, num_inputs: int, outputs: ArrayLike | Tensor, num_nodes: int | None = None
) -> EdgeList:
    """Read a graph and check all of it but cycles and duplicates.

    Args:
        edges: (E, 2) whole numbers, rows (source, target); may be empty.
        num_inputs: nodes 0 … num_inputs − 1 are the inputs, at least 1.
        outputs: (O,) node ids, at least one; inputs and repeated ids are fine.
        num_nodes: inputs included; None: one more than the largest id that is mentioned.

    Raises:
        TopologyError: another shape, ids out of range, an edge into an input, too large a graph.

    Example:
        >>> read_edge_list([(0, 2), (1, 2)], num_inputs=2, outputs=[2]).num_nodes
        3
    """
    pairs = whole_numbers(edges, "edges")
    if pairs.size == 0:
        pairs = pairs.reshape(0, 2)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        turned = "; pass edges.T" if pairs.ndim == 2 and pairs.shape[0] == 2 else ""
        raise TopologyError(f"edges has shape {pairs.shape}, expected (E, 2), rows of (source, target){turned}")
    if len(pairs) >= _LIMIT:
        raise TopologyError(f"got {len(pairs):,} edges; edges are numbered by int32, so there must be fewer than 2³¹")
    chosen = whole_numbers(outputs, "outputs")
    if chosen.ndim != 1 or len(chosen) == 0:
        raise TopologyError(
            f"outputs has shape {chosen.shape}, expected (O,): a list of the ids of one output node or more"
        )
    inputs = _count(num_inputs, "num_inputs")
    if inputs < 1:
        raise TopologyError(f"num_inputs is {inputs}; a network needs at least one input")
    if num_nodes is None:
        nodes = 1 + max(int(pairs.max(initial=0)), int(chosen.max()), inputs - 1)
    else:
        nodes = _count(num_nodes, "num_nodes")
    if nodes < inputs:
        raise TopologyError(f"num_nodes is {nodes}, fewer than the {inputs} inputs, which it includes")
    if nodes >= _LIMIT:
        raise TopologyError(f"got {nodes:,} nodes; nodes are numbered by int32, so there must be fewer than 2³¹")

    wrong = (pairs < 0) | (pairs >= nodes)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        node = pairs[row][wrong[row]][0]
        raise TopologyError(f"{_edge(pairs, row)} names node {node}; {_range(nodes, given=num_nodes is not None)}")
    wrong = (chosen < 0) | (chosen >= nodes)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise TopologyError(f"output {place} is node {chosen[place]}; {_range(nodes, given=num_nodes is not None)}")
    into = pairs[:, 1] < inputs
    if into.any():
        row = int(np.argmax(into))
        raise TopologyError(
            f"{_edge(pairs, row)} leads into input {pairs[row, 1]}; nodes 0 … {inputs - 1} are inputs, whose values "
            "are given: drop the edge, or number the node after the inputs"
        )
    src, dst = pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.int32)
    return EdgeList(src, dst, chosen, inputs, nodes)


def whole_numbers(values: ArrayLike | Tensor, what: str) -> NDArray[np.int64]:
    """Any array, list or tensor of whole numbers as an int64 array; an empty one may have any type.

    Raises:
        TopologyError: it holds something else.

    Example:
        >>> whole_numbers([[0, 2]], "edges").shape
        (1, 2)
    """
    if isinstance(values, Tensor):
        if values.numel() and (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool):
            raise TopologyError(f"{what} must be an array of whole numbers, got {values.dtype}")
        return values.detach().cpu().long().numpy()
    try:
        array: NDArray[Any] = np.asarray(values)
    except ValueError:
        raise TopologyError(f"{what} must be an array of whole numbers, got rows of different lengths") from None
    if array.size and array.dtype.kind not in "iu":
        got = type(values).__name__ if array.dtype.kind == "O" else array.dtype
        raise TopologyError(f"{what} must be an array of whole numbers, got {got}")
    return array.astype(np.int64, copy=False)


def cycle_error(cycle: NDArray[np.int64]) -> TopologyError:
    """The error that names a cycle, beginning with its smallest node; a long one is shortened in the text alone.

    Example:
        >>> str(cycle_error(np.array([9, 7, 5])))[:41]
        'the network has a cycle, 5 → 9 → 7 → 5; r'
    """
    nodes = np.roll(cycle, -int(np.argmin(cycle))).tolist()
    chain = [str(node) for node in [*nodes, nodes[0]]]
    if len(chain) > _NAMED + 1:
        chain = [*chain[: _NAMED // 2], f"… ({len(nodes)} nodes in all) …", *chain[-_NAMED // 2 :]]
    return TopologyError(
        f"the network has a cycle, {' → '.join(chain)}; remove one of its edges, or pass steps=k to run k synchronous "
        "updates of a recurrent network",
        nodes,
    )


def _count(value: int, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TopologyError(f"{what} must be a whole number, got {value!r}") from None


def _edge(pairs: NDArray[np.int64], row: int) -> str:
    return f"edge {pairs[row, 0]} → {pairs[row, 1]} (row {row})"


def _range(num_nodes: int, *, given: bool) -> str:
    advice = ", or a larger num_nodes" if given else ""
    return f"nodes are numbered 0 … {num_nodes - 1}: pass another id{advice}"
