from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation import cover as module
from fulgurite.callbacks.representative_interpretation.cover import Cover, Sides, covered, greedy_cover


def greedy_by_hand(off, own, delta=None, weights=None):
    """The algorithm as the paper writes it, an image a byte, with fractions for ratios."""
    weights = np.ones(len(own), dtype=np.int64) if weights is None else weights
    least = int(weights[~own & ~off.any(axis=1)].sum())
    delta = max(delta or 0, least)
    inside, planes = np.ones(len(own), dtype=bool), []
    while weights[~own & inside].sum() > delta:
        options = []
        for plane in set(range(off.shape[1])) - set(planes):
            cut = inside & off[:, plane]
            own_cut, strangers_cut = int(weights[own & cut].sum()), int(weights[~own & cut].sum())
            if strangers_cut:
                options.append((Fraction(own_cut, strangers_cut), -strangers_cut, plane))
        planes.append(min(options)[2])
        inside &= ~off[:, planes[-1]]
    for plane in list(reversed(planes)):
        others = [other for other in planes if other != plane]
        if weights[~own & covered(off, others)].sum() <= delta:
            planes = others
    inside = covered(off, planes)
    return Cover(tuple(planes), int(weights[own & inside].sum()), int(weights[~own & inside].sum()), delta, least)


def problem(seed, images, planes, *, share=0.3, own=0.5):
    """Rows off many planes and rows off few, so that ratios differ and some strangers are off none."""
    rng = np.random.default_rng(seed)
    often = rng.random((images, 1)) * 2 * share
    return rng.random((images, planes)) < often, rng.random(images) < own


SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=200)
@given(
    seed=SEEDS,
    images=st.integers(0, 200),
    planes=st.integers(0, 12),
    share=st.floats(0.02, 0.9),
    own=st.floats(0, 1),
    delta=st.none() | st.integers(0, 30),
    weighted=st.booleans(),
)
def test_equals_the_algorithm_written_down(seed, images, planes, share, own, delta, weighted):
    off, own = problem(seed, images, planes, share=share, own=own)
    weights = np.random.default_rng(seed).integers(0, 9, images) if weighted else None
    assert greedy_cover(off, own, delta=delta, weights=weights) == greedy_by_hand(off, own, delta, weights)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, images=st.integers(0, 150), planes=st.integers(1, 12), delta=st.none() | st.integers(0, 20))
def test_never_covers_less_than_all_planes_together(seed, images, planes, delta):
    off, own = problem(seed, images, planes)
    cover = greedy_cover(off, own, delta=delta)
    every, chosen = covered(off, range(planes)), covered(off, cover.planes)
    assert not (every & ~chosen).any()
    assert cover.own == (own & chosen).sum() >= (own & every).sum()
    assert (~own & every).sum() == cover.least <= cover.strangers == (~own & chosen).sum() <= cover.delta


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, images=st.integers(0, 40), planes=st.integers(1, 8))
def test_a_weight_is_as_many_equal_rows(seed, images, planes):
    off, own = problem(seed, images, planes)
    weights = np.random.default_rng(seed).integers(0, 5, images)
    repeated = np.repeat(np.arange(images), weights)
    assert greedy_cover(off, own, weights=weights) == greedy_cover(off[repeated], own[repeated])


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, planes=st.integers(1, 10))
def test_no_plane_is_superfluous(seed, planes):
    off, own = problem(seed, 100, planes)
    cover = greedy_cover(off, own)
    for plane in cover.planes:
        others = [other for other in cover.planes if other != plane]
        assert (~own & covered(off, others)).sum() > cover.delta


def columns(own, strangers, *planes):
    """A problem from what each plane cuts off: ranges of own images, ranges of strangers."""
    off = np.zeros((own + strangers, len(planes)), dtype=bool)
    for column, (cut_own, cut_strangers) in enumerate(planes):
        off[list(cut_own), column] = True
        off[[own + stranger for stranger in cut_strangers], column] = True
    return off, np.arange(own + strangers) < own


def test_equal_ratios_go_to_the_plane_that_shuts_out_more():
    off, own = columns(3, 6, ([0], range(2)), ([1, 2], range(2, 6)), ([0], range(2)))
    assert greedy_cover(off, own, delta=2).planes == (1,)  # 1/2 = 2/4


def test_equal_planes_go_to_the_first():
    off, own = columns(3, 6, ([0], range(3)), ([1], range(3, 6)), ([0], range(3)))
    assert greedy_cover(off, own).planes == (0, 1)


def test_among_planes_that_cost_nothing_the_larger_goes_first():
    off, own = columns(1, 5, ([], range(2)), ([], range(1, 5)), ([0], range(5)))
    assert greedy_cover(off, own, delta=1).planes == (1,)


def test_ratios_that_an_epsilon_would_reorder():
    """A plane that costs nothing wins, whatever another shuts out; (Δown + 1e-5) / Δstrangers would not say so."""
    off, own = columns(1, 300_002, ([], [0]), ([0], range(1, 300_002)))
    assert (1 + 1e-5) / 300_001 < (0 + 1e-5) / 1
    assert greedy_cover(off, own, delta=300_001).planes == (0,)


def test_ratios_too_near_for_floats():
    """n / (n + 1) < (n + 1) / (n + 2) by 1e-18, which float64 does not see."""
    n = 10**9
    off = np.array([[True, False], [True, False], [False, True], [False, True]])
    own = np.array([True, False, True, False])
    weights = np.array([n + 1, n + 2, n, n + 1])
    assert n / (n + 1) == (n + 1) / (n + 2)
    assert greedy_cover(off, own, weights=weights, delta=n + 2).planes == (1,)


def test_an_early_choice_that_later_ones_replace_is_dropped():
    off, own = columns(9, 6, ([0], [0, 1, 2, 3]), ([1, 2], [0, 1, 4]), ([3, 4], [2, 3, 5]))
    cover = greedy_cover(off, own)
    assert cover == Cover(planes=(1, 2), own=5, strangers=0, delta=0, least=0)


def test_without_strangers_all_is_covered():
    off, own = columns(4, 0, (range(4), []))
    assert greedy_cover(off, own) == Cover(planes=(), own=4, strangers=0, delta=0, least=0)


def test_without_own_images_the_largest_cuts_are_taken():
    off, own = columns(0, 5, ([], [0]), ([], [1, 2, 3]), ([], [4]))
    assert greedy_cover(off, own) == Cover(planes=(1, 0, 2), own=0, strangers=0, delta=0, least=0)


@pytest.mark.parametrize(("delta", "used", "planes"), [(None, 2, (0, 1)), (0, 2, (0, 1)), (2, 2, (0, 1)), (3, 3, (0,))])
def test_delta_is_raised_to_what_all_planes_leave(delta, used, planes):
    off, own = columns(1, 6, ([], [0, 1, 2]), ([], [3]))
    cover = greedy_cover(off, own, delta=delta)
    assert (cover.planes, cover.delta, cover.least, cover.strangers) == (planes, used, 2, used)


def test_without_planes_everything_stays():
    cover = greedy_cover(np.zeros((5, 0), dtype=bool), np.array([True, True, False, False, False]))
    assert cover == Cover(planes=(), own=2, strangers=3, delta=3, least=3)


@pytest.mark.parametrize("images", [63, 64, 65, 128, 1000])
@pytest.mark.parametrize("planes", [64, 65, 300])
def test_more_planes_and_images_than_a_word_has_bits(images, planes):
    off, own = problem(images + planes, images, planes, share=0.02)
    assert greedy_cover(off, own) == greedy_by_hand(off, own)


def test_any_layout_of_the_matrix_will_do():
    off, own = problem(0, 300, 20)
    wide = np.zeros((300, 40), dtype=bool)
    wide[:, ::2] = off
    expected = greedy_cover(off, own)
    assert greedy_cover(np.asfortranarray(off), own) == expected
    assert greedy_cover(wide[:, ::2], own) == expected


def test_what_is_given_stays_as_it_is():
    off, own = problem(1, 100, 6)
    weights = np.arange(100, dtype=np.uint16)
    copies = off.copy(), own.copy(), weights.copy()
    greedy_cover(off, own, weights=weights)
    for given_now, before in zip((off, own, weights), copies, strict=True):
        assert np.array_equal(given_now, before)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, images=st.integers(0, 130), planes=st.integers(1, 4))
def test_loops_give_the_same_without_the_compiler(seed, images, planes):
    off, own = problem(seed, images, planes)
    sides = Sides.of(off, own, None)
    words = np.zeros_like(sides.bits)
    module._pack.py_func(off, words)
    assert np.array_equal(words, sides.bits)
    totals = np.zeros(planes, dtype=np.int64)
    module._weigh.py_func(sides.bits, sides.own[:, 0], sides.own, totals)
    assert totals.tolist() == off[own].sum(axis=0).tolist()


@settings(deadline=None)
@given(word=st.integers(0, 2**64 - 1))
def test_bits_are_counted(word):
    assert module._popcount(np.uint64(word)) == word.bit_count()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"off": np.zeros((4, 2))}, r"got off of float64 \(4, 2\); expected bool"),
        ({"off": np.zeros(4, dtype=bool)}, r"got off of bool \(4,\); expected bool"),
        ({"own": np.zeros(3, dtype=bool)}, r"got own of bool \(3,\); expected bool \(4,\)"),
        ({"own": np.zeros(4)}, "got own of float64"),
        ({"delta": -1}, "got delta=-1; expected"),
        ({"delta": 0.5}, "got delta=0.5; expected"),
        ({"delta": True}, "got delta=True; expected"),
        ({"weights": [1, 1, 1]}, r"got weights of int64 \(3,\); expected whole numbers \(4,\)"),
        ({"weights": [0.5, 1, 1, 1]}, "got weights of float64"),
        ({"weights": [1, -2, 1, 1]}, "got a weight of -2"),
        ({"weights": [2**62, 1, 1, 1]}, "divide them all"),
    ],
)
def test_what_is_wrong_is_said(changed, message):
    right = {"off": np.zeros((4, 2), dtype=bool), "own": np.zeros(4, dtype=bool)} | changed
    with pytest.raises(ValueError, match=message):
        greedy_cover(**right)
