"""One pass over a model: its groups, what they look like, what is suspicious, what has changed since the last pass."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.answers import answers
from fulgurite.callbacks.representative_interpretation.clues import Clue, find_clues
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.drift import Pair, Snapshot, mean_jaccard
from fulgurite.callbacks.representative_interpretation.groups import interpret_classes
from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.reference import Reference, at_home
from fulgurite.callbacks.representative_interpretation.sampling import Sample
from fulgurite.callbacks.representative_interpretation.untouched import untouched
from fulgurite.callbacks.representative_interpretation.views import View, look

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.groups import Groups
    from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation

_BATCH = 64
_SEARCH = 0.6  # share of a pass's time for finding groups; the rest is for looking at them


@dataclass(frozen=True)
class HeldOut:
    """A group on images that it was not found on.

    Attributes:
        coverage: share of the images predicted as its class that it covers; nan without any.
        purity: share of the covered images that are predicted as its class; nan where none is covered.
        own: how many images are predicted as its class.
        covered: how many images it covers.
    """

    coverage: float
    purity: float
    own: int
    covered: int


@dataclass(frozen=True, eq=False)
class Survey:
    """Everything that one pass found; made by :func:`survey`.

    Attributes:
        groups: the groups, of :func:`~fulgurite.callbacks.representative_interpretation.interpret_classes`.
        views: what a person looks at, for as many groups as there was time for.
        clues: alarms.
        held_out: each group on images that it was not found on; empty without such images.
        snapshot: what is remembered of the pass, with its numbers.
        pairs: groups matched with those of the pass before.
        before: the pass that they are matched with.
        predicted: how many reference images are predicted as each class.
        sample: the reference images.
        class_names: names of classes, where they are known.
        seconds: how long the pass took.
        notes: what a reader must know.
    """

    groups: "Groups"
    views: tuple[View, ...]
    clues: tuple[Clue, ...]
    held_out: tuple[HeldOut, ...]
    snapshot: Snapshot
    pairs: tuple[Pair, ...]
    before: Snapshot | None
    predicted: dict[int, int]
    sample: Sample
    class_names: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = field(default=())

    def name(self, label: int) -> str:
        """A class in words."""
        return class_name(label, self.class_names)


def class_name(label: int, names: Sequence[str]) -> str:
    """A class in words: its name, if there is one, else its number.

    Example:
        >>> class_name(1, ["cat", "dog"]), class_name(7, [])
        ('dog', 'class 7')
    """
    return names[label] if 0 <= label < len(names) else f"class {label}"


def survey(
    model: nn.Module,
    sample: Sample,
    *,
    held_out: Sample | None = None,
    epoch: int = 0,
    step: int = 0,
    full: bool = True,
    cut: str = "auto",
    boundaries: int = 50,
    groups_per_class: int = 3,
    max_classes: int = 20,
    maps: Maps = "channel",
    alarm: float = 0.9,
    time_budget: float = math.inf,
    logits: Callable[[Any], Tensor] | None = None,
    class_names: Sequence[str] = (),
    before: Snapshot | None = None,
    seed: int = 0,
) -> Survey:
    """Interpret a model's predictions on a sample of images, and gather what a report needs.

    Args:
        model: from images to logits (B, C).
        sample: the reference images R, with labels if there are some.
        held_out: other images, on which groups are tested.
        epoch: for the record.
        step: for the record.
        full: a light pass looks at fewer images of each group.
        cut: where to cut the network, or ``auto``.
        boundaries: boundaries sampled for each group.
        groups_per_class: groups peeled off each predicted class.
        max_classes: interpret the predicted classes of the most images, so many at most.
        maps: the kind of heat map.
        alarm: least share of a group's commonest true label.
        time_budget: seconds; classes and groups that it leaves no time for are left out, with a note.
        logits: from the model's output to logits, where it is not a tensor.
        class_names: names of classes, by number.
        before: the pass to compare with.
        seed: of the private random numbers.

    Raises:
        ValueError: images without height and width; and as
            :func:`~fulgurite.callbacks.representative_interpretation.interpret_classes`.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> images = torch.rand(60, 1, 6, 6, generator=draw)
        >>> head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), head)
        >>> for weight in net.parameters():
        ...     _ = nn.init.normal_(weight, std=0.5, generator=draw)
        >>> found = survey(net, Sample(images, None, 60), boundaries=10, groups_per_class=2)
        >>> len(found.views) == len(found.groups), 0 < found.snapshot.values["coverage"] <= 1, found.clues
        (True, True, ())
    """
    start = time.monotonic()
    if sample.images.ndim not in (3, 4):
        raise ValueError(
            f"got images {tuple(sample.images.shape)}; expected (N, C, H, W), or (N, H, W): pass images_fn, from a "
            "batch to images that the network takes in this form"
        )
    with untouched(model, seed=seed):
        reference = Reference(sample.images, labels=sample.labels)
        # What it warns of is for the reader of the report, not for the log of a training.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            groups = interpret_classes(
                model,
                reference,
                groups_per_class=groups_per_class,
                max_classes=max_classes,
                cut=cut,
                boundaries=boundaries,
                maps=maps,
                logits=logits,
                deadline=start + _SEARCH * time_budget,
                seed=seed,
            )
        divided = groups[0].split

        def classify(images: Tensor) -> Tensor:
            parts = [divided.logits(at_home(part, model)).detach().cpu() for part in images.split(_BATCH)]
            return torch.cat(parts).float()

        views = look(
            groups,
            sample,
            logits=reference.logits.float(),
            classify=classify,
            images_shown=8 if full else 6,
            tried=128,
            deadline=start + time_budget,
            seed=seed,
        )
        tested: tuple[HeldOut, ...] = ()
        tested_all = HeldOut(math.nan, math.nan, 0, 0)
        if held_out is not None and len(held_out):
            tested, tested_all = _test(groups, held_out, divided, model)
    clues = find_clues(views, alarm=alarm, name=lambda label: class_name(label, class_names))
    members = tuple((group.label, tuple(torch.as_tensor(group.members).tolist())) for group in groups)
    snapshot = Snapshot(epoch, step, "full" if full else "light", groups.cut, sample.fingerprint(), members)
    pairs = snapshot.since(before)
    snapshot.values.update(_values(groups, views, clues, tested_all, pairs))  # type: ignore[attr-defined]
    warned = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    notes = list(dict.fromkeys([*warned, *groups.notes, *(note for group in groups for note in group.notes)]))
    predicted = groups.predicted_counts
    if max_classes < len(predicted):
        notes.append(
            f"{max_classes} of {len(predicted)} predicted classes are interpreted, those of the most images; raise "
            "max_classes for more"
        )
    if len(views) < len(groups):
        notes.append(f"time ran out: {len(groups) - len(views)} of {len(groups)} groups have no pictures")
    untried = sum(math.isnan(view.drop) for view in views)
    if untried:
        notes.append(f"{untried} of {len(groups)} groups were not tried by masking and pasting, as time ran out")
    if before is not None and not pairs:
        what = "other images" if before.sample != snapshot.sample else f"another cut, {before.cut}"
        notes.append(f"no drift is given: the pass before looked at {what}")
    return Survey(
        groups=groups,
        views=views,
        clues=clues,
        held_out=tested,
        snapshot=snapshot,
        pairs=pairs,
        before=before if pairs else None,
        predicted=predicted,
        sample=sample,
        class_names=tuple(class_names),
        seconds=time.monotonic() - start,
        notes=tuple(notes),
    )


def _test(
    groups: Sequence["Interpretation"], held_out: Sample, divided: Split, model: nn.Module
) -> tuple[tuple[HeldOut, ...], HeldOut]:
    """Every group on the held-out images, whose feature maps are computed once; and each class's groups together."""
    sides: list[list[Tensor]] = [[] for _ in groups]
    predictions = []
    for begin in range(0, len(held_out.images), _BATCH):
        part = held_out.images[begin : begin + _BATCH]
        features, logits = answers(divided, at_home(part, model), what="held-out images", first=begin)
        predictions.append(logits.argmax(1).cpu())
        for found, kept in zip(groups, sides, strict=True):
            kept.append(found.planes.same_side(features.cpu()).all(1).cpu())
    predicted = torch.cat(predictions)
    inside = [torch.cat(kept) for kept in sides]
    tested = tuple(_judged(covered, predicted == found.label) for found, covered in zip(groups, inside, strict=True))
    own = covered = both = 0
    for label in {found.label for found in groups}:
        together = torch.stack([one for found, one in zip(groups, inside, strict=True) if found.label == label]).any(0)
        mine = predicted == label
        own, covered, both = own + int(mine.sum()), covered + int(together.sum()), both + int((together & mine).sum())
    return tested, HeldOut(_ratio(both, own), _ratio(both, covered), own, covered)


def _judged(covered: Tensor, own: Tensor) -> HeldOut:
    both = int((covered & own).sum())
    return HeldOut(_ratio(both, int(own.sum())), _ratio(both, int(covered.sum())), int(own.sum()), int(covered.sum()))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _values(
    groups: "Groups", views: Sequence[View], clues: Sequence[Clue], tested: HeldOut, pairs: Sequence[Pair]
) -> dict[str, float]:
    """The numbers for loggers; what is not known is left out."""
    values = {
        "coverage": groups.coverage,
        "purity": groups.purity,
        "certificate": groups.certificate,
        "groups": float(len(groups)),
        "planes": _mean([len(group.planes) for group in groups]),
        "agreement": _mean([group.agreement for group in groups]),
        "label_purity": min((p for group in groups if (p := group.label_purity) is not None), default=math.nan),
        "held_out_coverage": tested.coverage,
        "held_out_purity": tested.purity,
        "average_drop": _mean([view.drop for view in views]),
        "alarms": float(len(clues)),
        "mixed_groups": float(sum(clue.kind == "mixed" for clue in clues)),
        "spots": float(sum(clue.kind == "spot" for clue in clues)),
        "turned": max((t for view in views if not math.isnan(t := view.spot.turned)), default=math.nan),
        "jaccard": mean_jaccard(pairs),
        "drift": 1 - mean_jaccard(pairs),
    }
    return {name: float(value) for name, value in values.items() if value is not None and not math.isnan(value)}


def _mean(values: Sequence[float]) -> float:
    """Mean over what is known."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
