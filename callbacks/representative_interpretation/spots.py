"""Spots: small parts of a picture, the same for all images of a group, and what pasting them into others does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label as label_pieces
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.heatmap import Maps
from fulgurite.callbacks.representative_interpretation.pixels import hottest, is_at_edge, place_of

HOT = 0.1  # share of the pixels that is called a group's spot: where its maps are hottest
TURNED = 0.05  # one image in twenty that turns by pixels at an edge is more than the background that they should be
_CORE = 0.03  # share of the pixels that a suspect is first sought by
_ALIKE = 0.1  # mean difference, as a share of the pixels' range, up to which two images are the same in a spot
_SHARED, _RARE = 0.25, 0.1  # so many members at least, and strangers at most, have the same pixels there: no accident
_FEWEST = 8  # members: of a handful, some are always alike somewhere
_LEAST = 4  # pixels: single ones are alike by chance
_MEMBERS, _GIVERS, _PASTED = 128, 8, 4


@dataclass(frozen=True, eq=False)
class Spot:
    """A part of the picture.

    Attributes:
        where: (H, W) bool.
        kind: the kind of map whose mass in it is told: the usual one, or that which has more there.
        turned: share of images of other predictions that turn into the group's class once one member's pixels are
            pasted there; nan where it was not tried.
        alike: share of the members that have the same pixels there, of a spot that stands out by it; else nan.
        alike_elsewhere: share of images of other predictions that have them too.
        takers: (P,) a few of the images that turned.
        pasted: (P, …) these images with the spot in them.
    """

    where: NDArray[np.bool_]
    kind: Maps
    turned: float
    alike: float
    alike_elsewhere: float
    takers: Tensor
    pasted: Tensor

    @property
    def place(self) -> str:
        """Where it lies, in words."""
        return place_of(self.where)

    @property
    def decides(self) -> bool:
        """Whether many members and few others share it, at an edge, and the network goes by it."""
        return self.alike == self.alike and self.turned >= TURNED


def find_spot(
    mean_maps: Mapping[Maps, NDArray[np.float64]],
    usual: Maps,
    images: Tensor,
    *,
    members: Tensor,
    strangers: Tensor,
    label: int,
    classify: Callable[[Tensor], Tensor],
    tried: int,
    chance: np.random.Generator,
) -> Spot:
    """The spot of a group that a person should know of.

    Suspects are where maps of either kind are hottest, and where members' pixels lie farthest from those of other
    predictions. A suspect at an edge or in a corner *stands out* if many members and few others have the same pixels
    there: things move from picture to picture, a watermark, a border or a scanner's text do not. Pasting these pixels
    into images of other predictions tells whether the network goes by them. The first suspect of which all of this
    holds is the spot. Without one, it is where the group's maps are hottest.

    Args:
        mean_maps: (H, W) the group's mean map, of each kind.
        usual: the kind that is shown.
        images: (N, …, H, W) the sample.
        members: (M,) indices of members that are predicted as the class, the nearest first.
        strangers: (S,) indices of images of other predictions.
        label: the class.
        classify: from images to logits (B, C).
        tried: so many images go through the network, about, for each thing that is tried; 0: nothing is.
        chance: private random numbers.

    Example:
        >>> images = torch.rand(80, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> images[:20, :, -3:, -3:] = 1.0
        >>> def classify(images):  # class 1 where the corner is bright
        ...     bright = images[:, 0, -3:, -3:].mean((1, 2)) > 0.9
        ...     return torch.stack([~bright, bright], dim=1).float()
        >>> maps = {"channel": np.full((12, 12), 1 / 144), "elementwise": np.full((12, 12), 1 / 144)}
        >>> spot = find_spot(
        ...     maps, "channel", images, members=torch.arange(20), strangers=torch.arange(20, 80), label=1,
        ...     classify=classify, tried=60, chance=np.random.default_rng(0),
        ... )  # fmt: skip
        >>> spot.decides, spot.place, spot.turned, spot.alike
        (True, 'the bottom right corner', 1.0, 1.0)
    """
    middle = hottest(mean_maps[usual], HOT)
    if not tried or not len(members) or not len(strangers) or not middle.any():
        return Spot(middle, usual, float("nan"), float("nan"), float("nan"), members[:0], images[:0])
    chosen = strangers[torch.from_numpy(chance.permutation(len(strangers))[:tried])]
    unlike = _unlike(images, members, strangers)
    for heat in (unlike, *mean_maps.values()):
        shared = _shared(images, heat, members, strangers)
        shared_enough = shared.alike >= max(_SHARED, _FEWEST / len(members)) and shared.alike_elsewhere <= _RARE
        if not shared_enough or not is_at_edge(shared.where) or shared.where.sum() < _LEAST:
            continue
        turned, takers, pasted = _paste(images, shared.where, shared.giver, chosen, label, classify)
        masses = {kind: float(mean_map[shared.where].sum()) for kind, mean_map in mean_maps.items()}
        kind = max(masses, key=lambda kind: masses[kind])
        spot = Spot(shared.where, kind, turned, shared.alike, shared.alike_elsewhere, takers, pasted)
        if spot.decides:
            return spot
    givers = evenly(members, _GIVERS)
    turned, takers, pasted = _paste(images, middle, givers, chosen[: max(1, tried // len(givers))], label, classify)
    return Spot(middle, usual, turned, float("nan"), float("nan"), takers, pasted)


def evenly(index: Tensor, count: int) -> Tensor:
    """At most ``count`` of the indices, spread evenly.

    Example:
        >>> evenly(torch.arange(10), 4).tolist()
        [0, 3, 6, 9]
    """
    if len(index) <= count:
        return index
    return index[torch.linspace(0, len(index) - 1, count).round().long()]


def _unlike(images: Tensor, members: Tensor, strangers: Tensor) -> NDArray[np.float64]:
    """(H, W) how far members' pixels lie from those of other predictions, in their standard deviations."""
    others = images[strangers].float()
    spread = others.std(0, correction=0) + 0.1 * (images.amax() - images.amin())
    apart = (images[members].float().mean(0) - others.mean(0)).abs() / spread
    return (apart if apart.ndim == 2 else apart.amax(0)).double().numpy()


@dataclass(frozen=True, eq=False)
class _Shared:
    """Pixels that members have in common with one of them, the giver."""

    where: NDArray[np.bool_]
    giver: Tensor
    alike: float
    alike_elsewhere: float


def _shared(images: Tensor, heat: NDArray[np.float64], members: Tensor, strangers: Tensor) -> _Shared:
    """Where a map is hottest: pixels that the most members and the fewest strangers share, and how many do."""
    few = evenly(members, _MEMBERS)
    limit = _ALIKE * float((images.amax() - images.amin()).clamp_min(1e-12))
    core = torch.from_numpy(hottest(heat, _CORE))
    mine = images[few][..., core].float().flatten(1)
    theirs = images[strangers][..., core].float().flatten(1)
    near = torch.cdist(mine, mine, p=1) <= limit * mine.shape[1]
    far = torch.cdist(mine, theirs, p=1) <= limit * mine.shape[1]
    best = int((near.double().mean(1) - far.double().mean(1)).argmax())
    # From the core on, as far as those who share it stay the same.
    apart = (images[few[near[best]]].float() - images[few[best]].float()).abs().mean(0)
    same = (apart if apart.ndim == 2 else apart.amax(0)) <= limit
    where = torch.from_numpy(_joined(core.numpy(), hottest(heat, HOT) & same.numpy()))

    def share(index: Tensor) -> float:
        distance = (images[index][..., where].float() - images[few[best]][..., where].float()).abs()
        return float((distance.flatten(1).mean(1) <= limit).double().mean())

    return _Shared(where.numpy(), few[best : best + 1], share(few), share(strangers))


def _joined(core: NDArray[np.bool_], more: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The piece of both together, pixels touching by a side or a corner, that holds most of the core."""
    pieces, count = label_pieces(core | more, structure=np.ones((3, 3)))
    if not count:
        return core
    return np.asarray(pieces == np.bincount(pieces[core], minlength=count + 1).argmax())


def _paste(
    images: Tensor,
    where: NDArray[np.bool_],
    givers: Tensor,
    takers: Tensor,
    label: int,
    classify: Callable[[Tensor], Tensor],
) -> tuple[float, Tensor, Tensor]:
    """Paste each giver's pixels into all takers; of the giver that turned most: the share, and a few that turned."""
    mask = torch.from_numpy(where)
    pasted = images[takers][None].repeat(len(givers), *[1] * images.ndim)
    pasted[..., mask] = images[givers][..., mask][:, None]
    turned = (classify(pasted.flatten(0, 1)).argmax(1) == label).view(len(givers), -1)
    best = int(turned.sum(1).argmax())
    shown = torch.nonzero(turned[best]).flatten()[:_PASTED]
    return float(turned[best].double().mean()), takers[shown], pasted[best, shown]
