"""The graphs of a run of snapshots as one block-diagonal CSR matrix: integer counts and a vector of degrees."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel import merge_compiled as compiled
from fulgurite.plugins.snapshot_parallel.events import Windows, windows
from fulgurite.plugins.snapshot_parallel.m_product import m_windows
from fulgurite.plugins.snapshot_parallel.merge import row_offsets
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class SnapshotGraphs:
    r"""t snapshots over N vertices, ready for :math:`\tilde A_t X_t` by one product for all of them.

    :math:`\tilde A_t = D_t^{-1/2} (A_t + I) D_t^{-1/2}` is never stored: with :math:`d = D^{-1/2}` as a vector
    :math:`\tilde A X = d \circ (A (d \circ X) + d \circ X)`, so that only counts and d are kept; on sparse steps the
    identity would outweigh the edges. An M-product (TM-GCN) is no such product: it is stored normalised, self-loops
    included, and has no ``inv_sqrt_degree``.

    Attributes:
        num_snapshots: t.
        num_nodes: N.
        crow: (t · N + 1,) int32 (int64 from 2³¹ entries on); the entries of vertex i in snapshot s lie at
            ``crow[s * N + i] : crow[s * N + i + 1]``.
        col: (nnz,) int32, the column *within* its snapshot, ascending in a row.
        value: (nnz,) int32 counts, or float weights, or floats of an M-product. Where symmetrised :math:`A + A^T`.
        scale: what values are to be multiplied by: 0.5 where symmetrised, else 1.
        symmetric: every snapshot equals its transpose.
        inv_sqrt_degree: (t · N,) float64 (float32 on devices without), with D = scale · row sums + 1; None: values
            are normalised already.

    Example:
        >>> import torch
        >>> graphs = SnapshotGraphs(
        ...     num_snapshots=1, num_nodes=2, crow=torch.tensor([0, 1, 1], dtype=torch.int32),
        ...     col=torch.tensor([1], dtype=torch.int32), value=torch.tensor([3], dtype=torch.int32),
        ...     inv_sqrt_degree=torch.tensor([0.5, 1.0], dtype=torch.float64))
        >>> graphs.dense().tolist()
        [[[0.25, 1.5], [0.0, 1.0]]]
    """

    num_snapshots: int
    num_nodes: int
    crow: Tensor
    col: Tensor
    value: Tensor
    scale: float = 1.0
    symmetric: bool = False
    inv_sqrt_degree: Tensor | None = None
    _cache: dict[Hashable, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def nnz(self) -> int:
        """Stored entries over all snapshots, the identity of the normalisation not among them."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        """Where the graphs lie."""
        return self.col.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, those of a transpose that was asked for included."""
        tensors = [self.crow, self.col, self.value]
        if self.inv_sqrt_degree is not None:
            tensors.append(self.inv_sqrt_degree)
        own = sum(tensor.nbytes for tensor in tensors)
        turned = self._cache.get("transposed")
        if isinstance(turned, SnapshotGraphs):
            own += turned.crow.nbytes + turned.col.nbytes + turned.value.nbytes
        return own

    def edge_list(self) -> tuple[Tensor, Tensor, Tensor]:
        """Flat row and column, both in 0 … t · N − 1 (int64), and the value of every entry, in order of rows."""
        row = self._flat_rows()
        return row, row.sub(row % self.num_nodes).add_(self.col), self.value

    def transposed(self) -> SnapshotGraphs:
        """Every snapshot transposed, with the same degrees: what the backward pass multiplies by; kept once made."""
        if self.symmetric:
            return self
        original = self._cache.get("original")
        if isinstance(original, weakref.ref) and (found := original()) is not None:
            return found
        made = self._cache.get("transposed")
        if not isinstance(made, SnapshotGraphs):
            # A weak reference: two graphs that hold each other would wait for the garbage collector.
            back: dict[Hashable, object] = {"original": weakref.ref(self)}
            crow, col, value = self._turned()
            made = replace(self, crow=crow, col=col, value=value, _cache=back)
            self._cache["transposed"] = made
        return made

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make()`` gives of these graphs alone, such as another layout; made once, kept as long as they are."""
        if key not in self._cache:
            self._cache[key] = _made(make)
        return cast("Made", self._cache[key])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SnapshotGraphs:
        """The same graphs on another device (itself where they lie there already)."""
        if torch.device(device) == self.device:
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        degree = None if self.inv_sqrt_degree is None else move(self.inv_sqrt_degree)
        crow, col, value = move(self.crow), move(self.col), move(self.value)
        return replace(self, crow=crow, col=col, value=value, inv_sqrt_degree=degree, _cache={})

    def unnormalised_dense(self) -> Tensor:
        """(t, N, N) float64: scale · value, without the identity. For tests and small graphs."""
        t, n = self.num_snapshots, self.num_nodes
        dense = torch.zeros(t * n, n, dtype=torch.float64, device=self.device)
        dense[self._flat_rows(), self.col.long()] = self.value.double() * self.scale
        return dense.view(t, n, n)

    def dense(self) -> Tensor:
        """(t, N, N) float64: the normalised adjacency with self-loops. For tests and small graphs."""
        dense = self.unnormalised_dense()
        if self.inv_sqrt_degree is None:
            return dense
        d = self.inv_sqrt_degree.view(self.num_snapshots, self.num_nodes)
        identity = torch.eye(self.num_nodes, dtype=torch.float64, device=self.device)
        return d[:, :, None] * (dense + identity) * d[:, None, :]

    def _turned(self) -> tuple[Tensor, Tensor, Tensor]:
        n = self.num_nodes
        if self.device.type == "cpu":
            crow, col, value = torch.zeros_like(self.crow), torch.empty_like(self.col), torch.empty_like(self.value)
            to = crow.numpy(), col.numpy(), value.numpy()
            compiled.transpose(self.crow.numpy(), self.col.numpy(), self.value.numpy(), n, *to)
            return crow, col, value
        row, column, value = self.edge_list()
        # Entries are in order of rows, so that a stable sort by column leaves them in order of (column, row).
        order = torch.argsort(column, stable=True)
        counts = torch.bincount(column, minlength=self.num_snapshots * n)
        return row_offsets(counts, self.nnz), (row[order] % n).to(self.col.dtype), value[order]

    def _flat_rows(self) -> Tensor:
        rows = torch.arange(self.num_snapshots * self.num_nodes, device=self.device)
        return torch.repeat_interleave(rows, self.crow.diff().long(), output_size=self.nnz)


@torch.compiler.disable
def _made(make: Callable[[], Made]) -> Made:
    # Kept for training too, which tensors of inference mode cannot be.
    with torch.inference_mode(False), torch.no_grad():
        return make()


def build(
    timeline: TimelineLike,
    start: int,
    stop: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float64,
) -> SnapshotGraphs:
    r"""The graphs of snapshots [start, stop) of a timeline, from its raw events.

    :math:`A_t = \sum_{k<w} E_{t-k}` as integer counts by merging sorted lists (a union where the timeline says so),
    symmetrised where asked for; degrees; and with ``m_window`` > 1 the M-product :math:`\sum_k M_{t,t-k}
    \tilde A_{t-k}`, :math:`M_{t,t-k} = 1 / \min(t + 1, w)`, t counted from the whole timeline's start.

    Args:
        timeline: events on the host.
        start: the first snapshot, in the timeline's numbering (0 is its first one after the history).
        stop: the snapshot after the last; ``start == stop`` gives graphs of no snapshot.
        device: where to build; only the events travel there. None: where the events lie.
        dtype: of an M-product's values; the sums are float64 in any case.

    Raises:
        ValueError: if the run is no part of the timeline, the history is too short for the windows, or signed weights
            leave a vertex without a positive degree.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0, 0, 1], [1, 1, 0], [0, 1, 1], window=2)
        >>> graphs = build(timeline, 0, 2)
        >>> graphs.unnormalised_dense().tolist()
        [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 2.0], [1.0, 0.0]]]
    """
    return from_windows(windows(timeline, start, stop, device=device), timeline, start, stop, dtype=dtype)


def from_windows(
    lists: Windows, timeline: TimelineLike, start: int, stop: int, *, dtype: torch.dtype = torch.float64
) -> SnapshotGraphs:
    """Graphs [start, stop) from windowed lists that begin up to ``m_window`` − 1 snapshots earlier."""
    scale = 0.5 if timeline.symmetrise else 1.0
    inv_sqrt_degree = lists.inv_sqrt_degree(scale, first=timeline.first + stop - lists.num_snapshots)
    if timeline.m_window > 1:
        lists = m_windows(
            lists, inv_sqrt_degree, scale, window=timeline.m_window, first=timeline.first + start, count=stop - start
        )
        lists = replace(lists, value=lists.value.to(dtype))
        scale = 1.0
    return SnapshotGraphs(
        num_snapshots=stop - start,
        num_nodes=timeline.num_nodes,
        crow=lists.crow,
        col=lists.col,
        value=lists.value,
        scale=scale,
        symmetric=timeline.symmetrise,
        inv_sqrt_degree=inv_sqrt_degree if timeline.m_window == 1 else None,
    )
