"""The family F of a dynamic iteration: one map for every epoch and set of participants."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.model.bounds import upper_factors

Array = NDArray[Any]
Participants = NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """X = {x: distance(xᵢ, cᵢ) ≤ Rᵢ for every i}: where initial and joining values lie.

    Args:
        centre: cᵢ, an array for each participant.
        radius: (n,) Rᵢ ≥ 0, in each participant's own distance, unweighted.
    """

    centre: tuple[Array, ...]
    radius: NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """A map's evaluation as compiled code, for :func:`simulate`; every participant's block is one vector of d numbers.

    Args:
        evaluate: a function compiled by numba, ``evaluate(i, epoch, present, inputs, out, *arrays)``: ``present``
            (degree,) tells which of the inputs are participants, ``inputs`` (degree, d) holds what was read of them
            (⊥ of the others), in the order of ``indices[indptr[i]:indptr[i + 1]]``; it fills ``out`` (d,).
        arrays: handed to it, plain arrays and numbers.
        indptr: (n + 1,) int64; where each participant's inputs begin.
        indices: participants that are read, ascending for each reader; int64.
        bottom: (n, d) ⊥.
        initial: (n, d) what a participant begins with, and again whenever it joins.
    """

    evaluate: Any
    arrays: tuple[Any, ...]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    bottom: Array
    initial: Array


class DynamicMap(ABC):
    """F^{e,p} on S = ΠSᵢ, where participant i's state is a NumPy array of a fixed shape and type.

    Rules that every map keeps: ``evaluate`` is deterministic, down to the last bit, for equal arguments; it never
    changes its inputs; what it returns has the shape and type of ``bottom(i)``; a participant outside ``participants``
    is read as ⊥ whatever its input holds (callers already pass ⊥).

    Attributes:
        num_participants: n.
        num_epochs: epochs 0 to ``num_epochs`` − 1 may differ in F; every later one is like the last of them.
        linear: F is affine and its ``lipschitz`` tight, |H|, so that a spectral radius of 1 or more refuses it.
        leaving: what happens to Fᵢ when others leave. ``"restricts"``: it is the same function and reads their ⊥;
            ``"shrinks"``: another one, whose ``factors`` and hold on X are no worse, by the map's own proof. Either way
            the certificate for everybody covers every set. ``"unknown"``: each set needs its own.
        lands_inside: F's values lie in X whatever it reads, as those of a bounded activation.
    """

    num_participants: int
    num_epochs: int = 1
    linear: bool = False
    leaving: Literal["restricts", "shrinks", "unknown"] = "unknown"
    lands_inside: bool = False

    @abstractmethod
    def bottom(self, i: int) -> Array:
        """⊥ᵢ: the state of who does not take part."""

    def initial(self, i: int) -> Array:
        """xᵢ: what i begins with, and again whenever it joins; ⊥ᵢ unless a map says otherwise."""
        return self.bottom(i)

    @abstractmethod
    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Participants whose state Fᵢ may read in any epoch, ascending; i itself among them only where Fᵢ reads it."""

    @abstractmethod
    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """F^{e,p}(x)ᵢ.

        Args:
            i: who evaluates; a participant.
            epoch: e.
            participants: (n,) p as a mask.
            inputs: a state for each of ``neighbours(i)``; ⊥ for those outside p.

        Returns:
            the new state of i, a fresh array.
        """

    @property
    def domain(self) -> Box | None:
        """X, where a map knows a box that F maps into itself for every epoch and set; None: everything of its type."""
        return None

    def contains(self, i: int, value: Array) -> bool:
        """Whether a joining value lies in Xᵢ: of the right shape and type, finite, and in the box if there is one."""
        expected = self.bottom(i)
        if not isinstance(value, np.ndarray) or value.shape != expected.shape or value.dtype != expected.dtype:
            return False
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return False
        box = self.domain
        return box is None or self.distance(i, value, box.centre[i]) <= box.radius[i]

    def distance(self, i: int, x: Array, y: Array) -> float:
        """dᵢ(x, y); the greatest absolute difference unless a map says otherwise."""
        return float(np.max(np.abs(np.asarray(x, dtype=np.float64) - y), initial=0.0))

    def equal(self, i: int, x: Array, y: Array) -> bool:
        """Whether x ≈ᵢ y: equal to the bit unless a map says otherwise."""
        return bool(np.array_equal(x, y))

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array | None:
        """M ≥ 0 with dᵢ(Fx, Fy) ≤ Σⱼ Mᵢⱼ dⱼ(xⱼ, yⱼ), rows and columns of non-participants zero; None: not known.

        With None a run can only be watched: its verdict is "empirical".
        """
        return None

    def factors(
        self, epoch: int, participants: Participants, weights: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """(n,) gᵢ with dᵢ(Fx, Fy)/wᵢ ≤ gᵢ·maxⱼ dⱼ(xⱼ, yⱼ)/wⱼ, rounded up; 0 for non-participants; None: not known.

        By default the row test (M w)ᵢ/wᵢ of ``lipschitz``. A map overrides it whose greatest row sum says less than
        the matrix of greatest entries does: blocks of many nodes, a maximum over actions.
        """
        matrix = self.lipschitz(epoch, participants)
        return None if matrix is None else upper_factors(matrix, weights)

    def suggested_weights(self) -> NDArray[np.float64] | None:
        """(n,) w > 0 that the map's theory suggests for its certificate; None: only the general ones are tried."""
        return None

    def rounding(self, i: int) -> float:
        """Bound on the error of one ``evaluate(i)`` on X, in i's distance; 0 where states are exact."""
        return 0.0

    def refusal(self, epoch: int, participants: Participants) -> str | None:
        """A known counter-condition that holds, in a sentence: convergence is then refused; None: none is known."""
        return None

    def kernel(self) -> Kernel | None:
        """Compiled code for :func:`simulate`; None: it calls ``evaluate``."""
        return None

    def fingerprint(self) -> bytes:
        """16 bytes that differ between maps that must not be mixed; over the class, sizes and every ⊥'s shape and type.

        A map with parameters hashes them in too, by :meth:`digest`.
        """
        return self.digest()

    def digest(self, *arrays: Array) -> bytes:
        """16 bytes over the class's name, the sizes, and these arrays."""
        hashed = hashlib.blake2b(f"{type(self).__qualname__}:{self.num_participants}".encode(), digest_size=16)
        for array in arrays:
            hashed.update(f"{array.dtype.str}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.digest()
