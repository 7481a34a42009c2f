"""What one collective sends where: the ways from snapshot shards to vertex shards and back, and to every rank."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.partitioning import Split


class Route(ABC):
    """One all-to-all and its backward: what every rank gets, as one flat buffer in rank order or part by part.

    Forward packs the input, sends, and unpacks what came; backward packs the output's gradient, sends with the sizes
    swapped, and unpacks (adds up) what came. Where ranks share memory the same parts are handed over one by one, as
    they lie, and joined as they come.

    Attributes:
        kind: the name that its bytes are counted under.
        send_shapes: of the part for each rank.
        receive_shapes: of the part from each rank.
    """

    kind: str
    send_shapes: list[torch.Size]
    receive_shapes: list[torch.Size]

    @property
    def send_sizes(self) -> list[int]:
        """Elements for each rank."""
        return [shape.numel() for shape in self.send_shapes]

    @property
    def receive_sizes(self) -> list[int]:
        """Elements from each rank."""
        return [shape.numel() for shape in self.receive_shapes]

    @abstractmethod
    def parts(self, x: Tensor) -> list[Tensor]:
        """The input's part for each rank, not copied if that can be."""

    @abstractmethod
    def join(self, parts: list[Tensor]) -> Tensor:
        """The output from each rank's part, copied."""

    @abstractmethod
    def gradient_parts(self, gradient: Tensor) -> list[Tensor]:
        """The output's gradient's part for each rank, not copied if that can be."""

    @abstractmethod
    def join_gradient(self, parts: list[Tensor]) -> Tensor:
        """The input's gradient from each rank's part, copied."""

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
        self.steps_each = split.steps_each
        self.own_steps, self.own_vertices = split.steps_each[rank], split.vertices_each[rank]
        self.num_steps = split.num_steps
        self.send_shapes = [torch.Size((self.own_steps, count, *trailing)) for count in split.vertices_each]
        self.receive_shapes = [torch.Size((count, self.own_vertices, *trailing)) for count in split.steps_each]

    @override
    def parts(self, x: Tensor) -> list[Tensor]:
        return [x[:, start:stop] for start, stop in self.vertices]

    @override
    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    @override
    def gradient_parts(self, gradient: Tensor) -> list[Tensor]:
        return list(gradient.split(list(self.steps_each)))

    @override
    def join_gradient(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=1)

    @override
    def pack(self, x: Tensor) -> Tensor:
        return torch.cat([part.reshape(-1) for part in self.parts(x)])

    @override
    def unpack(self, flat: Tensor) -> Tensor:
        # Runs of snapshots are contiguous and in rank order, so what came from the ranks lies in time order already.
        return flat.view(self.num_steps, self.own_vertices, *self.trailing)

    @override
    def pack_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1)

    @override
    def unpack_gradient(self, flat: Tensor) -> Tensor:
        parts = zip(flat.split(self.send_sizes), self.send_shapes, strict=True)
        return self.join_gradient([part.view(shape) for part, shape in parts])


class ToSnapshots(Route):
    """(T_b, n_p, *S) to (t_p, N, *S): :class:`ToVertices` run backward."""

    kind = "to_snapshots"

    def __init__(self, split: Split, rank: int, trailing: torch.Size) -> None:
        self.mirror = ToVertices(split, rank, trailing)
        self.send_shapes, self.receive_shapes = self.mirror.receive_shapes, self.mirror.send_shapes

    @override
    def parts(self, x: Tensor) -> list[Tensor]:
        return self.mirror.gradient_parts(x)

    @override
    def join(self, parts: list[Tensor]) -> Tensor:
        return self.mirror.join_gradient(parts)

    @override
    def gradient_parts(self, gradient: Tensor) -> list[Tensor]:
        return self.mirror.parts(gradient)

    @override
    def join_gradient(self, parts: list[Tensor]) -> Tensor:
        return self.mirror.join(parts)

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
        self.own_steps, self.steps_each = split.steps_each[rank], split.steps_each
        self.send_shapes = [torch.Size((self.own_steps, *trailing))] * split.ranks
        self.receive_shapes = [torch.Size((count, *trailing)) for count in split.steps_each]

    @override
    def parts(self, x: Tensor) -> list[Tensor]:
        return [x] * self.ranks

    @override
    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)

    @override
    def gradient_parts(self, gradient: Tensor) -> list[Tensor]:
        return list(gradient.split(list(self.steps_each)))

    @override
    def join_gradient(self, parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).sum(0)

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
