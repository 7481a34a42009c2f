"""What a person looks at in a group: its images with their maps, what they have in common, and what a cue does."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.heatmap import Maps, heatmaps
from fulgurite.callbacks.representative_interpretation.masking import average_drop, average_increase, keep_top
from fulgurite.callbacks.representative_interpretation.pixels import Scale
from fulgurite.callbacks.representative_interpretation.reference import at_home
from fulgurite.callbacks.representative_interpretation.sampling import Sample
from fulgurite.callbacks.representative_interpretation.spots import Spot, evenly, find_spot

if TYPE_CHECKING:
    from fulgurite.callbacks.representative_interpretation.interpretation import Interpretation

Role = Literal["centre", "member", "odd", "left out", "pasted"]
KEPT = 0.2  # share of the pixels kept for average drop and increase, as in the paper's table
_BATCH = 64
_MAPPED = 48  # members whose maps are averaged: more do not change the mean that one sees


@dataclass(frozen=True, eq=False)
class Shown:
    """One image as it is shown.

    Attributes:
        index: in the sample.
        role: the image that the group started from, a near member, a member of another true class than most, an image
            of the same prediction that the group leaves out, or one with the spot pasted in.
        pixels: (H, W, 3) uint8.
        heat: (h, w) in 0..1, the group's map on this image.
        predicted: the network's class.
        truth: the true class, if known.
        distance: semantic distance from the image that the group started from; inf for one not covered.
    """

    index: int
    role: Role
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32]
    predicted: int
    truth: int | None
    distance: float


@dataclass(frozen=True, eq=False)
class View:
    """A group as it is shown.

    Attributes:
        found: the interpretation.
        number: of the group in its class, from 0.
        shown: images, by role and then by semantic distance.
        mean_map: (H, W), mean of the maps over members, adding up to 1 (or all 0).
        mean_members: (H, W, 3) uint8, mean of all members.
        mean_rest: (H, W, 3) uint8, mean of the other images of the same prediction; ``None`` without any.
        spot: where the maps are hottest, or a small part at an edge that decides by itself.
        mass: share of the mean map within the spot.
        mass_elsewhere: share of the other groups' mean maps within the same spot; nan without other groups.
        pasted: a few images that the spot turned into the class, with the spot in them; all else that is said of one
            was so before.
        drop: mean relative loss of the class's probability when only the hottest fifth of a member is kept.
        increase: share of members whose probability rises.
    """

    found: "Interpretation"
    number: int
    shown: tuple[Shown, ...]
    mean_map: NDArray[np.float64]
    mean_members: NDArray[np.uint8]
    mean_rest: NDArray[np.uint8] | None
    spot: Spot
    mass: float
    mass_elsewhere: float
    pasted: tuple[Shown, ...]
    drop: float
    increase: float


def look(
    groups: Sequence["Interpretation"],
    sample: Sample,
    *,
    logits: Tensor,
    classify: Callable[[Tensor], Tensor],
    images_shown: int = 8,
    tried: int = 128,
    deadline: float = float("inf"),
    seed: int = 0,
) -> tuple[View, ...]:
    """Views of all groups that there is time for.

    Args:
        groups: interpretations, whose members are indices into the sample.
        sample: the reference images.
        logits: (N, C) of the sample.
        classify: from images to logits, (B, C) on the CPU; leaves no trace in the model.
        images_shown: near members in each view; about half as many others join them.
        tried: images of other classes that a spot is pasted into.
        deadline: in seconds of :func:`time.monotonic`; groups that it leaves no time for have no view, or one in which
            nothing was pasted or masked.
        seed: of the private random numbers.
    """
    scale = Scale(sample.images)
    predicted = logits.argmax(1)
    numbers: dict[int, int] = {}
    drawn = []
    for group, found in enumerate(groups):
        if group and time.monotonic() > deadline:
            break
        number = numbers.setdefault(found.label, 0)
        numbers[found.label] += 1
        drawn.append(_Drawn(found, number, sample, predicted, images_shown))
    views = []
    for group, one in enumerate(drawn):
        chance = np.random.default_rng([seed, 2, group])
        late = bool(group) and time.monotonic() > deadline
        spot = one.spot(classify, 0 if late else tried, chance)
        mean_map = one.mean_maps[spot.kind]
        elsewhere = [float(other.mean_maps[spot.kind][spot.where].sum()) for other in drawn if other is not one]
        drop, increase = (float("nan"), float("nan")) if late else one.masked(logits, classify)
        views.append(
            View(
                found=one.found,
                number=one.number,
                shown=tuple(one.show(scale)),
                mean_map=mean_map,
                mean_members=scale.pixels(_mean(sample.images, one.members)),
                mean_rest=scale.pixels(_mean(sample.images, one.rest)) if len(one.rest) else None,
                spot=spot,
                mass=float(mean_map[spot.where].sum()),
                mass_elsewhere=float(np.mean(elsewhere)) if elsewhere else float("nan"),
                pasted=tuple(one.show_pasted(spot, scale)),
                drop=drop,
                increase=increase,
            )
        )
    return tuple(views)


class _Drawn:
    """A group while its view is made."""

    def __init__(
        self, found: "Interpretation", number: int, sample: Sample, predicted: Tensor, images_shown: int
    ) -> None:
        self.found, self.number, self.sample, self.predicted = found, number, sample, predicted
        self.members = torch.as_tensor(found.members, dtype=torch.int64).cpu()
        inside = torch.zeros(len(sample), dtype=torch.bool)
        inside[self.members] = True
        self.rest = torch.nonzero((predicted == found.label) & ~inside).flatten()
        self.strangers = torch.nonzero((predicted != found.label) & ~inside).flatten()
        self.distance = torch.as_tensor(found.distances).cpu()
        self.near = self.members[torch.argsort(self.distance, stable=True)]
        every = evenly(self.near, _MAPPED)
        self._chosen = self._choose(images_shown)
        wanted = torch.cat([every, *(index for _, index in self._chosen)]).unique()
        size = (int(sample.images.shape[-2]), int(sample.images.shape[-1]))
        parts: dict[Maps, list[Tensor]] = {kind: [] for kind in get_args(Maps)}
        for part in wanted.split(_BATCH):
            features = found.split.features(at_home(sample.images[part], found.split.model)).cpu()
            for kind, heats in parts.items():
                heats.append(heatmaps(found.planes, features, maps=kind, size=size).float())
        averaged = torch.isin(wanted, every)
        self.mean_maps: dict[Maps, NDArray[np.float64]] = {}
        for kind, heats in parts.items():
            total = torch.cat(heats)[averaged].double().sum(0).numpy()
            self.mean_maps[kind] = total / max(float(total.sum()), 1e-12)
        self._heats = dict(zip(wanted.tolist(), torch.cat(parts[found.maps]).numpy(), strict=True))

    def _choose(self, count: int) -> list[tuple[Role, Tensor]]:
        labels = self.sample.labels
        odd = torch.zeros(0, dtype=torch.int64)
        if labels is not None and len(self.near):
            truth = labels[self.near]
            odd = self.near[truth != truth.mode().values]
        near = self.near[~torch.isin(self.near, odd)]
        centre = self.found.reference_index
        first = torch.tensor([] if centre is None else [centre], dtype=torch.int64)
        near = near[~torch.isin(near, first)][: max(0, count - len(first))]
        odd = evenly(odd[~torch.isin(odd, first)], max(1, count // 2))
        return [("centre", first), ("member", near), ("odd", odd), ("left out", evenly(self.rest, count // 2))]

    def show(self, scale: Scale) -> list[Shown]:
        """The chosen images."""
        distances = dict(zip(self.members.tolist(), self.distance.tolist(), strict=True))
        labels = self.sample.labels
        return [
            Shown(
                index,
                role,
                scale.pixels(self.sample.images[index]),
                self._heats[index],
                int(self.predicted[index]),
                None if labels is None else int(labels[index]),
                distances.get(index, float("inf")),
            )
            for role, indices in self._chosen
            for index in indices.tolist()
        ]

    def masked(self, logits: Tensor, classify: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Average drop and increase over members of the group whose maps are at hand."""
        inside = set(self.members.tolist())
        own = [index for index in self._heats if index in inside and self.predicted[index] == self.found.label]
        if not own:
            return float("nan"), float("nan")
        heat = torch.from_numpy(np.stack([self._heats[index] for index in own]))
        kept = classify(keep_top(self.sample.images[own], heat, KEPT))
        full = logits[own]
        return average_drop(full, kept, self.found.label), average_increase(full, kept, self.found.label)

    def spot(self, classify: Callable[[Tensor], Tensor], tried: int, chance: np.random.Generator) -> Spot:
        """The spot that a person should know of."""
        return find_spot(
            self.mean_maps,
            self.found.maps,
            self.sample.images,
            members=self.near[self.predicted[self.near] == self.found.label],
            strangers=self.strangers,
            label=self.found.label,
            classify=classify,
            tried=tried,
            chance=chance,
        )

    def show_pasted(self, spot: Spot, scale: Scale) -> list[Shown]:
        """The images that turned, with the group's map on them."""
        if not len(spot.takers):
            return []
        size = (int(spot.pasted.shape[-2]), int(spot.pasted.shape[-1]))
        features = self.found.split.features(at_home(spot.pasted, self.found.split.model)).cpu()
        heats = heatmaps(self.found.planes, features, maps=self.found.maps, size=size).float().numpy()
        labels = self.sample.labels
        return [
            Shown(
                index,
                "pasted",
                scale.pixels(image),
                heat,
                int(self.predicted[index]),
                None if labels is None else int(labels[index]),
                float("inf"),
            )
            for index, image, heat in zip(spot.takers.tolist(), spot.pasted, heats, strict=True)
        ]


def _mean(images: Tensor, index: Tensor) -> Tensor:
    return images[index].float().mean(0) if len(index) else torch.zeros(images.shape[1:])
