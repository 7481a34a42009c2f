"""What interpretations at a cut say, measured on images that represent a whole reference."""

import math
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from fulgurite.callbacks.representative_interpretation.anchors import (
    Options,
    anchors_of,
    boundaries_of,
    interpret_in_blocks,
)
from fulgurite.callbacks.representative_interpretation.cut import Split
from fulgurite.callbacks.representative_interpretation.cut_rows import CutRow
from fulgurite.callbacks.representative_interpretation.medoids import medoids
from fulgurite.callbacks.representative_interpretation.reference import Reference

MOST_IMAGES = 1000
_MOST_BYTES = 2**30  # of their feature maps: what does not fit would be computed half a dozen times
_INPUTS = 6  # that are interpreted at each cut
_LARGEST = 2**30  # bytes of an interpretation's planes, beyond which a cut is left alone unless it is asked for
_FEW = 5  # of every predicted class, where there is room for so many


class Measuring:
    """Measures cuts of one net, all on the same images.

    A reference of more than 1,000 images is read once, for its predicted classes, and 1,000 of them, drawn by class,
    take its place; their feature maps stay in memory up to 1 GiB.

    Args:
        reference: the images.
        options: of the interpretations. An optimum is not asked for, and δ is taken in proportion.

    Example:
        >>> from fulgurite.callbacks.representative_interpretation.cut import split
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> images = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> Measuring(Reference(images), Options()).row(split(net, "0", images), even_affine=True).affine
        True
    """

    def __init__(self, reference: Reference, options: Options) -> None:
        self.reference = reference
        self.options = options
        self._sample: Reference | None = None

    def row(self, parts: Split, *, even_affine: bool) -> CutRow:
        """Measure a cut: the mean over the medoids of the largest predicted classes, six at most.

        Args:
            parts: of the net.
            even_affine: measure it also where the head is affine, of which all is known.

        Returns:
            A row without a verdict; with one, and nothing measured, where planes would take more than 1 GiB.
        """
        row = CutRow(parts.name, parts.shape, parts.piecewise_linear, parts.affine, None, None, None, None, "")
        if parts.affine and not even_affine:
            return row
        if 16 * boundaries_of(self.options, parts.num_classes - 1) * math.prod(parts.shape) > _LARGEST:
            return replace(row, verdict="too large to be tried: name it to use it")
        sample = self._at(parts)
        counts = sample.counts
        largest = sorted(counts, key=lambda label: (-counts[label], label))[:_INPUTS]
        middle = medoids(sample, parts, {label: sample.predicted == label for label in largest})
        delta = self.options.delta
        delta = delta if delta is None else delta * len(sample) // len(self.reference)
        options = replace(self.options, delta=delta, exact=False)
        found = interpret_in_blocks(sample, parts, anchors_of(sample, parts, list(middle.values())), options)
        certificates = [one.certificate for one in found if one.sampled]
        return replace(
            row,
            coverage=fmean(one.coverage for one in found),
            purity=fmean(one.purity for one in found),
            planes=fmean(len(one.planes) for one in found),
            exact=fmean(certificates) if certificates else None,
        )

    def _at(self, parts: Split) -> Reference:
        """The images to measure with, as read at the cut."""
        reference = self.reference
        if self._sample is None or len(reference) <= MOST_IMAGES:
            reference.read(parts)
        if len(reference) <= MOST_IMAGES and not reference.streams:
            return reference
        if self._sample is None:
            index = stratified(reference.predicted, MOST_IMAGES, seed=self.options.seed)
            images = reference.images
            self._sample = Reference(
                images if len(index) == len(images) else images[index.to(images.device)],
                batch_size=reference.batch_size,
                most_bytes=max(_MOST_BYTES, reference.most_bytes),
            )
        self._sample.read(parts)
        return self._sample


def stratified(classes: Tensor, count: int, *, seed: int) -> Tensor:
    """Draw images by class: of each its share, but at least 5 (or as many as there is room for, or as it has).

    Args:
        classes: (N,).
        count: how many to draw.
        seed: of the draw.

    Returns:
        Ascending indices; all, if there are no more than ``count``.

    Example:
        >>> classes = torch.tensor([0] * 900 + [1] * 95 + [2] * 5)
        >>> classes[stratified(classes, 100, seed=0)].bincount().tolist()
        [86, 9, 5]
    """
    if len(classes) <= count:
        return torch.arange(len(classes))
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    _, of, size = classes[order].unique(return_inverse=True, return_counts=True)
    # The place of each image within its class, in the order that was drawn.
    by_class = of.argsort(stable=True)
    place = torch.empty_like(of)
    place[by_class] = torch.arange(len(of)) - (size.cumsum(0) - size)[of[by_class]]
    wanted = torch.where(place < _FEW, place.double() - _FEW, (place + 0.5) / size[of])
    return order[wanted.argsort(stable=True)[:count]].sort().values
