import numpy as np
import pytest

from fulgurite.models.sparse_network.cpu.compile import kernel
from fulgurite.models.sparse_network.cpu.elementwise import (
    NEARBY,
    cosine_nearby,
    exponential,
    exponential_minus_one,
    logarithm_of_one_plus,
    sine_nearby,
)


@kernel()
def exponentials(x, out):
    for i in range(len(x)):
        out[i] = exponential(x[i])


@kernel()
def exponentials_minus_one(x, out):
    for i in range(len(x)):
        out[i] = exponential_minus_one(x[i])


@kernel()
def logarithms(x, out):
    for i in range(len(x)):
        out[i] = logarithm_of_one_plus(x[i])


@kernel()
def sines(x, out):
    for i in range(len(x)):
        out[i] = sine_nearby(x[i])


@kernel()
def cosines(x, out):
    for i in range(len(x)):
        out[i] = cosine_nearby(x[i])


def applied(function, x):
    out = np.empty_like(x)
    function(x, out)
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mine", "numpys"), [(exponentials, np.exp), (exponentials_minus_one, np.expm1)])
def test_within_three_units_in_the_last_place(mine, numpys, dtype):
    low, high = (-87.0, 88.7) if dtype == np.float32 else (-708.0, 709.7)
    small = np.geomspace(1e-30, 1, 2000)
    x = np.concatenate([np.linspace(low, high, 50_001), np.linspace(-2, 2, 50_001), small, -small]).astype(dtype)
    if mine is exponentials_minus_one:
        x = x[x <= 0]
    exact = numpys(x.astype(np.longdouble))
    error = np.abs(applied(mine, x) - exact) / np.spacing(np.abs(exact.astype(dtype)))
    assert error.max() <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithms_between_0_and_1(dtype):
    x = np.concatenate([np.linspace(0, 1, 50_001), np.geomspace(1e-30, 1, 5000)]).astype(dtype)
    exact = np.log1p(x.astype(np.longdouble))
    error = np.abs(applied(logarithms, x) - exact) / np.spacing(np.abs(exact.astype(dtype)))
    assert error.max() <= 3
    assert np.isnan(applied(logarithms, np.array([np.nan], dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mine", "numpys"), [(sines, np.sin), (cosines, np.cos)])
def test_sines_within_two_roundings_of_1(mine, numpys, dtype):
    x = np.concatenate([np.linspace(-NEARBY, NEARBY, 100_001), np.linspace(-7, 7, 20_001), np.arange(-99, 99) * np.pi])
    x = x.astype(dtype)
    error = np.abs(applied(mine, x) - numpys(x.astype(np.longdouble)))
    assert error.max() <= 2 * np.finfo(dtype).eps
    small = np.geomspace(1e-30, 0.1, 1000).astype(dtype)
    np.testing.assert_allclose(applied(sines, small), np.sin(small), rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_range(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0], dtype)
    np.testing.assert_array_equal(applied(exponentials, x), np.array([np.nan, np.inf, 0, np.inf, 0, 1], dtype))
    downward = x[[0, 2, 4, 5]]
    np.testing.assert_array_equal(applied(exponentials_minus_one, downward), np.array([np.nan, -1, -1, 0], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_too_small_for_full_precision(dtype):
    low, high = (-103.9, -87.4) if dtype == np.float32 else (-745.1, -708.5)
    x = np.linspace(low, high, 1001).astype(dtype)
    np.testing.assert_allclose(
        applied(exponentials, x),
        np.exp(x.astype(np.longdouble)),
        rtol=1e-6,
        atol=2 * np.finfo(dtype).smallest_subnormal,
    )


def test_uncompiled_they_are_numpys():
    assert exponential(np.float32(1.0)) == np.exp(np.float32(1.0))
    assert exponential_minus_one(np.float64(1e-9)) == np.expm1(1e-9)
    assert logarithm_of_one_plus(np.float64(1e-9)) == np.log1p(1e-9)
    assert (sine_nearby(np.float64(1)), cosine_nearby(np.float64(1))) == (np.sin(1), np.cos(1))
