"""Three clocks over the steps of an epoch: input wait, step, and start to start. No step waits for the device."""

import math
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

_POLLS = 2  # events looked at per step: one keeps up with the device, two catch up with it


class Event(Protocol):
    """What the clock needs of a ``torch.cuda.Event`` made with ``enable_timing=True``."""

    def record(self) -> None:
        """Mark this point of the device's queue."""

    def query(self) -> bool:
        """Whether the device has come past it."""

    def synchronize(self) -> None:
        """Wait until it has."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to ``end_event``."""


@dataclass(frozen=True)
class Times:
    """An epoch's times in seconds, each (steps,).

    Args:
        seconds: step.
        waits: input wait before the step.
        starts: wait and step on the host's clock; with ``outside`` it adds up to the epoch.
        outside: validation, checkpoints and our own work, around the step.
    """

    seconds: NDArray[np.float64]
    waits: NDArray[np.float64]
    starts: NDArray[np.float64]
    outside: NDArray[np.float64]


class StepClock:
    """Times every step of an epoch.

    On a CUDA device a step is what lies between two events on the device's queue. They are looked at later, when the
    device has long come past them, and used again; nothing waits before :meth:`finish`. Elsewhere the host's clock
    decides.

    The order of calls is ``begin``, then for every step ``arrive``, ``start``, ``stop``, ``leave``, then ``finish``.

    - **wait**: from ``leave`` (or ``begin``) to ``arrive``: fetching the batch, copying it, and what others do between
      two steps.
    - **step**: from ``start`` to ``stop``.
    - **start to start**: wait and step on the host's clock, so that an epoch's add up to its length.
    - **outside**: from ``arrive`` to ``start`` and from ``stop`` to ``leave``, our own work, and gaps tagged by
      :meth:`interrupt`: a validation ran or a checkpoint was written there, and the input wait cannot be told from it.

    Args:
        device: where the steps run.
        event: makes a timing event; ``torch.cuda.Event`` on CUDA by default, host clock if ``None`` elsewhere.
        now: the host's clock, in seconds.

    Example:
        >>> clock = StepClock(torch.device("cpu"))
        >>> clock.begin()
        >>> for _ in range(3):
        ...     clock.arrive(); clock.start(); clock.stop(); clock.leave()
        >>> times = clock.finish()
        >>> len(times.seconds), bool((times.starts >= times.waits).all())
        (3, True)
    """

    def __init__(
        self,
        device: torch.device,
        *,
        event: Callable[[], Event] | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        if event is None and device.type == "cuda":
            event = _cuda_event
        self._event = event
        self._now = now
        self._pool: list[Event] = []
        self._pending: deque[tuple[int, Event, Event]] = deque()
        self._seconds, self._waits, self._host, self._outside = (array("d") for _ in range(4))
        self._mark = self._started = now()
        self._wait = self._own = 0.0
        self._begun: Event | None = None
        self._interrupted = False

    def __len__(self) -> int:
        return len(self._host)

    def begin(self) -> None:
        """The epoch begins: the wait for its first batch counts from here."""
        self._mark = self._now()
        self._interrupted = False

    def interrupt(self) -> None:
        """Tag the gap between two steps: a validation or a checkpoint falls into it."""
        self._interrupted = True

    def arrive(self) -> None:
        """A batch is there."""
        now = self._now()
        gap = now - self._mark
        self._wait, self._own = (0.0, gap) if self._interrupted else (gap, 0.0)
        self._interrupted = False
        self._mark = now

    def settle(self) -> None:
        """Wait for the device between ``arrive`` and ``start``; the wait counts to the step before, not as our work."""
        if self._pending:
            before = self._now()
            self._resolve(len(self._pending), wait=True)
            self._host[-1] += self._now() - before
            self._mark += self._now() - before

    def start(self) -> None:
        """Its step begins."""
        if self._event is not None:
            self._begun = self._pool.pop() if self._pool else self._event()
            self._begun.record()
        self._started = self._now()
        self._own += self._started - self._mark

    def stop(self, *, settle: bool = False) -> None:
        """The step ends; with ``settle`` the host waits for the device, so that a trace can be closed behind it."""
        if self._begun is not None and self._event is not None:
            end = self._pool.pop() if self._pool else self._event()
            end.record()
            self._pending.append((len(self._seconds), self._begun, end))
            self._seconds.append(math.nan)
            self._begun = None
            self._resolve(len(self._pending) if settle else _POLLS, wait=settle)
        self._mark = self._now()
        self._host.append(self._mark - self._started)
        if self._event is None:
            self._seconds.append(self._host[-1])
        self._waits.append(self._wait)
        self._outside.append(self._own)

    def leave(self) -> None:
        """Whatever we do behind a step is done; the gap to the next one begins."""
        now = self._now()
        self._outside[-1] += now - self._mark
        self._mark = now

    def finish(self) -> Times:
        """All times; the device's queue is waited for here, and counts to the last step."""
        before = self._now()
        self._resolve(len(self._pending), wait=True)
        if self._host:
            self._host[-1] += self._now() - before
        seconds, waits, host, outside = (
            np.array(column, dtype=np.float64) for column in (self._seconds, self._waits, self._host, self._outside)
        )
        return Times(seconds, waits, waits + host, outside)

    def _resolve(self, most: int, *, wait: bool) -> None:
        if wait and self._pending:
            self._pending[-1][2].synchronize()
        for _ in range(most):
            if not self._pending or not self._pending[0][2].query():
                return
            index, begun, end = self._pending.popleft()
            self._seconds[index] = begun.elapsed_time(end) / 1e3
            self._pool += (begun, end)


def _cuda_event() -> Event:
    return torch.cuda.Event(enable_timing=True)
