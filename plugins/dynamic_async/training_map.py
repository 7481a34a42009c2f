"""Anchored training as a map that peers iterate: fixed data shards are its participants, processes only host them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.maps.anchored import AnchoredMap
from fulgurite.plugins.dynamic_async.maps.curvature import largest_step
from fulgurite.plugins.dynamic_async.maps.losses import Loss
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.model.certification import certify
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError

Topology = Literal["complete", "star"]


@dataclass(frozen=True)
class ShardFacts:
    """What a certificate must know of a shard's loss, told to everybody by whoever has evaluated it.

    Args:
        loss: name of the loss.
        slope: ‖∇f(centre)‖.
        spread: greatest norm of a row of features.
        rows: samples.
        data: digest of the labels.
    """

    loss: str
    slope: float
    spread: float
    rows: int
    data: str = ""

    def agrees(self, other: ShardFacts) -> bool:
        """Whether both are of the same data, up to the rounding of different machines."""
        near = all(
            math.isclose(a, b, rel_tol=1e-3) for a, b in ((self.slope, other.slope), (self.spread, other.spread))
        )
        return near and (self.loss, self.rows, self.data) == (other.loss, other.rows, other.data)

    def greatest(self, other: ShardFacts) -> ShardFacts:
        """What covers both of two observations of a shard."""
        slope, spread = max(self.slope, other.slope), max(self.spread, other.spread)
        return replace(self, slope=slope, spread=spread)


class _StatedLoss(Loss):
    """A loss of which only constants are known: enough for a certificate, not to train."""

    name = "softmax"

    def __init__(self, facts: ShardFacts, bounds: tuple[float, float], dimension: int, noise: float) -> None:
        self.mu, self.smoothness = bounds
        self.dimension, self._slope, self._noise = dimension, facts.slope, noise
        self.features, self.labels, self.weight_decay = np.zeros((1, 1)), np.zeros(1), bounds[0]

    def gradient(self, z: Array) -> Array:
        """A vector as long as the gradient at the centre."""
        found = np.zeros(self.dimension)
        found[0] = self._slope
        return found

    def hessian(self, z: Array) -> Array:
        """Not known."""
        raise MapError("of a shard in training only constants are known; its loss is evaluated by the Trainer")

    def noise(self, reach: float) -> float:
        """A gradient's rounding, and that of adding the step to the parameters."""
        return self._noise * (1.0 + reach)


class TrainingMap(DynamicMap):
    r"""One gradient step on a shard's own loss while drawn to other shards' parameters; a server takes their mean.

    .. math:: x_i \leftarrow x_i - \eta \Big(\nabla f_i(x_i) + \lambda \sum_j w_{ij} (x_i - x_j)\Big)

    over the shards j in view: the fixed point of EASGD (https://arxiv.org/abs/1412.6651), pFedMe
    (https://arxiv.org/abs/2006.08848) and FedProx (https://arxiv.org/abs/1812.06127). With ``"complete"``
    w_ij = 1/(n − 1); with ``"star"`` every shard is drawn to a server, the last participant, which takes the mean of
    the shards in view. The gradient is computed by a Trainer, elsewhere: :meth:`pull` gives the rest.

    Args:
        centre: (d,) the parameters at the start, the same on every peer; ⊥ and first state of each participant.
        shards: how many data shards.
        coupling: λ ≥ 0; without any, each shard trains alone.
        topology: who is drawn to whom.
        identity: of what is trained (class, names and shapes of parameters), so that another model is refused.

    Attributes:
        radius: of X, the ball around the centre; None until it is known.
        reach: how far from the centre the furthest value is that joined; X holds it. A larger ball is kept as well.

    Shape:
        - a participant's state: (d,), of the parameters' type.

    Raises:
        MapError: a number that does not fit, or parameters that are not finite.

    Example:
        >>> model = TrainingMap(np.zeros(2), shards=3, coupling=0.5)
        >>> states = {0: np.ones(2), 1: np.zeros(2), 2: np.zeros(2)}
        >>> model.pull(0, np.ones(3, bool), states)
        array([0.5, 0.5])
    """

    def __init__(
        self, centre: Array, *, shards: int, coupling: float, topology: Topology = "complete", identity: str = ""
    ) -> None:
        if shards < 1 or not 0.0 <= coupling < np.inf:
            raise MapError(f"got {shards} shards and lam = {coupling}; expected 1 shard at least and lam ≥ 0")
        if topology not in ("complete", "star"):
            raise MapError(f"got topology {topology!r}; choose from 'complete', 'star'")
        if centre.ndim != 1 or centre.dtype.kind != "f" or not np.isfinite(centre).all():
            raise MapError(f"the parameters at the start are {centre.dtype} of shape {centre.shape}, or not finite")
        self.centre, self.shards, self.coupling, self.topology = centre.copy(), shards, float(coupling), topology
        self.star = topology == "star"
        self.num_participants = shards + self.star
        self.identity = identity
        self.radius: float | None = None
        self.reach = 0.0

    def bottom(self, i: int) -> Array:
        """The parameters at the start."""
        return self.centre.copy()

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Itself and who it is drawn to; of the server, all shards."""
        if not self.star:
            return np.arange(self.shards)
        return np.arange(self.shards) if i == self.shards else np.array([i, self.shards])

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """The server's mean.

        Raises:
            MapError: of a data shard, whose loss only a Trainer can evaluate.
        """
        if i < self.shards:
            raise MapError(f"shard {i} is evaluated by a Trainer, which has its data")
        return self.mean(participants, inputs)

    def mean(self, participants: Participants, states: Mapping[int, Array]) -> Array:
        """The mean over the data shards in view; the parameters at the start if there are none."""
        found = [states[j].astype(np.float64) for j in range(self.shards) if participants[j]]
        return np.mean(found, axis=0).astype(self.centre.dtype) if found else self.centre.copy()

    def pull(self, i: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """λ Σⱼ wᵢⱼ (xᵢ − xⱼ) over who is in view: to be added to the gradient."""
        own = inputs[i].astype(np.float64)
        drawn = np.zeros_like(own)
        if self.star:
            if participants[self.shards]:
                drawn = own - inputs[self.shards]
        else:
            for j in range(self.shards):
                if j != i and participants[j]:
                    drawn += own - inputs[j]
            drawn /= max(self.shards - 1, 1)
        return (self.coupling * drawn).astype(self.centre.dtype)

    def contains(self, i: int, value: Array) -> bool:
        """Whether a joining value is of the right shape and type, finite, and in the ball once that is known."""
        inside = self.radius is None or self.distance(i, value, self.centre) <= self.radius
        return super().contains(i, value) and inside

    def distance(self, i: int, x: Array, y: Array) -> float:
        """‖x − y‖₂."""
        return float(np.linalg.norm(np.asarray(x, dtype=np.float64) - y))

    def largest_step(self, mu: float, smoothness: float) -> float:
        """2/(L + μ + 2λd): the longest step that contracts by 1 − ημ."""
        degree = 1.0 if self.star or self.shards > 1 else 0.0
        return largest_step(mu, smoothness, self.coupling * degree * (1.0 + 1e-12))  # weights add up to 1, nearly

    def certificate(
        self, facts: Mapping[int, ShardFacts], *, bounds: tuple[float, float], step: float, eps: float | None = None
    ) -> Certificate:
        """What holds for every schedule, every loss of a message and every host that dies, once all facts are known.

        Args:
            facts: of every data shard.
            bounds: (μ, L) of every shard's loss.
            step: η.
            eps: error that matters.

        Returns:
            the certificate of :class:`AnchoredMap` with these constants; it also sets ``radius``.

        Raises:
            MapError: facts are missing.
        """
        if missing := [i for i in range(self.shards) if i not in facts]:
            raise MapError(f"nothing is known of shards {missing} yet; each must have been evaluated once")
        unit = float(np.finfo(self.centre.dtype).eps)
        degree = 1.0 if self.num_participants > 1 else 0.0
        losses = []
        for i in range(self.shards):
            fact = facts[i]
            # As of AnchoredMap's own losses, in this type; and of parameters + step, which is within the step's length.
            sums = 4 * unit * (fact.rows + self.centre.size + 16) * max(fact.spread, 1.0) ** 2
            moved = 4 * unit * (self.num_participants + 8) * (1.0 / step + bounds[0] + self.coupling * degree)
            # X's radius is the greatest slope/μ.
            slope = max(fact.slope, self.reach * bounds[0])
            losses.append(_StatedLoss(replace(fact, slope=slope), bounds, self.centre.size, sums + moved))
        if self.num_participants == 1 or not self.coupling:
            weights: Any = np.zeros((self.shards, self.shards))
        else:
            weights = self.topology
        model = AnchoredMap(
            losses,
            self.coupling or 1.0,
            weights,
            update="gradient",
            step=step,
            centre=self.centre.astype(np.float64),
        )
        found = certify(model, eps=eps)
        if found.certified:
            self.radius = float(model.domain.radius.max())
        return found

    def fingerprint(self) -> bytes:
        """Of what is trained, from where, and how shards are coupled."""
        identity = np.frombuffer(self.identity.encode(), dtype=np.uint8)
        return self.digest(self.centre, np.array([self.coupling, self.star, self.shards]), identity)
