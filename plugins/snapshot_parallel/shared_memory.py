"""Parts of tensors that processes of one machine hand each other through memory that they share."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_ALIGNMENT = 64
_GRAIN = 1 << 16  # bytes by which room grows
_BUFFERS = 2


@dataclass
class _Room:
    """Anonymous shared memory: a file that no folder lists, so that it is gone with the last process that maps it."""

    descriptor: int
    bytes: Tensor

    @classmethod
    def make(cls, size: int) -> _Room:
        descriptor = os.memfd_create("fulgurite-snapshot-parallel")
        os.ftruncate(descriptor, size)
        return cls(descriptor, _mapped(descriptor, size))

    @classmethod
    def of(cls, process: int, descriptor: int) -> _Room:
        """What another process made."""
        own = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(own, _mapped(own, os.fstat(own).st_size))
        finally:
            os.close(own)


class SharedMemory:
    """An all-to-all among processes of one machine that each write once, and read where the others wrote.

    Through sockets the kernel would copy every byte twice more. A process writes what the others get into room of its
    own, all meet in a gathering of a few numbers (so that a rank that dies or never comes is seen as in any exchange of
    the group, within its timeout), and then all read. There are two buffers: whoever has met the others knows that they
    have read what came before, so that it may write over it. Room grows to twice the most that was sent at once, and
    is kept; it is named in no folder, so that nothing is left of it when processes are killed, and ``/dev/shm`` needs
    no space.

    Args:
        group: the process group, of gloo.
        processes: of each rank.

    Example:
        >>> # on every rank of a group
        >>> # memory = SharedMemory.of_group(group)
        >>> # parts = memory.swap([x, x], [x.shape, x.shape])
    """

    def __init__(self, group: dist.ProcessGroup | None, processes: list[int]) -> None:
        self._group = group
        self._processes = processes
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        self._turn = 0
        self._capacity = 0  # of one buffer
        self._own: _Room | None = None
        self._outgrown: list[_Room] = []
        self._others: dict[int, tuple[int, _Room]] = {}

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None) -> SharedMemory | None:
        """For the ranks of a group, or None where they cannot share memory; every rank has to call this.

        They can if each one reads a secret of every other out of its memory: on Linux, in processes of one user that
        see each other, by gloo.
        """
        if dist.get_backend(group) != "gloo" or dist.get_world_size(group) == 1:
            return None
        secret = os.urandom(32)
        room = None
        with suppress(OSError, AttributeError):  # no Linux, or not allowed
            room = _Room.make(len(secret))
            room.bytes.copy_(torch.frombuffer(bytearray(secret), dtype=torch.uint8))
        offers: list[tuple[int, int, bytes] | None] = [None] * dist.get_world_size(group)
        dist.all_gather_object(offers, None if room is None else (os.getpid(), room.descriptor, secret), group=group)
        seen = torch.tensor(int(all(offer is not None and _holds(*offer) for offer in offers)))
        dist.all_reduce(seen, dist.ReduceOp.MIN, group=group)
        if room is not None:
            os.close(room.descriptor)
        return cls(group, [offer[0] for offer in offers if offer is not None]) if seen else None

    def swap(self, parts: list[Tensor], shapes: list[torch.Size], *, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Give every rank its part, and get one from each.

        Args:
            parts: for every rank, of any strides.
            shapes: of the parts that come.
            dtype: what the parts are of while they are in shared memory; as they are where None.

        Returns:
            What came, in rank order. One's own part is handed back as it is, not copied. The others lie where they were
            written, if no other ``dtype`` was asked for, and may be overwritten once this rank calls again: copy them.

        Raises:
            RuntimeError: by gloo: a rank died or did not come in time.
            ConnectionError: a rank's memory is gone with it.
        """
        wire = parts[0].dtype if dtype is None else dtype
        sizes = [0 if to == self._rank else part.numel() * wire.itemsize for to, part in enumerate(parts)]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        if starts[-1] > self._capacity:
            self._grow(starts[-1])
        self._turn = (self._turn + 1) % _BUFFERS
        begin = self._turn * self._capacity
        for part, size, start in zip(parts, sizes, starts, strict=False):
            if size:
                assert self._own is not None
                _part(self._own, begin + start, part.shape, wire).copy_(part)
        places = self._meet([begin + start for start in starts[:-1]])
        for room in self._outgrown:  # whoever reads there now has opened it
            os.close(room.descriptor)
        self._outgrown.clear()
        return [
            parts[rank] if rank == self._rank else self._read(rank, *places[rank], shapes[rank], wire, parts[0].dtype)
            for rank in range(self._size)
        ]

    def _grow(self, size: int) -> None:
        if self._own is not None:
            self._outgrown.append(self._own)
        self._capacity = -(-size // _GRAIN) * _GRAIN
        self._own = _Room.make(_BUFFERS * self._capacity)

    def _meet(self, starts: list[int]) -> list[tuple[int, int]]:
        """Every rank's room, and where in it my part lies; when all have written."""
        mine = torch.tensor([-1 if self._own is None else self._own.descriptor, *starts])
        all_of_them = [torch.empty_like(mine) for _ in range(self._size)]
        dist.all_gather(all_of_them, mine, group=self._group)
        return [(int(numbers[0]), int(numbers[1 + self._rank])) for numbers in all_of_them]

    def _read(
        self, rank: int, descriptor: int, start: int, shape: torch.Size, wire: torch.dtype, dtype: torch.dtype
    ) -> Tensor:
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        if rank not in self._others or self._others[rank][0] != descriptor:
            try:
                self._others[rank] = descriptor, _Room.of(self._processes[rank], descriptor)
            except FileNotFoundError as error:
                raise ConnectionError(
                    f"connection closed: the memory of rank {rank} is gone with its process"
                ) from error
        return _part(self._others[rank][1], start, shape, wire).to(dtype)


def _mapped(descriptor: int, size: int) -> Tensor:
    with torch.inference_mode(False):  # else nobody could write to it in training
        return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)


def _part(room: _Room, start: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return room.bytes[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _holds(process: int, descriptor: int, secret: bytes) -> bool:
    try:
        return bytes(_Room.of(process, descriptor).bytes.numpy()) == secret
    except (OSError, ValueError):
        return False
