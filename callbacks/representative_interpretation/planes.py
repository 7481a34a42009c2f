"""Planes of a head's decision boundaries, and on which side of them features lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.margin import chunks

Grade = Literal["tangent", "segment", "exact"]  # from worst to best

_SAME = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative; two walks to one plane differ by rounding
_ORDER = {grade: rank for rank, grade in enumerate(get_args(Grade))}


@dataclass(frozen=True, eq=False)
class Planes:
    """Q hyperplanes wᵀψ + b = 0 in the space of features, each carrying a piece of a decision boundary.

    From P. C.-H. Lam et al., "Finding Representative Interpretations on Convolutional Neural Networks",
    https://arxiv.org/abs/2108.06384: a set of such planes *covers* the images whose features lie on x's side of every
    one of them.

    Args:
        weight: w = ∂(z_c − z_j)/∂ψ at the crossing, (Q, K, H, W), float64 (float32 where the head has no float64).
        bias: b = (z_c − z_j) − wᵀq, (Q,).
        point: q, the crossing, (Q, K, H, W).
        rival: j, (Q,) int64.
        grade: what was certified of each plane: ``"exact"``: it carries the boundary around q in directions of all
            kinds; ``"segment"``: along the segment through q; ``"tangent"``: it touches the boundary at q at best.
        residual: |z_c − z_j| at q, (Q,).
        positive: the side of x, (Q,) bool: wᵀψ(x) + b ≥ 0.
        label: c, the class of x.

    Example:
        >>> planes = Planes(
        ...     weight=torch.tensor([[[[1.0]], [[0.0]]], [[[0.0]], [[2.0]]]], dtype=torch.float64),
        ...     bias=torch.tensor([-1.0, -2.0], dtype=torch.float64),
        ...     point=torch.ones(2, 2, 1, 1, dtype=torch.float64),
        ...     rival=torch.tensor([1, 2]),
        ...     grade=("exact", "segment"),
        ...     residual=torch.zeros(2, dtype=torch.float64),
        ...     positive=torch.tensor([True, False]),
        ...     label=0,
        ... )
        >>> features = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).reshape(2, 2, 1, 1)
        >>> planes.value(features).tolist(), planes.same_side(features).tolist()
        ([[2.0, -2.0], [-1.0, 4.0]], [[True, True], [False, False]])
        >>> len(planes), planes.share("exact"), planes.select([1]).grade
        (2, 0.5, ('segment',))
    """

    weight: Tensor
    bias: Tensor
    point: Tensor
    rival: Tensor
    grade: tuple[Grade, ...]
    residual: Tensor
    positive: Tensor
    label: int

    def __post_init__(self) -> None:
        counts = {
            name: len(getattr(self, name))
            for name in ("weight", "bias", "point", "rival", "grade", "residual", "positive")
        }
        if len(set(counts.values())) > 1 or self.weight.shape != self.point.shape:
            raise ValueError(
                f"got {counts}, weight {tuple(self.weight.shape)} and point {tuple(self.point.shape)}; expected as "
                "many of each, and weight and point of one shape"
            )
        if unknown := set(self.grade) - set(_ORDER):
            raise ValueError(f"got grade {sorted(unknown)[0]!r}; expected one of {', '.join(_ORDER)}")

    def __len__(self) -> int:
        return len(self.grade)

    def value(self, features: Tensor) -> Tensor:
        """wᵀψ + b of every image and plane.

        Args:
            features: ψ, (B, K, H, W), any float dtype.

        Returns:
            (B, Q) in float64 (float32 on a device without it).

        Raises:
            ValueError: features of another shape than the planes'.
        """
        if features.shape[1:] != self.weight.shape[1:]:
            raise ValueError(
                f"got features of shape {tuple(features.shape)}; expected (B, "
                f"{', '.join(map(str, self.weight.shape[1:]))}): take them at the cut where the planes were found"
            )
        dtype = torch.float32 if self.weight.device.type == "mps" else torch.float64
        weight, bias = self.weight.flatten(1).to(dtype).T, self.bias.to(dtype)
        values = features.new_empty((len(features), len(self)), dtype=dtype, device=weight.device)
        for part in chunks(features):  # in float64 a batch of features is twice as large
            values[part] = torch.addmm(bias, features[part].detach().flatten(1).to(weight), weight)
        return values

    def same_side(self, features: Tensor) -> Tensor:
        """Whether ψ lies on x's side of each plane, (B, Q) bool; see :meth:`value`."""
        return (self.value(features) >= 0) == self.positive

    def select(self, index: Sequence[int] | Tensor) -> "Planes":
        """The planes of the given numbers, in their order (or of a mask)."""
        chosen = torch.as_tensor(index, device=self.weight.device)
        chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
        return Planes(
            weight=self.weight[chosen],
            bias=self.bias[chosen],
            point=self.point[chosen],
            rival=self.rival[chosen],
            grade=tuple(self.grade[number] for number in chosen.tolist()),
            residual=self.residual[chosen],
            positive=self.positive[chosen],
            label=self.label,
        )

    def unique(self) -> "Planes":
        """Planes that are equal up to scale once: of each set of equals the best graded, of those the first."""
        return self.select(sorted(set(self.equals())))

    def equals(self) -> list[int]:
        """For each plane the number of the one that :meth:`unique` keeps for it: its own, or that of an equal one."""
        norm = self.weight.flatten(1).norm(dim=1)
        scale = torch.where(self.positive, 1.0, -1.0).to(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        weight, bias = self.weight.flatten(1) * scale[:, None], self.bias * scale
        tolerance = _SAME[norm.dtype]
        reach = self.point.flatten(1).norm(dim=1)  # the bias of a unit normal is a length in the space of features
        kept: list[int] = []
        equals = list(range(len(self)))
        for number in sorted(range(len(self)), key=lambda number: -_ORDER[self.grade[number]]):
            others = torch.tensor(kept, dtype=torch.long, device=weight.device)
            near = (bias[others] - bias[number]).abs() <= tolerance * (reach[others] + reach[number])
            # One after the other: with few classes nearly all planes have a near bias.
            same = (other for other in others[near].tolist() if (weight[other] - weight[number]).norm() <= tolerance)
            equals[number] = next(same, number)
            if equals[number] == number:
                kept.append(number)
        return equals

    def share(self, grade: Grade) -> float:
        """The share of planes with just this grade; 0 if there are no planes."""
        return self.grade.count(grade) / len(self) if len(self) else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and types, which ``torch.load(weights_only=True)`` takes."""
        return {**vars(self), "grade": list(self.grade)}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Planes":
        """The planes that :meth:`state_dict` gave."""
        return cls(**{**state, "grade": tuple(state["grade"])})
