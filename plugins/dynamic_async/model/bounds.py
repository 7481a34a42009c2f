"""Sums, products and row tests in floating point that are rounded to the safe side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.model.errors import MapError

_EPS = 2.0**-52  # twice the unit roundoff, which pays for the roundings of the bounds themselves
_TINY = 2.0**-1074  # what one product may lose below the smallest normal number


def checked_matrix(matrix: csr_array, size: int) -> csr_array:
    """A Lipschitz matrix as float64 rows with ascending columns.

    Raises:
        MapError: it is not (size, size), or holds a negative entry, a NaN or an infinity.
    """
    if matrix.ndim != 2 or matrix.shape != (size, size):
        raise MapError(
            f"a Lipschitz matrix has shape {matrix.shape}; a map of {size} participants needs {(size, size)}"
        )
    made = csr_array(matrix, dtype=np.float64)
    made.sum_duplicates()
    if not np.isfinite(made.data).all():
        raise MapError("a Lipschitz matrix holds a NaN or an infinity; give None where no bound is known")
    if (made.data < 0).any():
        raise MapError("a Lipschitz matrix holds a negative entry; it bounds distances, so give absolute values")
    return made


def rounded_up(values: NDArray[np.float64], terms: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Upper bounds of sums of so many non-negative products, given as floating point computed them in any order."""
    return np.nextafter(values * (1.0 + (np.asarray(terms) + 2) * _EPS) + np.asarray(terms) * _TINY, np.inf)


def rounded_down(values: NDArray[np.float64], terms: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower bounds of such sums."""
    low = values * (1.0 - (np.asarray(terms) + 2) * _EPS) - np.asarray(terms) * _TINY
    return np.maximum(np.nextafter(low, -np.inf), 0.0)


def upper_factors(matrix: csr_array, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) Upper bounds of (M w)ᵢ/wᵢ; exactly 0 for an empty row.

    Example:
        >>> upper_factors(csr_array([[0.0, 0.5], [0.25, 0.25]]), np.ones(2)).round(6).tolist()
        [0.5, 0.5]
    """
    counts = np.diff(matrix.indptr)
    sums = rounded_up(matrix @ weights, counts)
    return np.where(counts == 0, 0.0, np.nextafter(sums / weights, np.inf))


def lower_factors(matrix: csr_array, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) Lower bounds of (M w)ᵢ/wᵢ; their least value over any M ≥ 0, w > 0 is a lower bound of ρ(M)."""
    sums = rounded_down(matrix @ weights, np.diff(matrix.indptr))
    return np.maximum(np.nextafter(sums / weights, -np.inf), 0.0)


def upper_sum(*values: float) -> float:
    """An upper bound of the sum of a few numbers ≥ 0."""
    total = 0.0
    for value in values:
        total = float(np.nextafter(total + value, np.inf))
    return total


def upper_ratio(numerator: float, denominator: float) -> float:
    """An upper bound of a quotient of numbers ≥ 0."""
    return float(np.nextafter(numerator / denominator, np.inf)) if numerator else 0.0


def gap(gamma: float) -> float:
    """A lower bound of 1 − γ, positive for γ < 1: floating point is exact there from γ = ½ on."""
    return float(np.nextafter(1.0 - gamma, 0.0)) if gamma < 0.5 else 1.0 - gamma
