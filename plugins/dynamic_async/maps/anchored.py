"""Training over fixed data shards, each anchored to others: the fixed point of EASGD, pFedMe and FedProx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.maps.curvature import largest_step
from fulgurite.plugins.dynamic_async.maps.losses import Loss
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError

_NEWTON_STEPS = 200


def complete_weights(count: int) -> csr_array:
    """Everybody anchored to the mean of the others: wᵢⱼ = 1/(n − 1), 0 for i = j.

    Example:
        >>> complete_weights(3).toarray().tolist()
        [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    """
    return csr_array((np.ones((count, count)) - np.eye(count)) / max(count - 1, 1))


class AnchoredMap(DynamicMap):
    """Each shard minimises its own loss while drawn to its neighbours' parameters; for strongly convex losses.

    ``"prox"``: xᵢ ← argmin_z fᵢ(z) + (λ/2) Σⱼ wᵢⱼ‖z − xⱼ‖²; ``"gradient"``: one step of size η on that objective from
    xᵢ. With ``"star"`` every shard is drawn to a server, which is the last participant and takes the mean of the shards
    present. The sums run over who is present. The distance is ‖·‖₂; with fᵢ μ-strongly convex and L-smooth and
    d = maxᵢ Σⱼ wᵢⱼ, the factors are λd/(λd + μ), 1 − ημ for η ≤ 2/(L + μ + 2λd), and √(λ/(λ + μ)) for the prox star,
    whatever participates: leaving only shrinks d. X is the ball around ``centre`` of radius max‖∇fᵢ(centre)‖/μ: for
    every d, F(centre) is off by at most (1 − factor) of that.

    Args:
        losses: fᵢ, a shard each.
        coupling: λ > 0.
        weights: (n, n) wᵢⱼ ≥ 0 without a diagonal, or ``"complete"`` (:func:`complete_weights`), or ``"star"``.
        update: ``"prox"`` or ``"gradient"``.
        step: η of ``"gradient"``; by default the largest that is certified.
        centre: (d,) ⊥, first state, and centre of X; 0 by default.
        tolerance: length of the gradient at which the minimisation ends, an error of at most tolerance/(μ + λd).

    Shape:
        - a participant's state: (d,), float64.

    Raises:
        MapError: shapes or numbers that do not fit.

    Example:
        >>> from fulgurite.plugins.dynamic_async.maps.losses import QuadraticLoss
        >>> shards = [QuadraticLoss([[1.0]], [label]) for label in (0.0, 1.0)]
        >>> model = AnchoredMap(shards, coupling=1.0, weights="complete")
        >>> model.evaluate(0, 0, np.ones(2, bool), {1: np.array([1.0])}).round(9)
        array([0.5])
    """

    leaving = "shrinks"

    def __init__(
        self,
        losses: Sequence[Loss],
        coupling: float,
        weights: Any = "complete",
        *,
        update: Literal["prox", "gradient"] = "prox",
        step: float | None = None,
        centre: ArrayLike | None = None,
        tolerance: float = 1e-10,
    ) -> None:
        self.losses, self.coupling, self.update, self.tolerance = tuple(losses), float(coupling), update, tolerance
        if not self.losses or len({loss.dimension for loss in self.losses}) != 1:
            raise MapError("give at least one loss, all with the same number of parameters")
        if not 0.0 < self.coupling < np.inf or update not in ("prox", "gradient") or not tolerance > 0.0:
            raise MapError(f"coupling {coupling} and tolerance {tolerance} must be above 0, update prox or gradient")
        size = self.losses[0].dimension
        self.centre = np.zeros(size) if centre is None else np.array(centre, dtype=np.float64)
        if self.centre.shape != (size,) or not np.isfinite(self.centre).all():
            raise MapError(f"a centre of shape {self.centre.shape} was given; {(size,)} finite numbers are due")
        self.star = isinstance(weights, str) and weights == "star"
        self.weights = self._checked_weights(weights)
        self.num_participants = self.weights.shape[0]
        self._pull = self.coupling * np.asarray(self.weights.sum(axis=1)).reshape(-1)[: len(self.losses)]
        self._mu = np.array([loss.mu for loss in self.losses])
        self._smooth = np.array([loss.smoothness for loss in self.losses])
        bounds = [largest_step(m, s, p) for m, s, p in zip(self._mu, self._smooth, self._pull, strict=True)]
        self.step = min(bounds) if step is None else float(step)
        if not 0.0 < self.step < np.inf:
            raise MapError(f"step = {step}; a positive number is due, at most {min(bounds):g} to be certified")
        self._certified_step = self.step <= min(bounds)
        self._box = self._find_box()

    def bottom(self, i: int) -> Array:
        """The centre."""
        return self.centre.copy()

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Who i is drawn to; itself for a gradient step."""
        own = self.weights.indices[self.weights.indptr[i] : self.weights.indptr[i + 1]].astype(np.int64)
        if self.update == "gradient" and i < len(self.losses):
            own = np.union1d(own, [i])
        return own

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """The minimiser or the step, anchored to who is present; the server's mean."""
        row = slice(self.weights.indptr[i], self.weights.indptr[i + 1])
        anchors = [
            (weight, inputs[j])
            for j, weight in zip(self.weights.indices[row].tolist(), self.weights.data[row].tolist(), strict=True)
            if participants[j]
        ]
        total = sum(weight for weight, _ in anchors)
        drawn = np.zeros_like(self.centre)
        for weight, value in anchors:
            drawn += weight * value
        if i == len(self.losses):
            return drawn / total if anchors else self.centre.copy()
        if self.update == "gradient":
            slope = self.losses[i].gradient(inputs[i]) + self.coupling * (total * inputs[i] - drawn)
            moved: Array = inputs[i] - self.step * slope
            return moved
        return self._minimiser(self.losses[i], self.coupling * total, self.coupling * drawn)

    def distance(self, i: int, x: Array, y: Array) -> float:
        """‖x − y‖₂."""
        return float(np.linalg.norm(np.asarray(x, dtype=np.float64) - y))

    @property
    def domain(self) -> Box:
        """The ball around the centre."""
        return self._box

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array:
        """The table of the class, row by row."""
        mask = participants.astype(np.float64)
        found = (self.weights.toarray() * mask[None, :]) * mask[:, None]
        clients = len(self.losses)
        pull = self.coupling * found[:clients].sum(axis=1)
        if self.update == "prox":
            found[:clients] *= (self.coupling / (pull + self._mu))[:, None]
        else:
            found[:clients] *= self.step * self.coupling
            own = np.maximum(
                np.abs(1.0 - self.step * (pull + self._mu)), np.abs(1.0 - self.step * (pull + self._smooth))
            )
            found[np.arange(clients), np.arange(clients)] = own * mask[:clients]
        if self.star:
            found[clients] /= max(found[clients].sum(), 1.0)
        return csr_array(found * (1.0 + 2.0**-48))

    def factors(self, epoch: int, participants: Participants, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Upper bounds over whoever may be left: with the greatest weight of a neighbour, or one by one for a step."""
        found = np.zeros(self.num_participants)
        for i in range(self.num_participants):
            row = slice(self.weights.indptr[i], self.weights.indptr[i + 1])
            ratios = weights[self.weights.indices[row]] / weights[i]
            greatest = float(ratios.max(initial=0.0))
            if i == len(self.losses):
                found[i] = greatest
            elif self.update == "prox":
                found[i] = greatest * self._pull[i] / (self._pull[i] + self._mu[i])
            elif self._certified_step:
                excess = float(self.weights.data[row] @ np.maximum(ratios - 1.0, 0.0))
                found[i] = 1.0 - self.step * self._mu[i] + self.step * self.coupling * excess
            else:
                ends = [1.0 - self.step * (p + c) for p in (0.0, self._pull[i]) for c in (self._mu[i], self._smooth[i])]
                drawn = float(self.weights.data[row] @ ratios)
                found[i] = max(abs(end) for end in ends) + self.step * self.coupling * drawn
        # A dozen operations each; exactly 1 for the mean of equals, which a server's own weight makes up for.
        return np.where(participants, np.nextafter(found * (1.0 + 2.0**-48), np.inf), 0.0)

    def suggested_weights(self) -> NDArray[np.float64] | None:
        """(λ/(λ + μ))^(−½) for the server, 1 for the shards."""
        if not self.star:
            return None
        found = np.ones(self.num_participants)
        if self.update == "prox":
            found[-1] = float(np.sqrt(1.0 + self._mu.min() / self.coupling))
        else:  # where the server's row and the shards' are equal: 1/w = 1 − ημ + ηλ(w − 1)
            loss, pull = self.step * float(self._mu.min()), self.step * self.coupling
            free = 1.0 - loss - pull
            found[-1] = float((-free + np.sqrt(free**2 + 4.0 * pull)) / (2.0 * pull))
        return found

    def rounding(self, i: int) -> float:
        """What the minimisation leaves and the gradient's rounding, in ‖·‖₂."""
        return self._rounding(i, float(self._box.radius[i]))

    def fingerprint(self) -> bytes:
        """Of the losses, the weights and how it iterates."""
        numbers = np.array([self.coupling, self.step, self.tolerance, self.update == "prox", self.star])
        data = [array for loss in self.losses for array in (loss.features, loss.labels, np.array(loss.weight_decay))]
        return self.digest(numbers, self.weights.indptr, self.weights.indices, self.weights.data, self.centre, *data)

    def _minimiser(self, loss: Loss, pull: float, drawn: Array) -> Array:
        """Newton's method on f(z) + pull/2‖z‖² − drawn·z, each step shortened until the gradient's length falls."""
        found = drawn / pull if pull else self.centre.copy()
        slope = loss.gradient(found) + pull * found - drawn
        length = float(np.linalg.norm(slope))
        for _ in range(_NEWTON_STEPS):
            if length <= self.tolerance:
                return found
            step = np.linalg.solve(loss.hessian(found) + pull * np.eye(len(found)), slope)
            share = 1.0
            while share > 1e-12:
                tried = found - share * step
                fresh = loss.gradient(tried) + pull * tried - drawn
                if float(np.linalg.norm(fresh)) <= (1.0 - 0.25 * share) * length:
                    break
                share *= 0.5
            else:
                break
            found, slope, length = tried, fresh, float(np.linalg.norm(fresh))
        raise MapError(
            f"the minimisation ended at a gradient of length {length:g}, above the tolerance {self.tolerance:g}; "
            "raise the tolerance or scale the features"
        )

    def _rounding(self, i: int, radius: float) -> float:
        reach = float(np.linalg.norm(self.centre)) + radius
        if i == len(self.losses):
            return 2.0**-51 * (len(self.losses) + 4) * reach
        noise = self.losses[i].noise(reach) + 2.0**-51 * (self.num_participants + 8) * float(self._pull[i]) * reach
        if self.update == "prox":
            return (self.tolerance + noise) / float(self._mu[i]) * (1.0 + 2.0**-40)
        return self.step * noise + 2.0**-51 * reach

    def _find_box(self) -> Box:
        # ‖F(c) − c‖ ≤ (1 − factor)·‖∇f(c)‖/μ for both updates and any d, so that a ball of ‖∇f(c)‖/μ is kept.
        slopes = [float(np.linalg.norm(loss.gradient(self.centre))) for loss in self.losses]
        radius = max(slope / loss.mu for slope, loss in zip(slopes, self.losses, strict=True))
        radius = max(radius, self.tolerance) * (1.0 + 1e-9)
        for i, loss in enumerate(self.losses):
            gap = loss.mu / (loss.mu + self._pull[i]) if self.update == "prox" else self.step * loss.mu
            radius = max(radius, (slopes[i] / loss.mu) + 4.0 * self._rounding(i, 2.0 * radius) / gap)
        radius *= 1.0 + 1e-6
        found = np.full(self.num_participants, radius)
        if self.star:  # a mean of the shards' states is as far as they are, and rounds
            found[-1] += 4.0 * self._rounding(len(self.losses), 2.0 * radius)
        return Box(tuple(self.centre.copy() for _ in range(self.num_participants)), found)

    def _checked_weights(self, weights: Any) -> csr_array:
        count = len(self.losses)
        if isinstance(weights, str):
            if weights == "complete":
                return complete_weights(count)
            if weights != "star":
                raise MapError(f"weights {weights!r} is neither 'complete' nor 'star' nor a matrix")
            found = np.zeros((count + 1, count + 1))
            found[:count, count] = found[count, :count] = 1.0
            return csr_array(found)
        made = csr_array(weights, dtype=np.float64)
        made.sum_duplicates()
        made.eliminate_zeros()
        if made.shape != (count, count):
            raise MapError(f"weights of shape {made.shape} were given for {count} losses; {(count, count)} are due")
        if not np.isfinite(made.data).all() or (made.data < 0).any() or made.diagonal().any():
            raise MapError("weights must be finite, not negative, and 0 on the diagonal")
        return made
