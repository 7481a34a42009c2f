import heapq

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model import DynamicMap, MapError, ScheduleError
from fulgurite.plugins.dynamic_async.model.event_simulation import barrier_time, durations, free_time

SPEEDS = ("equal", "exponential", "lognormal", "hiccups", "straggler")


def network(n, seed=0, degree=4, gamma=0.9):
    rng = np.random.default_rng(seed)
    matrix = np.zeros((n, n))
    for i in range(n):
        matrix[i, rng.choice(np.delete(np.arange(n), i), degree, replace=False)] = gamma / degree
    map = AffineMap(matrix, rng.normal(size=n))
    return map, map.solution()[:, None]


def reference(map, takes, goal, tolerance, latency, seed):
    """By a queue of events and a list of all that was published."""
    n = map.num_participants
    begin = np.random.default_rng(seed).random(n) * takes[:, 0]
    published = [[(0.0, map.initial(i))] for i in range(n)]
    queue = [(begin[i], i, None) for i in range(n)]
    heapq.heapify(queue)
    evaluations, done = 0, [0] * n
    while True:
        now, i, result = heapq.heappop(queue)
        if result is not None:
            published[i].append((now, result))
            evaluations += 1
            if all(abs(published[j][-1][1] - goal[j]).max() <= tolerance for j in range(n)):
                return now, evaluations
        inputs = {}
        for j in map.neighbours(i).tolist():
            arrived = [x for at, x in published[j] if at == 0 or at + (latency if j != i else 0) <= now]
            inputs[j] = arrived[-1]
        value = map.evaluate(i, 0, np.ones(n, bool), inputs)
        heapq.heappush(queue, (now + takes[i, done[i]], i, value))
        done[i] += 1


@pytest.mark.parametrize("speeds", ["exponential", "lognormal", "hiccups", "straggler"])
@pytest.mark.parametrize("latency", [0.0, 1.7])
def test_events_happen_as_in_a_queue(speeds, latency):
    map, goal = network(8, degree=3)
    takes = durations(speeds, 8, 3_000, seed=4)
    found = free_time(map, takes, goal, 1e-3, latency=latency, seed=2)
    assert found == pytest.approx(reference(map, takes, goal, 1e-3, latency, 2), rel=1e-12)


def test_a_round_takes_as_long_as_its_slowest():
    map = AffineMap(np.zeros((3, 3)), np.ones(3))  # is there after one round
    takes = np.array([[1.0, 9.0], [4.0, 9.0], [2.0, 9.0]])
    assert barrier_time(map, takes, np.ones((3, 1)), 0.0, latency=0.5) == (4.5, 3)
    halving = AffineMap(np.eye(3) / 2, np.zeros(3), initial=np.ones(3))
    takes = durations("lognormal", 3, 40, seed=1)
    assert barrier_time(halving, takes, np.zeros((3, 1)), 2.0**-10).time == pytest.approx(takes[:, :10].max(0).sum())
    assert barrier_time(halving, takes, np.ones((3, 1)), 0.0) == (0.0, 0)
    assert free_time(halving, takes, np.ones((3, 1)), 0.0) == (0.0, 0)


def test_a_straggler_costs_the_barrier_at_least_four_times_the_time():
    map, goal = network(64)
    takes = durations("straggler", 64, 1_000)
    waiting, free = (time(map, takes, goal, 1e-6).time for time in (barrier_time, free_time))
    assert waiting > 4 * free
    equal = durations("equal", 64, 1_000)
    waiting, free = (time(map, equal, goal, 1e-6).time for time in (barrier_time, free_time))
    assert 0.6 < waiting / free < 0.9, "with equal speeds and no jitter the barrier wins"


@pytest.mark.parametrize("speeds", SPEEDS)
def test_speeds(speeds):
    drawn = durations(speeds, 50, 400, seed=3)
    assert drawn.shape == (50, 400)
    assert (drawn > 0).all()
    mean = {"equal": 1.0, "exponential": 1.0, "lognormal": np.exp(0.5), "hiccups": 1.38, "straggler": 1.18}[speeds]
    assert drawn.mean() == pytest.approx(mean, rel=0.05)
    np.testing.assert_array_equal(drawn, durations(speeds, 50, 400, seed=3))


def test_what_is_refused():
    map, goal = network(8, degree=3)
    with pytest.raises(ScheduleError, match="got 'slow'"):
        durations("slow", 3, 3)
    for time in (barrier_time, free_time):
        with pytest.raises(ScheduleError, match="5 evaluations each did not come within 1e-09; draw more"):
            time(map, durations("equal", 8, 5), goal, 1e-9)
        with pytest.raises(ScheduleError, match="positive"):
            time(map, np.zeros((8, 5)), goal, 1e-9)
        with pytest.raises(MapError, match=r"shape \(8, 1\); got \(8,\)"):
            time(map, durations("equal", 8, 5), goal.ravel(), 1e-9)

    class Plain(DynamicMap):
        num_participants = 1
        bottom = neighbours = evaluate = None

    with pytest.raises(MapError, match="Plain has no kernel"):
        free_time(Plain(), durations("equal", 1, 1), [[0.0]], 1.0)
