"""Collatz–Wielandt: weights by which a non-negative matrix contracts, and witnesses that none do."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from fulgurite.plugins.dynamic_async.model.bounds import lower_factors
from fulgurite.plugins.dynamic_async.model.exact import EXACT_ENTRIES, exact_factors, float_below

_DENSE = 300  # up to so many rows the eigenvalues of the dense matrix are the quickest
_DIRECT = 2000  # and up to so many a sparse factorisation is
_STEPS = 2000


def spectral_radius(matrix: csr_array) -> float:
    """An estimate, not a bound, of the spectral radius ρ(M) of M ≥ 0: the greatest of its strong components'.

    Example:
        >>> round(spectral_radius(csr_array([[0.0, 0.5], [0.5, 0.0]])), 6)
        0.5
    """
    return max((_perron(block)[0] for block, _ in _components(matrix)), default=0.0)


def weight_candidates(matrix: csr_array) -> list[NDArray[np.float64]]:
    """Weights w > 0 worth the row test M w ≤ γ w, from the evenest to those of the least γ; all of maximum 1.

    Besides w = 1 they are (θ − M)⁻¹1 for θ between ρ(M) and 1: with such a w, M w = θw − 1 < θw. As θ nears ρ the
    factor falls to it, while w grows uneven where M is reducible. No more than w = 1 if ρ(M) ≥ 1.
    """
    ones = np.ones(matrix.shape[0])
    rho = spectral_radius(matrix)
    if rho >= 1.0 or matrix.nnz == 0:
        return [ones]
    found = [ones]
    for share in (0.5, 0.1, 1e-2, 1e-4, 1e-8):
        theta = rho + share * (1.0 - rho)
        weights = _resolvent(matrix, theta)
        if weights is not None:
            found.append(weights)
    return found


def radius_at_least(matrix: csr_array) -> float:
    """A proved lower bound of ρ(M): the least (M w)ᵢ/wᵢ of positive weights on a strong component, rounded down.

    Example:
        >>> radius_at_least(csr_array([[0.5, 0.5], [0.5, 0.5]]))
        1.0
    """
    best = 0.0
    for block, _ in _components(matrix):
        for weights in (np.ones(block.shape[0]), _perron(block)[1]):
            if (weights > 0).all():
                if block.nnz <= EXACT_ENTRIES:
                    best = max(best, float_below(min(exact_factors(block, weights), default=Fraction(0))))
                else:
                    best = max(best, float(lower_factors(block, weights).min()))
    return best


def _components(matrix: csr_array) -> list[tuple[csr_array, NDArray[np.int64]]]:
    """The strong components that hold an entry, each with its rows."""
    count, labels = connected_components(matrix, directed=True, connection="strong")
    order = np.argsort(labels, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=count))])
    diagonal = matrix.diagonal()
    found = []
    for k in range(count):
        rows = order[bounds[k] : bounds[k + 1]]
        if len(rows) == 1:
            if diagonal[rows[0]] > 0:
                found.append((csr_array([[diagonal[rows[0]]]]), rows))
        else:
            found.append((csr_array(matrix[rows][:, rows]), rows))
    return found


def _perron(matrix: csr_array) -> tuple[float, NDArray[np.float64]]:
    """ρ and a positive eigenvector of an irreducible matrix, both approximate."""
    size = matrix.shape[0]
    if size <= _DENSE:
        values, vectors = np.linalg.eig(matrix.toarray())
        top = int(np.argmax(values.real))
        vector = np.abs(vectors[:, top].real)
        return max(float(values[top].real), 0.0), vector / max(vector.max(), 1e-300)
    vector = np.ones(size)
    shift = 0.1 * float(matrix.sum(axis=1).max())  # or a cycle's eigenvector would never be met
    for _ in range(_STEPS):
        image = matrix @ vector + shift * vector
        image /= image.max()
        done = np.abs(image - vector).max() < 1e-14
        vector = image
        if done:
            break
    image = matrix @ vector
    return float((image @ vector) / (vector @ vector)), vector


def _resolvent(matrix: csr_array, theta: float) -> NDArray[np.float64] | None:
    """(θ − M)⁻¹1, scaled to a maximum of 1; None where it is not positive, so that θ ≤ ρ."""
    size = matrix.shape[0]
    if size <= _DIRECT:
        try:
            weights = splu((theta * eye_array(size, format="csc") - matrix.tocsc()).tocsc()).solve(np.ones(size))
        except RuntimeError:  # singular to working precision
            return None
    else:
        weights = np.ones(size) / theta
        for _ in range(_STEPS):  # the partial sums of ΣMᵏ1/θᵏ⁺¹, which rise to it
            image = (1.0 + matrix @ weights) / theta
            done = np.abs(image - weights).max() <= 1e-9 * image.max()
            weights = image
            if done:
                break
    if not np.isfinite(weights).all() or weights.min() <= 0.0:
        return None
    weights = weights / weights.max()
    return weights if weights.min() > 0.0 else None
