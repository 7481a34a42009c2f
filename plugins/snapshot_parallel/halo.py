"""The frames before a rank's own, fetched from whoever keeps them; and when that moves less than redistributing."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.partitioning import Partition, Split
from fulgurite.plugins.snapshot_parallel.routes import Route


def kept_steps(split: Split, rank: int, width: int) -> list[int]:
    """Which of the ``width`` snapshots before a block a rank owned in earlier blocks, in time order."""
    first = split.start - width
    runs = (steps[rank] for steps in split.earlier)
    return [step for start, stop in runs if stop > first for step in range(max(start, first), stop)]


def wanted_steps(split: Split, rank: int, width: int) -> range:
    """The snapshots that a rank needs before its own; none for a rank without snapshots."""
    start, stop = split.steps[rank]
    return range(max(0, start - width), start) if stop > start else range(0)


def source_steps(split: Split, rank: int, width: int) -> list[int]:
    """The snapshots that others may ask a rank for: what it kept, and the last ones of its own run."""
    start, stop = split.steps[rank]
    return kept_steps(split, rank, width) + list(range(max(start, stop - width), stop))


class Halo(Route):
    """(source frames, *S) to (wanted frames, *S), from several owners where runs are short; backward adds.

    Args:
        split: the block.
        rank: my rank.
        width: how many frames before mine are wanted.
        trailing: S.
    """

    kind = "halo"

    def __init__(self, split: Split, rank: int, width: int, trailing: torch.Size) -> None:
        self.trailing = trailing
        source = source_steps(split, rank, width)
        place = {step: index for index, step in enumerate(source)}
        self.num_source = len(source)
        wanted = wanted_steps(split, rank, width)
        wanted_by = [wanted_steps(split, other, width) for other in range(split.ranks)]
        self.given = [[place[step] for step in steps if step in place] for steps in wanted_by]
        owners = [set(source_steps(split, other, width)) for other in range(split.ranks)]
        taken = [[index for index, step in enumerate(wanted) if step in owned] for owned in owners]
        self.taken = taken
        self.by_owner = [index for indices in taken for index in indices]
        self.in_time = sorted(range(len(self.by_owner)), key=self.by_owner.__getitem__)
        self.send_shapes = [torch.Size((len(indices), *trailing)) for indices in self.given]
        self.receive_shapes = [torch.Size((len(indices), *trailing)) for indices in taken]

    @override
    def parts(self, x: Tensor) -> list[Tensor]:
        return [_frames(x, indices) for indices in self.given]

    @override
    def join(self, parts: list[Tensor]) -> Tensor:
        return self._sorted(torch.cat(parts))

    @override
    def gradient_parts(self, gradient: Tensor) -> list[Tensor]:
        return [_frames(gradient, indices) for indices in self.taken]

    @override
    def join_gradient(self, parts: list[Tensor]) -> Tensor:
        gradient = parts[0].new_zeros(self.num_source, *self.trailing)
        # Rank by rank: a frame goes to a rank once, so that no two additions meet and the order of sums is fixed.
        for indices, part in zip(self.given, parts, strict=True):
            gradient[indices] += part
        return gradient

    @override
    def pack(self, x: Tensor) -> Tensor:
        return x[[index for indices in self.given for index in indices]].reshape(-1)

    @override
    def unpack(self, flat: Tensor) -> Tensor:
        return self._sorted(flat.view(len(self.by_owner), *self.trailing))

    @override
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        return gradient[self.by_owner].reshape(-1)

    @override
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        parts = zip(flat.split(self.send_sizes), self.send_shapes, strict=True)
        return self.join_gradient([part.view(shape) for part, shape in parts])

    def _sorted(self, frames: Tensor) -> Tensor:
        return frames if self.in_time == list(range(len(self.in_time))) else frames[self.in_time]


def _frames(x: Tensor, indices: list[int]) -> Tensor:
    """Some frames, as a view where they follow one another."""
    first = indices[0] if indices else 0
    run = indices == list(range(first, first + len(indices)))
    return x[first : first + len(indices)] if run else x[indices]


def halo_frames(split: Split, width: int) -> int:
    """How many frames of N vertices a halo moves between ranks in one block."""
    moved = 0
    for rank in range(split.ranks):
        own = set(kept_steps(split, rank, width))
        moved += sum(step not in own for step in wanted_steps(split, rank, width))
    return moved


def halo_moves_less(partition: Partition, width: int) -> bool:
    """Whether fetching the frames before one's own moves no more bytes than redistributing to vertices and back.

    Both are counted exactly, over all ranks and blocks, for one temporal operation that keeps the number of features;
    backward moves the same again in either. One answer holds for the whole timeline, since what is carried from block
    to block depends on it.

    Args:
        partition: who owns what.
        width: how many frames before its own a snapshot needs; w - 1 for a window of w.

    Example:
        >>> from fulgurite.plugins.snapshot_parallel.partitioning import partition
        >>> halo_moves_less(partition([1] * 40, 10, ranks=8), width=4)
        True
        >>> halo_moves_less(partition([1] * 40, 10, ranks=8), width=30)
        False
    """
    question = f"halo_moves_less({width})"
    if question in partition.known:
        return partition.known[question]
    nodes = partition.num_nodes
    halo = nodes * sum(halo_frames(split, width) for split in partition.blocks)
    redistributed = sum(
        split.bytes_to_vertices(rank, 1, 1) + split.bytes_to_snapshots(rank, 1, 1)
        for split in partition.blocks
        for rank in range(split.ranks)
    )
    return partition.known.setdefault(question, halo <= redistributed)
