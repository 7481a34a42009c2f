import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.following import drift, measure, ordinary, start_up
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.plan import PlanError
from fulgurite.callbacks.seqpoint.select import select


def make_log(lengths, *, slope=0.001, traced=(), cold=(), epoch=0):
    lengths = np.asarray(lengths)
    count = len(lengths)
    return EpochLog(
        epoch=epoch,
        columns=("batch", "source"),
        shapes=np.column_stack([np.full(count, 8), lengths]),
        seconds=slope * lengths + 0.002,
        waits=np.zeros(count),
        starts=np.zeros(count),
        cold=np.isin(np.arange(count), cold),
        traced=np.isin(np.arange(count), traced),
        real=np.full(count, -1),
        padded=np.full(count, -1),
        peak_bytes=np.full(count, np.nan),
    )


def lengths_of(count, seed=0):
    return np.random.default_rng(seed).lognormal(3, 0.6, count).astype(int) + 1


def plan_of(log, **options):
    return select(log.shapes, log.seconds, columns=log.columns, **options)


def test_ordinary_steps():
    log = make_log([5] * 8, traced=[2], cold=[0, 6])
    assert np.flatnonzero(ordinary(log)).tolist() == [1, 4, 5, 7]


def test_where_most_steps_are_cold_only_the_first_are_kept_out():
    assert np.flatnonzero(start_up(make_log([5] * 8, cold=range(1, 8)))).tolist() == [1, 2]
    assert np.flatnonzero(start_up(make_log([5] * 8, cold=range(4, 8)))).tolist() == [4, 5, 6, 7]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16))
def test_a_shuffled_epoch_is_projected_from_its_own_steps(seed):
    log = make_log(lengths_of(400))
    plan = plan_of(log, points=8)
    following = make_log(np.random.default_rng(seed).permutation(lengths_of(400)), slope=0.002)
    projection = plan.project(measure(plan, following, seed=seed))
    assert projection.total == pytest.approx(following.seconds.sum(), rel=0.02)


def test_traced_steps_and_their_followers_are_not_measured():
    lengths = lengths_of(400)
    log = make_log(lengths)
    plan = plan_of(log, points=4)
    spoilt = {run for point in plan.points for run in point.runs}
    following = make_log(lengths, traced=sorted(spoilt))
    seconds = following.seconds.copy()
    for step in spoilt:
        seconds[step : step + 2] = 1e6
    measured = measure(plan, replace(following, seconds=seconds))
    assert max(max(values) for values in measured.values()) < 1e3
    assert sum(len(values) for values in measured.values()) == plan.runs


def test_no_step_is_measured_twice():
    log = make_log([5] * 200)
    plan = plan_of(log, points=1, replicates=5)
    following = replace(make_log([5] * 200), seconds=np.arange(1.0, 201.0))
    (values,) = measure(plan, following).values()
    assert len(set(values)) == 5
    assert max(values) > 5, "equally near steps are drawn, not taken from the beginning"
    assert measure(plan, following, seed=1) != measure(plan, following, seed=2)


def test_an_epoch_without_enough_ordinary_steps_falls_back_to_untraced_ones():
    log = make_log([5, 9] * 20)
    plan = plan_of(log, points=2, replicates=3)
    measured = measure(plan, make_log([5, 9] * 4, cold=[1, 3, 5, 7]))
    assert sum(len(values) for values in measured.values()) == 6
    with pytest.raises(PlanError, match="2 untraced steps are too few to measure the 6 runs"):
        measure(plan, make_log([5, 9] * 4, traced=range(6)))


def test_the_paper_s_points_are_measured_by_length():
    log = make_log(lengths_of(300))
    plan = plan_of(log, selector="paper", replicates=1)
    following = make_log(np.random.default_rng(1).permutation(lengths_of(300)))
    for shape, values in measure(plan, following).items():
        assert values == pytest.approx([0.001 * shape[1] + 0.002] * len(values))


def test_drift_sees_what_like_steps_cost():
    log = make_log(lengths_of(300))
    plan = plan_of(log, points=4)
    slower = make_log(lengths_of(300, seed=1), epoch=1)
    slower = replace(slower, seconds=slower.seconds * 1.2)
    assert drift(plan, log, slower) == pytest.approx(0.2, abs=0.01)
    assert drift(plan, log, log) == 0.0
    assert math.isnan(drift(plan, log, make_log([5] * 4)))
