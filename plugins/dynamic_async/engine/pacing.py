"""Whether iterating without a barrier is worth it at the speeds that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# Where a barrier waits longer than this, iterating without one was faster: 0.7 times as fast in simulations without any
# jitter, 1.05 and 1.15 times in real processes whose barrier waited 1.18 and 1.42 mean steps, 1.8 times at 3.1.
WORTH_IT = 1.15


def waiting(step_s: Mapping[int, Sequence[float]]) -> float:
    """How much longer a barrier takes than its average member: E[maxᵢ tᵢ] / E[mean tᵢ], rounds drawn from each's steps.

    Args:
        step_s: peer -> seconds of its last steps.

    Returns:
        1 where all steps take equally long (or none were measured); 3.1 for one of four that is ten times slower.

    Example:
        >>> round(waiting({0: [1.0], 1: [1.0], 2: [1.0], 3: [10.0]}), 2)
        3.08
    """
    measured = [np.asarray(seconds, dtype=np.float64) for _, seconds in sorted(step_s.items()) if len(seconds)]
    if not measured:
        return 1.0
    chance = np.random.default_rng(0)
    rounds = np.array([chance.choice(seconds, 1000) for seconds in measured])
    return float(rounds.max(axis=0).mean() / rounds.mean())


def advice(step_s: Mapping[int, Sequence[float]]) -> str | None:
    """A sentence for whom the synchronous solver would serve better; None where iterating without a barrier pays.

    Args:
        step_s: peer -> seconds of its last steps.

    Example:
        >>> advice({0: [1.0, 1.1], 1: [1.0, 0.9]}).split(":")[0]
        'All peers are about equally fast (a barrier waits 1.05 times a mean step)'
        >>> advice({0: [1.0], 1: [9.0]}) is None
        True
    """
    factor = waiting(step_s)
    if factor >= WORTH_IT:
        return None
    return (
        f"All peers are about equally fast (a barrier waits {factor:.2f} times a mean step): use the synchronous "
        "solver, which needs fewer evaluations, unless peers come and go"
    )
