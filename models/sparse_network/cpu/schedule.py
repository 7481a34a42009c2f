"""What the CPU kernels need to know of a topology beside its tensors; found once for each."""

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.models.sparse_network.cpu.activations import FAMILIES, KNOBS, NEEDS_INPUT
from fulgurite.models.sparse_network.cpu.aggregations import KINDS, MEAN
from fulgurite.models.sparse_network.cpu.slots import assign_slots, group_spans
from fulgurite.models.sparse_network.structure import unpack

# Columns of Schedule.steps.
FIRST, LAST, SLOT, FAMILY, KIND, FLAGS = range(6)
# Bits of the column FLAGS; the activation's id stands above CODE bits.
FROM_INPUT, SEEDED, CODE = 1, 2, 8


@dataclass(frozen=True, eq=False)
class Schedule:
    """A topology of N nodes (F inputs, n = N − F computed), E edges and O outputs as the CPU walks through it.

    Nodes are computed in the topology's order: edges and weights then lie in memory as they are read, which for a large
    network counts for more than that nodes with the same sources follow one another. Where V is kept for the backward
    pass, a node's row has its number. Where it is not, its row is a *slot*, which another node takes over after the
    last one that reads it, so that the rows in use stay in the cache.

    Args:
        num_inputs: F.
        num_nodes: N.
        num_edges: E.
        num_outputs: O.
        num_groups: G.
        steps: (n, 6) int64, a row a computed node: its first and last edge, slot, family of its activation, kind of its
            aggregation, and flags: bit 0, φ′ is of the input; bit 1, its gradient's row begins as something else than
            0; above ``CODE`` bits, the activation's id.
        bounds: (G + 1,) int64 computed nodes of each group.
        rows: (E,) int32 source of each edge, in edge order.
        slot_rows: (E,) int32 its slot.
        slots: (F,) int32 slot of each input.
        num_slots: rows that inference needs.
        spans: (F, 2) int32 the first group that reads an input, and one more than the last.
        out_bounds: (G + 1,) int64 entries of the next arrays that belong to each group; an input that is an output
            belongs to group 0 and stands before its others.
        out_columns: (O,) int32 the output's number.
        out_rows: (O,) int32 its node.
        out_slots: (O,) int32 slot of its node.
        input_outputs: how many outputs are inputs.
        pull_bounds: (N + 1,) int64 out-edges of each node that end in a node that adds up its messages.
        pull_rows: (P,) int32 their targets.
        pull_edges: (P,) int32 their numbers in edge order.
        work: (n + 1,) int64 number of edges before each computed node.
        nonlinear: (M,) int64 computed nodes that aggregate otherwise.
        longest: most in-edges of any of those.
        means: whether a node takes the mean.
        knobs: the numbers p, q of every activation by type, (activations, 2).
    """

    num_inputs: int
    num_nodes: int
    num_edges: int
    num_outputs: int
    num_groups: int
    steps: NDArray[np.int64]
    bounds: NDArray[np.int64]
    rows: NDArray[np.int32]
    slot_rows: NDArray[np.int32]
    slots: NDArray[np.int32]
    num_slots: int
    spans: NDArray[np.int32]
    out_bounds: NDArray[np.int64]
    out_columns: NDArray[np.int32]
    out_rows: NDArray[np.int32]
    out_slots: NDArray[np.int32]
    input_outputs: int
    pull_bounds: NDArray[np.int64]
    pull_rows: NDArray[np.int32]
    pull_edges: NDArray[np.int32]
    work: NDArray[np.int64]
    nonlinear: NDArray[np.int64]
    longest: int
    means: bool
    knobs: dict[np.dtype, NDArray[np.floating]]


def make_schedule(structure: Tensor) -> Schedule:
    """The schedule of a topology, given as its ``packed``, on the CPU."""
    ptr, src, dst, optr, odst, oeid, act_id, agg_id, out_idx, group_ptr, _ = (
        tensor.numpy() for tensor in unpack(structure).values()
    )
    num_nodes, computed = len(optr) - 1, len(ptr) - 1
    inputs = num_nodes - computed
    bounds = group_ptr - inputs
    groups = len(bounds) - 1

    is_output = np.zeros(num_nodes, np.uint8)
    is_output[out_idx] = 1
    slots, num_slots = assign_slots(ptr, src, bounds, is_output, inputs)

    kind, act = KINDS[agg_id], act_id.astype(np.int64)
    # Nodes that do not add up push their gradient to their sources, whose rows must have begun by then.
    pushes = kind > MEAN
    seeded = is_output.copy()
    pull_bounds, pull_rows, pull_edges = optr, odst, oeid
    if pushes.any():
        seeded[src[pushes[dst - inputs]]] = 1
        pulled = ~pushes[odst - inputs]
        pull_rows, pull_edges = odst[pulled], oeid[pulled]
        pull_bounds = np.concatenate([[0], np.cumsum(pulled)])[optr]
    flags = NEEDS_INPUT[act] * FROM_INPUT + seeded[inputs:].astype(np.int64) * SEEDED + (act << CODE)
    steps = np.stack([ptr[:-1], ptr[1:], slots[inputs:], FAMILIES[act], kind, flags], axis=1).astype(np.int64)

    out_group = np.searchsorted(group_ptr, out_idx, side="right") - 1
    out_group[out_idx < inputs] = -1
    out_columns = np.argsort(out_group, kind="stable")
    out_nodes = out_idx[out_columns]
    out_bounds = np.searchsorted(out_group[out_columns], np.arange(groups + 1))
    out_bounds[0] = 0
    return Schedule(
        num_inputs=inputs,
        num_nodes=num_nodes,
        num_edges=len(src),
        num_outputs=len(out_idx),
        num_groups=groups,
        steps=steps,
        bounds=bounds,
        rows=src,
        slot_rows=slots[src],
        slots=slots[:inputs].copy(),
        num_slots=num_slots,
        spans=group_spans(ptr, src, bounds, is_output, inputs),
        out_bounds=out_bounds,
        out_columns=out_columns.astype(np.int32),
        out_rows=out_nodes.astype(np.int32),
        out_slots=slots[out_nodes],
        input_outputs=int((out_idx < inputs).sum()),
        pull_bounds=pull_bounds,
        pull_rows=pull_rows,
        pull_edges=pull_edges,
        work=ptr,
        nonlinear=np.flatnonzero(pushes),
        longest=int(np.diff(ptr)[pushes].max(initial=0)),
        means=bool((kind == MEAN).any()),
        knobs={np.dtype(real): KNOBS.astype(real) for real in (np.float32, np.float64)},
    )


_cache: dict[int, tuple[weakref.ref[Tensor], int, Schedule]] = {}


def schedule_of(structure: Tensor) -> Schedule:
    """The schedule of a topology, made at the first call and kept as long as its ``packed`` lives."""
    key = id(structure)
    # How often it was written to, which tensors of inference mode do not count.
    version = 0 if structure.is_inference() else structure._version
    entry = _cache.get(key)
    if entry is not None and entry[0]() is structure and entry[1] == version:
        return entry[2]
    schedule = make_schedule(structure)
    _cache[key] = (weakref.ref(structure, lambda owner: _drop(key, owner)), version, schedule)
    return schedule


def _drop(key: int, owner: "weakref.ref[Tensor]") -> None:
    # Another tensor may have been given the number, and its own entry, before this one is told of.
    if key in _cache and _cache[key][0] is owner:
        del _cache[key]
