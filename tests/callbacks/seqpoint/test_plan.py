import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.plan import Plan, PlanError, Point, as_shapes
from fulgurite.callbacks.seqpoint.select import select


def epoch(seed=0, steps=400):
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(3.0, 0.5, steps)).astype(int) + 1
    target = source + rng.integers(0, 9, steps)
    shapes = np.stack([np.full(steps, 16), source, target], axis=1)
    return shapes, (0.01 + 1e-4 * (source + target)) * rng.normal(1, 0.03, steps)


@pytest.fixture(scope="module", params=["interpolate", "audit", "paper"])
def plan(request):
    return select(*epoch(), selector=request.param, points=6)


@pytest.fixture(scope="module")
def interpolating():
    return select(*epoch(), points=6)


def linear(plan, factor=1.0):
    return {point.shape: factor * (0.01 + 1e-4 * sum(point.shape[1:])) for point in plan.points}


def twins(shape=(16, 20, 22)):
    """A plan with two points of one shape and three runs each, and a third apart."""
    made = select(*epoch(), points=3)
    first, _, last = made.points
    return replace(made, points=(replace(first, shape=shape), replace(made.points[1], shape=shape), last))


def test_the_total_is_the_weighted_sum_of_means(plan):
    rng = np.random.default_rng(1)
    measured: dict = {}
    for point in plan.points:
        measured.setdefault(point.shape, []).extend(rng.random(len(point.runs)) + 2.0)
    dealt = {shape: list(values) for shape, values in measured.items()}
    values = [np.mean([dealt[p.shape].pop(0) for _ in p.runs]) for p in plan.points]
    assert plan.project(measured).total == pytest.approx(float(plan.weights @ values), abs=1e-9)


def test_every_logged_iteration_belongs_to_one_point(plan):
    assert sorted(i for point in plan.points for i in point.indices) == list(range(400))
    assert all(0 <= run < 400 for point in plan.points for run in point.runs)


def test_what_the_intervals_are(plan):
    projection = plan.project(linear(plan, 2.0))
    assert projection.total == pytest.approx(2 * plan.seconds, rel=0.05)
    if plan.selector == "paper":
        assert math.isnan(projection.low)
        assert math.isnan(projection.high)
        assert math.isnan(plan.error)
    else:
        assert projection.low < projection.total < projection.high


def test_points_of_one_shape_share_what_is_measured():
    plan = twins()
    shape, last = plan.points[0].shape, plan.points[2].shape
    one = plan.project({shape: 2.0, last: 3.0}).total
    assert one == pytest.approx(float(plan.weights @ [2, 2, 3]))
    dealt = plan.project({shape: [1, 1, 1, 5, 5, 5], last: [3, 3, 3]}).total
    assert dealt == pytest.approx(float(plan.weights @ [1, 5, 3]))


@pytest.mark.parametrize("change", ["missing", "stranger", "zero", "nan", "text"])
def test_bad_measurements(plan, change):
    measured = linear(plan)
    first = plan.points[0].shape
    if change == "missing":
        del measured[first]
    elif change == "stranger":
        measured[99, 99, 99] = 1.0
    else:
        measured[first] = {"zero": 0.0, "nan": math.nan, "text": "slow"}[change]
    with pytest.raises(PlanError):
        plan.project(measured)


def test_a_rate_is_a_ratio_of_totals(interpolating):
    plan, measured = interpolating, linear(interpolating)
    tokens = {point.shape: point.shape[0] * sum(point.shape[1:]) for point in plan.points}
    seconds = plan.project(measured)
    total = float(plan.weights @ [tokens[point.shape] for point in plan.points])
    rate = plan.project_rate(tokens, measured)
    assert rate.total == pytest.approx(total / seconds.total)
    assert (rate.low, rate.high) == pytest.approx((total / seconds.high, total / seconds.low))
    assert plan.project_rate(1000.0, measured).total == pytest.approx(1000.0 / seconds.total)
    assert plan.project_rate(dict.fromkeys(tokens, 0), measured).total == 0.0


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf])
def test_bad_amounts(interpolating, amount):
    with pytest.raises(PlanError, match="amount"):
        interpolating.project_rate(amount, linear(interpolating))
    with pytest.raises(PlanError):
        interpolating.project_rate({p.shape: amount for p in interpolating.points}, linear(interpolating))


def test_measured_times_are_kept(plan, tmp_path):
    with pytest.raises(PlanError, match="holds no measured times"):
        plan.project()
    kept = plan.with_measured(linear(plan))
    assert kept.project() == plan.project(linear(plan)) or plan.selector == "paper"
    kept.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").measured == kept.measured
    with pytest.raises(PlanError):
        plan.with_measured({})


def test_the_nearest_point_of_logged_steps_is_the_one_that_stands_for_them(interpolating):
    shapes, _ = epoch()
    numbers = interpolating.nearest(shapes)
    stands = np.empty(400, int)
    for number, point in enumerate(interpolating.points):
        stands[list(point.indices)] = number
    costs = np.array([point.cost for point in interpolating.points])
    assert (costs[numbers] == costs[stands]).all()


def test_a_plan_by_length_finds_the_nearest_length():
    plan = select(*epoch(), selector="paper", points=4)
    lengths = np.array([point.shape[1] for point in plan.points])
    shapes, _ = epoch(3)
    chosen = lengths[plan.nearest(shapes)]
    assert (abs(chosen - shapes[:, 1]) == abs(lengths[None] - shapes[:, 1:2]).min(axis=1)).all()


def test_an_epoch_in_small(plan):
    batches = [[10 * i, 10 * i + 1] for i in range(400)]
    small = plan.batch_sampler(batches)
    assert small == [[10 * run, 10 * run + 1] for point in plan.points for run in point.runs]
    assert len(small) == plan.runs
    with pytest.raises(PlanError, match="399 batches"):
        plan.batch_sampler(batches[:-1])


def test_a_plan_is_for_one_data_set(plan):
    plan.check(epoch(0)[0][::-1])
    plan.check(epoch(5)[0])
    with pytest.raises(PlanError, match=r"other data: (source|target)"):
        plan.check(epoch(0)[0] * [1, 2, 2])
    with pytest.raises(PlanError, match="batch"):
        plan.check(epoch(0)[0] * [2, 1, 1])
    with pytest.raises(PlanError, match="400 steps in one and 200"):
        plan.check(epoch(0)[0][:200])
    with pytest.raises(PlanError, match="2 columns"):
        plan.check(epoch(0)[0][:, :2])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from(["interpolate", "audit", "paper"]))
def test_bands_share_out_the_weight_of_every_point(seed, count, selector):
    shapes, seconds = epoch(seed, steps=120)
    bands = select(shapes, seconds, selector=selector, points=4).length_bands(count)
    assert np.sum([band.shares for band in bands], axis=0) == pytest.approx(1.0)
    assert 1 <= len(bands) <= count
    assert (bands[0].low, bands[-1].high) == (shapes[:, 1].min(), shapes[:, 1].max())
    assert all(a.high + 1 == b.low for a, b in pairwise(bands))


def test_a_point_lies_in_the_bands_of_the_steps_that_it_stands_for(interpolating):
    shapes, _ = epoch()
    for band in interpolating.length_bands(3):
        for share, point in zip(band.shares, interpolating.points, strict=True):
            lengths = shapes[list(point.indices), 1]
            assert share == pytest.approx(((lengths >= band.low) & (lengths <= band.high)).mean())


def test_given_edges_keep_their_bands_even_if_empty(interpolating):
    bands = interpolating.length_bands(edges=[10, 20, 10_000])
    assert [band.high for band in bands] == [10, 20, 10_000, 10_000]
    assert sum(bands[-1].shares) == 0
    with pytest.raises(PlanError, match="0 length bands"):
        interpolating.length_bands(0)


def test_a_refused_plan_says_why_and_does_not_project(interpolating):
    refused = replace(interpolating, refusal="because")
    with pytest.raises(PlanError, match="because"):
        refused.project(linear(refused))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([], "empty epoch"),
        (5, "dimensions"),
        (np.zeros((0, 3), int), "empty epoch"),
        ([1, 2, 3], r"lengths\[:, None\]"),
        (np.ones((2, 2, 2), int), "dimensions"),
        (np.ones((4, 0), int), "dimensions"),
        ([[1, 2], [3]], "rectangular"),
        ([[3, 4], [1.5, 2.0]], r"iteration 1 .*1.5"),
        ([[np.nan, 2.0]], "nan"),
        ([[np.inf, 2.0]], "inf"),
        ([[-1, 2]], "negative"),
        ([["a", "b"]], "whole numbers"),
        ([[1e300, 1.0]], "whole numbers"),
    ],
)
def test_bad_shapes(shapes, said):
    with pytest.raises(PlanError, match=said):
        as_shapes(shapes)


def test_plans_and_points_are_frozen(interpolating):
    with pytest.raises(AttributeError):
        interpolating.points[0].weight = 1.0
    with pytest.raises(AttributeError):
        interpolating.refusal = "no"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from(["interpolate", "audit", "paper"]), st.booleans())
def test_a_file_gives_back_the_same_plan(tmp_path_factory, seed, steps, selector, timed):
    rng = np.random.default_rng(seed)
    shapes = np.stack([np.full(steps, 4), rng.integers(1, 40, steps)], axis=1)
    if not timed and selector == "paper":
        return
    plan = select(shapes, 0.1 * shapes[:, 1] * rng.normal(1, 0.01, steps) if timed else None, selector=selector)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    loaded = Plan.load(path)
    # NaN is not equal to itself, so the texts are compared.
    assert repr(loaded) == repr(plan)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert loaded.nearest(shapes).tolist() == plan.nearest(shapes).tolist()


def test_point_is_what_the_callback_reads():
    point = Point((8, 5), 2.0, 0.1, (0, 1), (1,), 0, 0.1)
    assert (point.shape, point.weight, point.seconds, point.indices, point.runs) == ((8, 5), 2.0, 0.1, (0, 1), (1,))
