import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.ranking import Ranking
from fulgurite.callbacks.seqpoint.transfer import mixed_error, other_costs


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=6), st.integers(0, 10**6))
def test_the_error_of_a_mix_is_that_of_mixes_drawn_at_random(errors, seed):
    mixes = np.random.default_rng(seed).dirichlet(np.ones(len(errors)), size=40_000)
    drawn = np.sqrt(((mixes @ errors) ** 2).mean())
    assert mixed_error(np.array(errors)) == pytest.approx(drawn, rel=0.05, abs=1e-9)


def test_columns_are_the_varying_terms_in_order_of_rank_with_mean_one():
    rng = np.random.default_rng(0)
    shapes = np.stack([np.full(50, 8), rng.integers(1, 60, 50), rng.integers(1, 60, 50)], axis=1)
    ranking = Ranking.of(1.0 + shapes[:, 1], rng)
    others = other_costs(shapes, ranking, ("batch", "source", "target"))
    assert others.shape == (50, 2 + 5)  # cost, floored, and BS BT BS² BT² BST; B is constant
    np.testing.assert_allclose(others.mean(axis=0), 1.0)
    assert others[:, 0] == pytest.approx(np.sort(1.0 + shapes[:, 1]) / (1.0 + shapes[:, 1]).mean())
    assert (others[:25, 1] == others[0, 1]).all()
