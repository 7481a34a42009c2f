"""How interpretations are scored in benchmarks/representative_interpretation.py: masking, groups, paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor, nn

from fulgurite.callbacks.representative_interpretation.masking import average_drop, average_increase, keep_top
from fulgurite.callbacks.representative_interpretation.untouched import untouched

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
_BATCH = 512


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C) without gradients, in evaluation mode."""
    with untouched(model), torch.no_grad():
        return torch.cat([model(part) for part in images.split(_BATCH)])


@dataclass(frozen=True)
class Kept:
    """What a network makes of the hottest pixels alone.

    Attributes:
        share: of the pixels that were kept.
        drop: AD, lower is better.
        increase: AI, higher is better.
    """

    share: float
    drop: float
    increase: float


def keeping(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    label: int,
    *,
    shares: Sequence[float] = SHARES,
    fill: float | Tensor = 0.0,
) -> list[Kept]:
    """AD and AI of maps (B, H, W) of images (B, …, H, W) at each share of pixels kept."""
    full = logits_of(model, images)
    rows = []
    for share in shares:
        kept = logits_of(model, keep_top(images, maps, share, fill=fill))
        rows.append(Kept(share, average_drop(full, kept, label), average_increase(full, kept, label)))
    return rows


def insertion_deletion(
    model: nn.Module, images: Tensor, maps: Tensor, label: int, *, steps: int = 20, fill: float | Tensor = 0.0
) -> tuple[float, float]:
    """Mean probability of ``label`` while pixels appear, and while they vanish, hottest first.

    The areas under the curves of V. Petsiuk, A. Das, K. Saenko, "RISE", https://arxiv.org/abs/1806.07421: of a good
    map the first is large and the second small.
    """
    levels = np.linspace(0, 1, steps + 1)

    def area(heat: Tensor, shares: np.ndarray) -> float:
        confidence = []
        for share in shares:
            logits = logits_of(model, keep_top(images, heat, float(share), fill=fill))
            confidence.append(float(logits.double().softmax(dim=1)[:, label].mean()))
        return float(np.trapezoid(confidence, levels))

    return area(maps, levels), area(-maps, 1 - levels)


def nearest(x: Tensor, features: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` images that are nearest to x (1, …) in Euclidean distance of their features (B, …)."""
    distance = (features - x).double().flatten(1).norm(dim=1)
    return distance.argsort(stable=True)[:count]


@dataclass(frozen=True)
class Group:
    """A group of images around x, whichever method made it.

    Attributes:
        coverage: share of the images predicted as x that are in the group; NaN without any.
        purity: share of the group that is predicted as x; NaN for an empty group.
    """

    coverage: float
    purity: float


def group(covered: Tensor, predicted: Tensor, label: int) -> Group:
    """Coverage and purity of a group, a (B,) mask, by the network's predictions (B,)."""
    own = predicted == label
    both = int((covered & own).sum())
    shares = [both / total if total else float("nan") for total in (int(own.sum()), int(covered.sum()))]
    return Group(*shares)


def jaccard(one: Tensor, other: Tensor) -> float:
    """How much two groups, (B,) masks, have in common: 1 for equal ones, empty or not."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def paired_interval(ours: Sequence[float], theirs: Sequence[float], *, level: float = 0.95) -> tuple[float, ...]:
    """Mean of the differences ours − theirs and the ends of its t interval; a pair is one training seed."""
    difference = np.asarray(ours) - np.asarray(theirs)
    if len(difference) < 2:
        raise ValueError(f"got {len(difference)} pairs; expected 2 or more for an interval")
    half = t.ppf((1 + level) / 2, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean()), float(difference.mean() - half), float(difference.mean() + half)
