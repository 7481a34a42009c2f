"""What can be vouched for of a plane: whether the head really is that plane around the crossing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.margin import Head, Margins, differentiate
from fulgurite.callbacks.representative_interpretation.planes import Grade, Planes

_PICKS = 4  # of a reference image off the segment, for each plane


@dataclass(frozen=True)
class _Tolerances:
    residual: float  # of |g(q)|, relative to the logits and to what g changes along the segment
    value: float  # of g(r) − g(q) − wᵀ(r − q), relative to ‖w‖‖r − q‖
    gradient: float  # of ∂g/∂α, relative to ‖w‖; a smooth head bends by about η, more than this
    # η, relative to the segment. A piece is convex, so what holds farther out holds at these as well; they leave values
    # a few digits, and the last is about as near as points can be told apart.
    steps: tuple[float, ...]


_TOLERANCES = {
    torch.float64: _Tolerances(1e-9, 1e-6, 1e-12, (1e-6, 1e-9)),
    torch.float32: _Tolerances(1e-4, 1e-2, 1e-5, (1e-4, 1e-6)),
}


def grade_around(
    head: Head, start: Tensor, ends: Tensor, planes: Planes, at_crossing: Margins, *, probes: Tensor, seed: int
) -> tuple[Grade, ...]:
    """Grade planes by what the head does at *other* points of the linear piece that holds the crossing.

    That wᵀq + b equals the margin at q says nothing: b is defined so. For a plane with crossing q on the segment
    u = ψ(x⁻) − ψ(x), and g = z_c − z_j, three things are asked:

    1. at q, g(q) = 0 = wᵀq + b, and c and j are the two highest logits;
    2. the gradient of g at q is w, and not 0;
    3. at other points r, g(r) = g(q) + wᵀ(r − q), and the gradient is still w: along the segment, r = q ± ηu, and
       towards a random reference image off the segment, r = q + η(ψ(x″) − q), with η = 1e-6 or, as the piece may be
       small, 1e-9 (1e-4 or 1e-6 in float32).

    ``"exact"``: all of them; ``"segment"``: all but the reference; ``"tangent"``: the rest. Of planes that are equal
    one is asked the third, and if it is exact, they are. Float64 is what makes these decide: in float32 values agree
    for many a wrong plane, and equality of gradients alone tells.

    Args:
        head: G, from (B, K, H, W) to (B, C), in the dtype of the planes.
        start: ψ(x), (K, H, W).
        ends: ψ(x⁻) of each plane, (Q, K, H, W).
        planes: to grade, Q of them.
        at_crossing: what the head gives at the planes' points, for their label and rivals.
        probes: ψ of reference images, (M, K, H, W). Without any no plane is better than ``"segment"``.
        seed: of the private choice of a reference image for each plane.

    Returns:
        Q grades.

    Example:
        >>> head, q = lambda x: x.flatten(1), torch.tensor([[[[1.0]], [[1.0]]]])
        >>> at_crossing = differentiate(head, q, label=0)
        >>> planes = Planes(
        ...     weight=at_crossing.gradient,
        ...     bias=torch.zeros(1),
        ...     point=q,
        ...     rival=at_crossing.rival,
        ...     grade=("tangent",),
        ...     residual=torch.zeros(1),
        ...     positive=torch.tensor([True]),
        ...     label=0,
        ... )
        >>> start, ends = torch.tensor([[[2.0]], [[1.0]]]), torch.tensor([[[[0.0]], [[1.0]]]])
        >>> grade_around(head, start, ends, planes, at_crossing, probes=torch.empty(0, 2, 1, 1), seed=0)
        ('segment',)
    """
    if len(planes) == 0:
        return ()
    within = _TOLERANCES[planes.weight.dtype]
    direction = ends.detach().to(planes.weight) - start.detach().to(planes.weight)
    scale = at_crossing.logits.abs().amax(dim=1) + _norm(planes.weight) * _norm(direction)
    holds = _holds_at_crossing(planes, at_crossing, scale, within)
    first = torch.tensor(planes.equals(), device=holds.device)
    number = torch.arange(len(planes), device=holds.device)
    along, towards = torch.zeros_like(holds), torch.zeros_like(holds)
    # Equals of one that is not exact are asked for themselves: their crossings may be off the kink that its lies on.
    for alone in (False, True):
        asked = holds & ((first != number) & ~towards[first] if alone else first == number)
        index = asked.nonzero()[:, 0]
        if len(index):
            some = Margins(*(column[index] for column in at_crossing))
            graded = _looked_around(
                head, planes.select(index), direction[index], some, scale[index], probes, seed, within
            )
            along[index], towards[index] = graded
        same = holds & towards[first]
        along |= same
        towards |= same
    return tuple(
        "exact" if exact else "segment" if segment else "tangent"
        for exact, segment in zip(towards.tolist(), along.tolist(), strict=True)
    )


def _looked_around(
    head: Head,
    planes: Planes,
    direction: Tensor,
    at_crossing: Margins,
    scale: Tensor,
    probes: Tensor,
    seed: int,
    within: _Tolerances,
) -> tuple[Tensor, Tensor]:
    """Whether each plane holds along its segment, and beside it as well."""
    along = torch.ones(len(planes), dtype=torch.bool, device=scale.device)
    for sign in (1.0, -1.0):
        along &= _holds_nearby(head, planes, sign * direction, at_crossing, scale, along, within)
    if len(probes) == 0:
        return along, torch.zeros_like(along)
    aside, parallel = _towards_probes(planes, direction, probes.detach(), seed)
    towards = along & ~parallel
    return along, towards & _holds_nearby(head, planes, aside, at_crossing, scale, towards, within)


def _holds_at_crossing(planes: Planes, found: Margins, scale: Tensor, within: _Tolerances) -> Tensor:
    others = found.logits.clone()
    others[:, planes.label] = -torch.inf
    others.scatter_(1, planes.rival[:, None], -torch.inf)
    top = found.logits[:, planes.label] - others.amax(dim=1) >= -within.residual * scale
    small = found.value.abs() <= within.residual * scale
    plane = (planes.weight * planes.point).flatten(1).sum(dim=1) + planes.bias
    same = (plane - found.value).abs() <= within.residual * (scale + _norm(planes.weight) * _norm(planes.point))
    return small & same & top & _same_gradient(planes.weight, found.gradient, within)


def _holds_nearby(
    head: Head,
    planes: Planes,
    direction: Tensor,
    at_crossing: Margins,
    scale: Tensor,
    asked: Tensor,
    within: _Tolerances,
) -> Tensor:
    """Whether g is the plane at q + η·direction for one of the η; of the planes that are ``asked`` for."""
    holds = torch.zeros_like(asked)
    rounding = 64 * torch.finfo(planes.weight.dtype).eps
    for step in within.steps:
        open_ = (asked & ~holds).nonzero()[:, 0]
        if len(open_) == 0:
            break
        weight, point = planes.weight[open_], planes.point[open_]
        nearby = point + step * direction[open_]
        away = nearby - point  # as far as it is after rounding
        found = differentiate(head, nearby, label=planes.label, rival=planes.rival[open_])
        expected = at_crossing.value[open_] + (weight * away).flatten(1).sum(dim=1)
        allowed = within.value * _norm(weight) * _norm(away) + rounding * scale[open_]
        linear = (found.value - expected).abs() <= allowed
        holds[open_] = linear & _same_gradient(weight, found.gradient, within) & (_norm(away) > 0)
    return holds


def _towards_probes(planes: Planes, direction: Tensor, probes: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """ψ(x″) − q for one reference image a plane, and where that lies along the segment, which asks nothing new."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(probes), (len(planes),), generator=generator).to(probes.device)
    for _ in range(_PICKS):
        aside = probes[picks].to(planes.weight) - planes.point
        along = (aside * direction).flatten(1).sum(dim=1).abs()
        parallel = along >= (1 - 1e-6) * _norm(aside) * _norm(direction)
        if not parallel.any():
            break
        picks = torch.where(parallel, (picks + 1) % len(probes), picks)
    return aside, parallel


def _same_gradient(weight: Tensor, gradient: Tensor, within: _Tolerances) -> Tensor:
    # Strictly: no gradient at all is no plane, and equal to itself.
    return _norm(gradient - weight) < within.gradient * _norm(weight)


def _norm(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).norm(dim=1)
