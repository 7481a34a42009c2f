"""x ← Hx + c with a block of rows for each participant: what a few processes iterate together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import spsolve

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError


class BlockAffineMap(DynamicMap):
    """F(x) = Hx + c on ℝᵐ, cut into n blocks of consecutive numbers; an absent block counts as 0.

    The distance is the greatest absolute difference in a block, so Mᵢⱼ is the greatest absolute row sum of the block
    Hᵢⱼ. It may be in another row for each j: ΣⱼMᵢⱼ can be more than ‖H‖_∞, and the certificate asks for it to be below
    1 in some weighting, although ‖H‖_∞ < 1 would do. Where that holds, X is the ball around 0 that F keeps:
    R = ‖c‖_∞ / (1 − ‖H‖_∞).

    Args:
        matrix: H, (m, m), dense or sparse.
        constant: c, (m,).
        blocks: n, how many; of m // n numbers or one more.

    Shape:
        - a participant's state: (m // n or one more,), float64.

    Raises:
        MapError: H is not square, c has another length, a number is not finite, or there are fewer numbers than blocks.

    Example:
        >>> pull = BlockAffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0], blocks=2)
        >>> pull.evaluate(0, 0, np.ones(2, bool), {1: np.array([4.0])})
        array([3.])
        >>> [block.round(6).tolist() for block in pull.solution()]
        [[1.333333], [0.666667]]
    """

    def __init__(self, matrix: Any, constant: ArrayLike, *, blocks: int) -> None:
        self.matrix, self.constant = csr_array(matrix, dtype=np.float64), np.array(constant, dtype=np.float64)
        m = self.matrix.shape[0]
        if self.matrix.shape != (m, m) or self.constant.shape != (m,):
            raise MapError(f"H must be square and c go with it; got shapes {self.matrix.shape}, {self.constant.shape}")
        if not (np.isfinite(self.matrix.data).all() and np.isfinite(self.constant).all()):
            raise MapError("H or c holds a NaN or an infinity")
        if not 1 <= blocks <= m:
            raise MapError(f"{m} numbers cannot be cut into {blocks} blocks")
        self.num_participants = blocks
        self.bounds = np.linspace(0, m, blocks + 1).astype(np.int64)
        rows = [self.matrix[self._part(i)] for i in range(blocks)]
        self._parts = [[csr_array(row[:, self._part(j)]) for j in range(blocks)] for row in rows]
        self._neighbours = [np.flatnonzero([part.nnz for part in row]) for row in self._parts]

    def bottom(self, i: int) -> Array:
        """0."""
        return np.zeros(int(self.bounds[i + 1] - self.bounds[i]))

    def neighbours(self, i: int) -> NDArray[np.int64]:
        """Blocks in which a row of block i has an entry."""
        return self._neighbours[i]

    def evaluate(self, i: int, epoch: int, participants: Participants, inputs: Mapping[int, Array]) -> Array:
        """(Hx + c)ᵢ, block by block in ascending order."""
        value: Array = self.constant[self._part(i)].copy()
        for j in self._neighbours[i].tolist():
            if participants[j]:
                value += self._parts[i][j] @ inputs[j]
        return value

    @property
    def gamma(self) -> float:
        """‖H‖_∞: the factor of an evaluation, in the greatest absolute difference."""
        return float(np.max(abs(self.matrix).sum(axis=1), initial=0.0))

    @property
    def domain(self) -> Box | None:
        """The ball that F keeps; None where ‖H‖_∞ ≥ 1."""
        if self.gamma >= 1:
            return None
        # A little more than the quotient, which is rounded; any larger ball is kept as well.
        radius = float(np.max(np.abs(self.constant))) / (1 - self.gamma) * (1 + 1e-9)
        n = self.num_participants
        return Box(tuple(self.bottom(i) for i in range(n)), np.full(n, radius))

    def rounding(self, i: int) -> float:
        """What a row's sum may lose on X: an ulp of its terms' sum for each of them."""
        if (box := self.domain) is None:
            return 0.0
        own = self.matrix[self._part(i)]
        terms = int(np.max(np.diff(own.indptr))) + 2
        reach = self.gamma * float(box.radius[0]) + float(np.max(np.abs(self.constant)))
        return terms * 2.0**-52 * reach

    def lipschitz(self, epoch: int, participants: Participants) -> csr_array:
        """The blocks' greatest absolute row sums, between participants; rounded up."""
        sums = [[float(np.max(abs(part).sum(axis=1), initial=0.0)) for part in row] for row in self._parts]
        upper = np.array(sums) * (1 + 2.0**-52 * (2 + int(np.max(np.diff(self.matrix.indptr), initial=0))))
        return csr_array(upper * participants[:, None] * participants[None, :])

    def fingerprint(self) -> bytes:
        """Of H, c and where the blocks begin."""
        return self.digest(self.matrix.indptr, self.matrix.indices, self.matrix.data, self.constant, self.bounds)

    def solution(self, participants: Participants | None = None) -> list[Array]:
        """The fixed point by a sparse direct solve, block by block; 0 for those absent."""
        mask = np.ones(self.num_participants, dtype=bool) if participants is None else participants
        kept = np.flatnonzero(np.repeat(mask, np.diff(self.bounds)))
        found = np.zeros(len(self.constant))
        matrix = eye_array(len(kept), format="csc") - self.matrix[kept][:, kept].tocsc()
        found[kept] = spsolve(matrix, self.constant[kept])
        return [found[self._part(i)] for i in range(self.num_participants)]

    def _part(self, i: int) -> slice:
        return slice(int(self.bounds[i]), int(self.bounds[i + 1]))


def damped_walk(
    nodes: int, *, blocks: int, damping: float = 0.85, inside: float = 0.25, seed: int = 0
) -> BlockAffineMap:
    """Make x ← dPx + c on a random graph in which each node averages over one random node of every block.

    All rows weigh the blocks alike, so that ΣⱼMᵢⱼ = d, as little as ‖H‖_∞: the certificate loses nothing to the blocks.

    Args:
        nodes: m.
        blocks: n.
        damping: d < 1, the certified γ.
        inside: weight of the node's own block; the others share the rest.
        seed: of the graph and of c, which is uniform on [−1, 1].

    Example:
        >>> round(damped_walk(100, blocks=4, damping=0.5).gamma, 12)
        0.5
    """
    chance = np.random.default_rng(seed)
    bounds = np.linspace(0, nodes, blocks + 1).astype(np.int64)
    own = np.repeat(np.arange(blocks), np.diff(bounds))
    columns = chance.integers(bounds[:-1], bounds[1:], size=(nodes, blocks))
    weights = np.full((nodes, blocks), (1 - inside) / max(blocks - 1, 1))
    weights[np.arange(nodes), own] = inside if blocks > 1 else 1.0
    rows = np.repeat(np.arange(nodes), blocks)
    matrix = csr_array((damping * weights.ravel(), (rows, columns.ravel())), shape=(nodes, nodes))
    return BlockAffineMap(matrix, chance.uniform(-1, 1, nodes), blocks=blocks)
