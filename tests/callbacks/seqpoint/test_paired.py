import math
from dataclasses import replace

import numpy as np
import pytest

from fulgurite.callbacks.seqpoint.paired import paired_spread
from fulgurite.callbacks.seqpoint.select import select

LENGTHS = np.arange(1, 401)
SHAPES = np.stack([np.full(400, 8), LENGTHS], axis=1)


def plan_of(selector, **options):
    return select(SHAPES, 0.01 * LENGTHS, selector=selector, **({"points": 8} | options))


def timed(plan, factors):
    """Every run's true time, times a factor of its own."""
    drawn = iter(factors)
    return replace(
        plan, measured=tuple(tuple(0.01 * LENGTHS[run] * next(drawn) for run in p.runs) for p in plan.points)
    )


@pytest.mark.parametrize("selector", ["interpolate", "audit"])
def test_the_spread_of_independent_noise_is_that_of_both_sides(selector):
    """95 % of the true log ratios lie within; the half-width is near 1.96 standard deviations of what is seen."""
    plan = plan_of(selector)
    ratios, halves = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        first, second = (timed(plan, rng.normal(1, 0.03, plan.runs)) for _ in range(2))
        totals = [float(plan.weights @ [np.median(v) for v in side.measured]) for side in (first, second)]
        ratios.append(math.log(totals[0] / totals[1]))
        halves.append(paired_spread(first, second, seed=seed))
    assert 0.9 <= np.mean(np.abs(ratios) <= halves) <= 1.0
    assert 1.5 < np.median(halves) / np.std(ratios) < 4.5


def test_what_both_sides_share_cancels():
    plan = plan_of("interpolate")
    factors = np.random.default_rng(0).normal(1, 0.2, plan.runs)
    shared = paired_spread(timed(plan, factors), timed(plan, 2 * factors), seed=0)
    apart = paired_spread(timed(plan, factors), timed(plan, np.random.default_rng(1).normal(1, 0.2, plan.runs)), seed=0)
    assert shared < 1e-6 < 0.05 < apart


def test_single_runs_leave_points_out_instead():
    plan = plan_of("interpolate", replicates=1)
    rng = np.random.default_rng(0)
    spread = paired_spread(timed(plan, np.ones(plan.runs)), timed(plan, rng.normal(1, 0.05, plan.runs)), seed=0)
    assert 0.01 < spread < 0.3


def test_where_nothing_can_be_known_nothing_is_said():
    paper = plan_of("paper")
    assert math.isnan(paired_spread(timed(paper, np.ones(paper.runs)), timed(paper, np.ones(paper.runs)), seed=0))
    two = plan_of("interpolate", points=2, replicates=1)
    assert math.isnan(paired_spread(timed(two, np.ones(2)), timed(two, np.ones(2)), seed=0))


def test_strata_taken_whole_have_no_spread():
    plan = select(SHAPES[:3], 0.01 * LENGTHS[:3], selector="audit")
    assert paired_spread(timed(plan, np.ones(3)), timed(plan, np.array([1.0, 2.0, 3.0])), seed=0) == 0.0
