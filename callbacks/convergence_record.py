"""What was seen of a run's convergence: points in time, thinned out, with bounds and, afterwards, true distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array

_MOST_POINTS = 160
_MOST_VIEWS = 6


@dataclass(frozen=True)
class Point:
    """How a run stood at a moment.

    Args:
        evaluations: how often each shard had been evaluated at least, or epochs.
        seconds: since training began.
        rounds: certified rounds, the least tag in view; 0 again after every change of view.
        bound: certified distance to the answer of the participants in view, ‖x − x*‖_w; infinite without certificate.
        contraction: ratio of the lengths of the last two steps.
        view: participants in view.
        states: participant -> its state; None where nothing is compared later.
        distance: ‖x − x*‖_w by a direct solution, or an upper bound of it; NaN if not known.
    """

    evaluations: int
    seconds: float
    rounds: int = 0
    bound: float = math.inf
    contraction: float = math.nan
    view: tuple[int, ...] = ()
    states: Mapping[int, Array] | None = None
    distance: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON: without states; null for what is not known."""
        numbers = {name: getattr(self, name) for name in ("bound", "contraction", "distance")}
        return {
            "evaluations": self.evaluations,
            "seconds": round(self.seconds, 3),
            "rounds": self.rounds,
            "view": list(self.view),
            **{name: number if math.isfinite(number) else None for name, number in numbers.items()},
        }


class ConvergenceRecord:
    """A bounded number of points, evenly spread over however many evaluations there will have been.

    Example:
        >>> record = ConvergenceRecord()
        >>> for k in range(1000):
        ...     if record.wants(k):
        ...         record.add(Point(k, seconds=0.1 * k))
        >>> len(record.points) < 200, record.points[0].evaluations, record.points[1].evaluations
        (True, 0, 8)
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._stride = 1

    def wants(self, evaluations: int) -> bool:
        """Whether a point at so many evaluations is kept."""
        return evaluations % self._stride == 0 and (not self.points or self.points[-1].evaluations != evaluations)

    def add(self, point: Point) -> None:
        """Keep a point; where there are too many, every other one goes."""
        self.points.append(point)
        if len(self.points) > _MOST_POINTS:
            self._stride *= 2
            self.points = [kept for kept in self.points if kept.evaluations % self._stride == 0]

    def measure(self, distance: Callable[[Point], float]) -> None:
        """Fill in distances, of the newest points first and for a handful of different views; then states are let go.

        Args:
            distance: of a point's states to the answer of its view.
        """
        views: list[tuple[int, ...]] = []
        for k in range(len(self.points) - 1, -1, -1):
            point = self.points[k]
            if point.states is None or not point.view:
                continue
            if point.view not in views and len(views) < _MOST_VIEWS:
                views.append(point.view)
            found = distance(point) if point.view in views else math.nan
            self.points[k] = replace(point, distance=found, states=None)


def weighted_distance(states: Mapping[int, Array], answer: Mapping[int, Array], weights: Array, error: float) -> float:
    """‖x − x*‖_w = maxᵢ ‖xᵢ − x*ᵢ‖₂/wᵢ, with the answer's own error added on top of each.

    Example:
        >>> weighted_distance({0: np.zeros(2)}, {0: np.array([3.0, 4.0])}, np.ones(1), 0.0)
        5.0
    """
    gaps = [
        (float(np.linalg.norm(np.asarray(state, dtype=np.float64) - answer[i])) + error) / float(weights[i])
        for i, state in states.items()
    ]
    return max(gaps, default=math.nan)
