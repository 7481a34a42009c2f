from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.cover import Cover, covered, greedy_cover
from fulgurite.callbacks.representative_interpretation.optimum import optimal_cover

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, images, planes):
    rng = np.random.default_rng(seed)
    often = rng.random((images, 1)) * rng.choice([0.2, 0.6, 1.0])
    return rng.random((images, planes)) < often, rng.random(images) < rng.choice([0.2, 0.5, 0.8])


def brute_force(off, own, delta, weights):
    """The most own images of any choice of planes, and the most images of Eq. 3, by trying all choices."""
    best_own, best_all = 0, 0
    for planes in chain.from_iterable(combinations(range(off.shape[1]), size) for size in range(off.shape[1] + 1)):
        inside = covered(off, planes)
        own_count, strangers = int(weights[own & inside].sum()), int(weights[~own & inside].sum())
        if strangers <= delta:
            best_own, best_all = max(best_own, own_count), max(best_all, own_count + strangers)
    return best_own, best_all


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    images=st.integers(0, 60),
    planes=st.integers(0, 9),
    delta=st.none() | st.integers(0, 15),
    weighted=st.booleans(),
)
def test_equals_trying_every_choice(seed, images, planes, delta, weighted):
    off, own = problem(seed, images, planes)
    weights = np.random.default_rng(seed).integers(0, 6, images) if weighted else np.ones(images, dtype=int)
    cover = optimal_cover(off, own, delta=delta, weights=weights if weighted else None)
    most_own, most_all = brute_force(off, own, cover.delta, weights)
    assert cover.own == most_own
    assert 0 <= most_all - (cover.own + cover.strangers) <= cover.delta - cover.least
    inside = covered(off, cover.planes)
    assert (cover.own, cover.strangers) == (weights[own & inside].sum(), weights[~own & inside].sum())
    assert cover.least <= cover.strangers <= cover.delta


@settings(deadline=None, max_examples=4)
@given(seed=SEEDS)
def test_equals_trying_every_choice_of_twelve(seed):
    off, own = problem(seed, 150, 12)
    cover = optimal_cover(off, own)
    assert cover.own == brute_force(off, own, cover.delta, np.ones(150, dtype=int))[0]


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, images=st.integers(1, 200), planes=st.integers(1, 25), delta=st.none() | st.integers(0, 10))
def test_is_never_below_the_greedy_cover_and_that_never_below_all_planes(seed, images, planes, delta):
    off, own = problem(seed, images, planes)
    best, greedy = optimal_cover(off, own, delta=delta), greedy_cover(off, own, delta=delta)
    assert best.own >= greedy.own >= (own & covered(off, range(planes))).sum()
    assert (best.delta, best.least) == (greedy.delta, greedy.least)
    if best.delta == best.least:  # as in the paper: then all admissible choices leave the same strangers
        assert best.strangers == greedy.strangers == best.least


def test_finds_what_the_greedy_choice_misses():
    """One plane costs 11 for 12 strangers; two that cost 10 for 6 each cost the same 10, so only 10 together."""
    off = np.zeros((2 + 12, 3), dtype=bool)
    own = np.arange(14) < 2
    off[0, 0], off[2:14, 0] = True, True
    off[1, 1], off[2:8, 1] = True, True
    off[1, 2], off[8:14, 2] = True, True
    weights = np.array([11, 10] + [1] * 12)
    greedy, best = greedy_cover(off, own, weights=weights), optimal_cover(off, own, weights=weights)
    assert greedy == Cover(planes=(0,), own=10, strangers=0, delta=0, least=0)
    assert best == Cover(planes=(1, 2), own=11, strangers=0, delta=0, least=0)


def test_no_plane_is_superfluous():
    off, own = problem(3, 200, 20)
    cover = optimal_cover(off, own)
    assert list(cover.planes) == sorted(cover.planes)
    for plane in cover.planes:
        assert (~own & covered(off, [other for other in cover.planes if other != plane])).sum() > cover.delta


def test_counts_of_millions_are_no_hindrance():
    off, own = problem(5, 300, 15)
    weights = np.random.default_rng(5).integers(0, 10_000_000, 300)
    best, greedy = optimal_cover(off, own, weights=weights), greedy_cover(off, own, weights=weights)
    assert best.own >= greedy.own
    assert best.own == brute_force(off, own, best.delta, weights)[0]


def test_without_strangers_or_planes_or_own_images():
    none = np.zeros((3, 2), dtype=bool)
    assert optimal_cover(none, np.ones(3, dtype=bool)) == Cover((), own=3, strangers=0, delta=0, least=0)
    assert optimal_cover(none[:, :0], np.array([True, False, False])) == Cover((), own=1, strangers=2, delta=2, least=2)
    assert optimal_cover(none[:0], np.ones(0, dtype=bool)) == Cover((), own=0, strangers=0, delta=0, least=0)
    strangers = optimal_cover(~none, np.zeros(3, dtype=bool))
    assert (len(strangers.planes), strangers.strangers) == (1, 0)


def test_what_is_not_proven_in_time_is_not_given():
    off, own = np.random.default_rng(0).random((3000, 60)) < 0.08, np.arange(3000) < 1500
    assert optimal_cover(off, own, delta=900, time_limit=0.01) is None


@pytest.mark.parametrize(("lost", "proven"), [(2.0, True), (1.9, True), (1.0, False)])
def test_a_bound_proves_only_what_meets_it(monkeypatch, lost, proven):
    """All planes together lose 2 own images of 3, whatever the solver may say of them."""
    off = np.array([[True, False], [False, True], [False, False], [True, True]])
    own = np.array([True, True, True, False])
    monkeypatch.setattr(
        "fulgurite.callbacks.representative_interpretation.cover.Sides.cover",
        lambda sides, planes, delta, least: Cover(tuple(planes), own=1, strangers=0, delta=delta, least=least),
    )
    monkeypatch.setattr(
        "fulgurite.callbacks.representative_interpretation.optimum._solve", lambda *given: ([0, 1], lost)
    )
    assert (optimal_cover(off, own) is not None) == proven


@pytest.mark.parametrize("time_limit", [0, -1.0, float("nan")])
def test_a_time_limit_is_above_zero(time_limit):
    with pytest.raises(ValueError, match="expected seconds above 0"):
        optimal_cover(np.zeros((1, 1), dtype=bool), np.ones(1, dtype=bool), time_limit=time_limit)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="got delta=-2"):
        optimal_cover(np.zeros((1, 1), dtype=bool), np.ones(1, dtype=bool), delta=-2)
