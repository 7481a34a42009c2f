"""What goes to the device, counted by kind: through a ring of pinned buffers and a stream of its own on CUDA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

_ALIGNED = 64
"""Bytes: every tensor of a package begins at a multiple, so that it can be viewed as its own type."""


class _TimedEvent(Protocol):
    def elapsed_time(self, end: Any, /) -> float:
        """Milliseconds to a later one."""
        ...


@dataclass
class CopyTimes:
    """How long copies took on their stream, and how long the stream that uses them stood still for them.

    Attributes:
        copies: events before and after each copy, on the copy stream.
        waits: events before and after each wait for a copy, on the stream that computes.

    Example:
        >>> class At(float):
        ...     def elapsed_time(self, end):
        ...         return end - self
        >>> times = CopyTimes([(At(0), At(8))], [(At(6), At(8))])
        >>> times.copied, times.waited, times.hidden
        (8.0, 2.0, 0.75)
    """

    copies: list[tuple[_TimedEvent, _TimedEvent]] = field(default_factory=list)
    waits: list[tuple[_TimedEvent, _TimedEvent]] = field(default_factory=list)

    @property
    def copied(self) -> float:
        """Milliseconds of all copies; to be read when the device is idle."""
        return sum((start.elapsed_time(end) for start, end in self.copies), 0.0)

    @property
    def waited(self) -> float:
        """Milliseconds for which the computing stream waited."""
        return sum((start.elapsed_time(end) for start, end in self.waits), 0.0)

    @property
    def hidden(self) -> float | None:
        """The share of the copies behind which something was computed, or the host was busy; None without copies."""
        return 1 - self.waited / self.copied if self.copied else None


class Arrival:
    """Tensors under way to the device; :meth:`take` gives them to the stream that is current then.

    The copy and whoever uses it run on different streams: the user's waits for the copy's event, and the buffer is
    recorded on it, so that its memory is not handed out again before the work that reads it has run.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        *,
        buffer: Tensor | None = None,
        done: torch.cuda.Event | None = None,
        times: CopyTimes | None = None,
    ) -> None:
        self._tensors = tensors
        self._buffer = buffer
        self._done = done
        self._times = times

    def take(self) -> list[Tensor]:
        """The tensors, in the order in which they were sent."""
        if self._done is not None and self._buffer is not None:
            stream = torch.cuda.current_stream(self._buffer.device)
            before = _recorded(stream) if self._times is not None else None
            stream.wait_event(self._done)
            if self._times is not None and before is not None:
                self._times.waits.append((before, _recorded(stream)))
            self._buffer.record_stream(stream)
        return self._tensors


class PinnedRing:
    """Page-locked host buffers used in turn, each again only after its last copy has ended.

    Args:
        device: the CUDA device that they feed.
        slots: how many; with two, one is filled while the other is copied.

    Attributes:
        times: where copies are timed, or None.
    """

    def __init__(self, device: torch.device, *, slots: int = 2) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(slots)]
        self._done: list[torch.cuda.Event | None] = [None] * slots
        self._next = 0
        self.times: CopyTimes | None = None

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
            before = _recorded(self._stream) if self.times is not None else None
            arrived = staged.to(self._device, non_blocking=True)
            done = torch.cuda.Event(enable_timing=self.times is not None)
            done.record(self._stream)
        if self.times is not None and before is not None:
            self.times.copies.append((before, done))
        self._done[slot] = done
        there = [view(arrived, tensor, place) for tensor, place in zip(tensors, places, strict=True)]
        return Arrival(there, buffer=arrived, done=done, times=self.times)


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(stream)
    return event


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

    @contextmanager
    def timed(self) -> Iterator[CopyTimes]:
        """Inside, copies and waits for them are timed by CUDA events; nothing is copied to a CPU, nor timed."""
        times = CopyTimes()
        if self._ring is None:
            yield times
            return
        outer, self._ring.times = self._ring.times, times
        try:
            yield times
        finally:
            self._ring.times = outer

    def reset(self) -> None:
        """Count from zero."""
        self.bytes.clear()
