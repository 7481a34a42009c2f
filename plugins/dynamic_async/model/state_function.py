"""The state function δ, tick by tick and case by case: what every faster simulation is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap
from fulgurite.plugins.dynamic_async.model.errors import ScheduleError
from fulgurite.plugins.dynamic_async.model.schedule import Schedule, refuse_read


def delta(map: DynamicMap, schedule: Schedule, initial: Sequence[Array] | None = None) -> list[list[Array]]:
    """δ(t) of every tick, by the six cases of its definition (https://arxiv.org/abs/2012.01686, section 3.3).

    With ρ(t) = π(η(t)) the participants at tick t and x the initial state, the first that applies:

    1. t = 0, i ∉ ρ(0): ⊥ᵢ.
    2. t = 0, i ∈ ρ(0): xᵢ.
    3. i ∉ ρ(t): ⊥ᵢ.
    4. i ∈ ρ(t), i ∉ ρ(t − 1): xᵢ, the *initial* value again.
    5. i ∉ α(t): δ(t − 1)ᵢ.
    6. otherwise: F^{η(t), ρ(t)}(…, δ(β(t, i, j))ⱼ, …)ᵢ, in which who is outside ρ(t) is read as ⊥.

    It keeps everything and takes no short cuts: a reference, not for large runs (:func:`simulate`).

    Args:
        map: F, ⊥ and the neighbours.
        schedule: ψ.
        initial: x, a state for each participant; the map's own where it is not given.

    Returns:
        T + 1 lists of n states.

    Raises:
        ScheduleError: the schedule is for another number of participants, or breaks an axiom.

    Example:
        >>> import numpy as np
        >>> from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule
        >>> class Halving(DynamicMap):
        ...     num_participants = 1
        ...     def bottom(self, i): return np.zeros(1)
        ...     def initial(self, i): return np.ones(1)
        ...     def neighbours(self, i): return np.array([0])
        ...     def evaluate(self, i, epoch, participants, inputs): return inputs[0] / 2
        >>> schedule = DenseSchedule([[True]] * 4, [[[0]], [[0]], [[1]], [[1]]], [0] * 4, [[True]])
        >>> [float(state[0][0]) for state in delta(Halving(), schedule)]
        [1.0, 0.5, 0.25, 0.25]
    """
    n = map.num_participants
    if schedule.num_participants != n:
        raise ScheduleError(f"the schedule is for {schedule.num_participants} participants, the map has {n}")
    start = [map.initial(i) for i in range(n)] if initial is None else list(initial)
    states: list[list[Array]] = []
    for t in range(schedule.num_ticks + 1):
        if t and schedule.epoch(t) < schedule.epoch(t - 1):
            raise ScheduleError(f"the epoch falls at tick {t}; epochs must never fall")
        states.append([_state(map, schedule, start, states, t, i) for i in range(n)])
    return states


def _state(map: DynamicMap, schedule: Schedule, start: list[Array], states: list[list[Array]], t: int, i: int) -> Array:
    present = schedule.present(t)
    if t == 0:
        return np.array(start[i]) if present[i] else map.bottom(i)  # cases 2 and 1
    if not present[i]:
        return map.bottom(i)  # case 3
    if not schedule.present(t - 1)[i]:
        return np.array(start[i])  # case 4
    if not schedule.active(t)[i]:
        return states[t - 1][i]  # case 5
    inputs = {}
    for j in map.neighbours(i).tolist():
        read = schedule.read_time(t, i, j)
        if not 0 <= read < t:
            refuse_read(t, i, j, read)
        inputs[j] = states[read][j] if present[j] else map.bottom(j)
    return map.evaluate(i, schedule.epoch(t), present, inputs)  # case 6
