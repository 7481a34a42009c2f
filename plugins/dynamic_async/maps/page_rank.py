"""PageRank as a dynamic asynchronous iteration: a participant for each page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, issparse

from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
from fulgurite.plugins.dynamic_async.model.errors import MapError


class PageRankMap(AffineMap):
    """x ← dPᵀx + (1 − d)/n, where P spreads a page's rank evenly, or by weight, over its links.

    A page without links keeps its rank to itself alone; normalised to a sum of 1, the fixed point is that of the usual
    formulation, where such a page links to all. A page that is away counts as 0 and its links stay in P.

    Args:
        adjacency: (n, n), ≥ 0; entry (i, j) is the weight of the link from page i to page j.
        damping: d, below 1.

    Raises:
        MapError: the adjacency is not square, holds a negative number or a NaN, or d is not in [0, 1).

    Example:
        >>> ranks = PageRankMap([[0, 1, 1], [0, 0, 1], [1, 0, 0]], damping=0.5).solution()
        >>> (ranks / ranks.sum()).round(3)
        array([0.359, 0.256, 0.385])
    """

    def __init__(self, adjacency: Any, damping: float = 0.85) -> None:
        shape = adjacency.shape if issparse(adjacency) else np.shape(adjacency)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise MapError(f"an adjacency of shape {shape} was given; PageRank needs a square one")
        if not 0.0 <= damping < 1.0:
            raise MapError(f"damping = {damping} is not in [0, 1)")
        links = csr_array(adjacency, dtype=np.float64)
        if not np.isfinite(links.data).all() or (links.data < 0).any():
            raise MapError("the adjacency holds a negative number, a NaN or an infinity")
        out = np.asarray(links.sum(axis=1)).reshape(-1)
        share = diags_array(np.divide(damping, out, out=np.zeros_like(out), where=out > 0))
        self.damping = damping
        super().__init__(csr_array((share @ links).T), np.full(shape[0], (1.0 - damping) / max(shape[0], 1)))

    def suggested_weights(self) -> NDArray[np.float64]:
        """The ranks themselves: dPᵀx = x − (1 − d)/n < x."""
        ranks: NDArray[np.float64] = np.full(self.num_participants, 1.0)
        for _ in range(200):
            ranks = self.matrix @ ranks + (1.0 - self.damping)
        return ranks
