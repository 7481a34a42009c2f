import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.engine.pacing import WORTH_IT, advice, waiting


def test_equal_speeds_need_no_asynchrony():
    assert waiting({}) == 1.0
    assert waiting({1: []}) == 1.0
    assert waiting({1: [2.0], 2: [2.0, 2.0]}) == 1.0
    assert "synchronous solver" in advice({1: [2.0], 2: [2.0]})


@pytest.mark.parametrize("slow", [4.0, 10.0])
def test_a_straggler_is_what_a_barrier_waits_for(slow):
    steps = {1: [1.0], 2: [1.0], 3: [1.0], 4: [slow]}
    assert waiting(steps) == pytest.approx(slow / ((3 + slow) / 4))
    assert advice(steps) is None


def test_jitter_costs_a_barrier_more_the_more_peers_there_are():
    chance = np.random.default_rng(0)
    few, many = ({k: chance.exponential(size=500) for k in range(n)} for n in (2, 32))
    # The expected greatest of n exponential times is 1 + 1/2 + … + 1/n.
    assert waiting(few) == pytest.approx(1.5, rel=0.1)
    assert waiting(many) == pytest.approx(sum(1 / k for k in range(1, 33)), rel=0.1)
    assert waiting(many) > WORTH_IT
