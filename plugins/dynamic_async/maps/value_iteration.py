"""Value iteration of a Markov decision process: a participant for each state."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model.bounds import rounded_up
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Kernel, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError


@compiled()
def evaluate_state(
    i: int, epoch: int, present: Array, inputs: Array, out: Array, indptr: Array, values: Array, rewards: Array
) -> None:
    """The best action's reward and discounted value, of the states in ascending order."""
    start = indptr[i]
    best = -np.inf
    for action in range(rewards.shape[1]):
        total = 0.0
        for k in range(inputs.shape[0]):
            total += values[start + k, action] * inputs[k, 0]
        total += rewards[i, action]
        best = max(best, total)
    out[0] = best


class ValueIterationMap(DynamicMap):
    """V(s) ← maxₐ (r(s, a) + γ Σₛ' P(s'|s, a) V(s')), which contracts by γ in the maximum norm for any participants.

    Who is absent counts as a state of value 0 where the process ends.

    Args:
        transitions: (actions, states, states), rows ≥ 0 of sum at most 1; what is missing to 1 ends the process.
        rewards: (states, actions).
        discount: γ in [0, 1).

    Shape:
        - a participant's state: (1,), float64.

    Raises:
        MapError: shapes that do not fit, a row that is no distribution, or a discount outside [0, 1).

    Example:
        >>> stay, move = np.eye(2), np.eye(2)[::-1]
        >>> process = ValueIterationMap([stay, move], [[0.0, 0.0], [1.0, 0.0]], discount=0.5)
        >>> process.evaluate(0, 0, np.ones(2, bool), {0: np.array([0.0]), 1: np.array([2.0])})
        array([1.])
    """

    leaving = "restricts"

    def __init__(self, transitions: ArrayLike, rewards: ArrayLike, discount: float) -> None:
        spread = np.array(transitions, dtype=np.float64)
        self.rewards = np.array(rewards, dtype=np.float64)
        if spread.ndim != 3 or spread.shape[1] != spread.shape[2] or self.rewards.shape != spread.shape[1::-1]:
            raise MapError(
                f"transitions of shape {spread.shape} and rewards of shape {self.rewards.shape} were given; "
                "(actions, states, states) and (states, actions) are due"
            )
        if not 0.0 <= discount < 1.0:
            raise MapError(f"discount = {discount} is not in [0, 1)")
        if not np.isfinite(spread).all() or not np.isfinite(self.rewards).all() or (spread < 0).any():
            raise MapError("a transition is negative, or a number is a NaN or an infinity")
        if (spread.sum(axis=2) > 1.0 + 1e-9).any():
            raise MapError(f"a row of transitions sums to {spread.sum(axis=2).max()}; at most 1 is a distribution")
        self.num_participants = spread.shape[1]
        self.discount = discount
        self._spread = discount * spread
        pattern = csr_array((spread > 0).any(axis=0).astype(np.float64))
        self._indptr, self._indices = pattern.indptr.astype(np.int64), pattern.indices.astype(np.int64)
        rows = np.repeat(np.arange(self.num_participants), np.diff(self._indptr))
        self._values = np.ascontiguousarray(self._spread[:, rows, self._indices].T)
        reach = float(np.abs(self.rewards).max(initial=0.0)) / (1.0 - discount) * (1.0 + 1e-6)
        self._box = Box(
            tuple(np.zeros(1) for _ in range(self.num_participants)), np.full(self.num_participants, reach or 1.0)
        )

    def bottom(self, i: int) -> Array:
        """0."""
        return np.zeros(1)

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """States that some action may lead to."""
        return self._indices[self._indptr[i] : self._indptr[i + 1]]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """The best action's value."""
        own = self.neighbours(i)
        read = np.array([inputs[j] for j in own.tolist()]).reshape(len(own), 1)
        out = np.empty(1)
        evaluate_state(i, epoch, participants[own], read, out, self._indptr, self._values, self.rewards)
        return out

    @property
    def domain(self) -> Box:
        """|V(s)| ≤ max|r|/(1 − γ)."""
        return self._box

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array:
        """γ maxₐ P(s'|s, a), whose rows may sum to more than γ; ``factors`` takes the maximum last."""
        return csr_array(self._spread.max(axis=0) * np.outer(participants, participants))

    def factors(self, epoch: int, participants: Participants, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """γ maxₐ Σ P(s'|s, a) w(s')/w(s)."""
        sums = (self._spread @ (weights * participants)).max(axis=0, initial=0.0)
        raised = np.nextafter(rounded_up(sums, self.num_participants) / weights, np.inf)
        return np.where(participants & (np.diff(self._indptr) > 0), raised, 0.0)

    def rounding(self, i: int) -> float:
        """What a sum over the next states may lose on X."""
        terms = int(self._indptr[i + 1] - self._indptr[i]) + 2
        return terms * 2.0**-52 * float(self._box.radius[i] + np.abs(self.rewards[i]).max(initial=0.0))

    def kernel(self) -> Kernel:
        """The state's update, compiled."""
        zeros = np.zeros((self.num_participants, 1))
        arrays = (self._indptr, self._values, self.rewards)
        return Kernel(evaluate_state, arrays, self._indptr, self._indices, zeros, zeros.copy())

    def fingerprint(self) -> bytes:
        """Of the process."""
        return self.digest(self._indptr, self._indices, self._values, self.rewards)
