"""Strongly convex losses over fixed data, in NumPy, with the constants that certificates need."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.dynamic_async.maps.curvature import LossName, objective_bounds, spread
from fulgurite.plugins.dynamic_async.model.errors import MapError

Vector = NDArray[np.float64]


class Loss(ABC):
    """f(z) = mean loss of the logits X z + (decay/2)‖z‖², μ-strongly convex and L-smooth.

    Args:
        features: X, (samples, d); add a column of ones for a bias.
        labels: one for each row.
        weight_decay: > 0.

    Attributes:
        dimension: numbers in z.
        mu: μ, a lower bound.
        smoothness: L, an upper bound.

    Raises:
        MapError: shapes that do not fit, numbers that are not finite, or a loss that is not strongly convex.
    """

    name: LossName
    largest_residual = 1.0

    def __init__(self, features: ArrayLike, labels: ArrayLike, weight_decay: float) -> None:
        self.features = np.array(features, dtype=np.float64)
        self.labels = np.array(labels)
        self.weight_decay = float(weight_decay)
        self.mu, self.smoothness = objective_bounds(self.name, self.features, self.weight_decay)
        if self.labels.shape != (len(self.features),) or not np.isfinite(self.labels.astype(np.float64)).all():
            raise MapError(f"labels of shape {self.labels.shape} were given for {len(self.features)} rows of features")
        if self.mu <= 0.0:
            raise MapError("the loss is not strongly convex; give it a weight decay above 0")
        self.dimension = self.features.shape[1]

    @abstractmethod
    def gradient(self, z: Vector) -> Vector:
        """∇f(z)."""

    @abstractmethod
    def hessian(self, z: Vector) -> NDArray[np.float64]:
        """∇²f(z)."""

    def noise(self, reach: float) -> float:
        """Bound on the rounding of a gradient at ‖z‖ ≤ reach, in ‖·‖₂."""
        longest = spread(self.features)
        classes = max(self.dimension // self.features.shape[1], 1)
        terms = sum(self.features.shape) + classes + 16
        total = longest * (self.largest_residual + longest * reach) * classes**0.5 + self.weight_decay * reach
        return 2.0**-51 * terms * total


class QuadraticLoss(Loss):
    """½‖Xz − y‖²/n + (decay/2)‖z‖².

    Example:
        >>> QuadraticLoss([[1.0], [1.0]], [0.0, 2.0], 0.5).gradient(np.array([0.0]))
        array([-1.])
    """

    name = "quadratic"

    def __init__(self, features: ArrayLike, labels: ArrayLike, weight_decay: float = 0.0) -> None:
        super().__init__(features, np.asarray(labels, dtype=np.float64), weight_decay)
        self.largest_residual = float(np.abs(self.labels).max())

    def gradient(self, z: Vector) -> Vector:
        """Xᵀ(Xz − y)/n + decay·z."""
        found: Vector = self.features.T @ (self.features @ z - self.labels) / len(self.features) + self.weight_decay * z
        return found

    def hessian(self, z: Vector) -> NDArray[np.float64]:
        """XᵀX/n + decay."""
        found: NDArray[np.float64] = self.features.T @ self.features / len(self.features)
        return found + self.weight_decay * np.eye(self.dimension)


class LogisticLoss(Loss):
    """mean log(1 + exp(−y·Xz)) + (decay/2)‖z‖², for labels y of −1 and 1.

    Example:
        >>> LogisticLoss([[2.0]], [1], 0.1).gradient(np.array([0.0]))
        array([-1.])
    """

    name = "logistic"

    def __init__(self, features: ArrayLike, labels: ArrayLike, weight_decay: float) -> None:
        super().__init__(features, labels, weight_decay)
        if not np.isin(self.labels, (-1, 1)).all():
            raise MapError(f"labels {np.unique(self.labels)[:5].tolist()} were given; the logistic loss's are −1 and 1")

    def gradient(self, z: Vector) -> Vector:
        """−Xᵀ(y·σ(−y·Xz))/n + decay·z."""
        residual = -self.labels * _sigmoid(-self.labels * (self.features @ z))
        found: Vector = self.features.T @ residual / len(self.features) + self.weight_decay * z
        return found

    def hessian(self, z: Vector) -> NDArray[np.float64]:
        """Xᵀ diag(σ(1 − σ)) X/n + decay."""
        share = _sigmoid(self.features @ z)
        found: NDArray[np.float64] = self.features.T @ ((share * (1 - share))[:, None] * self.features)
        return found / len(self.features) + self.weight_decay * np.eye(self.dimension)


class SoftmaxLoss(Loss):
    """Mean cross-entropy of softmax(X Wᵀ) + (decay/2)‖W‖², with z the rows of W (classes, d) one after another.

    Args:
        features: X, (samples, d).
        labels: classes, 0 to ``classes`` − 1.
        weight_decay: > 0.
        classes: K; by default as many as the labels show.

    Example:
        >>> SoftmaxLoss([[1.0]], [0], 0.1, classes=2).gradient(np.zeros(2))
        array([-0.5,  0.5])
    """

    name = "softmax"
    largest_residual = 2.0**0.5

    def __init__(
        self, features: ArrayLike, labels: ArrayLike, weight_decay: float, *, classes: int | None = None
    ) -> None:
        super().__init__(features, labels, weight_decay)
        self.classes = int(self.labels.max()) + 1 if classes is None else classes
        if self.labels.dtype.kind not in "iu" or self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise MapError(f"labels must be integers from 0 to {self.classes - 1}")
        self.dimension = self.classes * self.features.shape[1]
        self._targets = np.eye(self.classes)[self.labels]

    def _shares(self, z: Vector) -> NDArray[np.float64]:
        logits = self.features @ z.reshape(self.classes, -1).T
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
        return shares

    def gradient(self, z: Vector) -> Vector:
        """(softmax(XWᵀ) − Y)ᵀX/n + decay·W."""
        residual = self._shares(z) - self._targets
        found: Vector = (residual.T @ self.features).reshape(-1) / len(self.features) + self.weight_decay * z
        return found

    def hessian(self, z: Vector) -> NDArray[np.float64]:
        """Mean (diag(s) − ssᵀ) ⊗ xxᵀ + decay."""
        shares = self._shares(z)
        inner = np.einsum("nk,kl->nkl", shares, np.eye(self.classes)) - np.einsum("nk,nl->nkl", shares, shares)
        whole = np.einsum("nkl,ni,nj->kilj", inner, self.features, self.features, optimize=True)
        found: NDArray[np.float64] = whole.reshape(self.dimension, self.dimension) / len(self.features)
        return found + self.weight_decay * np.eye(self.dimension)


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * values))
    return found
