"""A worst case: an adversary that sees the values and picks which of the last few each evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.model.simulation import Evaluate


@dataclass(frozen=True)
class Adversary:
    """Per source whichever of its last values makes |Fᵢ| greatest, for participants that hold one number each.

    Exact where Fᵢ is a sum of terms of one source each (affine maps): the terms are made all as great, then all as
    small as they can be, and the result of the greater modulus is taken. For other maps it is a heuristic. What it
    picks is a legal schedule: reading is never older than ``depth`` ticks.

    Args:
        depth: how many of each source's last values it picks from.

    Example:
        >>> recent = {0: [np.array(1.0), np.array(-2.0)], 1: [np.array(0.5), np.array(0.25)]}
        >>> Adversary(2)(lambda x: x[0] - x[1], recent)
        {0: 1, 1: 0}
    """

    depth: int

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"an adversary picks from at least one value of each source; got depth {self.depth}")

    def __call__(self, evaluate: Evaluate, recent: Mapping[int, Sequence[Array]]) -> dict[int, int]:
        """For each source the place of what is read."""
        newest = {j: values[0] for j, values in recent.items()}
        lowest, highest = {}, {}
        for j, values in recent.items():
            results = [_number(evaluate({**newest, j: value})) for value in values]
            lowest[j], highest[j] = int(np.argmin(results)), int(np.argmax(results))
        return max(lowest, highest, key=lambda places: abs(_result(evaluate, recent, places)))


def _result(evaluate: Evaluate, recent: Mapping[int, Sequence[Array]], places: Mapping[int, int]) -> float:
    return _number(evaluate({j: recent[j][place] for j, place in places.items()}))


def _number(value: Array) -> float:
    if np.size(value) != 1:
        raise MapError(f"an adversary needs participants that hold one number; got a state of shape {np.shape(value)}")
    return float(np.reshape(value, ()))
