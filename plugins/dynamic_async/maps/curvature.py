"""How convex and how smooth a loss is: Lipschitz and strong-convexity constants from its features."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.dynamic_async.model.errors import MapError

LossName = Literal["quadratic", "logistic", "softmax"]
# The greatest second derivative in a logit: 1, ¼, and ½ of Böhning's bound (Annals of the ISM 44, 1992), by which the
# softmax loss's Hessian in the logits is at most ½(I − 11ᵀ/K).
CURVATURES: dict[str, float] = {"quadratic": 1.0, "logistic": 0.25, "softmax": 0.5}


def moment_bounds(features: ArrayLike) -> tuple[float, float]:
    """Lower and upper bounds of the eigenvalues of XᵀX/n, with room for every rounding.

    Args:
        features: X, (n, d).

    Raises:
        MapError: X is not a matrix with at least one row, or holds a NaN or an infinity.

    Example:
        >>> low, high = moment_bounds([[1.0, 0.0], [0.0, 2.0]])
        >>> round(low, 6), round(high, 6)
        (0.5, 2.0)
    """
    made = np.asarray(features, dtype=np.float64)
    if made.ndim != 2 or not made.size:
        raise MapError(
            f"features of shape {made.shape} were given; (samples, features) with at least one of each is due"
        )
    if not np.isfinite(made).all():
        raise MapError("the features hold a NaN or an infinity")
    rows, columns = made.shape
    wide = columns > rows  # then the other product has the same eigenvalues but zeros, and is smaller
    product = (made @ made.T if wide else made.T @ made) / rows
    values = np.linalg.eigvalsh(product)
    slack = (rows + columns + 8.0 * len(values)) * 2.0**-52 * float(np.trace(product))
    return (0.0 if wide else max(float(values[0]) - slack, 0.0)), float(np.nextafter(values[-1] + slack, np.inf))


def objective_bounds(
    loss: LossName, features: ArrayLike, weight_decay: float, *, bias: bool = False
) -> tuple[float, float]:
    """(μ, L) of a mean loss of the logits X Wᵀ plus (weight_decay/2)‖W‖², whatever the labels: μ-convex, L-smooth.

    L = h·λ_max(XᵀX/n) + decay with h = 1 for ``"quadratic"`` (half the squared error), ¼ for ``"logistic"``, ½ for
    ``"softmax"``; μ = decay, and λ_min more for the quadratic loss. The decay must be on every parameter that trains,
    on the bias too.

    Args:
        loss: which.
        features: X, (n, d), what the linear head reads.
        weight_decay: of every parameter; > 0 unless the quadratic loss is strongly convex without.
        bias: the head has one: a column of ones is added to X.

    Raises:
        MapError: the loss is not one of these, the decay is negative, or X is no finite matrix.

    Example:
        >>> mu, smooth = objective_bounds("softmax", [[1.0, 0.0], [0.0, 1.0]], 0.1)
        >>> mu, round(smooth, 6)
        (0.1, 0.35)
    """
    if loss not in CURVATURES:
        raise MapError(f"loss {loss!r} is not one of {', '.join(CURVATURES)}")
    if not 0.0 <= weight_decay < math.inf:
        raise MapError(f"weight_decay = {weight_decay}; a finite number of at least 0 is due")
    made = np.asarray(features, dtype=np.float64)
    if bias and made.ndim == 2:
        made = np.hstack([made, np.ones((len(made), 1))])
    low, high = moment_bounds(made)
    mu = weight_decay
    if loss == "quadratic" and low > 0.0:
        mu = float(np.nextafter(low + weight_decay, 0.0))
    return mu, float(np.nextafter(CURVATURES[loss] * high + weight_decay, np.inf))


def largest_step(mu: float, smoothness: float, pull: float = 0.0) -> float:
    """2/(L + μ + 2λd), the largest step by which a gradient step on the anchored objective contracts by 1 − ημ.

    Args:
        mu: μ.
        smoothness: L.
        pull: λd, the anchors' weights together.
    """
    return float(np.nextafter(2.0 / (smoothness + mu + 2.0 * pull), 0.0)) * (1.0 - 2.0**-50)


def spread(features: NDArray[np.float64]) -> float:
    """The greatest length of a row."""
    return float(np.linalg.norm(features, axis=1).max(initial=0.0))
