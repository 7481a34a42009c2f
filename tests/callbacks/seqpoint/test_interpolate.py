import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.interpolate import choose, foreseen_error, place, starts_of
from fulgurite.callbacks.seqpoint.ranking import Ranking, knots_of, point_weights
from fulgurite.callbacks.seqpoint.transfer import other_costs

COLUMNS = ("batch", "source", "target")


def epoch(seed, steps=600):
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(3.0, 0.5, steps)).astype(int) + 1
    target = np.maximum(1, source * rng.normal(1.1, 0.15, steps)).astype(int)
    shapes = np.stack([np.full(steps, 32), source, target], axis=1)
    return shapes, 5.0 + 0.02 * 32 * (source + target), rng


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.booleans())
def test_runs_are_distinct_ascending_and_as_many_as_fit(seed, steps, points, replicates, plateaus):
    rng = np.random.default_rng(seed)
    costs = rng.gamma(0.5, 1.0, steps) + 0.01
    ranking = Ranking.of(np.ceil(costs) if plateaus else costs, rng)
    ranks = place(ranking, points, replicates, ranking.costs[:, None], rng)
    r = min(replicates, steps)
    assert ranks.shape == (min(points, steps // r), r)
    # An end without neighbours alike has a single run, repeated; no other run serves twice.
    single = [len(set(row)) == 1 < r for row in (ranks[0].tolist(), ranks[-1].tolist())]
    assert len(np.unique(ranks)) == ranks.size - (r - 1) * (sum(single) if len(ranks) > 1 else single[0])
    assert (np.diff(ranks.max(axis=1)) > 0).all()
    assert ranks.min() >= 0
    assert ranks.max() < steps
    if len(ranks) > 1:
        assert {0, steps - 1} <= set(ranks.ravel().tolist())


def test_points_stand_at_equal_shares_of_predicted_mass_and_at_both_ends():
    ranking = Ranking.of(epoch(0)[1], np.random.default_rng(0))
    starts = starts_of(ranking, 6, 3)
    mass = ranking.sums[starts[1:-1] + 1] / ranking.sums[-1]
    np.testing.assert_allclose(mass, [1 / 8, 3 / 8, 5 / 8, 7 / 8], atol=0.02)
    assert (starts[0], starts[-1]) == (0, len(ranking) - 3)


def test_the_runs_of_an_inner_point_are_alike_in_predicted_cost():
    shapes, costs, rng = epoch(0)
    ranking = Ranking.of(costs, rng)
    ranks = place(ranking, 8, 3, other_costs(shapes, ranking, COLUMNS), rng)
    spread = np.ptp(ranking.costs[ranks], axis=1) / ranking.costs[ranks].mean(axis=1)
    neighbours = ranking.costs[starts_of(ranking, 8, 3)[:, None] + np.arange(3)]
    sparse = np.ptp(neighbours, axis=1) / neighbours.mean(axis=1)
    assert (spread <= sparse + 0.041).all()
    assert (ranking.costs[ranks[:, 0]] == np.median(ranking.costs[ranks], axis=1)).all()


def test_balanced_shapes_transfer_better_than_the_nearest_steps():
    """A configuration that pays for the target only, without noise: what is left is the choice of shapes."""
    errors = {"balanced": [], "nearest": []}
    for seed in range(30):
        shapes, costs, rng = epoch(seed)
        ranking = Ranking.of(costs, rng)
        elsewhere = (1.0 + shapes[:, 2])[ranking.order]
        nearest = starts_of(ranking, 8, 3)[:, None] + np.arange(3)
        for name, ranks in (
            ("balanced", place(ranking, 8, 3, other_costs(shapes, ranking, COLUMNS), rng)),
            ("nearest", nearest),
        ):
            weights = point_weights(ranking, knots_of(ranking, ranks))
            errors[name].append(weights @ np.median(elsewhere[ranks], axis=1) / elsewhere.sum() - 1)
    rms = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}
    assert rms["balanced"] < 0.75 * rms["nearest"]


def test_an_end_far_from_its_neighbours_stands_for_itself():
    rng = np.random.default_rng(0)
    costs = np.concatenate([rng.uniform(1.0, 1.1, 300), [4.0, 5.0, 30.0]])
    ranking = Ranking.of(costs, rng)
    ranks = place(ranking, 5, 3, ranking.costs[:, None], rng)
    assert ranks[-1].tolist() == [302, 302, 302]
    assert sorted(ranks[0].tolist()) == [0, 1, 2]
    weights = point_weights(ranking, knots_of(ranking, ranks))
    assert weights @ knots_of(ranking, ranks) == pytest.approx(costs.sum(), rel=0.01)


def test_the_foreseen_error_is_that_of_fresh_times():
    """Over many epochs the error foreseen from the log is that of fresh replicates, within a third."""
    foreseen, made = [], []
    for seed in range(120):
        _, costs, rng = epoch(seed)
        ranking = Ranking.of(costs, rng)
        ranks = place(ranking, 7, 3, ranking.costs[:, None], rng)
        seconds = costs * rng.normal(1, 0.04, len(costs))
        noise, bias = foreseen_error(ranking, ranks, seconds, np.ones(len(costs), bool), rng)
        foreseen.append(np.hypot(noise, bias))
        fresh = np.median(ranking.costs[ranks] * rng.normal(1, 0.04, ranks.shape), axis=1)
        made.append(point_weights(ranking, knots_of(ranking, ranks)) @ fresh / costs.sum() - 1)
    assert np.sqrt(np.mean(np.square(foreseen))) == pytest.approx(np.sqrt(np.mean(np.square(made))), rel=0.33)


def test_disturbed_steps_count_as_noise_and_untrusted_ones_do_not():
    _, costs, rng = epoch(0)
    ranking = Ranking.of(costs, rng)
    ranks = place(ranking, 7, 3, ranking.costs[:, None], rng)
    disturbed = rng.random(len(costs)) < 0.03
    seconds = costs * np.where(disturbed, 3.0, 1.0)
    noise, bias = foreseen_error(ranking, ranks, seconds, np.ones(len(costs), bool), rng)
    assert abs(bias) < 0.02
    assert 0.03 < noise < 0.2
    noise, bias = foreseen_error(ranking, ranks, seconds, ~disturbed, rng)
    assert abs(bias) < 1e-3
    assert noise < 1e-3


@pytest.mark.parametrize("usable", [0, 2])
def test_fewer_trusted_steps_than_replicates_are_not_enough_so_all_count(usable):
    _, costs, rng = epoch(0, steps=40)
    ranking = Ranking.of(costs, rng)
    ranks = place(ranking, 3, 3, ranking.costs[:, None], rng)
    noise, bias = foreseen_error(ranking, ranks, costs, np.arange(40) < usable, rng)
    assert (noise, bias) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def options(**changes):
    return {"points": None, "most": 12, "replicates": 3, "error": 0.01} | changes


def test_the_fewest_points_that_are_good_enough():
    shapes, costs, rng = epoch(0)
    ranking = Ranking.of(costs, rng)
    others = other_costs(shapes, ranking, COLUMNS)
    seconds = costs * rng.normal(1, 0.03, len(costs))
    warm = np.ones(len(costs), bool)
    counts = [
        len(choose(ranking, seconds, warm, others, **options(error=error, most=60), rng=np.random.default_rng(1)).knots)
        for error in (0.05, 0.015, 0.008)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
    strict = choose(ranking, seconds, warm, others, **options(error=1e-9), rng=np.random.default_rng(1))
    assert strict.error > 1e-9
    assert len(strict.knots) <= 12


def test_a_number_of_points_is_taken_at_its_word():
    shapes, costs, rng = epoch(0)
    ranking = Ranking.of(costs, rng)
    others = other_costs(shapes, ranking, COLUMNS)
    layout = choose(ranking, costs, np.ones(len(costs), bool), others, **options(points=17), rng=rng)
    assert len(layout.knots) == 17


def test_shapes_alone_assume_the_usual_noise():
    shapes, costs, rng = epoch(0)
    ranking = Ranking.of(costs, rng)
    layout = choose(ranking, None, np.ones(600, bool), other_costs(shapes, ranking, COLUMNS), **options(), rng=rng)
    assert 3 <= len(layout.knots) <= 12
    assert 0 < layout.noise < 0.02
