"""Row sums of K = A ⊗ W in a weighted maximum norm, and weights that make them small."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.model.bounds import rounded_up, upper_factors
from fulgurite.plugins.dynamic_async.model.collatz_wielandt import spectral_radius, weight_candidates

_STEPS = 2000
Floats = NDArray[np.float64]


def row_sums(adjacency: csr_array, weight: Floats, scale: Floats) -> Floats:
    """(N, d) Upper bounds of Σ |A_vu||W_kl| s_ul / s_vk, for s > 0 of shape (N, d)."""
    spread = abs(adjacency) @ (scale @ np.abs(weight).T)
    terms = np.diff(adjacency.indptr)[:, None] + len(weight) + 1
    return np.where(spread > 0, np.nextafter(rounded_up(spread, terms) / scale, np.inf), 0.0)


def greatest_inputs(adjacency: csr_array, weight: Floats, scale: Floats) -> Floats:
    """(N, d) Upper bounds of max Σ |W_kl| s_ul / s_vk over the nodes u that v reads: no mean of them is greater."""
    spread = rounded_up(scale @ np.abs(weight).T, len(weight))
    found = np.zeros(scale.shape)
    entries = adjacency.tocoo()
    np.maximum.at(found, entries.coords[0], spread[entries.coords[1]])
    return np.where(found > 0, np.nextafter(found / scale, np.inf), 0.0)


def measures(adjacency: csr_array, weight: Floats, scale: Floats) -> Floats:
    """(N, d) Upper bounds of K_rr + Σ |K_rj| s_j / s_r over j ≠ r, whose maximum is NEMON's μ."""
    sums = row_sums(adjacency, weight, scale)
    own = np.outer(adjacency.diagonal(), np.diag(weight))
    return sums - np.abs(own) + own + (sums + 2.0 * np.abs(own)) * 2.0**-50


def part_rows(adjacency: csr_array, weight: Floats, scale: Floats, part_of: NDArray[np.int64], count: int) -> Floats:
    """(parts, parts) The greatest row sum of a node in the one part over the nodes of the other, rounded up."""
    entries = adjacency.tocoo()
    rows, columns = entries.coords
    keys, place = np.unique(rows * np.int64(count) + part_of[columns], return_inverse=True)
    sums = np.zeros((len(keys), len(weight)))
    np.add.at(sums, place, np.abs(entries.data)[:, None] * (scale @ np.abs(weight).T)[columns])
    nodes = keys // count
    ratios = np.nextafter(rounded_up(sums, adjacency.shape[0] + len(weight)) / scale[nodes], np.inf)
    found = np.zeros((count, count))
    np.maximum.at(found, (part_of[nodes], keys % count), np.where(sums > 0, ratios, 0.0).max(axis=1, initial=0.0))
    return found


def even_weights(matrix: csr_array) -> Floats:
    """Weights of maximum 1 whose greatest row sum is near ρ(M), as even as they may be: 1 where that is as good.

    Of the candidates those are taken that need the fewest rounds for six digits once M is scaled to ρ = 0.9.
    """
    greatest = float(matrix.sum(axis=1).max()) if matrix.nnz else 0.0
    if greatest == 0.0:
        return np.ones(matrix.shape[0])
    rho = spectral_radius(matrix)
    scaled = csr_array(matrix * (0.9 / max(rho, 1e-3 * greatest)))
    best, fewest = np.ones(matrix.shape[0]), math.inf
    for weights in weight_candidates(scaled):
        rounds = _rounds(float(upper_factors(scaled, weights).max()), weights)
        if rounds < fewest:
            best, fewest = weights, rounds
    return best


def metzler_weights(adjacency: csr_array, weight: Floats) -> Floats:
    """(N, d) Weights with μ < 1 where there are any: (θ − K')⁻¹1, K' being K with absolute values off its diagonal.

    Of 1 and those found they are the ones that need the fewest rounds for six digits.
    """
    own = np.outer(adjacency.diagonal(), np.diag(weight))
    shift = float(np.abs(own).max(initial=0.0))
    magnitude, spread = abs(adjacency), np.abs(weight).T

    def applied(scale: Floats) -> Floats:
        return magnitude @ (scale @ spread) + (own - np.abs(own) + shift) * scale

    vector = np.ones(own.shape)
    rho = math.inf
    for _ in range(_STEPS):
        image = applied(vector) + 1e-12
        ratio = image / vector
        rho = float(ratio.max())
        vector = image / image.max()
        if rho - ratio.min() <= 1e-3 * abs(1.0 + shift - rho):
            break
    candidates = [vector]
    if rho < 1.0 + shift:
        for share in (0.1, 0.5):
            theta = rho + share * (1.0 + shift - rho)
            resolvent = np.full(own.shape, 1.0 / theta)
            for _ in range(_STEPS):
                image = (1.0 + applied(resolvent)) / theta
                done = np.abs(image - resolvent).max() <= 1e-6 * image.max()
                resolvent = image
                if done:
                    break
            candidates.append(resolvent / resolvent.max())
    alpha = 1.0 / (1.0 - min(0.0, float(own.min(initial=0.0))))
    best, fewest = np.ones(own.shape), math.inf
    for scale in [best, *candidates]:
        if scale.min() > 1e-9:
            found = float(measures(adjacency, weight, scale).max(initial=0.0))
            rounds = _rounds(1.0 - alpha * (1.0 - max(found, 0.0)), scale)
            if rounds < fewest:
                best, fewest = scale, rounds
    return best


def _rounds(gamma: float, weights: Floats) -> float:
    """How many rounds six digits take."""
    if gamma >= 1.0:
        return math.inf
    return math.log(1e6 / float(weights.min())) / -math.log(gamma) if gamma > 0.0 else 0.0
