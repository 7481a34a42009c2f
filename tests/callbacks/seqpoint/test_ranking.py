import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.ranking import Ranking, interpolation_weights, knots_of, nearest_knot, point_weights

COSTS = st.lists(st.one_of(st.sampled_from([1.0, 2.0, 5.0]), st.floats(0.01, 100)), min_size=1, max_size=80)


def extended(costs, knots, values):
    """g by the book: piecewise linear, straight on for one more gap beyond the outermost knots, then level."""
    low, high = 2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]
    at = np.clip(costs, low, high)
    inner = np.interp(at, knots, values)
    slopes = (values[1] - values[0]) / (knots[1] - knots[0]), (values[-1] - values[-2]) / (knots[-1] - knots[-2])
    below, above = np.minimum(at - knots[0], 0) * slopes[0], np.maximum(at - knots[-1], 0) * slopes[1]
    return inner + below + above


@settings(deadline=None, max_examples=200)
@given(COSTS, st.integers(1, 8), st.integers(0, 10**6))
def test_weights_interpolate(costs, count, seed):
    rng = np.random.default_rng(seed)
    ranking = Ranking.of(np.array(costs), rng)
    knots = np.unique(rng.choice(costs, min(count, len(costs)), replace=False))
    fresh = np.concatenate([[True], np.diff(knots) > 1e-4 * knots[1:]])
    knots = knots[fresh]
    weights = interpolation_weights(ranking, knots)
    values = rng.random(len(knots)) + 0.5
    assert weights.sum() == pytest.approx(len(costs), abs=1e-9)
    assert (weights >= 0).all()
    if len(knots) > 1:
        level = float(np.interp(costs, knots, values).sum())
        straight = float(extended(np.array(costs), knots, values).sum())
        assert float(weights @ values) == pytest.approx(level, rel=1e-6) or float(weights @ values) == pytest.approx(
            straight, rel=1e-6
        )


def test_what_is_linear_in_cost_is_projected_exactly():
    rng = np.random.default_rng(0)
    costs = rng.gamma(2.0, 1.0, 500) + 1
    ranking = Ranking.of(costs, rng)
    knots = np.sort(costs)[[1, 100, 300, 498]]
    assert interpolation_weights(ranking, knots) @ (2 + 3 * knots) == pytest.approx((2 + 3 * costs).sum(), rel=2e-3)


def test_a_lone_far_step_does_not_make_a_weight_negative():
    ranking = Ranking.of(np.array([1.0, 1.01, 1.02, 50.0]), np.random.default_rng(0))
    assert (interpolation_weights(ranking, np.array([1.0, 1.01])) >= 0).all()


def test_points_at_one_place_share_its_weight():
    ranking = Ranking.of(np.array([1.0, 1.0, 1.0, 4.0]), np.random.default_rng(0))
    knots = knots_of(ranking, np.array([[0], [1], [3]]))
    assert knots.tolist() == [1.0, 1.0, 4.0]
    assert point_weights(ranking, knots).tolist() == [1.5, 1.5, 1.0]


@settings(deadline=None, max_examples=100)
@given(COSTS, st.lists(st.sampled_from([0.5, 1.0, 3.0, 7.0]), min_size=1, max_size=6))
def test_nearest_is_nearest_and_equally_near_points_take_turns(costs, knots):
    chosen = nearest_knot(np.array(costs), np.array(knots))
    for cost, number in zip(costs, chosen, strict=True):
        assert abs(knots[number] - cost) == pytest.approx(min(abs(k - cost) for k in knots))
    for knot in set(knots):
        taken = [int((chosen == j).sum()) for j in range(len(knots)) if knots[j] == knot]
        assert max(taken) - min(taken) <= 1


def test_equal_costs_are_not_ranked_in_the_order_of_time():
    order = Ranking.of(np.ones(100), np.random.default_rng(0)).order
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
