"""Timelines of a plain Trainer, whose graphs are built once and kept while they fit: windows come again every epoch."""

from collections import OrderedDict
from collections.abc import Hashable

import torch
from torch import Tensor

from fulgurite.plugins.snapshot_parallel.residency import MARGIN, free_bytes
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike

_MOST = 1024
# Timelines without a name are only known again as the same tensors; where each comes once, few are kept for nothing.
_MOST_NAMELESS = 8


class KeptShards:
    """Gives timelines as shards of one process; of those used last it keeps what half of the memory holds.

    A timeline is one that was seen where options, device and content are the same: the same tensors or, under the same
    name, equal ones, as a worker process or a new epoch's slices bring them.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], num_nodes=3, degree_features=True)
        >>> kept = KeptShards()
        >>> shard = kept.get(timeline, torch.device("cpu"))
        >>> kept.get(timeline, torch.device("cpu")) is shard, kept.get(timeline.replace(window=2), "cpu") is shard
        (True, False)
    """

    def __init__(self) -> None:
        self._shards: OrderedDict[Hashable, Shard] = OrderedDict()

    def __len__(self) -> int:
        return len(self._shards)

    def get(self, timeline: TimelineLike, device: torch.device | str) -> Shard:
        """The whole timeline on a device."""
        device = torch.device(device)
        key = _key(timeline, device)
        known = self._shards.get(key)
        if known is None or not _equal(known.timeline, timeline):
            self._shards.pop(key, None)
            self._make_room(device)
            with torch.inference_mode(False):  # what is built while predicting may be trained on
                self._shards[key] = Shard.whole(timeline, device=device)
        self._shards.move_to_end(key)
        return self._shards[key]

    def clear(self) -> None:
        """Let go of all."""
        self._shards.clear()

    def _make_room(self, device: torch.device) -> None:
        """For one more, which is taken to be as large as the largest."""
        nameless = [key for key, shard in self._shards.items() if shard.timeline.name is None]
        for key in nameless[: max(0, len(nameless) - _MOST_NAMELESS + 1)]:
            del self._shards[key]
        sizes = {key: _nbytes(shard) for key, shard in self._shards.items()}
        total = int(MARGIN * (free_bytes(device) + sum(sizes.values())))
        while sizes and (len(sizes) >= _MOST or sum(sizes.values()) + max(sizes.values()) > total):
            oldest = next(iter(sizes))
            del self._shards[oldest], sizes[oldest]


def _key(timeline: TimelineLike, device: torch.device) -> Hashable:
    values = [getattr(timeline, name) for name in TimelineLike.__annotations__]
    tensors = [value for value in values if isinstance(value, Tensor)]
    options = [value for value in values if not isinstance(value, Tensor)]
    # A shard holds its timeline, so that no other tensor gets the number of one of its own.
    content = (
        id(tensor) if timeline.name is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in tensors
    )
    return (device, *options, *content)


def _equal(one: TimelineLike, other: TimelineLike) -> bool:
    """Whether two timelines of the same key have the same content; a name alone is not believed."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in TimelineLike.__annotations__)
    return all(a is b or not isinstance(a, Tensor) or torch.equal(a, b) for a, b in pairs)


def _nbytes(shard: Shard) -> int:
    return sum(getattr(source, "nbytes", 0) for source in {block.source for block in shard.blocks})
