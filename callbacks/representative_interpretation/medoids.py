"""The image in the middle of a group."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.reference import Reference

_BLOCK = 256 * 2**20  # bytes of the groups' means at a time


def medoids(reference: Reference, split: Split, rows: Mapping[int, Tensor]) -> dict[int, int]:
    r"""Give the medoid of each group of reference images: the member with the least summed squared distance to all.

    As :math:`\sum_j ‖ψ_i - ψ_j‖² = n‖ψ_i - \bar ψ‖² + const`, it is the member nearest to the mean, found in two
    passes over the feature maps however large the group is. Of equals the first is taken.

    Args:
        reference: the images.
        split: of the net that reads them.
        rows: for each group, whether an image belongs to it (N,).

    Returns:
        For each group that is not empty, the index of its medoid.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.tensor([0.0, 0.1, 0.2, 9.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
        >>> medoids(Reference(images), split(net, "0", images), {0: torch.tensor([True, True, True, False])})
        {0: 1}
    """
    names = [name for name, member in rows.items() if bool(member.any())]
    block = max(1, _BLOCK // (8 * math.prod(split.shape)))
    found: dict[int, int] = {}
    for start in range(0, len(names), block):
        found |= _nearest(reference, split, {name: rows[name] for name in names[start : start + block]})
    return found


def _nearest(reference: Reference, split: Split, groups: Mapping[int, Tensor]) -> dict[int, int]:
    membership = torch.stack(list(groups.values())).double()
    means: Tensor | None = None
    for part, features in reference.features(split):
        rows = _rows(features)
        total = membership[:, part].to(rows.device) @ rows
        means = total if means is None else means + total
    assert means is not None
    means = means / membership.sum(dim=1, keepdim=True).to(means.device)
    best = dict.fromkeys(groups, (float("inf"), -1))
    for part, features in reference.features(split):
        for mean, (name, member) in zip(means, groups.items(), strict=True):
            inside = member[part].nonzero().flatten()
            if len(inside):
                distances = (_rows(features[inside.to(features.device)]) - mean).square().sum(dim=1)
                nearest = int(distances.argmin())
                best[name] = min(best[name], (float(distances[nearest]), part.start + int(inside[nearest])))
    return {name: index for name, (_, index) in best.items()}


def _rows(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    return (rows.cpu() if rows.device.type == "mps" else rows).double()  # Metal has no float64
