"""What interpreting one image gives: a polytope of decision boundaries, and the images that lie in it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.answers import answers
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow, share, table_of
from fulgurite.callbacks.representative_interpretation.heatmap import Maps, heatmaps
from fulgurite.callbacks.representative_interpretation.planes import Grade, Planes
from fulgurite.callbacks.representative_interpretation.reference import (
    checked_images,
    checked_labels,
    looking_into,
)
from fulgurite.callbacks.representative_interpretation.weights import fingerprint

_T = TypeVar("_T")


@dataclass(frozen=True)
class Evaluation:
    """How an interpretation holds up on other images.

    Attributes:
        images: how many there were.
        own: of them, predicted as the interpretation's class.
        covered: of them, inside the polytope.
        own_covered: both.
        accuracy: share of the covered whose true label is the class; ``None`` without labels.

    Example:
        >>> held_out = Evaluation(images=100, own=10, covered=8, own_covered=6, accuracy=None)
        >>> held_out.coverage, held_out.purity
        (0.6, 0.75)
    """

    images: int
    own: int
    covered: int
    own_covered: int
    accuracy: float | None

    @property
    def coverage(self) -> float:
        """Share of the own images that are covered; NaN without own images."""
        return self.own_covered / self.own if self.own else float("nan")

    @property
    def purity(self) -> float:
        """Share of the covered images that the net predicts as the class; NaN where nothing is covered."""
        return self.own_covered / self.covered if self.covered else float("nan")


@dataclass(frozen=True, eq=False)
class Interpretation:
    """What the net's prediction of one image x shares with others: planes P, and the images on x's side of all of them.

    From P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, "Finding Representative Interpretations on
    Convolutional Neural Networks", https://arxiv.org/abs/2108.06384. Made by
    :func:`~fulgurite.callbacks.representative_interpretation.interpreting.interpret`.

    Attributes:
        label: c, the predicted class of x.
        cut: the module whose output is ψ.
        mode: ``exact`` where the net behind the cut is piecewise linear, so that P bounds a polytope of one decision;
            ``tangent`` where it is not: planes touch the boundary, and ``agreement`` says how well they stand for it.
        planes: the chosen planes P, on the CPU, in order of choice. Their crossings are not kept: ``point`` is NaN.
        sampled: how many boundaries were met, before equal ones were taken together.
        reference_index: where x is in the reference, for groups; else ``None``.
        members: (M,) ascending indices of the covered reference images, tolerated strangers among them. Of a later
            group of a class, without own images of earlier groups.
        distances: (M,) float64, semantic distance of each member from x.
        own: members that the net predicts as c.
        strangers: members that it does not.
        delta: δ, how many strangers were tolerated.
        coverage: ``own`` over ``class_size``; NaN without reference images of the class.
        purity: ``own`` over all members; NaN without members.
        agreement: share of (reference image, sampled plane) where the plane's sign is that of the net's own z_c − z_j;
            NaN where no boundary was met.
        grades: share of the sampled planes with each grade of the certificate; NaN where no boundary was met.
        gap: (optimum − greedy) / optimum in own images; ``None`` without ``exact=True``, or unproven.
        label_mix: members by true class, if the reference has labels.
        class_size: reference images that the net predicts as c.
        reference_size: N.
        maps: which heat maps ``heatmap`` gives by default.
        seconds: it took.
        seed: of everything random.
        notes: what a reader should know of this result.
        image: x, without batch axis, on the CPU.
        anchor: ψ(x), on the CPU.
        split: of the live model; it is asked by every method that takes images.
        fingerprint: of that model's weights and the cut.
        cuts: what was measured of the net's cuts, where the cut was chosen by it.
        batch_size: images that every method sends through the model together.

    Raises:
        ValueError: by methods that take images: the model has changed since, or they are no images of the right shape.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation import interpret
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> found = interpret(net, images[0], images, cut="1", seed=0)
        >>> bool(found.covers(images[:1])), found.distance(images[:1]).tolist(), 0 in found.rank(images).tolist()
        (True, [0.0], True)
        >>> found.heatmap(images[:3]).shape, found.certificate
        (torch.Size([3, 6, 6]), 1.0)
    """

    label: int
    cut: str
    mode: Literal["exact", "tangent"]
    planes: Planes
    sampled: int
    reference_index: int | None
    members: Tensor
    distances: Tensor
    own: int
    strangers: int
    delta: int
    coverage: float
    purity: float
    agreement: float
    grades: dict[Grade, float]
    gap: float | None
    label_mix: dict[int, int] | None
    class_size: int
    reference_size: int
    maps: Maps
    seconds: float
    seed: int
    notes: tuple[str, ...]
    image: Tensor
    anchor: Tensor
    split: Split
    fingerprint: str
    cuts: tuple[CutRow, ...] = ()
    batch_size: int = 256

    @property
    def certificate(self) -> float:
        """Share of the sampled planes certified exact at another point of their linear piece; NaN without planes."""
        return self.grades["exact"]

    @property
    def label_purity(self) -> float | None:
        """Share of the members that have the commonest true label; ``None`` without labels or members."""
        return max(self.label_mix.values()) / len(self.members) if self.label_mix else None

    def covers(self, images: Tensor) -> Tensor:
        """Whether each image (B, …) lies on x's side of every plane, (B,) bool."""
        return self._measure(images)[0]

    def distance(self, images: Tensor) -> Tensor:
        r"""Semantic distance of images (B, …) from x, (B,) float64: infinite where they are not covered.

        .. math:: Dist(x, x') = \sum_{h ∈ P} |⟨w_h, ψ(x)⟩ - ⟨w_h, ψ(x')⟩|
        """
        inside, distance = self._measure(images)
        return torch.where(inside, distance, torch.inf)

    def rank(self, images: Tensor) -> Tensor:
        """Indices of the covered images, the nearest in semantic distance first; equals in the order given."""
        distance = self.distance(images)
        order = distance.argsort(stable=True)
        return order[distance[order] < torch.inf]

    def heatmap(self, images: Tensor, *, maps: Maps | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Where each image (B, …) has what the planes look at, (B, H, W) in [0, 1].

        Args:
            images: need not be covered.
            maps: ``"channel"`` (the paper's) or ``"elementwise"``; default: as chosen when interpreting.
            size: (H, W); default: that of the images.

        Raises:
            ValueError: images (B, D) without height and width, and no size.
        """
        if size is None:
            if self.image.ndim < 2:
                raise ValueError(
                    f"got images (B, {self.image.numel()}) without height and width; expected a size for the maps; "
                    "pass size=(H, W)"
                )
            size = int(self.image.shape[-2]), int(self.image.shape[-1])

        def drawn(features: Tensor, logits: Tensor) -> Tensor:
            return heatmaps(self.planes, features, maps=maps or self.maps, size=size)

        return torch.cat(self._each(images, drawn))

    def evaluate(self, images: Tensor, labels: Tensor | None = None) -> Evaluation:
        """Coverage and purity on other images, by the net's predictions; accuracy by true labels (B,), if given."""

        def sides(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            return self.planes.same_side(features).all(dim=1), logits.argmax(dim=1) == self.label

        covered, mine = map(torch.cat, zip(*self._each(images, sides), strict=True))
        truth = checked_labels(labels, len(covered))
        accuracy = None
        if truth is not None and bool(covered.any()):
            accuracy = float((truth[covered] == self.label).double().mean())
        return Evaluation(len(covered), int(mine.sum()), int(covered.sum()), int((covered & mine).sum()), accuracy)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types. The same seed, model and reference give the same; so time is left out."""
        from fulgurite.callbacks.representative_interpretation.saved import to_dict

        return to_dict(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, whole or not at all, which ``torch.load(path, weights_only=True)`` takes."""
        from fulgurite.callbacks.representative_interpretation.saved import save

        save(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: nn.Module, images: Tensor | None = None, *, logits: Any = None
    ) -> "Interpretation":
        """Read a file that :meth:`save` wrote, for the very model that it was made with.

        Args:
            path: the file.
            model: the same network with the same weights.
            images: a few that the cut is verified on; default: x.
            logits: as in ``interpret``.

        Raises:
            ValueError: no such file, or another model.
        """
        from fulgurite.callbacks.representative_interpretation.saved import load

        return load(path, model, images, logits=logits)

    def _measure(self, images: Tensor) -> tuple[Tensor, Tensor]:
        origin = self.planes.value(self.anchor[None])

        def measured(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            value = self.planes.value(features)
            return ((value >= 0) == self.planes.positive).all(dim=1), (value - origin).abs().sum(dim=1)

        inside, distance = map(torch.cat, zip(*self._each(images, measured), strict=True))
        return inside, distance

    def _each(self, images: Tensor, measure: Callable[[Tensor, Tensor], _T]) -> list[_T]:
        """What ``measure`` makes of ψ and the logits of each batch of images."""
        images = checked_images(images, "images")
        if images.shape[1:] != self.image.shape:
            raise ValueError(
                f"got images {tuple(images.shape)}; expected (B, {', '.join(map(str, self.image.shape))}), as the one "
                "that was interpreted"
            )
        found = []
        with looking_into(self.split.model):
            if fingerprint(self.split) != self.fingerprint:
                raise ValueError("the model's weights have changed since it was interpreted; interpret it anew")
            for first, batch in zip(range(0, len(images), self.batch_size), images.split(self.batch_size), strict=True):
                features, logits = answers(self.split, batch, what="images", first=first)
                found.append(measure(features.cpu(), logits.cpu()))
        return found

    def __str__(self) -> str:
        gap = "" if self.gap is None else f", {self.gap:.1%} below the optimum"
        agreed = f"planes agree with the net on {share(self.agreement)} of the images"
        certified = f"certified exact {share(self.certificate)}, {agreed}"
        lines = [
            f"class {self.label} at {self.cut!r} ({self.mode}): {len(self.planes)} of {self.sampled} boundaries hold "
            f"{self.own} of {self.class_size} images ({share(self.coverage)}) and {self.strangers} strangers{gap}",
            certified if self.sampled else "no boundary",
            *self.notes,
        ]
        if self.label_mix is not None:
            lines.append("true labels: " + ", ".join(f"{label}: {count}" for label, count in self.label_mix.items()))
        return "\n".join(lines + ([table_of(self.cuts)] if self.cuts else []))

    def __repr__(self) -> str:
        return (
            f"Interpretation(label={self.label}, cut={self.cut!r}, planes={len(self.planes)}, own={self.own}, "
            f"strangers={self.strangers}, coverage={self.coverage:.3f}, purity={self.purity:.3f})"
        )
