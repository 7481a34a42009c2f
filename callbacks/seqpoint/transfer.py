"""Costs that another configuration might have, to try points on before anything is measured there."""

import math

import numpy as np
from numpy.typing import NDArray

from fulgurite.callbacks.seqpoint.cost import candidate_terms, features
from fulgurite.callbacks.seqpoint.ranking import Ranking


def other_costs(shapes: NDArray[np.int64], ranking: Ranking, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """Costs that another machine, precision or layer width could give, known exactly for every iteration.

    Another configuration weighs the terms of φ differently, or holds short steps at a launch-bound floor. One column is
    predicted cost itself, one predicted cost held at its median from below, and one each varying term of φ.

    Args:
        shapes: (M, C).
        ranking: of the M iterations.
        columns: names of the C columns.

    Returns:
        (M, K) in order of rank, each column with mean 1.

    Example:
        >>> ranking = Ranking.of(np.array([1.0, 3.0]), np.random.default_rng(0))
        >>> other_costs(np.array([[1], [3]]), ranking, ("source",)).round(2).tolist()
        [[0.5, 0.8, 0.5, 0.2], [1.5, 1.2, 1.5, 1.8]]
    """
    terms = features(shapes[ranking.order], candidate_terms(columns)[1:])
    terms = terms[:, np.ptp(terms, axis=0) > 0]
    floored = np.maximum(ranking.costs, np.median(ranking.costs))
    others = np.concatenate([ranking.costs[:, None], floored[:, None], terms], axis=1)
    return others / others.mean(axis=0)


def mixed_error(errors: NDArray[np.float64]) -> float:
    """Root mean square of the relative error over all non-negative mixes of K costs, every mix as likely as any other.

    A projection is linear, so that of Σ γ_k f_k with equal totals errs by Σ γ_k e_k. With γ uniform on the simplex
    E[γ_k²] = 2/(K(K+1)) and E[γ_k γ_l] = 1/(K(K+1)), hence the square is (Σ e_k² + (Σ e_k)²)/(K(K+1)).

    Args:
        errors: relative error of each cost's projected total, (K,).

    Example:
        >>> round(mixed_error(np.array([0.01, 0.01, 0.01])), 6)
        0.01
    """
    count = len(errors)
    return math.sqrt(float((errors**2).sum() + errors.sum() ** 2) / (count * (count + 1)))
