"""Finding planes of a head's decision boundaries on segments between feature maps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.certificate import grade_around
from fulgurite.callbacks.representative_interpretation.margin import (
    Head,
    Margins,
    MeasuredHead,
    chunks,
    differentiate,
    margin,
)
from fulgurite.callbacks.representative_interpretation.planes import Grade, Planes

_HALVINGS = 5  # of the segment, before the crossing is solved for: where both together take least time
_SOLVES = 60  # at most; two or three are usual
_CREEPING = 8  # so many that a halving every other time does no harm
_RELEASED_GAP, _RELEASED_HALVINGS = 1e-5, 60  # the stop rule of the method as it was released: gap² below this
_SAME = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative, of gradients within one linear piece


def find_planes(
    head: Head,
    start: Tensor,
    ends: Tensor,
    *,
    label: int,
    probes: Tensor,
    seed: int,
    polish: bool = True,
    exact: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Planes:
    """Planes that carry the decision boundary of class c, one where each segment ψ(x) → ψ(x⁻) leaves it.

    From P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks",
    https://arxiv.org/abs/2108.06384. All segments are halved together, with class c kept on one end. From the bracket
    the crossing itself is solved for: with j the strongest rival at p, g = z_c − z_j and u = ψ(x⁻) − ψ(x),

        q = p − g(p) / (wᵀu) · u,    w = ∂g/∂α at p,

    again from q until w changes no more (halving again where q leaves the bracket). In a piecewise linear head q then
    lies on the boundary exactly, and wᵀψ + b with b = g(q) − wᵀq is g on the whole linear piece that holds q. A small
    gap instead of the solved crossing may give the plane of a neighbouring piece.

    Args:
        head: G, from (B, K, H, W) to (B, C). It is called in the dtype of ``start`` for halving, and in ``dtype``
            from then on: features in float32 halve faster, at no loss.
        start: ψ(x), (K, H, W).
        ends: ψ(x⁻) of images of other classes, (Q, K, H, W).
        label: c, the class that the head gives ``start``.
        probes: ψ of reference images that the certificate looks towards, (M, K, H, W).
        seed: of the private choice among them.
        polish: whether the crossing is solved for; ``False`` is the released rule, a gap² below 1e-5, for comparison.
        exact: whether planes are graded; ``False`` for a head that is not piecewise linear: all are ``"tangent"``.
        dtype: of the planes, float64 unless the head cannot.

    Returns:
        A plane for each end, without those ends that coincide with the start or that the head gives class c, and
        without those on whose segment the margin is flat where it crosses 0: classes that tie all over a region, as
        logits that end in ReLU or are clamped do, have no plane between them. As many planes as there are fewer than
        ends, so many segments gave no boundary.

    Raises:
        ValueError: shapes that do not fit together, or a start to which the head gives another class.

    Example:
        >>> head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2)).double()
        >>> _ = head[1].load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
        >>> start, end = torch.tensor([[[3.0]], [[0.0]]]).double(), torch.tensor([[[0.0]], [[1.0]]]).double()
        >>> planes = find_planes(head, start, end[None], label=0, probes=torch.ones(1, 2, 1, 1), seed=0)
        >>> planes.weight.flatten().tolist(), planes.point.flatten().tolist(), planes.grade
        ([1.0, -1.0], [0.75, 0.75], ('exact',))
    """
    if ends.ndim < 2 or ends.shape[1:] != start.shape or probes.shape[1:] != start.shape:
        raise ValueError(
            f"got start {tuple(start.shape)}, ends {tuple(ends.shape)} and probes {tuple(probes.shape)}; expected "
            "(K, H, W), (Q, K, H, W) and (M, K, H, W)"
        )
    start = start.detach() if start.dtype in _SAME else start.detach().to(dtype)
    parts, head = [], MeasuredHead(head)
    with torch.inference_mode(False):
        # So many ends at a time, through all steps, that copies of them take no more memory than the planes.
        for part in list(chunks(ends)) or [slice(0, 0)]:
            planes, reached, found = _find(head, start, ends[part].detach().to(start), label, dtype, polish=polish)
            if exact:
                grade = grade_around(head, start, reached, planes, found, probes=probes, seed=seed + part.start)
                planes = replace(planes, grade=grade)
            parts.append(planes)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _find(
    head: Head, start: Tensor, ends: Tensor, label: int, dtype: torch.dtype, *, polish: bool
) -> tuple[Planes, Tensor, Margins]:
    """Planes that are not graded yet, the ends that they belong to, and what the head gives at their crossings."""
    bracket, left = _brackets(head, start, ends, label)
    ends = ends[left]
    if polish:
        bracket = _halve(head, start, ends, label, bracket, most=_HALVINGS)
    if dtype != start.dtype:
        start, ends, bracket = start.to(dtype), ends.to(dtype), bracket.widened(start.dtype, dtype)
    if polish:
        where, found = _solve(head, start, ends, label, bracket)
    else:
        bracket = _halve(head, start, ends, label, bracket, most=_RELEASED_HALVINGS, gap=_RELEASED_GAP)
        where = torch.where(bracket.above <= -bracket.below, bracket.low, bracket.high)
        found = differentiate(head, _points(start, ends, where), label=label)
    points = _points(start, ends, where)
    # No more than rounding over the whole segment: w = 0, whose "plane" all features lie on.
    flat = 4 * torch.finfo(points.dtype).eps * _norms(found.logits)
    steep = (_norms(found.gradient) * _norms(ends - start) > flat).nonzero()[:, 0]
    if len(steep) < len(ends):
        points, ends, found = points[steep], ends[steep], Margins(*(column[steep] for column in found))
    return _planes(start, points, label, found), ends, found


class _Bracket(NamedTuple):
    """Where on its segment, from 0 to 1, each crossing is known to lie, (Q,), and the margins at both ends."""

    low: Tensor
    high: Tensor
    above: Tensor  # at low, ≥ 0
    below: Tensor  # at high, < 0

    def widened(self, dtype: torch.dtype, to: torch.dtype) -> "_Bracket":
        """For another dtype, in which the crossing may lie a little outside of where rounding in this one put it."""
        slack = 1e3 * max(torch.finfo(dtype).eps, torch.finfo(to).eps)
        return _Bracket(self.low.to(to) - slack, self.high.to(to) + slack, self.above.to(to), self.below.to(to))

    def secant(self) -> Tensor:
        """Where the margin is 0 if it is linear in between."""
        inside = self.low + (self.high - self.low) * self.above / (self.above - self.below)
        return torch.where(inside.isfinite(), inside, self.low)


def _brackets(head: Head, start: Tensor, ends: Tensor, label: int) -> tuple[_Bracket, Tensor]:
    """The whole segments, of the ends that are of another class; and which those are."""
    both = margin(head, torch.cat([start[None], ends]), label=label)
    above, below = both[:1], both[1:]
    if not bool(above >= -1e-4 * (below - above).abs().max() if len(ends) else True):
        raise ValueError(
            f"got label={label}, but the head prefers another class at the start, by {-above.item():.3g}; expected the "
            "class that the head gives it"
        )
    left = (below < 0).nonzero()[:, 0]
    below = below[left]
    low = torch.zeros_like(below)
    return _Bracket(low, low + 1, above.clamp_min(0).expand_as(below).clone(), below), left


def _points(start: Tensor, ends: Tensor, where: Tensor) -> Tensor:
    return torch.lerp(start, ends, where.reshape(-1, *[1] * start.ndim))


def _halve(
    head: Head, start: Tensor, ends: Tensor, label: int, bracket: _Bracket, *, most: int, gap: float = 0.0
) -> _Bracket:
    """Halve each segment, class c kept on its lower end, until the squared margin at an end is below ``gap``."""
    low, high = bracket.low.clone(), bracket.high.clone()
    above, below = bracket.above.clone(), bracket.below.clone()
    for _ in range(most):
        open_ = (torch.minimum(above, -below) ** 2 >= gap).nonzero()[:, 0]
        if len(open_) == 0:
            break
        middle = (low[open_] + high[open_]) / 2
        value = margin(head, _points(start, ends[open_], middle), label=label)
        own, other = open_[value >= 0], open_[value < 0]
        low[own], above[own] = middle[value >= 0], value[value >= 0]
        high[other], below[other] = middle[value < 0], value[value < 0]
    return _Bracket(low, high, above, below)


def _solve(head: Head, start: Tensor, ends: Tensor, label: int, bracket: _Bracket) -> tuple[Tensor, Margins]:
    """Where on its segment each crossing lies, and what the head gives there.

    By Newton's steps within the bracket, which end at the crossing itself once two of them are in one linear piece.
    """
    low, high, where = bracket.low.clone(), bracket.high.clone(), bracket.secant()
    tiny = 4 * torch.finfo(where.dtype).eps
    open_ = torch.arange(len(ends), device=ends.device)
    done = torch.zeros_like(open_, dtype=torch.bool)
    found = differentiate(head, _points(start, ends, where), label=label)
    result = found
    for attempt in range(_SOLVES):
        at = where[open_]
        slope = (found.gradient * (ends[open_] - start)).flatten(1).sum(dim=1)
        own = found.value >= 0
        low[open_] = torch.where(own, at, low[open_])
        high[open_] = torch.where(own, high[open_], at)
        step = at - found.value / slope
        # A step that leaves the bracket gives way to a halving, and now and then one that may only creep along in it.
        inside = (slope < 0) & (step > low[open_]) & (step < high[open_])
        inside &= attempt < _CREEPING or attempt % 2 == 0
        aim = torch.where(inside, step, (low[open_] + high[open_]) / 2)
        left = ~(done | (found.value.abs() <= tiny * -slope))
        open_, aim, inside = open_[left], aim[left], inside[left]
        if len(open_) == 0:
            break
        before = result.gradient[open_]
        found = differentiate(head, _points(start, ends[open_], aim), label=label)
        done = inside & _same(found.gradient, before)  # so this is where the piece's own plane crosses the segment
        where[open_] = aim
        for whole, part in zip(result, found, strict=True):
            whole[open_] = part
    return where, result


def _same(gradient: Tensor, other: Tensor) -> Tensor:
    return _norms(gradient - other) <= _SAME[gradient.dtype] * _norms(gradient)


def _norms(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).norm(dim=1)


def _planes(start: Tensor, point: Tensor, label: int, found: Margins) -> Planes:
    ungraded: Grade = "tangent"
    bias = found.value - (found.gradient * point).flatten(1).sum(dim=1)
    return Planes(
        weight=found.gradient,
        bias=bias,
        point=point,
        rival=found.rival,
        grade=(ungraded,) * len(point),
        residual=found.value.abs(),
        positive=(found.gradient * start).flatten(1).sum(dim=1) + bias >= 0,
        label=label,
    )


def _joined(parts: Sequence[Planes]) -> Planes:
    columns = ("weight", "bias", "point", "rival", "residual", "positive")
    tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in columns}
    return replace(parts[0], grade=tuple(grade for part in parts for grade in part.grade), **tensors)
