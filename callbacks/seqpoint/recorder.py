"""What one rank sees of an epoch, step by step, at the price of a few microseconds each."""

from array import array
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.clock import StepClock
from fulgurite.callbacks.seqpoint.gather import RankSteps
from fulgurite.callbacks.seqpoint.leaves import Leaf, find_leaves
from fulgurite.callbacks.seqpoint.padding import PaddingCounter
from fulgurite.callbacks.seqpoint.shapes import ShapeReader


class BatchReader:
    """Reads batches for as long as a run lasts, and remembers which sizes it has met.

    Args:
        shape: reads the sizes off a batch.
    """

    def __init__(self, shape: ShapeReader) -> None:
        self.shape = shape
        self.known: dict[tuple[int, ...], int] = {}  # sizes and optimizer flag → number, in the order first seen
        self._ragged: dict[str, bool] = {}

    def read(self, batch: Any) -> tuple[tuple[int, ...], dict[str, Leaf]]:
        """The sizes and the leaves of a batch.

        Raises:
            ShapeError: see the reader of shapes.
        """
        leaves = find_leaves(batch, self._ragged)
        return self.shape.read(batch, leaves), leaves

    def number(self, sizes: tuple[int, ...], optimizer_step: bool) -> int:
        """The number of a step's sizes, a new one if they are new."""
        return self.known.setdefault((*sizes, int(optimizer_step)), len(self.known))

    def table(self, count: int) -> NDArray[np.int64]:
        """The first ``count`` sizes met, (count, D + 1), the optimizer flag last."""
        rows = list(self.known)[:count]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(rows[0]) if rows else 1)


class StepRecorder:
    """Records one epoch.

    The order of calls is ``begin``, then for every step ``arrive``, ``start``, ``stop``, ``leave``, then ``finish``.

    Args:
        reader: of the batches; outlives the epoch.
        device: where the steps run.
        memory: record peak memory, which resets the device's peak counter at every step.

    Example:
        >>> from fulgurite.callbacks.seqpoint.shapes import ShapeFinder
        >>> recorder = StepRecorder(BatchReader(ShapeFinder()), torch.device("cpu"), memory=True)
        >>> recorder.begin()
        >>> for length in (5, 9):
        ...     _ = recorder.arrive({"source": torch.zeros(4, length)})
        ...     recorder.start()
        ...     recorder.stop(optimizer_step=True, traced=False)
        ...     recorder.leave()
        >>> recorder.finish().sizes.tolist()
        [[4, 5], [4, 9]]
    """

    def __init__(self, reader: BatchReader, device: torch.device, *, memory: bool) -> None:
        self.reader = reader
        self.clock = StepClock(device)
        self._device = device
        self._memory = memory and device.type == "cuda"
        self._padding = PaddingCounter()
        self._met = len(reader.known)
        self._sizes: tuple[int, ...] = ()
        self._numbers = array("q")
        self._traced = array("b")
        self._peaks = array("d")

    def __len__(self) -> int:
        return len(self._numbers)

    def begin(self) -> None:
        """The epoch begins."""
        self.clock.begin()

    def arrive(self, batch: Any) -> tuple[int, ...]:
        """A batch is there; its sizes.

        Raises:
            ShapeError: they cannot be told.
        """
        self.clock.arrive()
        self._sizes, leaves = self.reader.read(batch)
        self._padding.count(leaves)
        return self._sizes

    def start(self) -> None:
        """Its step begins."""
        if self._memory:
            torch.cuda.reset_peak_memory_stats(self._device)
        self.clock.start()

    def stop(self, *, optimizer_step: bool, traced: bool) -> None:
        """Its step ends."""
        self.clock.stop(settle=traced)
        self._numbers.append(self.reader.number(self._sizes, optimizer_step))
        self._traced.append(traced)
        if self._memory:
            # The nested form costs a fifth of max_memory_allocated(), which sorts every counter there is.
            stats = torch.cuda.memory_stats_as_nested_dict(self._device)
            self._peaks.append(stats["allocated_bytes"]["all"]["peak"])

    def leave(self) -> None:
        """Everything of ours behind the step is done."""
        self.clock.leave()

    def finish(self) -> RankSteps:
        """All steps that ended; waits for the device, once."""
        times = self.clock.finish()
        count = len(self)
        table = self.reader.table(len(self.reader.known))
        rows = table[np.array(self._numbers, dtype=np.int64)]
        real, padded = self._padding.finish()
        return RankSteps(
            sizes=rows[:, :-1],
            optimizer_step=rows[:, -1].astype(np.bool_),
            known=table[: self._met],
            seconds=times.seconds,
            waits=times.waits,
            starts=times.starts,
            outside=times.outside,
            traced=np.array(self._traced, dtype=np.bool_),
            real=real[:count],
            padded=padded[:count],
            peak_bytes=np.array(self._peaks, dtype=np.float64) if self._memory else np.full(count, np.nan),
        )
