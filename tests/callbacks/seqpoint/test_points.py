import numpy as np

from fulgurite.callbacks.seqpoint.epoch import Epoch
from fulgurite.callbacks.seqpoint.points import Options, audited, interpolated, layout_of, members_of, papered

LENGTHS = np.arange(1, 301)
SHAPES = np.stack([np.full(300, 8), LENGTHS], axis=1)
OPTIONS = Options(points=5, replicates=3, max_share=0.05, error=0.01, iterations=300, seed=0)


def test_members():
    rng = np.random.default_rng(0)
    number = rng.integers(0, 6, 50)
    assert [mine.tolist() for mine in members_of(number, 7)] == [np.flatnonzero(number == j).tolist() for j in range(7)]


def test_where_times_follow_nothing_points_go_by_the_work_in_a_step():
    rng = np.random.default_rng(0)
    _, _, unrelated = layout_of(Epoch.of(SHAPES, rng.uniform(0.5, 1.5, 300)), OPTIONS, 5)
    assert unrelated.terms == ((1, 1),)
    _, _, related = layout_of(Epoch.of(SHAPES, 0.01 * LENGTHS), OPTIONS, 5)
    assert (0, 0) in related.terms


def test_an_audit_keeps_the_fit_whatever_it_explains():
    """Its interval needs times that are steady relative to predicted cost, not an order."""
    rng = np.random.default_rng(0)
    epoch = Epoch.of(SHAPES, rng.uniform(0.5, 1.5, 300))
    assert audited(epoch, OPTIONS).cost == epoch.model


def test_a_point_is_timed_by_its_trusted_runs():
    cold = np.zeros(300, bool)
    cold[::3] = True
    seconds = 0.01 * LENGTHS * np.where(cold, 9.0, 1.0)
    for point in interpolated(Epoch.of(SHAPES, seconds, cold=cold), OPTIONS).points:
        trusted = [run for run in point.runs if not cold[run]] or list(point.runs)
        assert point.seconds == np.median(seconds[trusted])


def test_an_epoch_of_which_more_is_to_come_weighs_more():
    epoch = Epoch.of(SHAPES, 0.01 * LENGTHS)
    more = Options(points=5, replicates=3, max_share=0.05, error=0.01, iterations=900, seed=0)
    for select in (interpolated, audited, papered):
        once = [point.weight for point in select(epoch, OPTIONS).points]
        thrice = [point.weight for point in select(epoch, more).points]
        np.testing.assert_allclose(thrice, 3 * np.array(once))
