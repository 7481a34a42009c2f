"""Every predicted class in groups: interpret the middle image, take away what it covers, go on with the rest."""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, overload

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.anchors import Options, whole
from fulgurite.callbacks.representative_interpretation.auto_cut import cut_of, warn_if_degenerate
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow, share, table_of
from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation
from fulgurite.callbacks.representative_interpretation.peeling import Peeling, classes_of
from fulgurite.callbacks.representative_interpretation.reference import MOST_BYTES, as_reference, looking_into


@dataclass(frozen=True, eq=False)
class Groups(Sequence[Interpretation]):
    """The groups of all predicted classes, in order of class and then of peeling.

    The members of one class's groups have no own image in common.

    Attributes:
        found: the groups.
        cut: where the net was cut.
        cuts: what was measured of its cuts, if the cut was chosen.
        predicted: (N,) predicted class of each reference image.
        labels: (N,) their true classes, if the reference has any.
        seed: of everything random.
        seconds: it took.
        notes: what a reader should know, such as classes that time did not suffice for.

    Example:
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> groups = interpret_classes(net, images, cut="1", groups_per_class=2)
        >>> sorted(groups.by_class), 0 < groups.coverage <= 1, groups[0].label
        ([0, 1], True, 0)
    """

    found: tuple[Interpretation, ...]
    cut: str
    cuts: tuple[CutRow, ...]
    predicted: Tensor
    labels: Tensor | None
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Interpretation: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Interpretation, ...]: ...

    def __getitem__(self, index: int | slice) -> Interpretation | tuple[Interpretation, ...]:
        return self.found[index]

    @property
    def by_class(self) -> dict[int, list[Interpretation]]:
        """The groups of each predicted class, the first found first."""
        classes: dict[int, list[Interpretation]] = {}
        for one in self.found:
            classes.setdefault(one.label, []).append(one)
        return classes

    @property
    def num_images(self) -> int:
        """N, of the reference."""
        return len(self.predicted)

    @property
    def predicted_counts(self) -> dict[int, int]:
        """Reference images by predicted class."""
        return _counts(self.predicted)

    @property
    def label_counts(self) -> dict[int, int] | None:
        """Reference images by true class, if known."""
        return None if self.labels is None else _counts(self.labels)

    @property
    def coverage(self) -> float:
        """Share of the interpreted classes' own images that lie in one of their groups; NaN without groups."""
        return self._mean(lambda groups: sum(one.own for one in groups) / groups[0].class_size)

    @property
    def purity(self) -> float:
        """Share of own images among the groups' members, in the mean over classes by their size; NaN without groups."""
        return self._mean(lambda groups: sum(one.own for one in groups) / sum(len(one.members) for one in groups))

    @property
    def certificate(self) -> float:
        """Share of the sampled boundaries certified exact, in the mean over classes by size; NaN without boundaries."""
        return self._mean(
            lambda groups: (
                sum(one.certificate * one.sampled for one in groups if one.sampled) / total
                if (total := sum(one.sampled for one in groups))
                else math.nan
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; the same seed, model and reference give the same."""
        from fulgurite.callbacks.representative_interpretation.saved import cut_row, number

        return {
            "cut": self.cut,
            "cuts": [cut_row(row) for row in self.cuts],
            "seed": self.seed,
            "num_images": self.num_images,
            "predicted_counts": {str(label): count for label, count in self.predicted_counts.items()},
            "label_counts": None
            if self.label_counts is None
            else {str(label): count for label, count in self.label_counts.items()},
            "coverage": number(self.coverage),
            "purity": number(self.purity),
            "certificate": number(self.certificate),
            "notes": list(self.notes),
            "groups": [one.to_dict() for one in self.found],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON, whole or not at all."""
        import json

        from fulgurite.plugins.files import write_text

        write_text(path, json.dumps(self.to_dict(), sort_keys=True, indent=1, allow_nan=False) + "\n")

    def _mean(self, value: Callable[[list[Interpretation]], float]) -> float:
        """Mean over classes of what is defined, weighted by the number of own images."""
        known = [
            (number, groups[0].class_size)
            for groups in self.by_class.values()
            if not math.isnan(number := value(groups))
        ]
        weight = sum(size for _, size in known)
        return sum(number * size for number, size in known) / weight if weight else math.nan

    def __str__(self) -> str:
        lines = [
            f"{len(self)} groups of {len(self.by_class)} classes at {self.cut!r}: they hold {share(self.coverage)} of "
            f"{self.num_images} images, purity {share(self.purity)}, certified exact {share(self.certificate)}",
            "class  group  planes   own  of class  strangers  commonest label",
        ]
        for label, groups in self.by_class.items():
            for place, one in enumerate(groups):
                lines.append(
                    f"{label:>5}  {place:>5}  {len(one.planes):>6}  {one.own:>4}  {share(one.coverage):>8}  "
                    f"{one.strangers:>9}  {share(one.label_purity):>15}"
                )
        return "\n".join([*lines, *self.notes, *([table_of(self.cuts)] if self.cuts else [])])

    def __repr__(self) -> str:
        return f"Groups({len(self)} of {len(self.by_class)} classes, cut={self.cut!r}, coverage={self.coverage:.3f})"


def interpret_classes(
    model: nn.Module,
    reference: Any,
    *,
    groups_per_class: int = 3,
    classes: Iterable[int] | None = None,
    max_classes: int | None = None,
    smallest: int = 10,
    deadline: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    cut: str = "auto",
    boundaries: int = 50,
    delta: int | None = None,
    exact: bool = False,
    maps: Maps = "channel",
    labels: Tensor | None = None,
    logits: Callable[[Any], Any] | None = None,
    batch_size: int = 256,
    most_bytes: int = MOST_BYTES,
    seed: int = 0,
) -> Groups:
    """Group each predicted class by what decides its images: peel off one interpretation after another.

    The medoid of the class's images is interpreted, the own images that it covers are taken away, the medoid of the
    rest is interpreted, and so on. Several groups of a class are several reasons for one prediction: where true labels
    mix differently in them, one of the reasons may be a spurious cue. Peeling is after M. Bajaj et al., "Robust
    Counterfactual Explanations on Graph Neural Networks", https://arxiv.org/abs/2107.04086; the interpretation itself
    is that of :func:`~fulgurite.callbacks.representative_interpretation.interpreting.interpret`, which tells of the
    options that are not named here.

    Groups are told apart by boundaries to *other* classes. Images with a cue that only strengthens their own class,
    such as a patch in the corner, lie on the same side of all of them as images of the class without it, and in one
    group; there the distance from a member with the cue (``rank``) and the heat maps tell them apart.

    Args:
        model: any classifier from images to logits.
        reference: unlabelled images.
        groups_per_class: at most.
        classes: which predicted classes; default: all that there are.
        max_classes: of all that there are, only those of the most images, so many at most.
        smallest: a further group is looked for only where at least so many of the class's images are left.
        deadline: ``time.monotonic()`` after which no further group is looked for; every class has had its first group
            before any has a second.
        progress: called after each group with the groups found, and how many there will be at most.
        cut: see ``interpret``, as for all further options.
        boundaries: for each group.
        delta: for each group.
        exact: likewise.
        maps: likewise.
        labels: likewise.
        logits: likewise.
        batch_size: likewise.
        most_bytes: likewise.
        seed: likewise.

    Returns:
        The groups.

    Raises:
        ValueError: as ``interpret``; a class that no reference image is predicted as.
        CutError: no such cut.

    Warns:
        DegenerateCutWarning: as ``interpret``, on the mean over classes.

    Example:
        >>> draw = torch.Generator().manual_seed(2)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)
        >>> net = nn.Sequential(*layers)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> groups = interpret_classes(net, images, cut="1", groups_per_class=2)
        >>> all(one.reference_index in one.members.tolist() for one in groups)
        True
    """
    begun = time.perf_counter()
    groups_per_class = whole("groups_per_class", groups_per_class, least=1)
    smallest = whole("smallest", smallest, least=1)
    most = None if max_classes is None else whole("max_classes", max_classes, least=1)
    options = Options(boundaries=boundaries, delta=delta, exact=exact, maps=maps, seed=seed)
    with looking_into(model):
        images = as_reference(reference, labels=labels, batch_size=batch_size, most_bytes=most_bytes, seed=seed)
        choice = cut_of(model, images, cut, options=options, logits=logits, deadline=deadline)
        peeling = Peeling(
            images,
            choice.split,
            options,
            classes_of(images, classes, most),
            groups_per_class=groups_per_class,
            smallest=smallest,
            deadline=deadline,
            progress=progress,
        )
        found = sorted(peeling.run(), key=lambda one: one.label)  # stable: groups of a class stay in order
        first = {one.label: one for one in reversed(found)}.values()
        coverage = fmean(one.coverage for one in first) if first else 0.0
        alone = len(images.counts) == 1
        warn_if_degenerate(model, images, choice, coverage=coverage, alone=alone, logits=logits, stacklevel=3)
    return Groups(
        found=tuple(found),
        cut=choice.split.name,
        cuts=choice.rows,
        predicted=images.predicted,
        labels=images.labels,
        seed=seed,
        seconds=time.perf_counter() - begun,
        notes=tuple(peeling.notes),
    )


def _counts(classes: Tensor) -> dict[int, int]:
    found, counts = torch.unique(classes, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
