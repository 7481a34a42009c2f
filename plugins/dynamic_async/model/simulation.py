"""Simulate a dynamic iteration under a schedule: compiled where map and schedule are, otherwise in Python."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.compiled_run import CompiledSchedule, run_compiled
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Kernel, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError, ScheduleError
from fulgurite.plugins.dynamic_async.model.periods import Links, Pseudocycle, pseudocycles
from fulgurite.plugins.dynamic_async.model.schedule import Schedule, refuse_read

Recording = Literal["history", "tags", "pseudocycles", "residuals"]
States = Sequence[Array] | NDArray[Any]


class Chooser(Protocol):
    """Picks what is read in the schedule's place, knowing the values: a worst case.

    Attributes:
        depth: how many of each source's last values it picks from.
    """

    @property
    def depth(self) -> int:
        """How many of the last values of each source it picks from."""

    def __call__(self, evaluate: Evaluate, recent: Mapping[int, Sequence[Array]]) -> Mapping[int, int]:
        """For each source j the place in ``recent[j]`` of what is read.

        Args:
            evaluate: Fᵢ of the inputs that it is given.
            recent: for each source its values of the last ticks, the newest first.
        """


class Evaluate(Protocol):
    """Fᵢ in the epoch at hand."""

    def __call__(self, inputs: Mapping[int, Array]) -> Array:
        """The new state of i."""


@dataclass(frozen=True)
class Run:
    """What came of a simulation.

    Args:
        states: δ(T): a state for each participant; one array (n, …) where all have one shape and type.
        tags: (n,) round tags at tick T (see :func:`round_tags`).
        history: δ(t) of every tick, ``history[t][i]``; one array (T + 1, n, …) where all have one shape and type.
        tag_history: (T + 1, n) round tags of every tick.
        pseudocycles: of every epoch, in which only the links that the map reads count.
        residuals: (T + 1,) max dᵢ(F(δ(t))ᵢ, δ(t)ᵢ) over the participants, unweighted; 0 without any.
    """

    states: States
    tags: NDArray[np.int64]
    history: Sequence[States] | NDArray[Any] | None = None
    tag_history: NDArray[np.int64] | None = None
    pseudocycles: list[Pseudocycle] | None = None
    residuals: NDArray[np.float64] | None = None


def simulate(
    map: DynamicMap,
    schedule: Schedule,
    *,
    initial: Sequence[Array] | None = None,
    joins: Mapping[tuple[int, int], Array] | None = None,
    record: Collection[Recording] = (),
    choose: Chooser | None = None,
    path: Literal["auto", "compiled", "python"] = "auto",
) -> Run:
    """The state function δ of :func:`delta`, for many participants and ticks.

    It runs compiled, a thousand times as fast, where the map has a :meth:`DynamicMap.kernel`, the schedule is compiled
    (:class:`RandomSchedule`, :class:`DenseSchedule`) and neither ``joins`` nor ``choose`` is given. Both paths give the
    same states to the bit as far as the map's kernel and its ``evaluate`` do.

    Args:
        map: F, ⊥ and the neighbours.
        schedule: ψ.
        initial: x, a state for each participant, taken at tick 0 and on every join; the map's own where not given.
        joins: (t, i): what i begins with where it joins at tick t (or takes part at tick 0), instead of xᵢ; any value
            in Xᵢ keeps the theorem, such as a checkpoint.
        record: what to keep besides the last states; ``"residuals"`` costs an evaluation of everybody at every tick.
        choose: picks what is read instead of β, such as an :class:`Adversary`.
        path: force one of the two ways.

    Raises:
        ScheduleError: the schedule is for another number of participants, or is seen to break an axiom.
        MapError: an initial or joining value is not in X, a joining value is for somebody who does not join there, or
            there is no compiled way and ``path`` asks for it.

    Example:
        >>> import numpy as np
        >>> from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule
        >>> class Ring(DynamicMap):
        ...     num_participants = 3
        ...     def bottom(self, i): return np.zeros(1)
        ...     def initial(self, i): return np.ones(1)
        ...     def neighbours(self, i): return np.array([(i + 1) % 3])
        ...     def evaluate(self, i, epoch, participants, inputs): return inputs[(i + 1) % 3] / 2
        >>> run = simulate(Ring(), RandomSchedule(3, 200, seed=0, max_delay=3), record=("pseudocycles",))
        >>> k = len(run.pseudocycles)
        >>> k > 20, bool((run.states <= 0.5**k).all())
        (True, True)
    """
    n = map.num_participants
    if schedule.num_participants != n:
        raise ScheduleError(f"the schedule is for {schedule.num_participants} participants, the map has {n}")
    start = _start(map, initial)
    keep_all = bool({"history", "residuals"} & set(record))
    compiled = None if path == "python" or joins or choose else _compiled_parts(map, schedule)
    states: Any
    if compiled is not None:
        states, tags = run_compiled(*_with_start(*compiled, start), keep_all=keep_all or "tags" in record)
        states = _in_shape(map, states)
    elif path == "compiled":
        raise MapError(
            "there is no compiled way: it needs a map with a kernel, a RandomSchedule or DenseSchedule, and neither "
            "joins nor choose"
        )
    else:
        states, tags = _interpret(map, schedule, start, _checked_joins(map, schedule, joins or {}), choose)
    return Run(
        states=_stack(states[-1]),
        tags=tags[-1],
        history=_stack([_stack(state) for state in states]) if "history" in record else None,
        tag_history=tags if "tags" in record else None,
        pseudocycles=pseudocycles(schedule, links_of(map)) if "pseudocycles" in record else None,
        residuals=_residuals(map, schedule, states) if "residuals" in record else None,
    )


def _compiled_parts(map: DynamicMap, schedule: Schedule) -> tuple[Kernel, CompiledSchedule] | None:
    kernel = map.kernel()
    if kernel is None:
        return None
    order = schedule.compiled(kernel.indptr, kernel.indices)
    return None if order is None else (kernel, order)


def _with_start(kernel: Kernel, schedule: CompiledSchedule, start: Sequence[Array]) -> tuple[Kernel, CompiledSchedule]:
    initial = np.stack([np.reshape(value, kernel.bottom.shape[1:]) for value in start])
    return replace(kernel, initial=initial.astype(kernel.bottom.dtype, copy=False)), schedule


def _in_shape(map: DynamicMap, states: NDArray[Any]) -> Any:
    """(ticks, n, d) vectors in the shapes that the map's participants have."""
    shapes = {map.bottom(i).shape for i in range(map.num_participants)}
    if len(shapes) == 1:
        return states.reshape(*states.shape[:2], *shapes.pop())
    return [tuple(value.reshape(map.bottom(i).shape) for i, value in enumerate(state)) for state in states]


def links_of(map: DynamicMap) -> Links:
    """``indptr`` (n + 1,) and ``indices`` (nnz,): whom each participant reads."""
    rows = [np.asarray(map.neighbours(i), dtype=np.int64) for i in range(map.num_participants)]
    return np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64), np.concatenate([*rows, np.empty(0, np.int64)])


def _start(map: DynamicMap, initial: Sequence[Array] | None) -> list[Array]:
    if initial is None:
        return [map.initial(i) for i in range(map.num_participants)]
    if len(initial) != map.num_participants:
        raise MapError(f"the map has {map.num_participants} participants; got {len(initial)} initial states")
    for i, value in enumerate(initial):
        _check_value(map, i, value, "the initial state")
    return [np.array(value) for value in initial]


def _checked_joins(
    map: DynamicMap, schedule: Schedule, joins: Mapping[tuple[int, int], Array]
) -> Mapping[tuple[int, int], Array]:
    for (t, i), value in joins.items():
        if not (0 <= t <= schedule.num_ticks and 0 <= i < map.num_participants):
            raise MapError(f"a joining value is given for participant {i} at tick {t}, which the schedule has not")
        if not schedule.present(t)[i] or (t and schedule.present(t - 1)[i]):
            raise MapError(f"a joining value is given for participant {i} at tick {t}, but it does not join there")
        _check_value(map, i, value, f"the value that it joins with at tick {t}")
    return joins


def _check_value(map: DynamicMap, i: int, value: Array, what: str) -> None:
    if not map.contains(i, value):
        expected = map.bottom(i)
        raise MapError(
            f"participant {i}: {what} is not in X; expected {expected.dtype} of shape {expected.shape}, finite and in "
            "the map's domain"
        )


def _interpret(
    map: DynamicMap,
    schedule: Schedule,
    start: list[Array],
    joins: Mapping[tuple[int, int], Array],
    choose: Chooser | None,
) -> tuple[list[list[Array]], NDArray[np.int64]]:
    n, ticks = map.num_participants, schedule.num_ticks + 1
    epochs = schedule.epochs()
    if (np.diff(epochs) < 0).any():
        raise ScheduleError("the schedule's epochs fall; they must never fall")
    neighbours = [map.neighbours(i).tolist() for i in range(n)]
    bottoms = [map.bottom(i) for i in range(n)]
    tags = np.zeros((ticks, n), dtype=np.int64)
    states: list[list[Array]] = []
    before = np.zeros(n, dtype=bool)
    for t in range(ticks):
        epoch = int(epochs[t])
        present, active = schedule.present(t), schedule.active(t)
        same_epoch = t > 0 and epochs[t - 1] == epoch
        now: list[Array] = []
        for i in range(n):
            if not present[i]:
                now.append(bottoms[i])
            elif not before[i]:
                now.append(np.array(joins.get((t, i), start[i])))
            elif not active[i]:
                now.append(states[t - 1][i])
                tags[t, i] = tags[t - 1, i] if same_epoch else 0
            else:
                if choose is None:
                    reads = {j: schedule.read_time(t, i, j) if present[j] else t - 1 for j in neighbours[i]}
                else:
                    reads = _chosen(map, choose, states, bottoms, t, i, epoch, present, neighbours[i])
                for j, read in reads.items():
                    if not 0 <= read < t:
                        refuse_read(t, i, j, read)
                inputs = {j: states[read][j] if present[j] else bottoms[j] for j, read in reads.items()}
                now.append(map.evaluate(i, epoch, present, inputs))
                counted = [tags[s, j] if epochs[s] == epoch else 0 for j, s in reads.items() if present[j]]
                own = tags[t - 1, i] if same_epoch else 0
                tags[t, i] = 1 + min(counted, default=own)
        states.append(now)
        before = present
    return states, tags


def _chosen(
    map: DynamicMap,
    choose: Chooser,
    states: list[list[Array]],
    bottoms: list[Array],
    t: int,
    i: int,
    epoch: int,
    present: Participants,
    neighbours: list[int],
) -> dict[int, int]:
    def evaluate(inputs: Mapping[int, Array]) -> Array:
        return map.evaluate(i, epoch, present, {j: inputs.get(j, bottoms[j]) for j in neighbours})

    oldest = max(0, t - choose.depth)
    recent = {j: [states[s][j] for s in range(t - 1, oldest - 1, -1)] for j in neighbours if present[j]}
    places = choose(evaluate, recent)
    return {j: t - 1 - places.get(j, 0) for j in neighbours}


def _residuals(map: DynamicMap, schedule: Schedule, states: Sequence[States]) -> NDArray[np.float64]:
    result = np.zeros(len(states))
    for t, state in enumerate(states):
        present = schedule.present(t)
        for i in np.flatnonzero(present).tolist():
            inputs = {j: state[j] if present[j] else map.bottom(j) for j in map.neighbours(i).tolist()}
            image = map.evaluate(i, schedule.epoch(t), present, inputs)
            result[t] = max(result[t], map.distance(i, image, state[i]))
    return result


def _stack(parts: Any) -> Any:
    """One array of equal parts, or the parts as they are."""
    if isinstance(parts, np.ndarray):
        return parts
    first = parts[0]
    uniform = all(isinstance(p, np.ndarray) and p.shape == first.shape and p.dtype == first.dtype for p in parts)
    return np.stack(parts) if uniform else tuple(parts)
