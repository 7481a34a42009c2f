"""What one collective sends where: the ways from snapshot shards to vertex shards and back, and to every rank."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.partitioning import Split


class Route(ABC):
    """One all-to-all and its backward, as flat buffers with a part for every rank, in rank order.

    Forward packs the input, sends, and unpacks what came; backward packs the output's gradient, sends with the sizes
    swapped, and unpacks (adds up) what came.

    Attributes:
        kind: the name that its bytes are counted under.
        send_sizes: elements for each rank.
        receive_sizes: elements from each rank.
    """

    kind: str
    send_sizes: list[int]
    receive_sizes: list[int]

    @abstractmethod
    def pack(self, x: Tensor) -> Tensor:
        """The input as a flat buffer, by destination."""

    @abstractmethod
    def unpack(self, flat: Tensor) -> Tensor:
        """The output from a flat buffer, by sender."""

    @abstractmethod
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        """The output's gradient as a flat buffer, by the rank that the values came from."""

    @abstractmethod
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        """The input's gradient from a flat buffer, by the rank that the values went to."""


class ToVertices(Route):
    """(t_p, N, *S) to (T_b, n_p, *S): every rank gets its vertices of my snapshots."""

    kind = "to_vertices"

    def __init__(self, split: Split, rank: int, trailing: torch.Size) -> None:
        self.vertices, self.trailing = split.vertices, trailing
        row = math.prod(trailing)
        self.own_steps, self.own_vertices = split.steps_each[rank], split.vertices_each[rank]
        self.num_steps = split.num_steps
        self.send_sizes = [self.own_steps * count * row for count in split.vertices_each]
        self.receive_sizes = [count * self.own_vertices * row for count in split.steps_each]

    @override
    def pack(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, start:stop].reshape(-1) for start, stop in self.vertices])

    @override
    def unpack(self, flat: Tensor) -> Tensor:
        # Runs of snapshots are contiguous and in rank order, so what came from the ranks lies in time order already.
        return flat.view(self.num_steps, self.own_vertices, *self.trailing)

    @override
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1)

    @override
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        parts = flat.split(self.send_sizes)
        shapes = [(self.own_steps, stop - start, *self.trailing) for start, stop in self.vertices]
        return torch.cat([part.view(shape) for part, shape in zip(parts, shapes, strict=True)], dim=1)


class ToSnapshots(Route):
    """(T_b, n_p, *S) to (t_p, N, *S): :class:`ToVertices` run backward."""

    kind = "to_snapshots"

    def __init__(self, split: Split, rank: int, trailing: torch.Size) -> None:
        self.mirror = ToVertices(split, rank, trailing)
        self.send_sizes, self.receive_sizes = self.mirror.receive_sizes, self.mirror.send_sizes

    @override
    def pack(self, x: Tensor) -> Tensor:
        return self.mirror.pack_gradient(x)

    @override
    def unpack(self, flat: Tensor) -> Tensor:
        return self.mirror.unpack_gradient(flat)

    @override
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        return self.mirror.pack(gradient)

    @override
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        return self.mirror.unpack(flat)


class GatherSteps(Route):
    """(t_p, *S) to (T_b, *S) on every rank; a snapshot's gradient is the sum of what the ranks say about it."""

    kind = "gather"

    def __init__(self, split: Split, rank: int, trailing: torch.Size) -> None:
        self.ranks, self.num_steps, self.trailing = split.ranks, split.num_steps, trailing
        self.own_steps = split.steps_each[rank]
        row = math.prod(trailing)
        self.send_sizes = [self.own_steps * row] * split.ranks
        self.receive_sizes = [count * row for count in split.steps_each]

    @override
    def pack(self, x: Tensor) -> Tensor:
        return x.reshape(-1).repeat(self.ranks)

    @override
    def unpack(self, flat: Tensor) -> Tensor:
        return flat.view(self.num_steps, *self.trailing)

    @override
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1)

    @override
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        return flat.view(self.ranks, self.own_steps, *self.trailing).sum(0)
