import csv
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.operators import epoch_table
from fulgurite.callbacks.seqpoint.spans import OperatorTime

LENGTHS = [5, 9, 7, 20, 12, 14, 40, 33, 28]
times = st.dictionaries(st.sampled_from(["mm", "add", "(idle)", "relu"]), st.floats(1e-6, 10.0), min_size=1)


@settings(deadline=None)
@given(steps=st.lists(st.lists(times, min_size=1, max_size=3), min_size=3, max_size=3))
def test_rows_add_up_and_match_a_naive_loop(make_log, make_plan, make_trace, steps):
    plan = make_plan(make_log(LENGTHS))
    traces = {number: [make_trace(step) for step in found] for number, found in enumerate(steps)}
    table = epoch_table(traces, plan)

    projected = sum(point.weight * point.seconds for point in plan.points)
    traced = sum(
        p.weight * sum(sum(step.values()) for step in f) / len(f) for p, f in zip(plan.points, steps, strict=True)
    )
    assert table.seconds == pytest.approx(projected, rel=1e-12)
    assert table.traced_seconds == pytest.approx(traced, rel=1e-12)
    assert sum(table.band_seconds) == pytest.approx(projected, rel=1e-12)
    for kind in ("operator", "module"):
        rows = table.of(kind)
        assert sum(row.seconds for row in rows) == pytest.approx(projected, rel=1e-9)
        assert sum(row.traced_seconds for row in rows) == pytest.approx(traced, rel=1e-9)
        assert sum(row.share for row in rows) == pytest.approx(1.0, rel=1e-9)
        for band, seconds in enumerate(table.band_seconds):
            assert sum(row.bands[band] for row in rows) == pytest.approx(1.0 if seconds else 0.0, rel=1e-9)
    for row in table.of("operator"):
        naive = 0.0
        for point, found in zip(plan.points, steps, strict=True):
            mean = sum(step.get(row.name, 0.0) for step in found) / len(found)
            whole = sum(sum(step.values()) for step in found) / len(found)
            naive += point.weight * point.seconds * mean / whole
        assert row.seconds == pytest.approx(naive, rel=1e-9)


def test_weights_of_any_plan_add_up_to_the_projection(make_log, make_plan, make_trace):
    log = make_log(LENGTHS)
    plan = make_plan(log).with_measured({(4, n, 1): 0.5 * n for n in (7, 14, 33)})
    table = epoch_table({number: [make_trace({"mm": 1.0, "add": 3.0})] for number in range(3)}, plan)
    assert table.seconds == pytest.approx(plan.project().total, rel=1e-12)
    assert table.of("operator")[0].seconds == pytest.approx(0.75 * plan.project().total, rel=1e-12)
    assert [row.name for row in table.of("operator")] == ["add", "mm"]


def test_calls_and_slowdown_are_the_epochs(make_log, make_plan, make_trace):
    plan = make_plan(make_log([10] * 30))
    slow = {"mm": 0.015}  # 10 ms without the profiler
    table = epoch_table({0: [make_trace(slow)], 1: [make_trace(slow), make_trace({})], 2: [make_trace(slow)]}, plan)
    [row] = table.of("operator")
    assert row.calls == pytest.approx(10 * 2 + 10 * 1 + 10 * 2)
    assert table.slowdown == pytest.approx((10 * 0.015 + 10 * 0.0075 + 10 * 0.015) / 0.3)


def test_a_length_band_has_the_shares_of_its_own_points(make_log, make_plan, make_trace):
    plan = make_plan(make_log([5] * 4 + [50] * 4), points=2)
    traces = {0: [make_trace({"mm": 1.0, "add": 1.0})], 1: [make_trace({"mm": 3.0, "add": 1.0})]}
    table = epoch_table(traces, plan, bands=2)
    assert [(band.low, band.high) for band in table.bands] == [(5, 5), (6, 50)]
    shares = {row.name: row.bands for row in table.of("operator")}
    assert shares["mm"] == pytest.approx((0.5, 0.75))
    assert shares["add"] == pytest.approx((0.5, 0.25))


def test_a_point_without_a_trace_borrows_from_the_nearest(make_log, make_plan, make_trace):
    plan = make_plan(make_log(LENGTHS))
    table = epoch_table({0: [make_trace({"mm": 1.0})], 1: [], 2: [make_trace({"add": 2.0})]}, plan)
    assert table.borrowed == {1: 0}
    assert table.of("operator")[0].seconds + table.of("operator")[1].seconds == pytest.approx(table.seconds, rel=1e-12)
    short = sum(point.weight * point.seconds for point in plan.points[:2])
    assert {row.name: row.seconds for row in table.of("operator")}["mm"] == pytest.approx(short)


def test_a_plan_made_without_times_takes_those_under_the_profiler(make_log, make_plan, make_trace):
    plan = make_plan(make_log(LENGTHS))
    plan = replace(plan, seconds=math.nan, points=tuple(replace(point, seconds=math.nan) for point in plan.points))
    table = epoch_table({number: [make_trace({"mm": 0.5})] for number in range(3)}, plan)
    assert table.seconds == pytest.approx(9 * 0.5)
    assert table.slowdown == pytest.approx(1.0)


def test_kernels_are_a_table_of_their_own(make_log, make_plan, make_trace):
    plan = make_plan(make_log(LENGTHS))
    kernels = [OperatorTime("gemm", 0.75, 3), OperatorTime("(device idle)", 0.25, 0)]
    table = epoch_table({number: [make_trace({"mm": 1.0}, kernels=kernels)] for number in range(3)}, plan)
    assert table.on_device
    assert [(row.name, round(row.share, 9)) for row in table.of("kernel")] == [("gemm", 0.75), ("(device idle)", 0.25)]
    assert sum(row.seconds for row in table.of("kernel")) == pytest.approx(table.seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((), "got no traces"), ((3,), "traces of point 3; the plan has points 0 to 2"), ((-1,), "point -1")],
)
def test_traces_that_cannot_be_weighed_are_refused(make_log, make_plan, make_trace, numbers, message):
    plan = make_plan(make_log(LENGTHS))
    with pytest.raises(ValueError, match=message):
        epoch_table({number: [make_trace({"mm": 1.0})] for number in numbers}, plan)


def test_the_csv_holds_every_number(make_log, make_plan, make_trace, tmp_path):
    plan = make_plan(make_log(LENGTHS))
    table = epoch_table({0: [make_trace({"a,b": 1 / 3, '"q"': 1.0})]}, plan)
    table.save_csv(tmp_path / "operators.csv")
    with open(tmp_path / "operators.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table.rows)
    for row, expected in zip(rows, table.rows, strict=True):
        assert (row["kind"], row["name"], row["phase"]) == (expected.kind, expected.name, expected.phase)
        assert float(row["seconds"]) == expected.seconds
        assert float(row["traced_seconds"]) == expected.traced_seconds
        assert float(row["calls"]) == expected.calls
        bands = [float(row[f"share at length {band.label}"]) for band in table.bands]
        assert bands == list(expected.bands)


def test_a_csv_that_cannot_be_written_leaves_nothing(make_log, make_plan, make_trace, tmp_path):
    (tmp_path / "file").write_text("in the way")
    table = epoch_table({0: [make_trace({"mm": 1.0})]}, make_plan(make_log(LENGTHS)))
    with pytest.raises(OSError, match="file"):
        table.save_csv(tmp_path / "file" / "operators.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
