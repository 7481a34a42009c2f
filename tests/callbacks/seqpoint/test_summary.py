import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.plan import Projection
from fulgurite.callbacks.seqpoint.summary import find_memory_risk, like, padded_size, summarize

LENGTHS = [5, 9, 7, 20, 12, 14, 40, 33, 28]


def flags(steps, *true):
    mask = np.zeros(steps, bool)
    mask[list(true)] = True
    return mask


def test_reductions_are_against_the_logged_epoch(make_log, make_plan):
    log = make_log(LENGTHS)
    plan = make_plan(log, replicates=2)
    runs = [log.seconds[run] for point in plan.points for run in point.runs]
    found = summarize(plan=plan, log=log, following=None, projection=None, traces={})
    assert found.runs == len(runs) == 6
    assert found.serial == pytest.approx(log.seconds.sum() / sum(runs))
    assert found.critical == pytest.approx(log.seconds.sum() / max(runs))
    assert math.isnan(found.error)
    assert math.isnan(found.actual)


def test_the_actual_epoch_does_not_count_what_tracing_costs(make_log, make_plan):
    log = make_log(LENGTHS * 5)
    slow = log.seconds.copy()
    slow[[3, 10]] *= 20
    following = make_log(LENGTHS * 5, seconds=slow, traced=flags(45, 3, 10), epoch=1)
    projection = Projection(2 * log.seconds.sum(), 0.0, 9.0)
    found = summarize(plan=make_plan(log), log=log, following=following, projection=projection, traces={})
    assert found.actual == pytest.approx(log.seconds.sum(), rel=1e-9)
    assert found.error == pytest.approx(1.0, rel=1e-9)


def test_new_shapes_cost_what_they_take_beyond_like_steps(make_log, make_plan):
    seconds = np.full(9, 0.010)
    seconds[[0, 4]] = 0.110
    log = make_log([10] * 9, seconds=seconds, cold=flags(9, 0, 4))
    found = summarize(plan=make_plan(log), log=log, following=None, projection=None, traces={})
    assert (found.cold_steps, found.cold_seconds) == (2, pytest.approx(0.2))


def test_wait_padding_and_trace_bytes_add_up(make_log, make_plan, make_trace):
    log = make_log([10] * 4, waits=np.full(4, 0.01), real=np.array([30, 20, -1, 30]), padded=np.array([40, 40, -1, 40]))
    traces = {0: [make_trace({"mm": 1.0})] * 2, 1: [], 2: [make_trace({"mm": 1.0})]}
    found = summarize(plan=make_plan(log), log=log, following=None, projection=None, traces=traces, straggler=0.2)
    assert found.waiting == pytest.approx(0.5)
    assert found.padding == pytest.approx(1 - 80 / 120)
    assert found.trace_bytes == 3000
    assert found.straggler == 0.2


def test_a_plan_of_another_log_is_refused(make_log, make_plan):
    with pytest.raises(ValueError, match="plan for 9 steps and a log of 10"):
        summarize(plan=make_plan(make_log(LENGTHS)), log=make_log([1] * 10), following=None, projection=None, traces={})


@settings(deadline=None)
@given(data=st.data())
def test_replaced_steps_take_the_median_of_their_nearest(make_log, make_plan, data):
    steps = data.draw(st.integers(2, 30))
    lengths = data.draw(st.permutations(range(1, 3 * steps, 3)).map(lambda order: order[:steps]))
    seconds = data.draw(st.lists(st.floats(0.001, 1.0), min_size=len(lengths), max_size=len(lengths)))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    log = make_log(lengths, seconds=seconds)
    found = like(log, make_plan(log, points=1), mask)
    assert np.array_equal(found[~mask], log.seconds[~mask])
    if mask.all():
        assert np.array_equal(found, log.seconds)
        return
    kept = np.flatnonzero(~mask)
    for step in np.flatnonzero(mask):
        # Among untraced neighbours in order of length, a window of up to five around the step's own place.
        order = kept[np.argsort(np.asarray(lengths)[kept])]
        place = int(np.searchsorted(np.sort(np.asarray(lengths)[kept]), lengths[step]))
        count = min(5, len(kept))
        start = min(max(place - count // 2, 0), len(kept) - count)
        assert found[step] == np.median(log.seconds[order[start : start + count]])


def test_measured_memory_comes_first(make_log):
    peaks = np.array([1e6, np.nan, 7e6, 3e6])
    risk = find_memory_risk(make_log([40, 50, 10, 20], peak_bytes=peaks), {})
    assert (risk.step, risk.basis, risk.peak_bytes) == (2, "measured", 7e6)
    assert risk.shape == (4, 10, 1)


def test_memory_is_predicted_from_traced_steps_by_shape(make_log, make_trace):
    log = make_log([10, 90, 30, 60, 20])
    traces = {0: [make_trace({"mm": 1.0}, shape=(4, n, 1), peak=1e6 + 1e4 * n) for n in (10, 30, 60, 20)]}
    risk = find_memory_risk(log, traces)
    assert (risk.step, risk.basis) == (1, "predicted")
    assert risk.peak_bytes == pytest.approx(1.9e6, rel=0.02)
    assert np.all(np.diff(risk.peaks[np.argsort(log.shapes[:, 1])]) >= 0)


def test_without_any_measurement_the_largest_batch_is_named(make_log, make_trace):
    risk = find_memory_risk(make_log([10, 90, 30]), {0: [make_trace({"mm": 1.0})]})
    assert (risk.step, risk.basis) == (1, "size")
    assert math.isnan(risk.peak_bytes)


def test_traces_of_other_columns_are_not_mixed_in(make_log, make_trace):
    risk = find_memory_risk(make_log([10, 90]), {0: [make_trace({"mm": 1.0}, shape=(4, 10, 3, 1), peak=5.0)]})
    assert risk.basis == "size"


def test_size_is_batch_times_lengths(make_log):
    assert padded_size(make_log([10, 90])).tolist() == [40.0, 360.0]
