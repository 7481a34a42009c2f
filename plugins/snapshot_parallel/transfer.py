"""What goes to the device, counted by kind: through a ring of pinned buffers and a stream of its own on CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNED = 64
"""Bytes: every tensor of a package begins at a multiple, so that it can be viewed as its own type."""


class Arrival:
    """Tensors under way to the device; :meth:`take` gives them to the stream that is current then.

    The copy and whoever uses it run on different streams: the user's waits for the copy's event, and the buffer is
    recorded on it, so that its memory is not handed out again before the work that reads it has run.
    """

    def __init__(
        self, tensors: list[Tensor], *, buffer: Tensor | None = None, done: torch.cuda.Event | None = None
    ) -> None:
        self._tensors = tensors
        self._buffer = buffer
        self._done = done

    def take(self) -> list[Tensor]:
        """The tensors, in the order in which they were sent."""
        if self._done is not None and self._buffer is not None:
            stream = torch.cuda.current_stream(self._buffer.device)
            stream.wait_event(self._done)
            self._buffer.record_stream(stream)
        return self._tensors


class PinnedRing:
    """Page-locked host buffers used in turn, each again only after its last copy has ended.

    Args:
        device: the CUDA device that they feed.
        slots: how many; with two, one is filled while the other is copied.
    """

    def __init__(self, device: torch.device, *, slots: int = 2) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(slots)]
        self._done: list[torch.cuda.Event | None] = [None] * slots
        self._next = 0

    @property
    def nbytes(self) -> int:
        """Page-locked bytes held."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def send(self, tensors: Sequence[Tensor]) -> Arrival:
        """Copy host tensors into the next buffer and start its way to the device; does not wait for it to end."""
        places, end = [], 0
        for tensor in tensors:
            places.append(end)
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        slot, self._next = self._next, (self._next + 1) % len(self._buffers)
        if (before := self._done[slot]) is not None:
            before.synchronize()
        if self._buffers[slot].nbytes < end:
            self._buffers[slot] = torch.empty(end, dtype=torch.uint8, pin_memory=True)
        staged = self._buffers[slot][:end]
        for tensor, place in zip(tensors, places, strict=True):
            view(staged, tensor, place).copy_(tensor)
        with torch.cuda.stream(self._stream):
            arrived = staged.to(self._device, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        self._done[slot] = done
        there = [view(arrived, tensor, place) for tensor, place in zip(tensors, places, strict=True)]
        return Arrival(there, buffer=arrived, done=done)


def view(buffer: Tensor, like: Tensor, place: int) -> Tensor:
    """The bytes of a buffer from ``place`` on as a tensor of the type and shape of another.

    Example:
        >>> import torch
        >>> buffer = torch.zeros(16, dtype=torch.uint8)
        >>> view(buffer, torch.tensor([1, 2], dtype=torch.int32), 8).copy_(torch.tensor([3, 4])).tolist()
        [3, 4]
        >>> buffer.view(torch.int32).tolist()
        [0, 0, 3, 4]
    """
    return buffer[place : place + like.nbytes].view(like.dtype).view(like.shape)


class Transfer:
    """Sends tensors to a device and counts what it sends.

    On CUDA a package is copied into a pinned buffer and travels as one piece on a copy stream. On the CPU the same
    packages are counted the same, and are views: nothing is copied. What lies on the device already is neither.

    Args:
        device: where to.
        slots: buffers of the pinned ring.

    Attributes:
        bytes: sent so far by kind: ``events``, ``csr32``, ``coo32``, ``diff32``, ``features``, ``targets``.

    Example:
        >>> import torch
        >>> transfer = Transfer("cpu")
        >>> transfer.send([("targets", torch.zeros(3, dtype=torch.int64))]).take()
        [tensor([0, 0, 0])]
        >>> dict(transfer.bytes)
        {'targets': 24}
    """

    def __init__(self, device: torch.device | str, *, slots: int = 2) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.bytes: Counter[str] = Counter()
        self._ring = PinnedRing(self.device, slots=slots) if self.device.type == "cuda" else None

    def send(self, tensors: Sequence[tuple[str, Tensor]]) -> Arrival:
        """Start sending tensors, each with its kind."""
        away = [tensor.device.type != "cpu" and tensor.device == self.device for _, tensor in tensors]
        for (kind, tensor), there in zip(tensors, away, strict=True):
            if not there:
                self.bytes[kind] += tensor.nbytes
        if self._ring is not None and not any(away):
            return self._ring.send([tensor for _, tensor in tensors])
        return Arrival([tensor.to(self.device) for _, tensor in tensors])

    def reset(self) -> None:
        """Count from zero."""
        self.bytes.clear()
