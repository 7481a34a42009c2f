import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.residuals import error_bound, residual
from fulgurite.plugins.dynamic_async.maps.block_affine import damped_walk

MAP = damped_walk(30, blocks=3, damping=0.8)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.floats(-12, 3),
)
def test_no_state_is_further_from_the_answer_than_the_bound(seed, present, magnitude):
    participants = np.array(present)
    answer = MAP.solution(participants)
    chance = np.random.default_rng(seed)
    state = [value + 10**magnitude * chance.normal(size=value.shape) for value in answer]
    error = max((np.abs(state[i] - answer[i]).max() for i in range(3) if present[i]), default=0.0)
    bound = error_bound(MAP, state, participants, gamma=MAP.gamma)
    assert error <= bound * (1 + 1e-9) + 1e-13
    assert residual(MAP, state, participants) <= (1 + MAP.gamma) * error + 1e-13


def test_weights_divide_each_participants_distance():
    state = [np.zeros(10)] * 3
    plain = [np.abs(MAP.constant[10 * i : 10 * i + 10]).max() for i in range(3)]
    everybody = np.ones(3, dtype=bool)
    assert residual(MAP, state, everybody, weights=[1, 4, 2]) == max(plain[0], plain[1] / 4, plain[2] / 2)
    assert residual(MAP, state, ~everybody) == 0.0


@pytest.mark.parametrize("gamma", [1.0, -0.1, float("inf"), float("nan")])
def test_no_bound_without_a_contraction(gamma):
    with pytest.raises(ValueError, match="needs a certified factor"):
        error_bound(MAP, MAP.solution(), np.ones(3, dtype=bool), gamma=gamma)
