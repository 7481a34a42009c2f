"""x ← Hx + c, a number for each participant; PageRank is one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.model.certification import find_contraction
from fulgurite.plugins.dynamic_async.model.domain import invariant_box
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Kernel, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError


@compiled()
def evaluate_affine(
    i: int, epoch: int, present: Array, inputs: Array, out: Array, indptr: Array, values: Array, constant: Array
) -> None:
    """One row of Hx + c, summed in the order of the columns."""
    start = indptr[i]
    total = 0.0
    for k in range(inputs.shape[0]):
        total += values[start + k] * inputs[k, 0]
    out[0] = total + constant[i]


class AffineMap(DynamicMap):
    """F(x) = Hx + c on ℝⁿ, participant i holding xᵢ; who is absent counts as 0, the weights stay as they are.

    Asynchronous iteration converges under every schedule if and only if ρ(|H|) < 1 (Chazan and Miranker 1969).

    Args:
        matrix: H, (n, n), dense or sparse.
        constant: c, (n,).
        initial: (n,) what each begins with; 0 by default.
        domain: X; by default, where H contracts, the smallest ball around 0 in the certificate's norm that F keeps and
            that holds ``initial``.

    Shape:
        - a participant's state: (1,), float64.

    Raises:
        MapError: H is not square, c or ``initial`` has another length, or a number is not finite.

    Example:
        >>> pull = AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0])
        >>> pull.evaluate(0, 0, np.ones(2, bool), {1: np.array([4.0])})
        array([3.])
        >>> pull.solution().round(6)
        array([1.333333, 0.666667])
    """

    linear = True
    leaving = "restricts"

    def __init__(
        self, matrix: Any, constant: ArrayLike, *, initial: ArrayLike | None = None, domain: Box | None = None
    ) -> None:
        shape = matrix.shape if issparse(matrix) else np.shape(matrix)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise MapError(f"a matrix of shape {shape} was given; an affine map needs a square one")
        self.matrix = csr_array(matrix, dtype=np.float64)
        self.matrix.sum_duplicates()
        self.matrix.eliminate_zeros()
        self.num_participants = shape[0]
        self.constant = _vector("the constant", constant, shape[0])
        self._initial = _vector("the initial state", np.zeros(shape[0]) if initial is None else initial, shape[0])
        if not np.isfinite(self.matrix.data).all():
            raise MapError("the matrix holds a NaN or an infinity")
        self._indptr = self.matrix.indptr.astype(np.int64)
        self._indices = self.matrix.indices.astype(np.int64)
        self._domain = domain

    def bottom(self, i: int) -> Array:
        """0."""
        return np.zeros(1)

    def initial(self, i: int) -> Array:
        """What i begins with."""
        return self._initial[i : i + 1].copy()

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """The columns of the entries of row i."""
        return self._indices[self._indptr[i] : self._indptr[i + 1]]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """(Hx + c)ᵢ."""
        own = self.neighbours(i)
        read = np.array([inputs[j] for j in own.tolist()]).reshape(len(own), 1)
        out = np.empty(1)
        evaluate_affine(i, epoch, participants[own], read, out, self._indptr, self.matrix.data, self.constant)
        return out

    @cached_property
    def _natural_domain(self) -> Box | None:
        views = [(0, np.ones(self.num_participants, dtype=np.bool_))]
        found = find_contraction(self, views)
        return None if found is None or found.gamma >= 1.0 else invariant_box(self, views, found.gamma, found.weights)

    @property
    def domain(self) -> Box | None:
        """X as it was given, or the ball that F keeps; None where H does not contract."""
        return self._natural_domain if self._domain is None else self._domain

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array:
        """|H| between participants."""
        mask = participants.astype(np.float64)
        kept = csr_array(abs(self.matrix).multiply(mask[:, None]).multiply(mask[None, :]))
        kept.eliminate_zeros()
        return kept

    def rounding(self, i: int) -> float:
        """What the row's sum may lose on X: an ulp of it for each of its terms."""
        if (box := self.domain) is None:
            return 0.0
        own = slice(self._indptr[i], self._indptr[i + 1])
        reach = [abs(float(box.centre[j][0])) + box.radius[j] for j in self._indices[own]]
        total = float(np.abs(self.matrix.data[own]) @ np.array(reach)) if reach else 0.0
        exact = self.matrix.data[own].size <= 1 and self.constant[i] == 0.0 and _powers_of_two(self.matrix.data[own])
        return 0.0 if exact else (own.stop - own.start + 2) * 2.0**-52 * (total + abs(float(self.constant[i])))

    def kernel(self) -> Kernel:
        """The row's sum, compiled."""
        size = self.num_participants
        arrays = (self._indptr, self.matrix.data, self.constant)
        first = self._initial.reshape(size, 1).copy()
        return Kernel(evaluate_affine, arrays, self._indptr, self._indices, np.zeros((size, 1)), first)

    def fingerprint(self) -> bytes:
        """Of H, c and the first states."""
        return self.digest(self._indptr, self._indices, self.matrix.data, self.constant, self._initial)

    def solution(self, participants: Participants | None = None) -> NDArray[np.float64]:
        """(n,) The fixed point by a direct solve; 0 for those absent."""
        mask = np.ones(self.num_participants, dtype=np.bool_) if participants is None else participants
        kept = np.flatnonzero(mask)
        found = np.zeros(self.num_participants)
        dense = self.matrix[kept][:, kept].toarray()
        found[kept] = np.linalg.solve(np.eye(len(kept)) - dense, self.constant[kept])
        return found


def _powers_of_two(values: NDArray[np.float64]) -> bool:
    """Whether multiplying by them is exact (short of underflow)."""
    return bool((np.frexp(np.abs(values))[0] == 0.5).all())


def _vector(name: str, values: ArrayLike, size: int) -> NDArray[np.float64]:
    made = np.array(values, dtype=np.float64)
    if made.shape != (size,):
        raise MapError(f"{name} has shape {made.shape}; the matrix needs {(size,)}")
    if not np.isfinite(made).all():
        raise MapError(f"{name} holds a NaN or an infinity")
    return made
