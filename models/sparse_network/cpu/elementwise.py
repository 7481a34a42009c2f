r"""Exponentials that LLVM can turn into vector instructions; the C library's take one number at a time.

:math:`e^x = 2^k e^r` with k the whole number nearest to x/ln 2, so that :math:`|r| ≤ ½ \ln 2`, where a short Taylor
series of :math:`e^r - 1` is exact to rounding. For float32 and float64; within 3 units in the last place.
"""
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False
# numba chooses an implementation by the types that it hands to these functions.

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums must be taken as written: the two parts of ln 2 are subtracted one after the other for their rounding.
_OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}
_LOG2E = 1.4426950408889634
# As far out, whole multiples of π can be subtracted in three parts without loss.
NEARBY = 8192.0


def exponential(x):
    """eˣ; ∞ and 0 where that is out of range, NaN of NaN."""
    return x.dtype.type(np.exp(x))


def exponential_minus_one(x):
    """eˣ − 1 for x ≤ 0, without loss near 0; elsewhere it is undefined, but NaN of NaN."""
    return x.dtype.type(np.expm1(x))


def logarithm_of_one_plus(x):
    """ln(1 + x) for 0 ≤ x ≤ 1 without loss for small x; elsewhere it is wrong, but NaN of NaN."""
    return x.dtype.type(np.log1p(x))


def sine_nearby(x):
    """The sine for |x| ≤ ``NEARBY``; elsewhere, and of NaN, it is undefined."""
    return x.dtype.type(np.sin(x))


def cosine_nearby(x):
    """The cosine, likewise."""
    return x.dtype.type(np.cos(x))


def _split(x):
    """From x to (e^r − 1, s, t) with s·t = 2^k; declared for :func:`numba.extending.overload`."""
    raise NotImplementedError


def _split_below_zero(x):
    """From x ≤ 0, or what it is near enough to, to (e^r − 1, 2^k)."""
    raise NotImplementedError


def _reduction(x):
    """For a type of x: the type, its whole numbers, their bias and shift, and functions of (x, n) for r and e^r − 1."""
    real: Any
    whole: Any
    bias: Any
    mantissa: Any
    if x == types.float32:
        real, whole = np.float32, np.int32
        bias, mantissa, terms = np.int32(127), np.int32(23), 7
        ln2_high, ln2_low = real(0.693359375), real(-2.12194440e-4)
    elif x == types.float64:
        real, whole = np.float64, np.int64
        bias, mantissa, terms = np.int64(1023), np.int64(52), 13
        ln2_high, ln2_low = real(0.6931471803691238), real(1.9082149292705877e-10)
    else:
        return None
    series = tuple(real(1.0 / float(np.prod(np.arange(1.0, n + 1)))) for n in range(2, terms + 1))
    (c2, c3, c4, c5, c6, c7), rest = series[:6], series[6:]

    if not rest:

        def polynomial(r):
            return c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7))))

    else:
        c8, c9, c10, c11, c12, c13 = rest

        def polynomial(r):
            upper = c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13))))
            return c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * upper)))))

    polynomial = njit(**_OPTIONS)(polynomial)

    def remainder(x, n):
        r = (x - n * ln2_high) - n * ln2_low
        return r + r * r * polynomial(r)

    return real, whole, bias, mantissa, njit(**_OPTIONS)(remainder)


@overload(_split, jit_options=_OPTIONS)
def _split_compiled(x):
    found = _reduction(x)
    if found is None:
        return None
    real, whole, bias, mantissa, remainder = found
    low, high = (real(-104.0), real(89.0)) if x == types.float32 else (real(-746.0), real(710.0))
    log2e, half = real(_LOG2E), real(0.5)

    def split(x):
        # Written so that NaN becomes a number here: turning NaN into an integer is undefined.
        c = x if x > low else low
        c = c if c < high else high
        n = np.floor(c * log2e + half)
        # 32 bits are enough, and their conversion is a vector instruction everywhere.
        k = np.int32(n)
        first = k >> np.int32(1)
        second = k - first
        s = whole((whole(first) + bias) << mantissa).view(real)
        t = whole((whole(second) + bias) << mantissa).view(real)
        return remainder(c, n), s, t

    return split


@overload(_split_below_zero, jit_options=_OPTIONS)
def _split_below_zero_compiled(x):
    found = _reduction(x)
    if found is None:
        return None
    real, whole, bias, mantissa, remainder = found
    # Where eˣ is lost beside 1, and 2^k still a normal number.
    low, zero = real(-80.0), real(0.0)
    log2e, half = real(_LOG2E), real(0.5)

    def split(x):
        c = x if x > low else low
        c = c if c < zero else zero
        n = np.floor(c * log2e + half)
        return remainder(c, n), whole((whole(np.int32(n)) + bias) << mantissa).view(real)

    return split


def _reduced_sine(x):
    """(r, k) ↦ (−1)ᵏ·sin(r − the rest of k·π), and the parts of π; None for other types."""
    if x == types.float32:
        real: Any = np.float32
        parts = (real(3.140625), real(0.0009670257568359375), real(6.27832957300962643e-07))
        c3, c5, c7, c9, c11, c13 = (real((-1) ** n / math.factorial(2 * n + 1)) for n in range(1, 7))

        def series(v):
            return c3 + v * (c5 + v * (c7 + v * (c9 + v * (c11 + v * c13))))

    elif x == types.float64:
        real = np.float64
        parts = (real(3.1415926218032837), real(3.178650942459171e-08), real(1.2246468653218022e-16))
        d3, d5, d7, d9, d11, d13, d15, d17, d19, d21, d23 = (
            real((-1) ** n / math.factorial(2 * n + 1)) for n in range(1, 12)
        )

        def series(v):
            upper = d13 + v * (d15 + v * (d17 + v * (d19 + v * (d21 + v * d23))))
            return d3 + v * (d5 + v * (d7 + v * (d9 + v * (d11 + v * upper))))

    else:
        return None
    polynomial = njit(**_OPTIONS)(series)

    def sine(r, k):
        v = r * r
        y = r + r * v * polynomial(v)
        return -y if k & 1 else y

    return real, parts, njit(**_OPTIONS)(sine)


@overload(sine_nearby, jit_options=_OPTIONS)
def _sine_compiled(x):
    found = _reduced_sine(x)
    if found is None:
        return None
    real, (first, second, third), sine = found
    half, inverse = real(0.5), real(1 / math.pi)

    def compute(x):
        n = np.floor(x * inverse + half)
        r = ((x - n * first) - n * second) - n * third
        return sine(r, np.int32(n))

    return compute


@overload(cosine_nearby, jit_options=_OPTIONS)
def _cosine_compiled(x):
    found = _reduced_sine(x)
    if found is None:
        return None
    real, (first, second, third), sine = found
    half, inverse = real(0.5), real(1 / math.pi)

    def compute(x):
        # cos x = −(−1)ᵏ·sin(x − (k + ½)·π) with k = ⌊x/π⌋.
        n = np.floor(x * inverse)
        m = n + half
        r = ((x - m * first) - m * second) - m * third
        return sine(r, np.int32(n) + 1)

    return compute


@overload(exponential, jit_options=_OPTIONS)
def _exponential_compiled(x):
    if x not in (types.float32, types.float64):
        return None
    one = np.float32(1.0) if x == types.float32 else np.float64(1.0)

    def compute(x):
        q, s, t = _split(x)
        y = (q + one) * s * t
        return y if x == x else x

    return compute


@overload(exponential_minus_one, jit_options=_OPTIONS)
def _exponential_minus_one_compiled(x):
    if x not in (types.float32, types.float64):
        return None
    one = np.float32(1.0) if x == types.float32 else np.float64(1.0)

    def compute(x):
        q, s = _split_below_zero(x)
        y = q * s + (s - one)
        return y if x == x else x

    return compute


@overload(logarithm_of_one_plus, jit_options=_OPTIONS)
def _logarithm_compiled(x):
    # ln(1 + x) = 2 artanh u = 2 (u + u³/3 + u⁵/5 + …) of u = x/(2 + x), which is at most 1/3.
    if x == types.float32:
        real: Any = np.float32
        c0, c1, c2, c3, c4, c5, c6, c7 = (real(2 / (2 * k + 1)) for k in range(8))

        def series(v):
            return c0 + v * (c1 + v * (c2 + v * (c3 + v * (c4 + v * (c5 + v * (c6 + v * c7))))))

    elif x == types.float64:
        real = np.float64
        d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, d16 = (
            real(2 / (2 * k + 1)) for k in range(17)
        )

        def series(v):
            upper = d11 + v * (d12 + v * (d13 + v * (d14 + v * (d15 + v * d16))))
            middle = d5 + v * (d6 + v * (d7 + v * (d8 + v * (d9 + v * (d10 + v * upper)))))
            return d0 + v * (d1 + v * (d2 + v * (d3 + v * (d4 + v * middle))))

    else:
        return None
    polynomial = njit(**_OPTIONS)(series)
    two = real(2)

    def compute(x):
        u = x / (two + x)
        return u * polynomial(u * u)

    return compute
