"""The verdict on a map: the row test over all views, X checked, everything rounded outward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fulgurite.plugins.dynamic_async.model.bounds import checked_matrix, gap, upper_ratio, upper_sum
from fulgurite.plugins.dynamic_async.model.certificate import Certificate
from fulgurite.plugins.dynamic_async.model.collatz_wielandt import radius_at_least, weight_candidates
from fulgurite.plugins.dynamic_async.model.domain import Leaves, check_box, displacement, invariant_box
from fulgurite.plugins.dynamic_async.model.dynamic_map import Box, DynamicMap, Participants
from fulgurite.plugins.dynamic_async.model.errors import MapError
from fulgurite.plugins.dynamic_async.model.exact import EXACT_ENTRIES, exact_factors, float_above

View = tuple[int, Participants]
_UNEVEN = 1e-6


@dataclass(frozen=True)
class Contraction:
    """Weights, the factor that they give over all views, and the Lipschitz matrices where the map states them."""

    gamma: float
    weights: NDArray[np.float64]
    matrices: tuple[csr_array, ...] | None


def certify(
    map: DynamicMap, views: Iterable[View] | None = None, *, eps: float | None = None, exact: bool | None = None
) -> Certificate:
    """Decide whether an iteration converges under every schedule: the Collatz–Wielandt row test, with its domain.

    With dᵢ(Fx, Fy) ≤ Σⱼ Mᵢⱼdⱼ(xⱼ, yⱼ), any w > 0 with M w ≤ γw, γ < 1, certifies; one w serves all views, so that
    mixtures, where participants evaluate under different views, are covered as well. X is the map's own or, where it
    has none, a ball around ⊥ that all views keep. For linear maps ρ(|H|) ≥ 1 is refused (Chazan and Miranker, 1969:
    then some schedule does not converge).

    Args:
        map: the family F.
        views: (epoch, mask of the participants) to cover. By default everybody in every epoch where F may differ; for
            a map that says what ``leaving`` does, this covers all subsets.
        eps: error that matters, in ‖·‖_w: of several weights those are taken that need the fewest pseudocycles to it;
            1e-6 by default.
        exact: row test in exact rationals; by default where the matrix has at most 20,000 entries. A map that states
            its own ``factors`` has rounded them up itself.

    Returns:
        the certificate: ``"certified"``, ``"refused"`` or ``"empirical"``, each with its reason.

    Raises:
        MapError: a matrix that is not square or holds a NaN or a negative entry, a view that does not fit the map, or a
            domain that does not.

    Example:
        >>> from fulgurite.plugins.dynamic_async.maps.affine import AffineMap
        >>> certificate = certify(AffineMap([[0.0, 0.5], [0.5, 0.0]], [1.0, 0.0]))
        >>> certificate.verdict, certificate.gamma
        ('certified', 0.5)
        >>> certify(AffineMap([[0.6, 0.6], [-0.6, 0.6]], [0.0, 0.0])).reason
        'ρ(|H|) ≥ 1.2, so that some schedule leads to no one answer (Chazan and Miranker 1969).'
    """
    chosen = _checked_views(map, views)
    scope = _scope(map, chosen, given=views is not None)

    def verdict(word: str, reason: str, weights: NDArray[np.float64] | None = None) -> Certificate:
        kept = np.ones(map.num_participants) if weights is None else weights
        return Certificate(word, math.inf, kept, math.inf, None, scope, reason)  # type: ignore[arg-type]

    for epoch, participants in chosen:
        if (reason := map.refusal(epoch, participants)) is not None:
            return verdict("refused", reason)
    target = 1e-6 if eps is None else eps
    contraction = find_contraction(map, chosen, eps=target, exact=exact)
    if contraction is None:
        return verdict("empirical", "The map states no Lipschitz matrix, so that only observed residuals can be shown.")
    if contraction.gamma >= 1.0:
        return verdict(*_beyond_one(map, contraction), contraction.weights)
    box = map.domain or invariant_box(map, chosen, contraction.gamma, contraction.weights)
    try:
        doubt = check_box(map, box, chosen)
    except Leaves as leaves:
        return verdict("refused", str(leaves), contraction.weights)
    if doubt is not None:
        return verdict("empirical", doubt, contraction.weights)
    errors = np.array([map.rounding(i) for i in range(map.num_participants)]) / contraction.weights
    reason = f"M w ≤ γw with γ = {contraction.gamma:.6g}, and F keeps X, which holds every ⊥ and every first state."
    error = float(np.nextafter(errors.max(initial=0.0), np.inf)) if errors.any() else 0.0
    r0 = _radius(map, box, chosen, contraction)
    return Certificate("certified", contraction.gamma, contraction.weights, r0, box, scope, reason, error)


def find_contraction(
    map: DynamicMap, views: Sequence[View], *, eps: float = 1e-6, exact: bool | None = None
) -> Contraction | None:
    """The weights that need the fewest pseudocycles to an error ε, of w = 1, the map's own and the resolvents'.

    Returns:
        them with their factor, 1 or more where none contracts; None where the map states neither matrix nor factors.
    """
    stated = [map.lipschitz(epoch, participants) for epoch, participants in views]
    matrices = None
    if all(matrix is not None for matrix in stated):
        matrices = tuple(checked_matrix(matrix, map.num_participants) for matrix in stated if matrix is not None)
    elif map.factors(*views[0], np.ones(map.num_participants)) is None:
        return None
    candidates = [np.ones(map.num_participants)]
    if matrices is not None:
        greatest = matrices[0]
        for matrix in matrices[1:]:
            greatest = greatest.maximum(matrix)
        candidates = weight_candidates(csr_array(greatest))
    if (suggested := map.suggested_weights()) is not None:
        candidates.insert(0, np.asarray(suggested, dtype=np.float64) / np.max(suggested))
    found = [Contraction(_factor(map, views, matrices, weights, exact), weights, matrices) for weights in candidates]

    def cost(one: Contraction) -> tuple[bool, bool, float, float]:
        # Uneven weights magnify the evaluations' rounding, so that they are for where nothing else contracts.
        least = float(one.weights.min())
        return one.gamma >= 1.0, least < _UNEVEN, _rounds(one.gamma, 1.0 / (eps * least)), one.gamma

    return min(found, key=cost)


def _factor(
    map: DynamicMap,
    views: Sequence[View],
    matrices: tuple[csr_array, ...] | None,
    weights: NDArray[np.float64],
    exact: bool | None,
) -> float:
    """γ of the weights over all views, an upper bound."""
    own = type(map).factors is not DynamicMap.factors
    gamma = 0.0
    for k, (epoch, participants) in enumerate(views):
        if not own and matrices is not None and (exact or (exact is None and matrices[k].nnz <= EXACT_ENTRIES)):
            gamma = max(gamma, max(map_above(matrices[k], weights), default=0.0))
            continue
        factors = map.factors(epoch, participants, weights)
        if factors is None or factors.shape != (map.num_participants,) or not (factors >= 0).all():
            raise MapError(f"{type(map).__name__}.factors gave {factors!r} in epoch {epoch}; (n,) numbers ≥ 0 were due")
        gamma = max(gamma, float(factors.max(initial=0.0)))
    return gamma


def map_above(matrix: csr_array, weights: NDArray[np.float64]) -> list[float]:
    """(M w)ᵢ/wᵢ in exact arithmetic, each rounded up once."""
    return [float_above(value) for value in exact_factors(matrix, weights)]


def _rounds(gamma: float, ratio: float) -> float:
    if gamma >= 1.0:
        return math.inf
    return max(math.log(ratio), 1.0) / -math.log(gamma) if gamma > 0.0 else 0.0


def _beyond_one(map: DynamicMap, contraction: Contraction) -> tuple[str, str]:
    """Verdict and reason where no weights contract."""
    if map.linear and contraction.matrices is not None:
        proved = max(radius_at_least(matrix) for matrix in contraction.matrices)
        if proved >= 1.0:
            return (
                "refused",
                f"ρ(|H|) ≥ {proved:.6g}, so that some schedule leads to no one answer (Chazan and Miranker 1969).",
            )
    return (
        "empirical",
        f"No w was found with M w ≤ γw and γ < 1 (the best γ is {contraction.gamma:.6g}), nor a proof that none is.",
    )


def _radius(map: DynamicMap, box: Box, views: Sequence[View], contraction: Contraction) -> float:
    """r₀ = max over X of ‖x − x*‖_w ≤ maxᵢ (Rᵢ + min(Rᵢ, wᵢ‖F(c) − c‖_w/(1 − γ)))/wᵢ, rounded up."""
    weights = contraction.weights
    at_bottom = all(map.distance(i, map.bottom(i), box.centre[i]) == 0.0 for i in range(map.num_participants))
    offset = box.radius.copy()
    if at_bottom and map.leaving == "restricts":  # then F(c) is the same for every set
        furthest = 0.0
        for epoch, participants in views:
            moved = displacement(map, box.centre, epoch, participants) / weights
            furthest = max(furthest, float(np.nextafter(moved.max(initial=0.0), np.inf)) if moved.any() else 0.0)
        offset = np.minimum(offset, np.nextafter(weights * upper_ratio(furthest, gap(contraction.gamma)), np.inf))
        offset[box.radius == 0.0] = 0.0
        if furthest == 0.0:
            offset[:] = 0.0
    sums = [upper_sum(r, o) if o else float(r) for r, o in zip(box.radius, offset, strict=True)]
    ratios = np.array(sums) / weights
    return float(ratios.max() if (weights == 1.0).all() else np.nextafter(ratios.max(), np.inf))


def _checked_views(map: DynamicMap, views: Iterable[View] | None) -> list[View]:
    size = map.num_participants
    if views is None:
        return [(epoch, np.ones(size, dtype=np.bool_)) for epoch in range(map.num_epochs)]
    found = []
    for epoch, participants in views:
        mask = np.asarray(participants)
        if mask.shape != (size,) or mask.dtype != np.bool_:
            raise MapError(
                f"the participants of epoch {epoch} are given as {mask.dtype} of shape {mask.shape}; "
                f"give a mask of bool with {size} entries"
            )
        if epoch < 0:
            raise MapError(f"epochs count from 0, not {epoch}")
        found.append((int(epoch), mask))
    if not found:
        raise MapError("no view was given; give at least one (epoch, participants), or None for all")
    return found


def _scope(map: DynamicMap, views: Sequence[View], *, given: bool) -> str:
    epochs = "every epoch" if map.num_epochs == 1 else f"epochs {sorted({epoch for epoch, _ in views})}"
    if not given:
        epochs = "every epoch"
    if all(mask.all() for _, mask in views):
        who = "every set of participants" if map.leaving != "unknown" else "all participants present"
    else:
        who = f"{len(views)} given sets of participants" + (" and their subsets" if map.leaving != "unknown" else "")
    return f"{epochs}, {who}"
