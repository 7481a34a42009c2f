"""Peeling a predicted class: interpret its middle, take away what that covers, go on with the rest."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from fulgurite.callbacks.representative_interpretation.anchors import Options, anchors_of, interpret_in_blocks
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation
from fulgurite.callbacks.representative_interpretation.medoids import medoids
from fulgurite.callbacks.representative_interpretation.reference import Reference


@dataclass(eq=False)
class Peeling:
    """Groups of each class, round by round: every class has its first group before any has a second.

    Attributes:
        reference: the images, as read at the split.
        split: of the net.
        options: of each interpretation.
        classes: which predicted classes.
        groups_per_class: rounds at most.
        smallest: a further group needs so many own images that no group holds yet.
        deadline: ``time.monotonic()`` after which no further group is begun.
        progress: called after each pass with the groups so far, and how many there will be at most.
        found: the groups so far, in the order in which they were found.
        notes: what was left out.

    Example:
        >>> import torch
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> reference, parts = Reference(images), split(net, "0", images)
        >>> reference.read(parts)
        >>> peeling = Peeling(reference, parts, Options(), classes_of(reference, None), groups_per_class=1)
        >>> len(peeling.run()) == len(reference.counts)
        True
    """

    reference: Reference
    split: Split
    options: Options
    classes: tuple[int, ...]
    groups_per_class: int = 3
    smallest: int = 10
    deadline: float | None = None
    progress: Callable[[int, int], None] | None = None
    found: list[Interpretation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> list[Interpretation]:
        """Peel until enough groups are found, too few images are left, or time is over."""
        predicted = self.reference.predicted
        self._rest = {label: predicted == label for label in self.classes}
        most = len(self.classes) * self.groups_per_class
        for round_ in range(self.groups_per_class):
            open_ = [label for label in self.classes if not round_ or int(self._rest[label].sum()) >= self.smallest]
            if not open_ or (round_ and self._late()):
                break
            self._round(open_, most)
            if self._late():
                break
        first = {one.label for one in self.found}
        if missing := [label for label in self.classes if label not in first]:
            self.notes.append(
                f"time was over before {len(missing)} of {len(self.classes)} classes had a group: "
                + ", ".join(map(str, missing[:10]))
                + (", …" if len(missing) > 10 else "")
            )
        elif self._late() and any(int(rest.sum()) >= self.smallest for rest in self._rest.values()):
            self.notes.append("time was over before every class had all of its groups")
        return self.found

    def _round(self, labels: list[int], most: int) -> None:
        """One more group for each of the classes."""
        middle = medoids(self.reference, self.split, {label: self._rest[label] for label in labels})
        before = len(self.found)
        pending = iter(anchors_of(self.reference, self.split, list(middle.values())))
        anchors = [
            replace(anchor, gone=(self.reference.predicted == anchor.label) & ~self._rest[anchor.label])
            for anchor in pending
        ]

        def note(groups: list[Interpretation]) -> bool:
            if self.progress is not None:
                self.progress(before + len(groups), most)
            return self._late()

        found = interpret_in_blocks(
            self.reference, self.split, anchors, self.options, until=note, deadline=self.deadline
        )
        for one in found:
            self.found.append(one)
            self._rest[one.label] = self._rest[one.label].clone()
            self._rest[one.label][one.members] = False

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


def classes_of(reference: Reference, classes: Iterable[int] | None, most: int | None = None) -> tuple[int, ...]:
    """The predicted classes to peel, ascending: those named, or the ``most`` of the most images.

    Raises:
        ValueError: a class that no image is predicted as.

    Example:
        >>> import torch
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> reference = Reference(images)
        >>> reference.read(split(net, "0", images))
        >>> classes_of(reference, None) == tuple(reference.counts)
        True
    """
    counts = reference.counts
    if classes is None:
        return tuple(sorted(sorted(counts, key=lambda label: -counts[label])[:most]))
    for label in (wanted := sorted({int(label) for label in classes})):
        if label not in counts:
            there = ", ".join(map(str, counts))
            raise ValueError(f"got class {label}, but no reference image is predicted as it; there are {there}")
    return tuple(wanted)
