import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.audit import FEWEST, draw
from fulgurite.callbacks.seqpoint.ranking import Ranking
from fulgurite.callbacks.seqpoint.select import select


def epoch(rng, steps):
    lengths = np.exp(rng.normal(3.0, 0.6, steps)).astype(int) + 1
    shapes = np.stack([np.full(steps, 32), lengths, np.maximum(1, lengths + rng.integers(-5, 9, steps))], axis=1)
    return shapes, 0.01 + 1e-4 * (shapes[:, 1] + shapes[:, 2]) + 1e-6 * shapes[:, 1] ** 2


def noisy(rng, seconds):
    return seconds * rng.normal(1, 0.03, seconds.shape) * np.where(rng.random(seconds.shape) < 0.01, 1.5, 1.0)


def options(**changes):
    return {"strata": None, "most": 10, "replicates": 3, "error": 0.01} | changes


def coverage(repeats, elsewhere, **chosen):
    held, errors = [], []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        shapes, seconds = epoch(rng, 400)
        plan = select(shapes, noisy(rng, seconds), selector="audit", seed=seed, **chosen)
        epoch_there = noisy(rng, elsewhere(shapes, seconds))
        measured: dict = {}
        for point in plan.points:
            measured.setdefault(point.shape, []).append(epoch_there[point.runs[0]])
        projection = plan.project(measured)
        held.append(projection.low <= epoch_there.sum() <= projection.high)
        errors.append(projection.total / epoch_there.sum() - 1)
    return np.mean(held), np.array(errors)


@pytest.mark.parametrize("strata", [4, 8])
@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda shapes, seconds: seconds,
        lambda shapes, seconds: np.maximum(0.4 * seconds, 0.008),
        lambda shapes, seconds: 0.002 + 1e-4 * shapes[:, 2],
    ],
    ids=["same", "floored", "decoder"],
)
def test_the_nominal_95_per_cent_interval_covers_at_least_88(strata, elsewhere):
    covered, errors = coverage(500, elsewhere, points=strata)
    assert covered >= 0.88
    assert abs(errors.mean()) < 0.01


def test_without_bias_where_the_proxy_is_right():
    covered, errors = coverage(300, lambda shapes, seconds: seconds, points=4)
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors)) + 1e-3
    assert covered < 1.0


@settings(deadline=None, max_examples=150)
@example(seed=233, steps=184, strata=None, replicates=1, timed=True)  # a small stratum beside one at the floor
@given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(1, 6),
    st.booleans(),
)
def test_strata_hold_every_rank_once_and_draws_are_as_the_note_says(seed, steps, strata, replicates, timed):
    rng = np.random.default_rng(seed)
    costs = rng.gamma(0.4, 1.0, steps) + 0.01
    seconds = costs * rng.lognormal(0, 0.3, steps) if timed else None
    ranking = Ranking.of(costs, rng)
    drawn, foreseen = draw(
        ranking, seconds, np.ones(steps, bool), **options(strata=strata, replicates=replicates), rng=rng
    )
    assert [s.first for s in drawn] == np.cumsum([0, *(s.size for s in drawn[:-1])]).tolist()
    assert sum(s.size for s in drawn) == steps
    assert np.isnan(foreseen) == (not timed)
    each = max(FEWEST, replicates)
    assert sum(len(s.ranks) for s in drawn) <= max((strata or 10) * each, FEWEST * len(drawn))
    for stratum in drawn:
        ranks = np.array(stratum.ranks)
        assert len(np.unique(ranks)) == len(ranks) >= min(FEWEST, stratum.size)
        assert (ranks >= stratum.first).all()
        assert (ranks < stratum.first + stratum.size).all()
        mass = ranking.costs[stratum.first : stratum.first + stratum.size].sum()
        if len(ranks) == stratum.size:
            assert set(stratum.weights) == {1.0}
        else:
            assert np.array(stratum.weights) * len(ranks) * ranking.costs[ranks] == pytest.approx(mass)


def test_strata_are_of_equal_predicted_cost():
    rng = np.random.default_rng(0)
    ranking = Ranking.of(rng.gamma(2.0, 1.0, 1000) + 0.1, rng)
    drawn, _ = draw(ranking, None, np.ones(1000, bool), **options(strata=5), rng=rng)
    mass = [ranking.costs[s.first : s.first + s.size].sum() for s in drawn]
    assert mass == pytest.approx([ranking.costs.sum() / 5] * 5, rel=0.02)
    assert [len(s.ranks) for s in drawn] == [3] * 5


def test_more_draws_go_where_times_scatter_and_fewer_where_they_are_dear():
    rng = np.random.default_rng(0)
    costs = np.linspace(0.1, 10.0, 2000)
    ranking = Ranking.of(costs, rng)
    wild = np.where(costs > np.quantile(costs, 0.8), 0.3, 0.02)
    drawn, _ = draw(
        ranking, costs * rng.normal(1, wild), np.ones(2000, bool), **options(strata=4, replicates=12), rng=rng
    )
    numbers = [len(s.ranks) for s in drawn]
    assert numbers[-1] > 2 * numbers[0]
    even, _ = draw(
        ranking, costs * rng.normal(1, 0.1, 2000), np.ones(2000, bool), **options(strata=4, replicates=12), rng=rng
    )
    numbers = [len(s.ranks) for s in even]
    assert numbers[0] > numbers[-1] >= FEWEST


def test_every_stratum_is_equally_likely_to_give_any_of_its_steps():
    rng = np.random.default_rng(0)
    ranking = Ranking.of(np.ones(30), rng)
    hits = np.zeros(30)
    for _ in range(2000):
        drawn, _ = draw(ranking, None, np.ones(30, bool), **options(strata=2), rng=rng)
        for stratum in drawn:
            hits[list(stratum.ranks)] += 1
    assert hits.min() > 0.85 * hits.mean()


def test_the_fewest_strata_whose_interval_is_narrow_enough():
    rng = np.random.default_rng(0)
    costs = np.linspace(1.0, 3.0, 5000)
    ranking = Ranking.of(costs, rng)
    seconds = costs * rng.normal(1, 0.05, 5000)
    widths = {}
    for error in (0.05, 0.02, 0.01):
        drawn, foreseen = draw(ranking, seconds, np.ones(5000, bool), **options(error=error, most=80), rng=rng)
        assert foreseen <= error
        widths[error] = len(drawn)
    assert widths[0.05] < widths[0.02] < widths[0.01] < 80
    capped, foreseen = draw(ranking, seconds, np.ones(5000, bool), **options(error=1e-4, most=6), rng=rng)
    assert len(capped) == 6
    assert foreseen > 1e-4


def test_a_tiny_epoch_is_taken_whole_and_is_exact():
    plan = select([[4, 3], [4, 30], [4, 9]], [0.1, 0.7, 0.3], selector="audit")
    assert plan.weights.tolist() == [1.0, 1.0, 1.0]
    projection = plan.project({(4, 3): 0.2, (4, 30): 0.5, (4, 9): 0.4})
    assert (projection.low, projection.total, projection.high) == pytest.approx((1.1, 1.1, 1.1))
