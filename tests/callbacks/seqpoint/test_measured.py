import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.measured import (
    half_width_interpolated,
    half_width_stratified,
    leave_one_out,
    merge,
    pooled_spread,
    robust_means,
    share_out,
)

A, B = (8, 5), (8, 9)


@pytest.mark.parametrize(
    ("given_", "shares"),
    [
        ({A: 1.0, B: 2.0}, ((1.0,), (1.0,), (2.0,))),
        ({A: [1.0, 2.0], B: [3.0]}, ((1.0,), (2.0,), (3.0,))),
        ({A: [1, 2, 3, 4, 5], B: 9}, ((1.0, 2.0, 3.0), (4.0, 5.0), (9.0,))),
        ({A: [1, 2, 3, 4], B: 9}, ((1.0, 2.0), (3.0, 4.0), (9.0,))),
        ({A: [1, 2, 3], B: 9}, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (9.0,))),
        ({A: np.array([1.0, 2.0]), B: np.float32(3)}, ((1.0,), (2.0,), (3.0,))),
    ],
)
def test_sharing_out(given_, shares):
    assert share_out([A, A, B], [3, 2, 1], given_) == shares


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({A: 1.0}, r"no value for \(8, 9\)"),
        ({A: 1.0, B: 1.0, (7, 7): 1.0}, r"no point has the shape \(7, 7\)"),
        ({A: [], B: 1.0}, "empty"),
        ({A: 0.0, B: 1.0}, "positive"),
        ({A: [1.0, -1.0], B: 1.0}, "positive"),
        ({A: float("nan"), B: 1.0}, "nan"),
        ({A: float("inf"), B: 1.0}, "inf"),
    ],
)
def test_bad_values(given_, said):
    with pytest.raises(ValueError, match=said):
        share_out([A, A, B], [3, 2, 1], given_)


def test_counts_may_be_zero():
    assert share_out([A], [1], {A: 0}, positive=False) == ((0.0,),)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(3, 9))
def test_leaving_out_equals_a_loop(seed, points):
    rng = np.random.default_rng(seed)
    knots, weights, values = np.sort(rng.random(points)), rng.random(points), rng.random(points)
    expected = []
    for j in range(1, points - 1):
        others = np.delete(np.arange(points), j)
        foretold = np.interp(knots[j], knots[others], values[others])
        share = (knots[j] - knots[j - 1]) / (knots[j + 1] - knots[j - 1])
        expected.append(weights[j] * (values[j] - foretold) / np.sqrt(1 + share**2 + (1 - share) ** 2))
    np.testing.assert_allclose(leave_one_out(knots, weights, values), expected, rtol=1e-9, atol=1e-12)


def test_the_squares_are_the_variance_of_the_total_for_points_on_a_line():
    rng = np.random.default_rng(0)
    knots, weights = np.sort(rng.random(12)), np.full(12, 5.0)
    noise = rng.normal(0, 0.1, (4000, 12))
    seen = (leave_one_out(knots, weights, 2 + 3 * knots + noise) ** 2).sum(axis=1).mean()
    assert seen == pytest.approx(np.var(noise[:, 1:-1] @ weights[1:-1]), rel=0.1)


def test_points_at_one_place_are_one():
    knots, weights, values = merge(np.array([3.0, 1.0, 3.0]), np.array([1.0, 2.0, 4.0]), np.array([[4.0, 1.0, 8.0]]))
    assert (knots.tolist(), weights.tolist(), values.tolist()) == ([1.0, 3.0], [2.0, 5.0], [[1.0, 6.0]])


@pytest.mark.parametrize("replicates", [2, 3, 5])
def test_the_spread_of_replicates_is_recovered_despite_disturbed_steps(replicates):
    rng = np.random.default_rng(replicates)
    values = 0.2 * rng.normal(1, 0.03, (400, replicates)) * np.where(rng.random((400, replicates)) < 0.02, 1.5, 1)
    assert pooled_spread(tuple(map(tuple, values))) == pytest.approx(0.03, rel=0.15)
    assert pooled_spread(((1.0,), (2.0,))) == 0.0


@pytest.mark.parametrize("replicates", [1, 3])
def test_the_interpolated_interval_covers_a_straight_line(replicates):
    rng = np.random.default_rng(replicates)
    knots, weights = np.linspace(1, 3, 10), np.full(10, 7.0)
    covered = 0
    for _ in range(400):
        samples = tuple(tuple(k * rng.normal(1, 0.03, replicates)) for k in knots)
        total = float(weights @ [np.mean(s) for s in samples])
        half = half_width_interpolated(knots, weights, samples, expected=0.01)
        covered += abs(total - float(weights @ knots)) <= half
    assert 0.9 <= covered / 400 < 1.0


def test_two_single_values_show_nothing_so_that_the_foreseen_error_stands_in():
    half = half_width_interpolated(np.array([1.0, 2.0]), np.ones(2), ((1.0,), (3.0,)), expected=0.02)
    assert half == pytest.approx(1.96 * 0.02 * 4.0)


def test_the_stratified_interval_is_that_of_the_note():
    """By the formula: P_h²·(1 − n/N)·s²/n with s of u = t/p, and t with Σ(n_h − 1) degrees of freedom."""
    cost, times = np.array([1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 9.0]), np.array([1.1, 1.9, 4.5, 5.5, 6.0, 9.0, 8.0])
    strata, sizes, mass = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([9, 12]), np.array([30.0, 50.0])
    ratios, drawn = times / cost, np.array([3, 4])
    spread = np.array([np.std(ratios[strata == h], ddof=1) for h in (0, 1)])
    variance = float((mass**2 * (1 - drawn / sizes) * spread**2 / drawn).sum())
    weights = mass[strata] / (drawn[strata] * cost)
    half = half_width_stratified(strata, sizes[strata], weights, times)
    assert half == pytest.approx(2.570582 * np.sqrt(variance), rel=1e-6)


def test_a_stratum_taken_whole_adds_no_variance():
    whole = half_width_stratified(np.zeros(3, int), np.full(3, 3), np.ones(3), np.array([1.0, 5.0, 9.0]))
    assert whole == 0.0


@given(st.integers(0, 2**32 - 1), st.floats(2.0, 1e6))
@settings(deadline=None)
def test_one_wild_value_moves_a_mean_little_and_ordinary_ones_are_left_alone(seed, factor):
    rng = np.random.default_rng(seed)
    samples = [tuple(2.0 + 0.05 * rng.uniform(-1, 1, 3)) for _ in range(9)]
    plain = [np.mean(v) for v in samples]
    assert robust_means(tuple(samples)) == pytest.approx(plain, rel=0.03)
    wild = tuple([(*samples[0][:2], samples[0][2] * factor), *samples[1:]])
    assert robust_means(wild)[0] < 2.4
    assert robust_means(wild)[1:] == pytest.approx(plain[1:], rel=0.03)
