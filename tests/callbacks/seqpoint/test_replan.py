import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.plan import Plan, PlanError
from fulgurite.callbacks.seqpoint.replan import replan
from fulgurite.callbacks.seqpoint.select import select

SELECTORS = ("interpolate", "audit", "paper")


def epoch(seed, steps=500):
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(2.8, 0.5, (steps, 8))).astype(int).max(axis=1) + 1
    return rng, np.stack([np.full(steps, 8), source, source + rng.integers(0, 15, steps)], axis=1)


def cost(shapes):
    return 0.01 + 1e-4 * (shapes[:, 1] + 2 * shapes[:, 2]) + 1e-6 * shapes[:, 1] ** 2


@pytest.mark.parametrize("selector", SELECTORS)
def test_as_many_points_that_stand_for_all_of_the_other_epoch(selector, tmp_path):
    _, shapes = epoch(0)
    _, other = epoch(1, steps=480)
    plan = select(shapes, cost(shapes), selector=selector, points=6)
    usable = np.arange(480) % 7 != 0
    later = replan(plan, other, usable=usable, seed=2)
    assert len({p.stratum for p in later.points}) == len({p.stratum for p in plan.points})
    assert sorted(i for point in later.points for i in point.indices) == list(range(480))
    runs = [run for point in later.points for run in point.runs]
    assert len(set(runs)) == len(runs)
    assert usable[runs].all()
    assert all(point.shape == tuple(other[point.runs[0]]) for point in later.points)
    if selector != "audit":
        assert later.weights.sum() == pytest.approx(480, abs=1e-9)
    later.check(other)
    later.save(tmp_path / "plan.json")
    assert repr(Plan.load(tmp_path / "plan.json")) == repr(later)


@pytest.mark.parametrize(("selector", "limit"), [("interpolate", 0.01), ("audit", 0.02)])
def test_the_other_epochs_own_total_is_projected_not_the_first_ones(selector, limit):
    """Without noise, and with a cost that the proxy was not fitted to; the totals themselves differ by more."""
    errors, apart = [], []
    for seed in range(20):
        rng, shapes = epoch(seed)
        _, other = epoch(seed + 1000)
        seconds = cost(shapes) * rng.normal(1, 0.02, 500)
        later = replan(select(shapes, seconds, selector=selector, points=8, seed=seed), other, seed=seed)
        there = np.maximum(0.6 * cost(other), 0.012)
        measured: dict = {}
        for point in later.points:
            measured.setdefault(point.shape, []).extend(there[list(point.runs)])
        errors.append(later.project(measured).total / there.sum() - 1)
        apart.append(cost(shapes).sum() / cost(other).sum() - 1)
    assert np.abs(errors).mean() < limit
    assert np.abs(apart).mean() > 0.005


def test_one_length_keeps_its_bins():
    _, shapes = epoch(0)
    _, other = epoch(1)
    plan = select(shapes, cost(shapes), selector="paper", points=5)
    later = replan(plan, other)
    for before, after in zip(plan.points, later.points, strict=True):
        held, now = shapes[list(before.indices), 1], other[list(after.indices), 1]
        assert before.weight == len(held)
        assert after.weight == len(now)
        assert (np.abs(np.median(now) - np.median(held))) < 20
        nearest = abs(other[:, 1] - before.shape[1]).min()
        assert abs(after.shape[1] - before.shape[1]) == nearest


def test_one_shape_stays_one_point():
    plan = select(np.tile([[8, 5]], (60, 1)), np.full(60, 0.1))
    (point,) = replan(plan, np.tile([[8, 5]], (60, 1))).points
    assert (point.weight, len(point.runs)) == (60.0, 3)


def test_other_data_or_too_few_steps_are_refused():
    _, shapes = epoch(0)
    plan = select(shapes, cost(shapes), points=6)
    with pytest.raises(PlanError, match="other data"):
        replan(plan, shapes * [1, 3, 3])
    with pytest.raises(PlanError, match="usable steps are too few"):
        replan(plan, shapes, usable=np.arange(500) < 5)
    with pytest.raises(PlanError, match="one bool"):
        replan(plan, shapes, usable=np.ones(499, bool))
    with pytest.raises(PlanError, match="one bool"):
        replan(plan, shapes, usable=np.ones(500))
