"""Sliding windows over sorted lists of keys: add a step's list, take the expired one away, never sort a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel import merge_compiled as compiled

Form = Literal["count", "sum", "union", "directions", "float"]
"""What an entry's value is: occurrences, the sum of whole weights, 1, how many of the two directions there are, or the
sum of float weights."""

COLUMN = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Steps:
    """Raw events of consecutive steps as sorted lists of keys, with what each adds to its key.

    Attributes:
        num_nodes: N.
        keys: (E,) int64, row · 2³² + column, ascending and distinct within a step (symmetrised: both directions).
        amounts: (C, E) int64. Row 0 counts occurrences: a key is in the window while their sum is positive. Row 1,
            where there is one: the sum of weights, or (union, symmetrised) the occurrences in the event's direction.
        weight: (E,) floats, or None. Their windowed sums are not updated by subtracting, which drifts, but added anew.
        offsets: where each step's keys begin, and the end of the last.
        form: what an entry's value is.
    """

    num_nodes: int
    keys: Tensor
    amounts: Tensor
    weight: Tensor | None
    offsets: list[int]
    form: Form

    @classmethod
    def of(
        cls,
        source: Tensor,
        target: Tensor,
        weight: Tensor | None,
        offsets: list[int],
        *,
        num_nodes: int,
        symmetrise: bool,
        union: bool,
    ) -> Steps:
        """Steps of events that are sorted by (step, source, target) and distinct within a step."""
        weight = None if union else weight
        real = weight if weight is not None and weight.is_floating_point() else None
        form: Form = "union" if union else "count" if weight is None else "sum" if real is None else "float"
        if symmetrise:
            form = "directions" if union else form
            make = _both_compiled if source.device.type == "cpu" else _both_sorted
            keys, amounts, real, offsets = make(source, target, weight, offsets, num_nodes, form)
            return cls(num_nodes, keys, amounts, real, offsets, form)
        keys = source.long().bitwise_left_shift_(32).bitwise_or_(target)
        ones = torch.ones_like(keys)
        amounts = torch.stack((ones, weight.long())) if form == "sum" and weight is not None else ones[None]
        return cls(num_nodes, keys, amounts, real, offsets, form)


_Lists = tuple[Tensor, Tensor, Tensor | None, list[int]]


def _both_compiled(
    source: Tensor, target: Tensor, weight: Tensor | None, offsets: list[int], num_nodes: int, form: Form
) -> _Lists:
    second = {"directions": 1, "sum": 2, "float": 2}.get(form, 0)
    kind = np.float64 if form == "float" else np.int64
    keys = np.empty(2 * source.numel(), np.int64)
    amounts = np.zeros((2 if second else 1, keys.size), kind)
    ends = np.zeros(len(offsets), np.int64)
    given = np.zeros(1, kind) if weight is None else weight.numpy().astype(kind, copy=False)
    bounds = np.asarray(offsets, dtype=np.int64)
    found = compiled.both_directions(
        source.numpy(), target.numpy(), given, bounds, num_nodes, keys, amounts, second, ends
    )
    real = None
    if form == "float" and weight is not None:
        # Two terms at most: float64 rounded to float32 is the sum in float32.
        real = torch.from_numpy(amounts[1, :found]).to(weight.dtype)
        amounts = amounts[:1, :found].astype(np.int64)
    return torch.from_numpy(keys[:found]), torch.from_numpy(amounts[:, :found]), real, ends.tolist()


def _both_sorted(
    source: Tensor, target: Tensor, weight: Tensor | None, offsets: list[int], num_nodes: int, form: Form
) -> _Lists:
    lengths = torch.tensor(offsets).diff().to(source.device)
    step = torch.arange(len(offsets) - 1, device=source.device).repeat_interleave(lengths, output_size=source.numel())
    ends = torch.cat((source, target)).long(), torch.cat((target, source)).long()
    keys, step = ends[0].bitwise_left_shift(32).bitwise_or_(ends[1]), torch.cat((step, step))
    order = torch.argsort(keys, stable=True)
    order = order[torch.argsort(step[order], stable=True)]
    keys, step = keys[order], step[order]
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = (keys[1:] != keys[:-1]) | (step[1:] != step[:-1])
    group = first.cumsum(0) - 1
    rows = [torch.ones_like(keys)]
    if form == "directions":
        rows.append((order < source.numel()).long())
    elif form == "sum" and weight is not None:
        rows.append(torch.cat((weight, weight)).long()[order])
    merged = keys[first]
    amounts = torch.zeros(len(rows), merged.numel(), dtype=torch.int64, device=keys.device)
    amounts.index_add_(1, group, torch.stack(rows))
    real = None
    if form == "float" and weight is not None:
        real = torch.zeros(merged.numel(), dtype=weight.dtype, device=keys.device)
        real.index_add_(0, group, torch.cat((weight, weight))[order])  # two terms at most: the order cannot matter
    counts = torch.bincount(step[first], minlength=len(offsets) - 1)
    return merged, amounts, real, [0, *counts.cumsum(0).tolist()]


def merge_windows(
    steps: Steps, *, window: int, emit: int, force_tensors: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """CSR (crow, col, value) of the windowed sums of the steps from ``emit`` on, block-diagonal.

    Args:
        steps: events, those that fill the first window before the others.
        window: how many steps an event lives.
        emit: how many steps come before the first window that is wanted.
        force_tensors: use on the CPU too what runs on a GPU (five times slower there: 1.9 ms against 0.3 ms for a
            window of 15,000 edges), to compare them.
    """
    if steps.keys.device.type == "cpu" and not force_tensors:
        crow, col, value = (
            torch.from_numpy(array)
            for array in compiled.slide(
                steps.keys.numpy(),
                steps.amounts.numpy(),
                steps.offsets,
                window=window,
                emit=emit,
                num_nodes=steps.num_nodes,
                form=steps.form,
            )
        )
        if steps.weight is not None:
            value = _sums_of_csr(steps, crow, col, window, emit)
        return crow, col, value
    n = steps.num_nodes
    keys, amounts = steps.keys[:0], steps.amounts[:, :0]
    columns, values, rows = [keys.int()], [_values(steps, keys, amounts, 0, 0)], [torch.zeros_like(keys)]
    for step in range(len(steps.offsets) - 1):
        add = slice(steps.offsets[step], steps.offsets[step + 1])
        gone = slice(0, 0)
        if step >= window:
            gone = slice(steps.offsets[step - window], steps.offsets[step - window + 1])
        new, old = (steps.keys[add], steps.amounts[:, add]), (steps.keys[gone], steps.amounts[:, gone])
        keys, amounts = merge(keys, amounts, *new, *old)
        if step >= emit:
            columns.append(keys.bitwise_and(COLUMN).to(torch.int32))
            rows.append(torch.bincount(keys >> 32, minlength=n))
            values.append(_values(steps, keys, amounts, max(0, step - window + 1), step + 1))
    col, value = torch.cat(columns), torch.cat(values)
    return row_offsets(torch.cat(rows), col.numel()), col, value


def row_offsets(counts: Tensor, nnz: int) -> Tensor:
    """CSR's row pointer from the entries of each row: int32 as long as that is enough."""
    crow = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=crow[1:])
    return crow.to(torch.int32) if nnz < 2**31 else crow


def merge(
    keys: Tensor, amounts: Tensor, new_keys: Tensor, new_amounts: Tensor, gone_keys: Tensor, gone_amounts: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the window: what is gone is subtracted, what is new added, and keys that nothing holds leave.

    Args:
        keys: (n,) int64, ascending.
        amounts: (C, n) integers; row 0 > 0.
        new_keys: (a,) ascending.
        new_amounts: (C, a).
        gone_keys: (r,) ascending, each among ``keys`` or ``new_keys``.
        gone_amounts: (C, r).

    Returns:
        The new ascending keys and their amounts; the arguments stay as they are.

    Example:
        >>> import torch
        >>> keys, new, gone = torch.tensor([1, 4, 6]), torch.tensor([2, 4]), torch.tensor([1, 6])
        >>> one = lambda keys: torch.ones(1, len(keys), dtype=torch.int64)
        >>> [tensor.tolist() for tensor in merge(keys, one(keys), new, one(new), gone, one(gone))]
        [[2, 4], [[1, 2]]]
    """
    place = torch.searchsorted(keys, new_keys)
    # A sentinel in front of the comparison: a place after the last key holds no key.
    known = torch.cat((keys, keys.new_full((1,), -1)))[place] == new_keys
    fresh = ~known
    place = place[fresh] + torch.arange(int(fresh.sum()), device=keys.device)
    total = keys.numel() + place.numel()
    old = torch.ones(total, dtype=torch.bool, device=keys.device)
    old[place] = False
    merged, sums = keys.new_empty(total), amounts.new_empty(amounts.shape[0], total)
    merged[place], merged[old] = new_keys[fresh], keys
    sums[:, place], sums[:, old] = new_amounts[:, fresh], amounts
    # Keys are distinct within a step, so that each place is written once.
    sums[:, torch.searchsorted(merged, new_keys[known])] += new_amounts[:, known]
    if not gone_keys.numel():
        return merged, sums
    sums[:, torch.searchsorted(merged, gone_keys)] -= gone_amounts
    keep = sums[0] > 0
    return merged[keep], sums[:, keep]


def _values(steps: Steps, keys: Tensor, amounts: Tensor, first: int, last: int) -> Tensor:
    if steps.form == "count":
        return amounts[0].to(torch.int32)
    if steps.form == "sum":
        return amounts[1].to(torch.int32)
    if steps.form == "union":
        return torch.ones_like(keys, dtype=torch.int32)
    if steps.form == "directions":
        return (amounts[1] > 0).int() + (amounts[0] > amounts[1]).int()
    return _float_sums(steps, keys, first, last)


def _float_sums(steps: Steps, keys: Tensor, first: int, last: int) -> Tensor:
    assert steps.weight is not None
    total = torch.zeros(keys.numel(), dtype=steps.weight.dtype, device=keys.device)
    begin, end = steps.offsets[first], steps.offsets[last]
    place = torch.searchsorted(keys, steps.keys[begin:end])
    # One step after another: within a step each place is written once, so that the sum's order is that of time.
    for step in range(first, last):
        part = slice(steps.offsets[step] - begin, steps.offsets[step + 1] - begin)
        total[place[part]] += steps.weight[steps.offsets[step] : steps.offsets[step + 1]]
    return total


def _sums_of_csr(steps: Steps, crow: Tensor, col: Tensor, window: int, emit: int) -> Tensor:
    assert steps.weight is not None
    weight, bounds = steps.weight.numpy(), np.asarray(steps.offsets, dtype=np.int64)
    value, total = np.empty(col.numel(), weight.dtype), np.empty(steps.num_nodes, weight.dtype)
    compiled.float_sums(
        steps.keys.numpy(), weight, bounds, window, emit, steps.num_nodes, crow.numpy(), col.numpy(), value, total
    )
    return torch.from_numpy(value)
