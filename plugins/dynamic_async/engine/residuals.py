"""How far an assembled state may be from the answer, by one more evaluation of everybody."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Participants


def residual(
    map: DynamicMap,
    state: Sequence[Array],
    participants: Participants,
    *,
    weights: ArrayLike | None = None,
    configuration: int = 0,
) -> float:
    """‖F(x) − x‖_w = maxᵢ dᵢ(F(x)ᵢ, xᵢ)/wᵢ over the participants; 0 without any.

    Args:
        map: F.
        state: x, a value for each participant; of those absent none is looked at.
        participants: (n,) p.
        weights: (n,) w; 1 by default.
        configuration: e.

    Example:
        >>> from fulgurite.plugins.dynamic_async.maps.block_affine import BlockAffineMap
        >>> halving = BlockAffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 1.0], blocks=2)
        >>> residual(halving, [np.array([2.5]), np.array([2.0])], np.ones(2, dtype=bool))
        0.5
    """
    n = map.num_participants
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    read = [state[j] if participants[j] else map.bottom(j) for j in range(n)]
    worst = 0.0
    for i in np.flatnonzero(participants).tolist():
        inputs = {j: read[j] for j in map.neighbours(i).tolist()}
        value = map.evaluate(i, configuration, participants, inputs)
        worst = max(worst, map.distance(i, value, state[i]) / float(w[i]))
    return worst


def error_bound(
    map: DynamicMap,
    state: Sequence[Array],
    participants: Participants,
    *,
    gamma: float,
    weights: ArrayLike | None = None,
    configuration: int = 0,
) -> float:
    """‖x − x*‖_w ≤ ‖F(x) − x‖_w / (1 − γ), for any state however it came about, by Banach's theorem.

    Args:
        map: F.
        state: x.
        participants: (n,) p.
        gamma: a certified factor, below 1.
        weights: (n,) of its certificate.
        configuration: e.

    Raises:
        ValueError: γ is not in [0, 1); nothing follows then.

    Example:
        >>> from fulgurite.plugins.dynamic_async.maps.block_affine import BlockAffineMap
        >>> halving = BlockAffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 1.0], blocks=2)
        >>> error_bound(halving, [np.array([2.5]), np.array([2.0])], np.ones(2, dtype=bool), gamma=0.5)
        1.0
    """
    if not 0 <= gamma < 1:
        raise ValueError(f"a bound on the error needs a certified factor in [0, 1); got {gamma}")
    return residual(map, state, participants, weights=weights, configuration=configuration) / (1 - gamma)
