"""X: a box that F keeps, that holds every ⊥ and every first state; found, and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.model.bounds import gap, upper_factors, upper_ratio, upper_sum
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, Box, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError

View = tuple[int, Participants]
_SLACK = 1.0 + 1e-6  # so that the check of what was found here does not fail by a rounding


class Leaves(Exception):
    """A witness: F takes a state of X out of it."""


def image(map: DynamicMap, state: Sequence[Array], epoch: int, participants: Participants) -> list[Array]:
    """One synchronous step F^{e,p}(x): everybody in p evaluates at once, reading ⊥ of those outside; these stay ⊥."""
    read = [state[i] if participants[i] else map.bottom(i) for i in range(map.num_participants)]
    return [
        map.evaluate(i, epoch, participants, {int(j): read[j] for j in map.neighbours(i)})
        if participants[i]
        else map.bottom(i)
        for i in range(map.num_participants)
    ]


def displacement(
    map: DynamicMap, state: Sequence[Array], epoch: int, participants: Participants
) -> NDArray[np.float64]:
    """(n,) dᵢ(F(x)ᵢ, xᵢ) for participants, rounded up; 0 for the others."""
    moved = np.zeros(map.num_participants)
    for i, value in enumerate(image(map, state, epoch, participants)):
        if participants[i]:
            moved[i] = _upper_distance(map, i, value, state[i])
    return moved


def weighted_residual(
    map: DynamicMap, state: Sequence[Array], epoch: int, participants: Participants, weights: NDArray[np.float64]
) -> float:
    """‖F(x) − x‖_w over the participants, for :meth:`Certificate.residual_bound`."""
    return float(np.nextafter((displacement(map, state, epoch, participants) / weights).max(initial=0.0), np.inf))


def invariant_box(map: DynamicMap, views: Sequence[View], gamma: float, weights: NDArray[np.float64]) -> Box:
    """The ball around ⊥ in ‖·‖_w that a contraction keeps and that holds every first state.

    Its radius is R = max(‖F(⊥) − ⊥‖_w/(1 − γ), ‖x − ⊥‖_w); a map with F(⊥) = ⊥ = x gets R = 1.
    """
    size = map.num_participants
    centre = tuple(map.bottom(i) for i in range(size))
    reach = max((_upper_distance(map, i, map.initial(i), centre[i]) / weights[i] for i in range(size)), default=0.0)
    for epoch, participants in views:
        moved = float((displacement(map, centre, epoch, participants) / weights).max(initial=0.0))
        reach = max(reach, upper_ratio(moved, gap(gamma)))
    radius = reach * _SLACK if reach else 1.0
    return Box(centre, np.nextafter(radius * weights, np.inf) if reach else radius * weights)


def check_box(map: DynamicMap, box: Box, views: Sequence[View]) -> str | None:
    """Whether every ⊥ and every first state lie in X and F keeps it in every view.

    It is enough that Σⱼ MᵢⱼRⱼ + dᵢ(F(c)ᵢ, cᵢ) ≤ Rᵢ; a map whose values lie inside whatever it reads needs no test. For
    a map that says what ``leaving`` does, it then holds for every subset of each view's participants: reading ⊥ⱼ in
    place of cⱼ changes Fᵢ by at most MᵢⱼRⱼ, as ⊥ⱼ lies in X, which is the same sum.

    Args:
        map: the family F.
        box: X.
        views: where F is to keep it.

    Returns:
        None if so, else what could not be shown.

    Raises:
        MapError: the box does not fit the map.
        Leaves: it is shown that it is not so.
    """
    size = map.num_participants
    if len(box.centre) != size or box.radius.shape != (size,):
        raise MapError(f"X has {len(box.centre)} centres and radii of shape {box.radius.shape}; the map needs {size}")
    if not np.isfinite(box.radius).all() or not (box.radius > 0).all():
        raise MapError("every radius of X must be positive and finite")
    for i in range(size):
        for name, value in (("⊥", map.bottom(i)), ("the first state", map.initial(i))):
            if not map.distance(i, value, box.centre[i]) <= box.radius[i]:
                raise Leaves(f"X does not hold {name} of participant {i}; state a domain that does.")
    if map.lands_inside:
        return None
    for epoch, participants in views:
        moved = displacement(map, box.centre, epoch, participants)
        factors = map.factors(epoch, participants, box.radius)
        if factors is None:
            return "It is not known whether F keeps X, as the map states no Lipschitz matrix."
        if (matrix := map.lipschitz(epoch, participants)) is not None:  # of this very set, where factors may be of all
            factors = np.minimum(factors, upper_factors(matrix, box.radius))
        reach = np.nextafter(factors * box.radius, np.inf) + moved
        reach += np.array([map.rounding(i) for i in range(size)])
        doubtful = np.flatnonzero(participants & (np.nextafter(reach, np.inf) > box.radius))
        if len(doubtful):
            _look_for_witness(map, box, epoch, participants)
            i = int(doubtful[0])
            return (
                f"It could not be shown that F keeps X: participant {i} may reach a distance of {reach[i]:.6g} from "
                f"its centre in epoch {epoch}, and Xᵢ has the radius {box.radius[i]:.6g}."
            )
    return None


def _look_for_witness(map: DynamicMap, box: Box, epoch: int, participants: Participants) -> None:
    for name, state in (
        ("its centre", list(box.centre)),
        ("its upper end", _end(map, box, 1)),
        ("its lower end", _end(map, box, -1)),
    ):
        if state is None:
            continue
        for i, value in enumerate(image(map, state, epoch, participants)):
            distance = map.distance(i, value, box.centre[i])
            if participants[i] and not distance <= box.radius[i] * (1.0 + 1e-9):
                raise Leaves(
                    f"F leaves X: from {name}, participant {i} goes to a distance of {distance:.6g} from its centre, "
                    f"and Xᵢ has the radius {box.radius[i]:.6g}; state a domain that F keeps."
                )


def _end(map: DynamicMap, box: Box, sign: int) -> list[Array] | None:
    """C ± R in every entry, scaled into X; None for states that are not floating point."""
    found = []
    for i, centre in enumerate(box.centre):
        if centre.dtype.kind != "f":
            return None
        step = map.distance(i, centre + np.ones_like(centre), centre)
        scale = sign * box.radius[i] / step if step and math.isfinite(step) else 0.0
        found.append((centre + scale * np.ones_like(centre)).astype(centre.dtype))
    return found


def _upper_distance(map: DynamicMap, i: int, x: Array, y: Array) -> float:
    """dᵢ(x, y) and what its own computation may have lost: an ulp for each entry."""
    distance = map.distance(i, x, y)
    return upper_sum(distance * (1.0 + 2.0**-52 * (x.size + 4))) if distance else 0.0
