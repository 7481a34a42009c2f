from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.model import bounds
from fulgurite.plugins.dynamic_async.model.collatz_wielandt import radius_at_least, spectral_radius, weight_candidates
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.model.exact import exact_factors, float_above, float_below

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, size, density=0.5):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-12, 12, size=(size, size))
    return csr_array(rng.random((size, size)) * scale * (rng.random((size, size)) < density)), rng.random(size) + 1e-3


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12))
def test_row_tests_enclose_the_exact_ones(seed, size):
    matrix, weights = drawn(seed, size)
    exact = exact_factors(matrix, weights)
    upper, lower = bounds.upper_factors(matrix, weights), bounds.lower_factors(matrix, weights)
    for i in range(size):
        assert Fraction(lower[i]) <= exact[i] <= Fraction(upper[i])
        assert upper[i] - lower[i] <= 1e-13 * upper[i]


def test_exact_row_tests_need_no_room():
    third = Fraction(1, 3)
    matrix, weights = csr_array([[1.0, 2.0], [0.0, 0.0]]), np.array([3.0, 1.0])
    assert exact_factors(matrix, weights) == [Fraction(5, 3), 0]
    assert float_below(third) < third < float_above(third)
    assert np.nextafter(float_below(third), 1.0) == float_above(third)
    assert float_above(Fraction(1, 2)) == float_below(Fraction(1, 2)) == 0.5


def test_the_smallest_numbers_are_not_lost():
    tiny = csr_array([[1e-200, 1e-200]])
    assert bounds.upper_factors(csr_array(np.vstack([tiny.toarray()] * 2)), np.full(2, 1e-200))[0] > 0
    assert bounds.upper_ratio(0.0, 0.5) == 0.0
    assert bounds.upper_sum(1.0, 1e-30) > 1.0
    assert Fraction(bounds.gap(0.1)) < 1 - Fraction(0.1)
    assert Fraction(bounds.gap(0.9)) <= 1 - Fraction(0.9)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.ones((2, 3)), "shape"),
        (np.ones((3, 3)), "shape"),
        ([[np.nan, 0.0], [0.0, 0.0]], "NaN"),
        ([[np.inf, 0.0], [0.0, 0.0]], "infinity"),
        ([[-0.1, 0.0], [0.0, 0.0]], "negative"),
    ],
)
def test_a_matrix_that_bounds_nothing_is_refused(matrix, words):
    with pytest.raises(MapError, match=words):
        bounds.checked_matrix(csr_array(matrix), 2)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 10), st.sampled_from([0.15, 0.5, 1.0]))
def test_the_spectral_radius_and_its_proved_bounds(seed, size, density):
    rng = np.random.default_rng(seed)
    matrix = csr_array(rng.random((size, size)) * (rng.random((size, size)) < density))
    radius = np.abs(np.linalg.eigvals(matrix.toarray())).max()
    # An eigenvalue that is many times one is found to a root of the precision only.
    assert spectral_radius(matrix) == pytest.approx(radius, abs=5e-2 if density < 0.5 else 1e-9)
    proved = radius_at_least(matrix)
    assert proved <= radius + 1e-2
    assert proved >= spectral_radius(matrix) * (1 - 1e-9) - 1e-12


@settings(deadline=None)
@given(SEEDS, st.integers(1, 10), st.sampled_from([0.15, 0.5, 1.0]), st.sampled_from([0.5, 0.99, 0.9999]))
def test_weights_are_found_wherever_the_radius_is_below_one(seed, size, density, wanted):
    rng = np.random.default_rng(seed)
    matrix = csr_array(rng.random((size, size)) * (rng.random((size, size)) < density))
    radius = spectral_radius(matrix)
    if radius == 0.0:
        return
    matrix = csr_array(matrix * (wanted / radius))
    candidates = weight_candidates(matrix)
    assert all((weights > 0).all() and weights.max() == 1.0 for weights in candidates)
    best = min(float(bounds.upper_factors(matrix, weights).max()) for weights in candidates)
    assert best <= wanted + 0.01 * (1 - wanted)
    assert len(weight_candidates(csr_array(matrix / wanted * 1.01))) == 1


def test_large_sparse_matrices_take_the_iterative_ways():
    size = 3000
    rows = np.arange(size)
    ring = csr_array((np.full(size, 0.9), (rows, (rows + 1) % size)), shape=(size, size))
    assert spectral_radius(ring) == pytest.approx(0.9)
    assert radius_at_least(csr_array(ring / 0.9)) >= 1 - 1e-12
    uneven = csr_array((np.where(rows % 2, 0.01, 80.0), (rows, (rows + 1) % size)), shape=(size, size))
    assert float(bounds.upper_factors(uneven, np.ones(size)).max()) > 1
    best = min(float(bounds.upper_factors(uneven, weights).max()) for weights in weight_candidates(uneven))
    assert best < 0.9 + 1e-3
