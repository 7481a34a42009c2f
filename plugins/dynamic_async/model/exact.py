"""The row test in exact rationals: every float is one, so nothing is rounded but the last result."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

# About two microseconds an entry, so a tenth of a second.
EXACT_ENTRIES = 20_000


def exact_factors(matrix: csr_array, weights: NDArray[np.float64]) -> list[Fraction]:
    """(M w)ᵢ/wᵢ of the matrix and the weights as they are stored, without any rounding.

    Example:
        >>> exact_factors(csr_array([[0.5, 0.25], [0.0, 0.75]]), np.array([1.0, 2.0]))
        [Fraction(1, 1), Fraction(3, 4)]
    """
    w = [Fraction(float(value)) for value in weights]
    indptr, indices, data = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    factors = []
    for i, own in enumerate(w):
        row = range(indptr[i], indptr[i + 1])
        factors.append(sum((Fraction(data[k]) * w[indices[k]] for k in row), Fraction(0)) / own)
    return factors


def float_above(value: Fraction) -> float:
    """The least float that is not below a rational."""
    near = float(value)
    return near if Fraction(near) >= value else math.nextafter(near, math.inf)


def float_below(value: Fraction) -> float:
    """The greatest float that is not above a rational."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)
