"""The greedy counter against the definition, searched through in full."""

import inspect
from functools import cache
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model import DenseSchedule, fair_schedule, periods, pseudocycles, simulate


def is_pseudocycle(schedule, s, e):
    """By the letter: a midpoint for every participant, expiry before it and an activation after it."""
    last, n = schedule.num_ticks, schedule.num_participants
    if schedule.epoch(s) != schedule.epoch(e):
        return False

    def expires(i, m):
        return all(schedule.read_time(t, i, j) >= s for t in range(m + 1, last + 1) for j in range(n))

    def acts(i, m):
        return any(schedule.active(t)[i] for t in range(m + 1, e + 1))

    members = np.flatnonzero(schedule.present(s))
    return len(members) > 0 and all(any(expires(i, m) and acts(i, m) for m in range(s, e + 1)) for i in members)


def most(schedule):
    """The greatest number of abutting pseudocycles in each epoch, by trying all of them."""
    pairs = {
        (s, e)
        for s in range(schedule.num_ticks + 1)
        for e in range(s, schedule.num_ticks + 1)
        if is_pseudocycle(schedule, s, e)
    }

    @cache
    def longest(s):
        return max((1 + longest(e) for e in range(s + 1, schedule.num_ticks + 1) if (s, e) in pairs), default=0)

    counts = {}
    for t in range(schedule.num_ticks + 1):
        counts[schedule.epoch(t)] = max(counts.get(schedule.epoch(t), 0), longest(t))
    return {epoch: count for epoch, count in counts.items() if count}


def check(count, schedule):
    found = count(schedule)
    assert all(is_pseudocycle(schedule, cycle.start, cycle.end) for cycle in found)
    assert all(schedule.epoch(cycle.start) == cycle.epoch for cycle in found)
    for one, next_ in pairwise(found):
        assert next_.start == one.end if next_.epoch == one.epoch else next_.start > one.end
    assert periods.pseudocycles_by_epoch(found) == most(schedule)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_it_finds_as_many_as_there_are(schedules, data):
    check(pseudocycles, data.draw(schedules.schedules(participants=st.integers(1, 3), ticks=st.integers(0, 14))))


def test_fresh_reads_make_every_tick_one():
    assert [cycle[:2] for cycle in pseudocycles(fair_schedule(3, 4, max_gap=1, max_delay=1))] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def stuck(n=2, ticks=12):
    """Everybody evaluates all the time, from how all was in the beginning."""
    shape = (ticks + 1, n, n)
    return DenseSchedule(np.ones(shape[:2], bool), np.zeros(shape, int), np.zeros(shape[0], int), np.ones((1, n), bool))


def test_what_never_expires_is_no_second_round():
    assert [cycle[:2] for cycle in pseudocycles(stuck())] == [(0, 1)]


def test_whom_nobody_reads_holds_nobody_up():
    reads = np.repeat(np.arange(-1, 12).clip(0)[:, None, None], 2, axis=1).repeat(2, axis=2)
    reads[:, 0, 1] = 0
    schedule = DenseSchedule(np.ones((13, 2), bool), reads, np.zeros(13, int), np.ones((1, 2), bool))
    assert len(pseudocycles(schedule)) == 1
    own = np.array([0, 1, 3]), np.array([0, 0, 1])
    assert len(pseudocycles(schedule, own)) == 12


def test_an_epoch_without_participants_has_none():
    schedule = DenseSchedule(np.ones((3, 1), bool), np.zeros((3, 1, 1), int), np.zeros(3, int), np.zeros((1, 1), bool))
    assert pseudocycles(schedule) == []


def test_a_recorded_run_tells_its_schedule():
    class Recorded:
        def schedule(self):
            return fair_schedule(3, 40)

    assert pseudocycles(Recorded()) == pseudocycles(fair_schedule(3, 40))


def without_expiry():
    """The counter that takes it for granted that old data is gone."""
    source, old = inspect.getsource(periods), "result[:-1] = schedule.oldest_reads(links)[1:]"
    assert source.count(old) == 1
    made = {"__name__": "without_expiry"}
    exec(compile(source.replace(old, "pass"), "<without_expiry>", "exec"), made)
    return made["pseudocycles"]


def test_the_counter_without_expiry_is_caught_by_the_definition_and_by_the_bound():
    wrong = without_expiry()
    assert len(wrong(stuck())) == 12
    assert not is_pseudocycle(stuck(), *wrong(stuck())[1][:2])
    map = AffineMap([[0.0, 0.5], [0.5, 0.0]], np.zeros(2), initial=np.ones(2))
    error = np.abs(simulate(map, stuck()).states).max()
    assert error <= 0.5 ** len(pseudocycles(stuck()))
    assert error > 0.5 ** len(wrong(stuck()))
