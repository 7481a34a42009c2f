"""The best cover that there is, proven by integer programming: what the greedy choice is measured against."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, eye_array, hstack

from fulgurite.callbacks.representative_interpretation.cover import Cover, Sides, tolerated

_PROVEN = 0  # scipy's status of a solution that is optimal


def optimal_cover(
    off: ArrayLike,
    own: ArrayLike,
    *,
    delta: int | None = None,
    weights: ArrayLike | None = None,
    time_limit: float | None = None,
) -> Cover | None:
    """Choose the planes that keep the most own images while at most δ strangers are covered.

    The submodular cover of P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, "Finding Representative
    Interpretations on Convolutional Neural Networks", https://arxiv.org/abs/2108.06384, is a partial red-blue set
    cover, here solved by ``scipy.optimize.milp``. Images that lie off the same planes are taken together: nᵢ own ones
    off the planes Kᵢ, mₛ strangers off the planes Kₛ. With z chosen planes, y covered own images and u tolerated
    strangers,

        max Σ nᵢ yᵢ   subject to   yᵢ + z_h ≤ 1 for h ∈ Kᵢ,   Σ_{h∈Kₛ} z_h + uₛ ≥ 1,   Σ mₛ uₛ ≤ δ,   z, u ∈ {0, 1}.

    The greedy cover with the same arguments meets the same constraint, so its own coverage is never above this one's.
    The paper's Eq. 3 counts the tolerated strangers too. At δ = τ, its choice, every admissible P leaves exactly τ of
    them and both have the same optima; at a larger δ they can differ, by at most δ − τ images.

    Args:
        off: (N, Q) bool, true where an image is off x's side of a plane.
        own: (N,) bool, true where an image has x's predicted class.
        delta: how many strangers to tolerate; raised to τ, below which no choice can get. None: τ.
        weights: (N,) whole numbers ≥ 0, how many images each row stands for. None: one each.
        time_limit: seconds after which to give up. None: never.

    Returns:
        An optimal cover from which no plane can be left out, its planes ascending, or None where nothing was proven, in
        time or to the last image. Which one, where there are several, is the solver's choice.

    Raises:
        ValueError: arrays of the wrong type or shape, a negative δ or weight, a time limit that is not above 0.

    Example:
        >>> off = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=bool)
        >>> optimal_cover(off, np.array([True, True, True, False, False]))
        Cover(planes=(0,), own=2, strangers=0, delta=0, least=0)
    """
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"got time_limit={time_limit!r}; expected seconds above 0, or None for no limit")
    sides = Sides.of(off, own, weights)
    least = sides.least
    delta = max(tolerated(delta), least)
    off, own = np.asarray(off), np.asarray(own)
    counts = np.ones(len(own), np.int64) if weights is None else np.asarray(weights).astype(np.int64)
    rows = _distinct(off[own], counts[own])
    strangers = _distinct(off[~own], counts[~own])
    if strangers[1].sum() <= delta - least:
        return sides.cover((), delta, least)
    found = _solve(*rows, *strangers, delta - least, time_limit)
    if found is None:
        return None
    planes, lost = found
    cover = sides.cover(planes, delta, least)
    # The solver works with floats; counts are whole, so its bound proves a cover that is less than one image above it.
    proven = sides.num_own - cover.own <= lost + 0.5
    return cover if proven and cover.strangers <= delta else None


def _distinct(off: NDArray[np.bool_], counts: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Different rows with the number of images of each, without those that no plane cuts off or that count nothing."""
    matters = off.any(axis=1) & (counts > 0)
    off, counts = off[matters], counts[matters]
    if not len(off):
        return off, counts
    packed = np.packbits(off, axis=1)
    _, first, group = np.unique(packed.view(f"V{packed.shape[1]}")[:, 0], return_index=True, return_inverse=True)
    total = np.zeros(len(first), np.int64)
    np.add.at(total, group, counts)
    return off[first], total


def _solve(
    own_off: NDArray[np.bool_],
    own_counts: NDArray[np.int64],
    strangers_off: NDArray[np.bool_],
    strangers_counts: NDArray[np.int64],
    spare: int,
    time_limit: float | None,
) -> tuple[list[int], float] | None:
    """The best planes, and the fewest own images that the solver proves must be lost; None where it did not finish.

    Args:
        own_off: (I, Q) distinct rows of own images, none without a plane.
        own_counts: (I,) images of each.
        strangers_off: (S, Q) distinct rows of strangers, none without a plane.
        strangers_counts: (S,) images of each.
        spare: strangers that may be tolerated beyond τ.
        time_limit: seconds, or None.
    """
    num_planes, num_own, num_strangers = own_off.shape[1], len(own_off), len(strangers_off)
    row, plane = np.nonzero(own_off)
    pair, ones = np.arange(len(row)), np.ones(len(row))
    # Variables: z a plane, 1 − y (lost) an own row, u (tolerated) a stranger row. z alone has to be declared whole: at
    # whole z, the least admissible 1 − y and u are whole too.
    lost = hstack(
        [
            coo_array((-ones, (pair, plane)), shape=(len(row), num_planes)),
            coo_array((ones, (pair, row)), shape=(len(row), num_own)),
            csr_array((len(row), num_strangers)),
        ]
    )
    shut_out = hstack(
        [csr_array(strangers_off.astype(float)), csr_array((num_strangers, num_own)), eye_array(num_strangers)]
    )
    tolerated_weight = np.concatenate([np.zeros(num_planes + num_own), strangers_counts])
    cost = np.concatenate([np.zeros(num_planes), own_counts, np.zeros(num_strangers)])
    upper = np.concatenate([np.ones(num_planes + num_own), strangers_counts <= spare])
    result = milp(
        cost,
        integrality=np.arange(len(cost)) < num_planes,
        bounds=Bounds(0, upper),
        constraints=[
            LinearConstraint(lost, lb=0),
            LinearConstraint(shut_out, lb=1),
            LinearConstraint(tolerated_weight[None], ub=spare),
        ],
        options={"mip_rel_gap": 0.0} | ({} if time_limit is None else {"time_limit": time_limit}),
    )
    if result.status != _PROVEN:
        return None
    return np.flatnonzero(result.x[:num_planes] > 0.5).tolist(), float(result.mip_dual_bound)
