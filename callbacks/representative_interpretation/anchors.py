"""From images to interpretations: the boundaries around each, one pass over the reference, the choice of planes."""

import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.boundaries import find_planes
from fulgurite.callbacks.representative_interpretation.cover import covered, greedy_cover
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation
from fulgurite.callbacks.representative_interpretation.optimum import optimal_cover
from fulgurite.callbacks.representative_interpretation.planes import Grade, Planes
from fulgurite.callbacks.representative_interpretation.reference import Reference
from fulgurite.callbacks.representative_interpretation.strangers import draw_strangers

_PROBES = 16  # reference images that a certificate looks towards
_BLOCK = 512 * 2**20  # bytes of the planes of one pass
_AT_LEAST, _RIVALS = 5, 20  # boundaries with each other class, of 20 at most
_PATIENCE = 60.0  # seconds for a proven optimum


@dataclass(frozen=True)
class Options:
    """How an interpretation is found; see :func:`~….interpreting.interpret`.

    Example:
        >>> Options().boundaries
        50
    """

    boundaries: int = 50
    delta: int | None = None
    exact: bool = False
    maps: Maps = "channel"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("boundaries", 1), ("delta", 0), ("seed", 0)):
            if (value := getattr(self, name)) is not None or name != "delta":
                object.__setattr__(self, name, whole(name, value, least=least))  # NumPy's numbers are no JSON
        if self.maps not in get_args(Maps):
            raise ValueError(f"got maps={self.maps!r}; expected one of {', '.join(get_args(Maps))}")


def whole(name: str, value: object, *, least: int) -> int:
    """A whole number, NumPy's too, as Python's.

    Raises:
        ValueError: it is none, or below the least.

    Example:
        >>> whole("delta", torch.tensor(3), least=0)
        3
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"got {name}={value!r}; expected a whole number from {least} on")
    return number


def boundaries_of(options: Options, rivals: int) -> int:
    """How many boundaries are sampled around an image: more than asked for, where each other class is to have five.

    Args:
        options: with the number that was asked for.
        rivals: other classes that are predicted; of more than 20 each cannot have its five, and it stays at 100.

    Example:
        >>> boundaries_of(Options(), 2), boundaries_of(Options(), 11), boundaries_of(Options(), 999)
        (50, 55, 100)
    """
    return max(options.boundaries, _AT_LEAST * min(rivals, _RIVALS))


@dataclass(frozen=True, eq=False)
class Anchor:
    """An image to interpret.

    Attributes:
        image: as the reference's are, without batch axis.
        features: its ψ (K, H, W).
        label: c, its predicted class.
        index: where it is in the reference; ``None`` for an image from elsewhere.
        gone: (N,) own reference images that earlier groups hold, which count no more; ``None``: none.

    Example:
        >>> Anchor(torch.zeros(1, 4, 4), torch.zeros(2, 2, 2), label=3).index is None
        True
    """

    image: Tensor
    features: Tensor
    label: int
    index: int | None = None
    gone: Tensor | None = None


def anchors_of(reference: Reference, split: Split, index: Sequence[int]) -> list[Anchor]:
    """Reference images as anchors.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> [anchor.index for anchor in anchors_of(Reference(images), split(net, "0", images), [2, 0])]
        [2, 0]
    """
    features = reference.take(split, torch.as_tensor(index, dtype=torch.long))
    predicted = reference.predicted
    return [
        Anchor(reference.images[number], psi, int(predicted[number]), number)
        for number, psi in zip(index, features, strict=True)
    ]


def interpret_in_blocks(
    reference: Reference,
    split: Split,
    anchors: Sequence[Anchor],
    options: Options,
    *,
    until: Callable[[list[Interpretation]], bool] = lambda found: False,
    deadline: float | None = None,
) -> list[Interpretation]:
    """Interpret each image, as many in one pass over the reference as memory allows where passes are dear.

    Args:
        reference: the images.
        split: of the net.
        anchors: the images to interpret.
        options: how.
        until: is shown what was found so far after every pass; where it says true, the rest is left out.
        deadline: ``time.monotonic()`` after which no optimum is looked for.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> reference, parts = Reference(images), split(net, "0", images)
        >>> len(interpret_in_blocks(reference, parts, anchors_of(reference, parts, [0, 1]), Options(), until=bool))
        1
    """
    reference.read(split)
    # Where feature maps are at hand, a pass costs next to nothing, and one anchor at a time needs the least memory.
    numbers = boundaries_of(options, len(reference.counts) - 1) * (2 * math.prod(split.shape) + len(reference))
    size = max(1, _BLOCK // (8 * numbers)) if reference.streams else 1
    found: list[Interpretation] = []
    for start in range(0, len(anchors), size):
        found += interpret_anchors(reference, split, anchors[start : start + size], options, deadline=deadline)
        if until(found):
            break
    return found


def interpret_anchors(
    reference: Reference,
    split: Split,
    anchors: Sequence[Anchor],
    options: Options,
    *,
    deadline: float | None = None,
) -> list[Interpretation]:
    """Interpret each image; all their planes meet the reference in one pass.

    The planes and their values take Q·(2d + N) numbers an anchor: the caller says how many anchors go together.
    A proven optimum is looked for until ``deadline`` (of ``time.monotonic()``), and no longer than a minute each.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> reference, parts = Reference(images), split(net, "0", images)
        >>> found = interpret_anchors(reference, parts, anchors_of(reference, parts, [0, 1]), Options())
        >>> [0 in one.members.tolist() or 1 in one.members.tolist() for one in found]
        [True, True]
    """
    begun = time.perf_counter()
    reference.read(split)
    sampled = [_sample(reference, split, anchor, options) for anchor in anchors]
    distinct = [planes.unique() for _, planes in sampled]
    values = _values(reference, split, distinct)
    found = [
        _conclude(reference, split, anchor, options, *each, deadline=deadline)
        for anchor, each in zip(anchors, zip(sampled, distinct, values, strict=True), strict=True)
    ]
    seconds = (time.perf_counter() - begun) / max(1, len(found))
    return [replace(one, seconds=seconds) for one in found]


def _sample(reference: Reference, split: Split, anchor: Anchor, options: Options) -> tuple[int, Planes]:
    """How many segments were walked, and the planes that were met."""
    generator = torch.Generator().manual_seed(options.seed)
    predicted = reference.predicted
    rivals = sum(label != anchor.label for label in reference.counts)
    count = boundaries_of(options, rivals)
    drawn = draw_strangers(
        predicted, reference.logits, label=anchor.label, count=count, generator=generator, at_least=_AT_LEAST
    )
    probes = torch.randperm(len(reference), generator=generator)[:_PROBES]
    ends = reference.take(split, drawn) if len(drawn) else anchor.features.new_empty((0, *anchor.features.shape))
    planes = find_planes(
        split.head,
        anchor.features,
        ends,
        label=anchor.label,
        probes=reference.take(split, probes),
        seed=options.seed,
        exact=split.piecewise_linear,
        dtype=split.dtype,
    )
    return len(drawn), planes


def _values(reference: Reference, split: Split, planes: Sequence[Planes]) -> list[Tensor]:
    """The value of each reference image at each plane, (N, Q) an entry."""
    values = [torch.empty(len(reference), len(one), dtype=torch.float64) for one in planes]
    if any(len(one) for one in planes):
        for part, features in reference.features(split):
            for out, one in zip(values, planes, strict=True):
                out[part] = one.value(features).cpu()
    return values


def _conclude(
    reference: Reference,
    split: Split,
    anchor: Anchor,
    options: Options,
    walk: tuple[int, Planes],
    distinct: Planes,
    values: Tensor,
    *,
    deadline: float | None,
) -> Interpretation:
    predicted, label = reference.predicted, anchor.label
    walked, sampled = walk
    own = predicted == label
    off = (values >= 0) != distinct.positive.cpu()
    counted = torch.ones_like(own) if anchor.gone is None else ~anchor.gone
    rows, mine = off[counted].numpy(), own[counted].numpy()
    cover = greedy_cover(rows, mine, delta=options.delta)
    notes = _notes(own, walked, sampled, options, cover.least)
    if (narrow := anchor.features.dtype).itemsize < 4:
        notes.append(f"the net computes in {_name(narrow)}: its classes are those of its head in {_name(split.dtype)}")
    gap = None
    if options.exact:
        limit = _PATIENCE if deadline is None else min(_PATIENCE, deadline - time.monotonic())
        best = optimal_cover(rows, mine, delta=options.delta, time_limit=limit) if limit > 0 else None
        if best is None:
            within = f"within {limit:.0f} s" if limit > 0 else "in time"
            notes.append(f"the optimum was not proven {within}: these are the greedy algorithm's planes")
        else:
            gap = (best.own - cover.own) / best.own if best.own else 0.0
            cover = best if best.own > cover.own else cover
    inside = torch.from_numpy(covered(off.numpy(), cover.planes)) & counted
    members = inside.nonzero().flatten()
    chosen = list(cover.planes)
    planes = _kept(distinct.select(chosen))
    origin = planes.value(anchor.features[None].cpu())
    distances = (values[members][:, chosen] - origin).abs().sum(dim=1)
    strangers = int((inside & ~own).sum())
    kept = int((inside & own).sum())
    truth = None if reference.labels is None else Counter(reference.labels[members].tolist())
    return Interpretation(
        label=label,
        cut=split.name,
        mode="exact" if split.piecewise_linear else "tangent",
        planes=planes,
        sampled=len(sampled),
        reference_index=anchor.index,
        members=members,
        distances=distances,
        own=kept,
        strangers=strangers,
        delta=cover.delta,
        coverage=_ratio(kept, int(own.sum())),
        purity=_ratio(kept, kept + strangers),
        agreement=_agreement(values, distinct, reference.logits),
        grades={grade: _ratio(sampled.grade.count(grade), len(sampled)) for grade in get_args(Grade)},
        gap=gap,
        label_mix=None if truth is None else dict(sorted(truth.items())),
        class_size=int(own.sum()),
        reference_size=len(reference),
        maps=options.maps,
        seconds=0.0,
        seed=options.seed,
        notes=tuple(notes),
        # Copies: views would keep all images and feature maps that they are of alive.
        image=anchor.image.detach().cpu().clone(),
        anchor=anchor.features.detach().cpu().clone(),
        split=split,
        fingerprint=reference.fingerprint,
        batch_size=reference.batch_size,
    )


def _notes(own: Tensor, walked: int, sampled: Planes, options: Options, least: int) -> list[str]:
    strangers = int((~own).sum())
    notes = []
    if not bool(own.any()):
        notes.append(f"no reference image is predicted as class {sampled.label}: coverage is not defined")
    if not strangers:
        notes.append(f"every reference image is predicted as class {sampled.label}: no boundary, and all is covered")
    elif strangers < options.boundaries:
        notes.append(f"only {strangers} reference images are of another class: all are used, not {options.boundaries}")
    elif walked > options.boundaries:
        notes.append(f"{walked} boundaries are sampled, not {options.boundaries}, to meet more of the other classes")
    if strangers and not len(sampled):
        notes.append("no boundary was met on any segment: all is covered")
    elif len(sampled) < walked:
        notes.append(f"{walked - len(sampled)} of {walked} segments gave no boundary, as where classes tie all over")
    if options.delta is not None and options.delta < least:
        notes.append(f"{least} strangers are inside whatever is chosen, so that δ is {least} and not {options.delta}")
    return notes


def _agreement(values: Tensor, planes: Planes, logits: Tensor) -> float:
    """How often a plane says of a reference image what the net says: the sign of z_c − z_j."""
    if not len(planes):
        return float("nan")
    truth = logits[:, [planes.label]] >= logits[:, planes.rival.cpu()]
    return float(((values >= 0) == truth).double().mean())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _kept(planes: Planes) -> Planes:
    """On the CPU, and without the crossings: nothing asks for them again, and they are as large as the weights."""
    tensors = ("weight", "bias", "rival", "residual", "positive")
    kept = {name: getattr(planes, name).detach().cpu() for name in tensors}
    return replace(planes, **kept, point=torch.full((), torch.nan, dtype=planes.weight.dtype).expand_as(planes.weight))
