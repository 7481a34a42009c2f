"""How strategies and models see a dynamic graph: a protocol, so that no class of ``data/`` is named."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from torch import Tensor


@runtime_checkable
class TimelineLike(Protocol):
    r"""A discrete-time dynamic graph as raw events, on the host; a batch of the snapshot-parallel strategy.

    Snapshot t's adjacency is the windowed sum of raw events :math:`A_t = \\sum_{k=0}^{w-1} E_{t-k}`, truncated at the
    timeline's first step; :math:`E_s[i, j]` counts the events i → j of step s. Symmetrised, :math:`(A + A^T) / 2`. A
    slice brings the steps before it that its windows need, as ``history``. It had better be no dataclass: Lightning's
    precision plugins would convert its tensors one by one, weights of edges among them.

    Attributes:
        num_snapshots: T, of this slice.
        num_nodes: N, the same at every step.
        first: the number of snapshot 0 on the whole timeline; 0 where nothing is cut off before it.
        history: H, how many steps before ``first`` come along in events (and in features that change over time).
        window: w ≥ 1, an event's life in snapshots ("edge life").
        union: a repeated event in a window counts once (values 0 and 1) instead of being summed.
        symmetrise: take :math:`(A + A^T) / 2`.
        m_window: w of the M-product of TM-GCN; 1 is none. Graphs *and* features are mixed over m_window snapshots.
        degree_features: put log(1 + in-degree) and log(1 + out-degree) of the step's distinct raw events before
            ``features``; made on the device.
        name: equal names mean equal content, so that what lies on the device already is used again; None: unknown.
        edge_index: (2, E) int32, source and target; distinct within a step, sorted by (step, source, target).
        edge_weight: (E,) int32 counts or float weights, or None where all are 1.
        offsets: (H + T + 1,) int64; the events of step s lie at ``offsets[s] : offsets[s + 1]``, s counted from the
            first step of the history.
        features: (N, F) the same at every step, or (H + T, N, F) floats, or None.
        target_index: (k, M): k = 1 vertices, k = 2 pairs of vertices; int64.
        target_label: (M,) int64 classes.
        target_offsets: (T + 1,) int64; the targets of snapshot t lie at ``target_offsets[t] : target_offsets[t + 1]``.
        scored: (T,) bool; whether a snapshot's targets count (a validation timeline brings its past along, unscored).
    """

    num_snapshots: int
    num_nodes: int
    first: int
    history: int
    window: int
    union: bool
    symmetrise: bool
    m_window: int
    degree_features: bool
    name: str | None
    edge_index: Tensor
    edge_weight: Tensor | None
    offsets: Tensor
    features: Tensor | None
    target_index: Tensor
    target_label: Tensor
    target_offsets: Tensor
    scored: Tensor

    def slice_time(self, start: int, stop: int) -> Self:
        """Snapshots [start, stop) of this slice, with the history that their windows (and M-products) need; no copy."""
        ...
