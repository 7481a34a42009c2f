"""What a timeline's events have to be like before compiled loops, which look at no bounds, walk along them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

_MOST = 2**31 - 1


def check_events(timeline: TimelineLike, first: int = 0, last: int | None = None) -> None:
    """Look at every event of some steps.

    Args:
        timeline: the events.
        first: the first step, counted from the start of the timeline's history.
        last: the one after the last; None: to the end.

    Raises:
        ValueError: a vertex that is none of the N; events of a step out of order, or twice; weights of another type
            than int32 or floats, that are not finite, or whose sums over a window exceed int32.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> check_events(Timeline.from_events([0, 1], [1, 2], [0, 1]).replace(num_nodes=2))
        Traceback (most recent call last):
        ValueError: got vertex 2 in step 1; expected 0 … 1, num_nodes is 2
    """
    bounds = timeline.offsets[first : None if last is None else last + 1]
    part = slice(int(bounds[0]), int(bounds[-1]))
    index, weight = timeline.edge_index[:, part], timeline.edge_weight
    if index.numel():
        _check_ends(index, bounds - bounds[0], timeline.num_nodes, first - timeline.history + timeline.first)
    if weight is not None:
        _check_weights(timeline, weight[part], bounds - bounds[0], index)


def _check_ends(index: Tensor, bounds: Tensor, num_nodes: int, shift: int) -> None:
    def step_of(place: int) -> int:
        return int(torch.searchsorted(bounds, place, right=True)) - 1 + shift

    least, most = (int(end) for end in index.aminmax())
    if least < 0 or most >= num_nodes:
        place = int(((index < 0) | (index >= num_nodes)).any(0).nonzero()[0])
        wrong = next(int(vertex) for vertex in index[:, place] if not 0 <= vertex < num_nodes)
        raise ValueError(
            f"got vertex {wrong} in step {step_of(place)}; expected 0 … {num_nodes - 1}, num_nodes is {num_nodes}"
        )
    keys = index[0].long().bitwise_left_shift_(32).bitwise_or_(index[1])
    falling = keys[1:] <= keys[:-1]
    starts = bounds[(bounds > 0) & (bounds < len(keys))].to(keys.device)
    falling[starts - 1] = False  # from one step to the next
    if bool(falling.any()):
        place = int(falling.nonzero()[0]) + 1
        raise ValueError(
            f"got the event {index[0, place]} → {index[1, place]} of step {step_of(place)} out of order, or twice; "
            "expected each once in a step, sorted by source and target; Timeline.from_events sorts and sums"
        )


def _check_weights(timeline: TimelineLike, weight: Tensor, bounds: Tensor, index: Tensor) -> None:
    if weight.is_floating_point():
        if not bool(torch.isfinite(weight).all()):
            place = int((~torch.isfinite(weight)).nonzero()[0])
            raise ValueError(f"got the weight {weight[place]} of an edge; expected finite ones; leave such events out")
        return
    if weight.dtype != torch.int32:
        raise ValueError(f"got edge_weight of {weight.dtype}; expected int32 counts, or floats")
    if timeline.union or not len(weight):
        return
    size = weight.cpu().long().abs().numpy()
    ends, steps = np.concatenate(([0], np.cumsum(size)))[bounds.cpu().numpy()], len(bounds) - 1
    since = np.maximum(np.arange(1, steps + 1) - timeline.window, 0)
    if 2 * int((ends[1:] - ends[since]).max()) <= _MOST:
        return  # not even all weights of a window together
    # Else each pair by itself: the sum over the window that ends with each of its events.
    source, target = index.cpu().long().numpy()
    keys, step = (source << 32) | target, np.repeat(np.arange(steps), bounds.diff().cpu().numpy())
    if timeline.symmetrise:
        keys, step, size = np.concatenate((keys, (target << 32) | source)), np.tile(step, 2), np.tile(size, 2)
    order = np.lexsort((step, keys))
    keys, step, size = keys[order], step[order], size[order]
    pair = np.cumsum(np.diff(keys, prepend=keys[0]) != 0) * steps
    low = np.searchsorted(pair + step, pair + np.maximum(step - timeline.window + 1, 0))
    last = np.searchsorted(pair + step, pair + step, side="right")
    sums = np.concatenate(([0], np.cumsum(size)))
    most = int((sums[last] - sums[low]).max())
    if most > _MOST:
        raise ValueError(
            f"got weights that sum to {most} over a window; expected at most {_MOST}, which int32 holds; give them as "
            "floats: edge_weight.double()"
        )
