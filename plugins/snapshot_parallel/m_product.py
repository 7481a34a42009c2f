"""The M-product of TM-GCN: graphs and features averaged over the last snapshots, with no parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel import merge_compiled as compiled
from fulgurite.plugins.snapshot_parallel.events import Windows
from fulgurite.plugins.snapshot_parallel.merge import COLUMN, Steps, merge, merge_windows, row_offsets


def m_windows(
    lists: Windows,
    inv_sqrt_degree: Tensor,
    scale: float,
    *,
    window: int,
    first: int,
    count: int,
    force_tensors: bool = False,
) -> Windows:
    r"""Normalised graphs, mixed: :math:`\tilde A^M_t = \sum_k M_{t,t-k} \tilde A_{t-k}`, self-loops included.

    Args:
        lists: windowed sums of the ``count`` snapshots and of the min(first, w − 1) ones before them.
        inv_sqrt_degree: of the same snapshots, (t · N,) float64 (float32 on devices without).
        scale: of the lists' values.
        window: w of M: M[t, t−k] = 1 / min(t + 1, w) for 0 ≤ k < min(t + 1, w).
        first: the number of the first of the ``count`` snapshots on the whole timeline.
        count: how many snapshots come out.
        force_tensors: use on the CPU too what runs on a GPU, to compare them.

    Returns:
        The mixed graphs; values are float64 and need no degrees any more.
    """
    n, history = lists.num_nodes, lists.num_snapshots - count
    _enough(lists.num_snapshots, window=window, first=first, count=count)
    if not count:
        return Windows(n, lists.crow[:1], lists.col[:0], inv_sqrt_degree[:0])
    tensors = force_tensors or lists.col.device.type != "cpu"
    normal = (
        _with_loops_tensors(lists, inv_sqrt_degree, scale) if tensors else _with_loops(lists, inv_sqrt_degree, scale)
    )
    # Which entries a mixed snapshot has is a window's union again: of whole snapshots instead of steps of events.
    keys, offsets = normal.keys(), normal.offsets()
    steps = Steps(n, keys, torch.ones_like(keys)[None], None, offsets, "union")
    crow, col, _ = merge_windows(steps, window=window, emit=history, force_tensors=force_tensors)
    if tensors:
        return Windows(n, crow, col, _mix_tensors(Windows(n, crow, col, col), normal, window, first, history))
    value, total = np.empty(col.numel()), np.empty(n)
    given = (normal.crow.numpy(), normal.col.numpy(), normal.value.numpy())
    compiled.mix(*given, n, first, history, window, crow.numpy(), col.numpy(), value, total)
    return Windows(n, crow, col, torch.from_numpy(value))


def _with_loops(lists: Windows, inv_sqrt_degree: Tensor, scale: float) -> Windows:
    rows = lists.crow.numel() - 1
    bound = lists.col.numel() + rows
    crow = np.zeros(rows + 1, np.int32 if bound < 2**31 else np.int64)
    col, value = np.empty(bound, np.int32), np.empty(bound, np.float64)
    given = (lists.crow.numpy(), lists.col.numpy(), lists.value.numpy(), inv_sqrt_degree.numpy())
    found = compiled.with_loops(*given, scale, lists.num_nodes, crow, col, value)
    arrays = crow, col[:found], value[:found]
    return Windows(lists.num_nodes, *(torch.from_numpy(array) for array in arrays))


def _with_loops_tensors(lists: Windows, inv_sqrt_degree: Tensor, scale: float) -> Windows:
    n, keys, offsets = lists.num_nodes, lists.keys(), lists.offsets()
    node = torch.arange(n, device=keys.device)
    loops = node.bitwise_left_shift(32).bitwise_or_(node)
    nothing = keys[:0], keys[:0][None]
    columns, values, rows = [], [], []
    for step in range(lists.num_snapshots):
        part = slice(offsets[step], offsets[step + 1])
        d = inv_sqrt_degree[step * n : (step + 1) * n]
        one = torch.ones_like(keys[part])
        merged, _ = merge(keys[part], one[None], loops, torch.ones_like(loops)[None], *nothing)
        row, column = merged >> 32, merged.bitwise_and(COLUMN)
        value = torch.zeros(merged.numel(), dtype=inv_sqrt_degree.dtype, device=keys.device)
        value[torch.searchsorted(merged, keys[part])] = lists.value[part].to(value.dtype) * scale
        value[torch.searchsorted(merged, loops)] += 1.0
        columns.append(column.to(torch.int32))
        values.append(value * (d[row] * d[column]))
        rows.append(torch.bincount(row, minlength=n))
    col = torch.cat(columns)
    return Windows(n, row_offsets(torch.cat(rows), col.numel()), col, torch.cat(values))


def _mix_tensors(mixed: Windows, normal: Windows, window: int, first: int, history: int) -> Tensor:
    out_keys, out_offsets = mixed.keys(), mixed.offsets()
    keys, offsets = normal.keys(), normal.offsets()
    values = []
    for position in range(mixed.num_snapshots):
        reach = min(first + position + 1, window)
        here = out_keys[out_offsets[position] : out_offsets[position + 1]]
        total = torch.zeros(here.numel(), dtype=normal.value.dtype, device=keys.device)
        for step in range(position + history - reach + 1, position + history + 1):
            part = slice(offsets[step], offsets[step + 1])
            # A snapshot holds a key once, so that each place is written once and the sum's order is that of time.
            total[torch.searchsorted(here, keys[part])] += normal.value[part]
        values.append(total / reach)
    return torch.cat(values)


def m_features(features: Tensor, *, window: int, first: int, count: int) -> Tensor:
    r"""Features mixed over time: :math:`X^M_t = \sum_k M_{t,t-k} X_{t-k}`, M[t, t−k] = 1 / min(t + 1, w).

    Args:
        features: (h + count, N, F): the h ≥ min(first, w − 1) snapshots before, then the ``count`` ones.
        window: w; 1 changes nothing.
        first: the number of the first of the ``count`` snapshots on the whole timeline.
        count: how many snapshots come out.

    Returns:
        (count, N, F).

    Example:
        >>> import torch
        >>> m_features(torch.tensor([4.0, 2.0, 6.0]).view(3, 1, 1), window=2, first=0, count=3).flatten().tolist()
        [4.0, 3.0, 4.0]
    """
    history = features.shape[0] - count
    _enough(features.shape[0], window=window, first=first, count=count)
    total = torch.zeros_like(features[history:])
    for back in range(min(window, features.shape[0]) - 1, -1, -1):
        skipped = max(0, back - history)  # the first snapshots reach back less far
        total[skipped:] += features[history + skipped - back : history + count - back]
    reach = torch.arange(first + 1, first + count + 1, device=features.device).clamp_(max=window)
    return total.div_(reach.to(features.dtype)[:, None, None])


def _enough(given: int, *, window: int, first: int, count: int) -> None:
    reach = min(first, window - 1) if count else 0
    if given < count + reach:
        raise ValueError(
            f"got {given} snapshots for {count} from number {first} on; expected {reach} more before them; bring the "
            "history that M reaches"
        )
