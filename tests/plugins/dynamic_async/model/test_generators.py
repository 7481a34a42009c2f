import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.model import (
    RandomSchedule,
    Schedule,
    ScheduleError,
    adversarial_schedule,
    counter,
    fair_schedule,
    pseudocycles,
)


def splitmix(x):
    """The finalizer in whole numbers of any size."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(deadline=None)
def test_the_hash_is_splitmix(key, a, b):
    golden = 0x9E3779B97F4A7C15
    expected = splitmix((splitmix((key + a * golden) % 2**64) + b * golden) % 2**64)
    assert int(counter.draw(np.uint64(key), a, b)) == expected
    assert counter.high(np.uint64(expected)) == expected >> 32
    assert counter.below(np.uint64(expected), 7) == (expected % 2**32) * 7 >> 32


def test_splitmix_as_published():
    """The first numbers of the generator seeded with 1234567, a vector that other implementations test with."""
    state, found = 1234567, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        found.append(int(counter.mix(np.uint64(state))))
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_every_one_keeps_the_axioms(schedules, data):
    Schedule.validate(data.draw(schedules.schedules()))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.1]))
def test_fair_ones_keep_their_promise(seed, max_gap, max_delay, churn):
    schedule = fair_schedule(4, 120, seed=seed, max_gap=max_gap, max_delay=max_delay, churn=churn)
    for i in range(4):
        ticks = [0, *(t for t in range(1, 121) if schedule.active(t)[i])]
        assert max(np.diff([*ticks, 120])) <= max_gap
    oldest = schedule.oldest_reads()[1:]
    assert (oldest >= np.maximum(np.arange(1, 121)[:, None] - max_delay, 0)).all()
    if churn == 0:
        assert len(pseudocycles(schedule)) >= 120 // (max_gap + max_delay) - 1


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 9), st.sampled_from([0.0, 0.3, 0.9]))
def test_without_reordering_nobody_goes_back(seed, max_delay, loss):
    schedule = RandomSchedule(3, 60, seed=seed, max_delay=max_delay, loss=loss, reorder=False)
    reads = np.array([[schedule.reads(t, i) for i in range(3)] for t in range(1, 61)])
    assert (np.diff(reads, axis=0) >= 0).all()


def test_the_numbers_are_as_likely_as_they_should_be():
    n, ticks = 200, 100
    schedule = RandomSchedule(n, ticks, seed=5, activation=0.3, max_delay=4, loss=0.5, churn=0.2, away=0.4)
    active = np.array([schedule.active(t) for t in range(1, ticks + 1)])
    assert abs(active.mean() - 0.3) < 0.01
    assert abs(np.mean([schedule.participants(e) for e in range(60)]) - 0.6) < 0.02
    assert 10 < schedule.epoch(ticks) < 30
    links = np.arange(n + 1), (np.arange(n) + 1) % n
    all_present = RandomSchedule(n, ticks, seed=5, max_delay=4, loss=0.5)
    ages = (np.arange(ticks + 1)[:, None] - all_present.reads_on(*links))[10:].ravel()
    # An even draw of 1 to 4 ticks, older by one for each loss, cut off at 4.
    expected = np.array([1 / 8, 3 / 16, 7 / 32, 15 / 32])
    assert np.abs(np.bincount(ages, minlength=5)[1:] / len(ages) - expected).max() < 0.01
    assert np.abs(np.corrcoef(active[:-1].ravel(), active[1:].ravel())[0, 1]) < 0.03


def test_a_seed_is_a_schedule():
    def numbers(seed):
        schedule = RandomSchedule(6, 30, seed=seed, churn=0.3, loss=0.2)
        return schedule.oldest_reads().tolist(), schedule.epochs().tolist(), schedule.active(9).tolist()

    assert numbers(3) == numbers(3)
    assert numbers(3) != numbers(4)
    assert numbers(-1) != numbers(1)


def test_who_is_away_comes_back():
    schedule = RandomSchedule(50, 400, seed=1, churn=0.3, away=0.5)
    present = np.array([schedule.present(t) for t in range(401)])
    changes = np.diff(present.astype(int), axis=0)
    assert ((changes == 1).sum(axis=0) > 3).all()
    assert ((changes == -1).sum(axis=0) > 3).all()
    assert RandomSchedule(50, 9, away=1.0).present(9).all()  # no churn: nobody leaves


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": 1.5}, "activation is a probability"),
        ({"loss": -0.1}, "loss"),
        ({"churn": float("nan")}, "churn"),
        ({"max_delay": 0}, "max_delay must be at least 1"),
        ({"max_gap": 0}, "max_gap must be at least 1"),
        ({"num_participants": 0}, "needs a participant"),
        ({"num_ticks": -1}, "needs a participant and a tick"),
    ],
)
def test_numbers_out_of_range(changes, message):
    with pytest.raises(ScheduleError, match=message):
        RandomSchedule(**{"num_participants": 2, "num_ticks": 3} | changes)


def test_the_adversary_is_nasty_but_not_hopeless():
    schedule = adversarial_schedule(5, 2_000, seed=1)
    everybody = np.arange(6) * 5, np.tile(np.arange(5), 5)
    reads = schedule.reads_on(*everybody)[1:]
    assert (np.diff(reads, axis=0) < 0).any(), "it never goes back"
    assert (np.arange(1, 2_001)[:, None] - reads).max() > 6, "nothing is older than a phase"
    rejoined = np.zeros(5, dtype=int)
    ghosts = 0
    for t in range(1, 2_001):
        rejoined[schedule.present(t) > schedule.present(t - 1)] = t
        ghosts += sum((schedule.reads(t, i) < rejoined - 1).any() for i in np.flatnonzero(schedule.active(t)))
    assert ghosts > 100, "nobody reads what a participant was before it left"
    assert len(pseudocycles(adversarial_schedule(5, 2_000, seed=1, churn=False))) > 20
    with pytest.raises(ScheduleError, match="at least 2"):
        adversarial_schedule(3, 9, phase=1)
