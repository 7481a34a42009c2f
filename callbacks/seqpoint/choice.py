"""Which arriving steps to trace, decided just before each begins."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fulgurite.callbacks.seqpoint.plan import Plan

ATTEMPTS = 3  # traces of a point that may turn out incomplete before it is given up

_CANDIDATES = 3  # like steps that a point may expect in what is left of the epoch before it gets less particular


class Choice(Protocol):
    """Says which steps to trace for which points."""

    failed: list[int]

    def offer(self, step: int, shape: tuple[int, ...], *, new: bool = False) -> int | None:
        """The point to trace this step for, if any."""

    def settle(self, point: int, *, whole: bool) -> None:
        """The trace asked for is there, whole or not."""

    @property
    def done(self) -> bool:
        """Nothing is left to trace."""


class LikeSteps:
    """One process: for every point, the first step that is enough like it.

    An epoch that is shuffled anew seldom brings a point's very shape back, and nobody knows what is still to come. So a
    step is taken if its predicted cost is among those nearest to the point's, how many depending on what is left of the
    epoch: as many as let three like steps still be expected. Early on that is a narrow choice, at the end a wide one.

    Args:
        plan: whose points to trace.
        costs: predicted cost of every logged step.
        steps: how many steps the epoch will have.
        avoid_new: pass over steps of sizes that the run has not seen before: they may be tuned for, or compiled.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> shapes = np.array([[8, n] for n in range(1, 101)])
        >>> plan = select(shapes, 0.01 * shapes[:, 1], points=3)
        >>> choice = LikeSteps(plan, plan.cost.predict(shapes), steps=100)
        >>> choice.offer(0, (8, 40)), choice.offer(1, plan.points[1].shape)
        (None, 1)
    """

    def __init__(self, plan: Plan, costs: Sequence[float] | np.ndarray, *, steps: int, avoid_new: bool = False) -> None:
        self._avoid_new = avoid_new
        self.failed: list[int] = []
        self._plan = plan
        self._costs = sorted(float(cost) for cost in costs)
        self._steps = steps
        self._wanting = {number: point.cost for number, point in enumerate(plan.points)}
        self._tried = dict.fromkeys(self._wanting, 0)
        self._predicted: dict[tuple[int, ...], float] = {}

    @property
    def done(self) -> bool:
        """Nothing is left to trace."""
        return not self._wanting

    def offer(self, step: int, shape: tuple[int, ...], *, new: bool = False) -> int | None:
        """The point to trace this step for, if any: the nearest that has no trace yet, if it is near enough.

        Args:
            step: its number in the epoch.
            shape: in the plan's columns.
            new: the run has not seen its sizes before.
        """
        if not self._wanting or (new and self._avoid_new):
            return None
        if shape not in self._predicted:
            self._predicted[shape] = float(self._plan.cost.predict(np.array([shape]))[0])
        cost = self._predicted[shape]
        point = min(self._wanting, key=lambda number: (abs(self._wanting[number] - cost), self._tried[number]))
        centre = self._wanting[point]
        distance = abs(centre - cost) * (1 - 1e-12)
        closer = bisect_left(self._costs, centre + distance) - bisect_left(self._costs, centre - distance)
        near = _CANDIDATES * len(self._costs) / max(self._steps - step, 1)
        # Further away than a point's own share of the epoch, the trace of another point is the better stand-in.
        return point if closer <= min(near, len(self._costs) / len(self._plan.points)) else None

    def settle(self, point: int, *, whole: bool) -> None:
        """The trace asked for is there, whole or not; three that are not, and the point is given up."""
        self._tried[point] += 1
        if whole or self._tried[point] == ATTEMPTS:
            del self._wanting[point]
            if not whole:
                self.failed.append(point)


class FixedSteps:
    """Several processes: steps fixed before the epoch begins, the same on every rank.

    Ranks see different batches, and to agree on a step by its shape they would have to wait for one another at every
    step. Their plan is the same, so they trace the steps at which its points stood in the logged epoch, and a second
    run of each in case a trace is not whole. In an epoch of the same order these are the points' own batches; in one
    shuffled anew they are a random sample, which is matched to the points afterwards, by the gathered shapes.

    Args:
        plan: whose points to trace.
        runs: steps a point.

    Example:
        >>> from fulgurite.callbacks.seqpoint.select import select
        >>> plan = select(np.array([[8, n] for n in range(1, 101)]), np.arange(1.0, 101.0), points=2)
        >>> choice = FixedSteps(plan, runs=1)
        >>> [step for step in range(100) if choice.offer(step, (8, 1)) is not None] == sorted(
        ...     point.runs[0] for point in plan.points
        ... )
        True
    """

    def __init__(self, plan: Plan, *, runs: int = 2) -> None:
        self.failed: list[int] = []
        self._points = {run: number for number, point in enumerate(plan.points) for run in point.runs[:runs]}
        self._last = max(self._points)
        self._step = -1

    @property
    def done(self) -> bool:
        """Nothing is left to trace."""
        return self._step >= self._last

    def offer(self, step: int, shape: tuple[int, ...], *, new: bool = False) -> int | None:
        """The point to trace this step for, if any; shape and novelty, which are the rank's own, play no part."""
        self._step = step
        return self._points.get(step)

    def settle(self, point: int, *, whole: bool) -> None:
        """Nothing is tried again: the other ranks could not know."""
