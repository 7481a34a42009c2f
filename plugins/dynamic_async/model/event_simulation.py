"""How long an iteration takes with and without a barrier, where evaluations take time: by events, in simulated time."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model.dynamic_map import DynamicMap, Kernel
from fulgurite.plugins.dynamic_async.model.errors import MapError, ScheduleError

Speeds = Literal["equal", "exponential", "lognormal", "hiccups", "straggler"]


class Arrival(NamedTuple):
    """When a target was reached.

    Args:
        time: in the unit of the durations.
        evaluations: of all participants together, until then.
    """

    time: float
    evaluations: int


def durations(
    speeds: Speeds, num_participants: int, count: int, *, seed: int = 0, slowdown: float | None = None
) -> NDArray[np.float64]:
    """How long each participant's first ``count`` evaluations take; the usual one takes 1.

    Args:
        speeds: ``"equal"``: 1; ``"exponential"``: of mean 1; ``"lognormal"``: of median 1 and σ = 1; ``"hiccups"``: 2 %
            of the evaluations take ``slowdown`` (20), the others 1; ``"straggler"``: those of participant 0 take
            ``slowdown`` (10), the others 1.
        num_participants: n.
        count: how many for each.
        seed: of the random ones.
        slowdown: as said above.

    Returns:
        (n, count).

    Example:
        >>> durations("straggler", 3, 2).tolist()
        [[10.0, 10.0], [1.0, 1.0], [1.0, 1.0]]
    """
    rng = np.random.default_rng(seed)
    shape = (num_participants, count)
    match speeds:
        case "exponential":
            return rng.exponential(size=shape)
        case "lognormal":
            return rng.lognormal(size=shape)
        case "hiccups":
            return np.where(rng.random(shape) < 0.02, 20.0 if slowdown is None else slowdown, 1.0)
        case "straggler":
            result = np.ones(shape)
            result[0] = 10.0 if slowdown is None else slowdown
            return result
        case "equal":
            return np.ones(shape)
    raise ScheduleError(f"speeds are equal, exponential, lognormal, hiccups or straggler; got {speeds!r}")


def barrier_time(
    map: DynamicMap, takes: NDArray[np.float64], goal: ArrayLike, tolerance: float, *, latency: float = 0.0
) -> Arrival:
    """When synchronous iteration is within ``tolerance`` of a fixed point: a round lasts as long as its slowest part.

    Args:
        map: one that has a kernel; all take part.
        takes: (n, count) how long the k-th evaluation of each takes.
        goal: (n, d) the fixed point.
        tolerance: on the greatest absolute difference of any number.
        latency: until a result is seen by others; once a round.

    Returns:
        the first time.

    Raises:
        MapError: the map has no kernel, or the goal another shape.
        ScheduleError: ``takes`` was used up before.
    """
    kernel, target = _checked(map, takes, goal)
    rounds = _rounds(
        kernel.evaluate,
        kernel.arrays,
        kernel.indptr,
        kernel.indices,
        kernel.initial,
        target,
        tolerance,
        takes.shape[1],
    )
    if rounds < 0:
        raise _used_up(takes, tolerance)
    time = float(takes[:, :rounds].max(axis=0).sum() + latency * rounds)
    return Arrival(time, rounds * map.num_participants)


def free_time(
    map: DynamicMap,
    takes: NDArray[np.float64],
    goal: ArrayLike,
    tolerance: float,
    *,
    latency: float = 0.0,
    seed: int = 0,
) -> Arrival:
    """When asynchronous iteration is within ``tolerance`` of a fixed point: nobody waits for anybody.

    Each participant begins at a random moment of its first evaluation's length. An evaluation reads, as it begins, the
    newest values that have arrived; its result is there when it ends, and with the others ``latency`` later.

    Args:
        map: one that has a kernel; all take part.
        takes: (n, count) how long the k-th evaluation of each takes.
        goal: (n, d) the fixed point.
        tolerance: on the greatest absolute difference of any number, of the participants' own states.
        latency: until a result is seen by others.
        seed: of the moments that they begin at.

    Returns:
        the first time.

    Raises:
        MapError: the map has no kernel, or the goal another shape.
        ScheduleError: a participant used up its row of ``takes`` before.

    Example:
        >>> from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
        >>> ring = AffineMap(0.5 * np.roll(np.eye(8), 1, axis=1), np.ones(8))
        >>> slow = durations("straggler", 8, 1_000)
        >>> waiting, free = (time(ring, slow, np.full((8, 1), 2.0), 1e-6).time for time in (barrier_time, free_time))
        >>> waiting, free < waiting / 2
        (210.0, True)
    """
    kernel, target = _checked(map, takes, goal)
    begin = np.random.default_rng(seed).random(len(takes)) * takes[:, 0]
    time, evaluations = _events(
        kernel.evaluate,
        kernel.arrays,
        kernel.indptr,
        kernel.indices,
        kernel.initial,
        target,
        tolerance,
        takes,
        begin,
        float(latency),
    )
    if evaluations < 0:
        raise _used_up(takes, tolerance)
    return Arrival(float(time), int(evaluations))


def _checked(map: DynamicMap, takes: NDArray[np.float64], goal: ArrayLike) -> tuple[Kernel, NDArray[np.float64]]:
    kernel = map.kernel()
    if kernel is None:
        raise MapError(f"{type(map).__name__} has no kernel; only compiled maps are simulated by events")
    target = np.asarray(goal, dtype=np.float64)
    if target.shape != kernel.initial.shape:
        raise MapError(f"the goal must be of shape {kernel.initial.shape}; got {target.shape}")
    if takes.ndim != 2 or len(takes) != map.num_participants or not takes.size or not (takes > 0).all():
        raise ScheduleError(f"durations are positive, ({map.num_participants}, count); got shape {takes.shape}")
    return kernel, target


def _used_up(takes: NDArray[np.float64], tolerance: float) -> ScheduleError:
    return ScheduleError(f"{takes.shape[1]} evaluations each did not come within {tolerance}; draw more durations")


@compiled()
def _distance(x: Any, y: Any) -> Any:
    result = 0.0
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            result = max(result, abs(x[i, k] - y[i, k]))
    return result


@compiled(keep=False)
def _rounds(
    evaluate: Any, arrays: Any, indptr: Any, indices: Any, initial: Any, target: Any, tolerance: Any, count: Any
) -> Any:
    """How many rounds it takes; −1: more than there are durations for."""
    state, following = initial.copy(), initial.copy()
    everybody = np.ones(len(initial), np.bool_)
    for number in range(count + 1):
        if _distance(state, target) <= tolerance:
            return number
        for i in range(len(initial)):
            read = indices[indptr[i] : indptr[i + 1]]
            evaluate(i, 0, everybody[: len(read)], state[read], following[i], *arrays)
        state, following = following, state
    return -1


@compiled(keep=False)
def _events(
    evaluate: Any,
    arrays: Any,
    indptr: Any,
    indices: Any,
    initial: Any,
    target: Any,
    tolerance: Any,
    takes: Any,
    begin: Any,
    latency: Any,
) -> Any:
    """When, and after how many evaluations; −1 of them: somebody's durations were used up."""
    n, count = takes.shape
    everybody = np.ones(n, np.bool_)
    # All that was ever published: values[i, v] is there from published[i, v] on; version 0 is the initial state.
    values = np.empty((n, count + 1, initial.shape[1]), initial.dtype)
    published = np.zeros((n, count + 1))
    versions = np.zeros(n, np.int64)
    values[:, 0] = initial
    pending, state = initial.copy(), initial.copy()
    due = begin.copy()
    evaluating = np.zeros(n, np.bool_)
    evaluations = 0
    if _distance(state, target) <= tolerance:
        return 0.0, 0
    while True:
        i = np.argmin(due)
        now = due[i]
        if evaluating[i]:
            versions[i] += 1
            values[i, versions[i]] = pending[i]
            published[i, versions[i]] = now
            state[i] = pending[i]
            evaluations += 1
            if _distance(state[i : i + 1], target[i : i + 1]) <= tolerance and _distance(state, target) <= tolerance:
                return now, evaluations
        if versions[i] == count:
            return now, -1
        evaluating[i] = True
        read = indices[indptr[i] : indptr[i + 1]]
        inputs = np.empty((len(read), initial.shape[1]), initial.dtype)
        for k in range(len(read)):
            j = read[k]
            version = versions[j]
            # One's own result needs no sending.
            while j != i and version > 0 and published[j, version] + latency > now:
                version -= 1
            inputs[k] = values[j, version]
        evaluate(i, 0, everybody[: len(read)], inputs, pending[i], *arrays)
        due[i] = now + takes[i, versions[i]]
