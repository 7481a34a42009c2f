import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from fulgurite.callbacks.seqpoint.figures import figures, operator_share, short_name, step_time, timeline
from fulgurite.callbacks.seqpoint.operators import epoch_table

LENGTHS = [5, 9, 7, 20, 12, 14, 40, 33, 28]


def drawn(figure):
    """The picture's pixels; drawing it is what finds broken labels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    return imread(buffer)


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def whole(make_log, make_plan, make_trace, lengths=LENGTHS, **changes):
    log = make_log(lengths)
    plan = make_plan(log, points=min(3, len(lengths)))
    traces = {
        number: [make_trace({"aten::mm": 1.0, "aten::_softmax": 0.5}, shape=point.shape, peak=1e6 * point.shape[1])]
        for number, point in enumerate(plan.points)
    }
    given = {"plan": plan, "log": log, "following": make_log(lengths, epoch=1), "traces": traces}
    return given | {"table": epoch_table(traces, plan)} | changes


def test_all_four_are_drawn_and_say_what_they_show(make_log, make_plan, make_trace):
    found = figures(**whole(make_log, make_plan, make_trace))
    assert set(found) == {"step_time", "timeline", "operators", "memory"}
    for figure in found.values():
        assert drawn(figure).std() > 0.01
    assert {"source length", "step time (ms)"} <= set(texts(found["step_time"]))
    assert any(text.startswith("Epoch 1, traced") for text in texts(found["timeline"]))
    assert {"mm", "aten::_softmax", "whole epoch", "share of CPU time (%)"} <= set(texts(found["operators"]))
    assert any("step 6 (batch 4, source 40)" in text for text in texts(found["memory"]))


@pytest.mark.parametrize("lengths", [[20], [20] * 6, [1, 1000], [3, 4]])
def test_one_step_one_shape_and_wide_ranges_are_drawn(make_log, make_plan, make_trace, lengths):
    for figure in figures(**whole(make_log, make_plan, make_trace, lengths)).values():
        drawn(figure)


def test_without_traces_there_is_no_operator_figure_and_memory_is_said_to_be_unknown(make_log, make_plan, make_trace):
    found = figures(**whole(make_log, make_plan, make_trace, traces={}, table=None, following=None))
    assert set(found) == {"step_time", "timeline", "memory"}
    assert any(
        text.startswith("Memory was not measured; the largest batch is step 6") for text in texts(found["memory"])
    )
    for figure in found.values():
        drawn(figure)


def test_measured_memory_with_gaps_is_drawn(make_log, make_plan):
    peaks = np.array([np.nan, 2e9, 3e9, np.nan, 1e9, 1e9, 2e9, 2e9, 2e9])
    log = make_log(LENGTHS, peak_bytes=peaks)
    found = figures(plan=make_plan(log), log=log, following=None, table=None, traces={})
    assert "peak memory (GB)" in texts(found["memory"])
    drawn(found["memory"])


def test_points_lie_where_their_steps_do_and_rings_follow_weights(make_log, make_plan):
    log = make_log(LENGTHS)
    figure = step_time(make_plan(log), log)
    rings = figure.axes[0].collections[1]
    assert rings.get_offsets()[:, 0].tolist() == [7.0, 14.0, 33.0]
    assert rings.get_offsets()[:, 1].tolist() == pytest.approx([7.0, 14.0, 33.0])  # 1 ms a length
    assert len(set(rings.get_sizes())) == 1  # equal weights


def test_a_few_outliers_do_not_flatten_the_picture_and_are_counted(make_log, make_plan):
    seconds = np.full(600, 0.01)
    seconds[17] = 30.0
    log = make_log(np.arange(600) + 1, seconds=seconds)
    figure = step_time(make_plan(log), log)
    assert figure.axes[0].get_ylim()[1] < 100
    assert "1 step higher, up to 30,000 ms" in texts(figure)


def test_the_timeline_keeps_the_epochs_total_when_steps_share_a_bar(make_log):
    log = make_log(np.arange(1, 5001))
    [bars, *_] = timeline(log, None).axes[0].patches
    values, edges, _ = bars.get_data()
    assert len(values) <= 600
    assert (values * np.diff(edges)).sum() == pytest.approx(log.seconds.sum() * 1e3)


def test_marks_of_either_epoch_are_in_the_legend(make_log):
    first, last = np.eye(3, dtype=bool)[[0, 2]]
    figure = timeline(make_log([5, 6, 7], cold=first), make_log([5, 6, 7], traced=last, epoch=1))
    assert {"step", "input wait", "new shape", "traced"} <= set(texts(figure))
    drawn(figure)


def test_stacked_bars_fill_up_to_a_hundred(make_log, make_plan, make_trace):
    plan = make_plan(make_log(LENGTHS))
    names = {f"aten::op{number}": 1.0 + number for number in range(20)}
    figure = operator_share(epoch_table({0: [make_trace(names)]}, plan))
    bars = figure.axes[0].patches
    ends = {round(bar.get_y(), 3): bar.get_x() + bar.get_width() for bar in bars}
    assert list(ends.values()) == pytest.approx([100.0] * len(ends))
    assert "12 more operators" in texts(figure)


def test_names_are_shortened_but_stay_in_the_legend():
    assert short_name("aten::mm") == "mm"
    assert short_name("aten::_log_softmax") == "aten::_log_softmax"


def test_pyplot_and_its_settings_are_left_alone():
    script = """
import sys, matplotlib
def settings():  # asking for the backend would load pyplot, to look for a screen
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
import numpy as np
from fulgurite.callbacks.seqpoint.figures import timeline
from fulgurite.callbacks.seqpoint.log import EpochLog
from fulgurite.callbacks.seqpoint.page import inline_svg
n, no = np.zeros(3), np.zeros(3, bool)
log = EpochLog(0, ("batch",), np.ones((3, 1), int), n + 1, n, n, no, no, n - 1, n - 1, n)
inline_svg(timeline(log, None), "time")
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
