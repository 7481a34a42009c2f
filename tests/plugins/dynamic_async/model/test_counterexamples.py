"""What must not converge, does not, and is refused; its neighbours that do are certified."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps import AffineMap, AnchoredMap, QuadraticLoss
from fulgurite.plugins.dynamic_async.model import Adversary, Box, DynamicMap, MapError, certify, pseudocycles, simulate
from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule, fair_schedule
from fulgurite.plugins.dynamic_async.model.schedule import DenseSchedule
from fulgurite.plugins.dynamic_async.model.simulation import links_of

TURN = np.array([[0.6, 0.6], [-0.6, 0.6]])


def greatest(map, ticks, depth):
    """max |x| at the end, synchronous or against an adversary that reads any of the last values."""
    schedule = fair_schedule(map.num_participants, ticks, max_gap=1, max_delay=1)
    choose = Adversary(depth) if depth else None
    return float(np.abs(simulate(map, schedule, choose=choose, path="python").states).max())


def affine(matrix):
    return AffineMap(matrix, np.zeros(len(matrix)), initial=np.ones(len(matrix)))


def test_a_small_spectral_radius_is_not_enough():
    map = affine(TURN)
    assert np.abs(np.linalg.eigvals(TURN)).max() < 0.85
    assert greatest(map, 400, depth=0) == pytest.approx(5e-29, rel=0.2)
    assert greatest(map, 400, depth=2) > 1e7
    verdict = certify(map)
    assert (verdict.verdict, verdict.bound(10), verdict.posterior(0.1)) == ("refused", np.inf, np.inf)
    assert "1.2" in verdict.reason
    with pytest.raises(MapError, match="refused"):
        verdict.pseudocycles(1e-3)


def test_the_same_scaled_below_one_converges():
    map = affine(0.8 * TURN)
    assert certify(map).gamma == pytest.approx(0.96)
    assert greatest(map, 400, depth=4) == pytest.approx(5e-5, rel=0.3)
    assert greatest(map, 400, depth=8) == pytest.approx(0.026, rel=0.3)


def test_a_contraction_in_the_euclidean_norm_is_not_enough():
    matrix = 0.9 * np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    map = affine(matrix)
    assert greatest(map, 200, depth=0) < 1e-8
    assert greatest(map, 200, depth=6) == pytest.approx(1.3e42, rel=0.1)
    verdict = certify(map)
    assert verdict.verdict == "refused"
    assert "2.1" in verdict.reason


def frozen_phases(close, phases):
    """Two nodes that in phase k iterate on a frozen copy of the other until close(k) ticks are over."""
    lengths = [close(k) for k in range(1, phases + 1)]
    ticks = sum(lengths)
    reads = np.zeros((ticks + 1, 2, 2), dtype=np.int64)
    start, t = 0, 1
    for length in lengths:
        for _ in range(length):
            reads[t] = [[t - 1, start], [start, t - 1]]
            t += 1
        start = t - 1
    return DenseSchedule(np.ones((ticks + 1, 2), bool), reads, np.zeros(ticks + 1, np.int64), np.ones((1, 2), bool))


def test_plain_averaging_does_not_agree():
    map = AffineMap(np.full((2, 2), 0.5), np.zeros(2), initial=[0.0, 1.0])
    # Each halves its distance from the frozen copy at a tick: in phase k = 1, 2, … to 4^−(k + 1) of the gap.
    schedule = frozen_phases(lambda k: 2 * (k + 1), 60)
    run = simulate(map, schedule)
    assert len(pseudocycles(schedule, links_of(map))) >= 59
    assert abs(float(run.states[0, 0] - run.states[1, 0])) == pytest.approx(0.839, abs=5e-4)
    synchronous = simulate(map, fair_schedule(2, 60, max_gap=1, max_delay=1)).states
    assert abs(float(synchronous[0, 0] - synchronous[1, 0])) < 1e-12
    verdict = certify(map)
    assert verdict.verdict == "refused"
    assert "ρ(|H|) ≥ 1" in verdict.reason


def test_anchored_it_agrees_under_the_same_schedule():
    map = AffineMap(np.full((2, 2), 0.45), [0.0, 0.1], initial=[0.0, 1.0])
    schedule = frozen_phases(lambda k: 2 * (k + 1), 60)
    run = simulate(map, schedule)
    np.testing.assert_allclose(run.states[:, 0], [0.45, 0.55], atol=1e-5)
    np.testing.assert_allclose(map.solution(), [0.45, 0.55], atol=1e-14)
    certificate = certify(map)
    assert certificate.verdict == "certified"
    k = len(pseudocycles(schedule, links_of(map)))
    assert np.abs(run.states[:, 0] - [0.45, 0.55]).max() <= certificate.bound(k)


def test_the_same_by_proximal_steps():
    map = AnchoredMap([QuadraticLoss([[1.0]], [a]) for a in (0.0, 1.0)], coupling=9.0)
    assert certify(map).gamma == pytest.approx(0.9)
    run = simulate(map, fair_schedule(2, 400, seed=0, max_gap=2, max_delay=2))
    # z = (a + 9·other)/10
    np.testing.assert_allclose(run.states[:, 0], [9 / 19, 10 / 19], atol=1e-6)


def test_a_step_that_is_too_large_is_not_certified():
    losses = [QuadraticLoss([[1.0]], [1.0])] * 2
    assert certify(AnchoredMap(losses, 1.0, update="gradient")).verdict == "certified"
    assert certify(AnchoredMap(losses, 1.0, update="gradient", step=1.5)).verdict == "empirical"


def test_the_identity_keeps_what_it_starts_with():
    for start in ([0.0, 1.0], [3.0, 3.0]):
        map = AffineMap(np.eye(2), np.zeros(2), initial=start)
        np.testing.assert_array_equal(simulate(map, RandomSchedule(2, 50, seed=1)).states[:, 0], start)
        assert certify(map).verdict == "refused"


class HalfSquare(DynamicMap):
    """x ← x²/2 on [−R, R]."""

    num_participants = 1
    leaving = "restricts"

    def __init__(self, radius):
        self.radius = radius

    def bottom(self, i):
        return np.zeros(1)

    def neighbours(self, i):
        return np.array([0])

    def evaluate(self, i, epoch, participants, inputs):
        return inputs[0] ** 2 / 2

    @property
    def domain(self):
        return Box((np.zeros(1),), np.array([self.radius]))

    def lipschitz(self, epoch, participants):
        return csr_array([[self.radius]])


def test_a_join_outside_the_domain_is_refused():
    map = HalfSquare(0.9)
    assert certify(map).verdict == "certified"
    assert not map.contains(0, np.array([3.0]))
    with pytest.raises(MapError, match="not in X"):
        simulate(map, fair_schedule(1, 5), initial=[np.array([3.0])])
    image = np.array([3.0])
    for expected in (4.5, 10.125, 51.2578125):
        image = map.evaluate(0, 0, np.ones(1, bool), {0: image})
        assert image[0] == expected
    assert certify(HalfSquare(3.0)).verdict != "certified"


class Shifted(HalfSquare):
    """x ← x/2 + 2 on [−1, 1]."""

    def evaluate(self, i, epoch, participants, inputs):
        return inputs[0] / 2 + 2

    def lipschitz(self, epoch, participants):
        return csr_array([[0.5]])


def test_a_domain_that_the_map_leaves_is_refused():
    verdict = certify(Shifted(1.0))
    assert verdict.verdict == "refused"
    assert "leaves X" in verdict.reason
    assert certify(Shifted(4.1)).verdict == "certified"


class Unknown(HalfSquare):
    """Nothing is known of it."""

    def lipschitz(self, epoch, participants):
        return None


def test_without_a_matrix_it_can_only_be_watched():
    verdict = certify(Unknown(0.9))
    assert verdict.verdict == "empirical"
    assert "Lipschitz" in verdict.reason
