"""What the host has to know of a structure to start Triton kernels on it, found once and remembered with it."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.structure import unpack

_MEAN = AGGREGATIONS["mean"].id


@dataclass(frozen=True, eq=False)
class Facts:
    """A structure by names, with what is read of it on the host.

    Args:
        ptr, src, dst, optr, odst, oeid, act_id, agg_id, out_idx, group_ptr, level_ptr: as in ``Topology``.
        acts: a bit set for each activation that there is.
        aggs: the same of aggregations; a mean counts as a sum, whose 1/k is in ``inverse_fan_in``.
        inverse_fan_in: (n,) float64, 1/k of nodes that take a mean and 1 of others; None where no node does.
        levels: ``level_ptr`` on the host.
        outputs_repeat: whether a node is more than one output.
        graphs: captured launches, see :mod:`fulgurite.models.sparse_network.gpu.graphs`.
    """

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
    acts: int
    aggs: int
    inverse_fan_in: Tensor | None
    levels: tuple[int, ...]
    outputs_repeat: bool
    graphs: OrderedDict[tuple[object, ...], object] = field(default_factory=OrderedDict)

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.optr) - 1

    @property
    def num_inputs(self) -> int:
        """F."""
        return self.num_nodes - len(self.act_id)

    @property
    def num_edges(self) -> int:
        """E."""
        return len(self.src)

    @property
    def num_groups(self) -> int:
        """G."""
        return len(self.group_ptr) - 1

    @property
    def num_levels(self) -> int:
        """L, or 0 where there are several groups."""
        return max(len(self.levels) - 1, 0)

    @cached_property
    def recycled(self) -> tuple[Tensor, Tensor, int] | None:
        """Rows that inference writes nodes to, ((N,), (E,) row read by each edge, how many rows), both int32.

        None where there are several groups, whose nodes do not stand by level.
        """
        if not self.num_levels:
            return None
        src, dst, outputs = (tensor.cpu().numpy() for tensor in (self.src, self.dst, self.out_idx))
        rows, count = recycle_rows(src, dst, outputs, self.levels, self.num_nodes)
        row = torch.from_numpy(rows).to(self.src.device)
        return row, row.index_select(0, self.src), count

    def scale(self, response: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What a node's sum is multiplied by, (n,): its response, over a mean's fan-in. None where all are 1."""
        if self.inverse_fan_in is None:
            return response.contiguous() if len(response) else None
        inverse = self.inverse_fan_in.to(dtype)
        return response * inverse if len(response) else inverse


def recycle_rows(
    src: NDArray[np.int32], dst: NDArray[np.int32], outputs: NDArray[np.int64], levels: Sequence[int], num_nodes: int
) -> tuple[NDArray[np.int32], int]:
    """Give each node a row of its own for as long as somebody may read it.

    A row is free again in the level after that of its node's last reader, so that no level writes what it reads, in
    whatever order its nodes are taken. Rows of outputs stay.

    Args:
        src: (E,) sources.
        dst: (E,) targets.
        outputs: (O,) nodes.
        levels: (L + 1,) first node of levels 1 … L, and N; nodes before the first are inputs.
        num_nodes: N.

    Returns:
        (N,) the row of each node, inputs' their own numbers, and the number of rows.

    Example:
        A chain of five nodes needs two rows.

        >>> import numpy as np
        >>> recycle_rows(np.arange(4), np.arange(1, 5), np.array([4]), [1, 2, 3, 4, 5], 5)
        (array([0, 1, 0, 1, 0], dtype=int32), 2)
    """
    depth = len(levels) - 1
    level = np.zeros(num_nodes, np.int64)
    level[levels[0] :] = np.repeat(np.arange(1, depth + 1), np.diff(levels))
    last = level.copy()
    np.maximum.at(last, src, level[dst])
    last[outputs] = depth + 1
    by_last = np.argsort(last, kind="stable")
    ends = np.searchsorted(last[by_last], np.arange(depth + 2))
    rows = np.empty(num_nodes, np.int32)
    count = levels[0]
    rows[:count] = np.arange(count)
    free = np.empty(0, np.int32)
    for number in range(1, depth + 1):
        # Nodes last read in the level before, which are all in levels that have their rows by now.
        free = np.concatenate([free, rows[by_last[ends[number - 1] : ends[number]]]])
        start, stop = levels[number - 1], levels[number]
        reused = min(len(free), stop - start)
        rows[start : start + reused] = free[len(free) - reused :]
        free = free[: len(free) - reused]
        rows[start + reused : stop] = np.arange(count, count + stop - start - reused)
        count += stop - start - reused
    return rows, count


_known = WeakTensorKeyDictionary()
_lock = threading.Lock()


def facts_of(structure: Tensor) -> Facts:
    """The facts of a structure; found at its first use, which waits for the device, and kept while it lives.

    Args:
        structure: ``Topology.packed``.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 2), (1, 2)], num_inputs=2, outputs=[2], activations=1, aggregations=0)
        >>> facts = facts_of(topology.packed)
        >>> facts.num_inputs, facts.levels, facts.acts
        (2, (2, 3), 2)
    """
    version = -1 if structure.is_inference() else structure._version
    with _lock:
        found = _known.get(structure)
        if found is not None and found[0] == version:
            return found[1]
        facts = _read(unpack(structure))
        _known[structure] = (version, facts)
        return facts


def _read(structure: dict[str, Tensor]) -> Facts:
    agg_id, out_idx = structure["agg_id"], structure["out_idx"]
    aggs = _bits(agg_id)
    mean = 1 << _MEAN
    inverse = None
    if aggs & mean:
        fan_in = structure["ptr"].diff().clamp(min=1).double()
        inverse = torch.where(agg_id == _MEAN, 1 / fan_in, 1.0)
        aggs = aggs & ~mean | 1
    return Facts(
        **structure,  # type: ignore[arg-type]  # by their names
        acts=_bits(structure["act_id"]),
        aggs=aggs,
        inverse_fan_in=inverse,
        levels=tuple(structure["level_ptr"].tolist()),
        outputs_repeat=len(out_idx.unique()) < len(out_idx),
    )


def _bits(ids: Tensor) -> int:
    return sum(1 << number for number in ids.unique().tolist())
