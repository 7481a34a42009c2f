"""What is done to an image, its boxes and its masks together."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

Augment = Literal["none", "mirror", "flips", "jitter"]
AUGMENTS: tuple[str, ...] = get_args(Augment)

_MIN_SIDE = 1.0  # pixels; what a crop leaves of a box has to be as wide and as high
_GREY = 114 / 255
_OF_OBJECTS = ("boxes", "labels", "iscrowd", "area", "masks")  # one row each


class ScaleJitterCrop(nn.Module):
    """Scales an image by a random factor, then cuts a random window of the old size, or pads up to it.

    So that a detector sees things smaller and larger than they are, in batches that stay as large as they were.

    Args:
        low: smallest factor.
        high: largest factor.

    Raises:
        ValueError: factors that are not 0 < low ≤ high.

    Example:
        >>> image = tv_tensors.Image(torch.zeros(3, 20, 30))
        >>> boxes = tv_tensors.BoundingBoxes([[2.0, 2.0, 9.0, 9.0]], format="XYXY", canvas_size=(20, 30))
        >>> smaller, target = ScaleJitterCrop(0.5, 0.5)(image, {"boxes": boxes})
        >>> smaller.shape, target["boxes"].tolist()
        (torch.Size([3, 20, 30]), [[1.0, 1.0, 4.5, 4.5]])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"got scales from {low} to {high}; want 0 < low <= high")
        self.low = low
        self.high = high

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Give the image and its target, of the old size."""
        height, width = image.shape[-2:]
        factor = torch.empty(()).uniform_(self.low, self.high).item()
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        steps: list[nn.Module] = [v2.Resize(size, antialias=True)]
        right, below = max(0, width - size[1]), max(0, height - size[0])
        if right or below:
            fill: dict[Any, float] = {tv_tensors.Image: _GREY, tv_tensors.Mask: 0}
            steps.append(v2.Pad([0, 0, right, below], fill=fill))
        if size[0] > height or size[1] > width:
            steps.append(v2.RandomCrop((height, width)))
        for step in steps:
            image, target = step(image, target)
        return image, target


def detection_transform(
    *, augment: Augment = "none", max_side: int | None = None, scales: tuple[float, float] = (0.5, 1.5)
) -> Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]:
    """Compose what is done to an image and its target.

    Args:
        augment: ``none``; ``mirror`` turns half of the images left to right; ``flips`` does so, and turns half upside
            down; ``jitter`` is ``mirror`` and :class:`ScaleJitterCrop`. A box of which less than a pixel's width is
            left is dropped, with its label and mask.
        max_side: pixels to which the longer side is brought first.
        scales: smallest and largest factor of the jitter.

    Returns:
        A function of (image (3, H, W) uint8, target), the image and the target's ``boxes`` and ``masks`` of
        :mod:`torchvision.tv_tensors`; its image is float32 in [0, 1].

    Raises:
        ValueError: an unknown augmentation.

    Example:
        >>> image = tv_tensors.Image(torch.zeros(3, 20, 40, dtype=torch.uint8))
        >>> target = {
        ...     "boxes": tv_tensors.BoundingBoxes([[4.0, 2.0, 20.0, 10.0]], format="XYXY", canvas_size=(20, 40)),
        ...     "labels": torch.tensor([1]),
        ...     "iscrowd": torch.tensor([0]),
        ...     "area": torch.tensor([128.0]),
        ... }
        >>> image, target = detection_transform(max_side=20)(image, target)
        >>> image.shape, target["boxes"].tolist(), target["area"].tolist()
        (torch.Size([3, 10, 20]), [[2.0, 1.0, 10.0, 5.0]], [32.0])
    """
    if augment not in AUGMENTS:
        raise ValueError(f"got augment={augment!r}; choose from {', '.join(AUGMENTS)}")
    steps: list[nn.Module] = []
    if max_side is not None:
        steps.append(v2.Resize(None, max_size=max_side, antialias=True))
    steps.append(v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True))
    if augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    if augment == "flips":
        steps.append(v2.RandomVerticalFlip())
    if augment == "jitter":
        steps.append(ScaleJitterCrop(*scales))
    return _Joint(steps)


class _Joint:
    """The steps, and what they say nothing of: areas, and boxes that a crop has emptied."""

    def __init__(self, steps: list[nn.Module]) -> None:
        self.steps = steps
        self.crops = any(isinstance(step, ScaleJitterCrop) for step in steps)

    def __call__(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        before = _box_areas(target["boxes"])
        for step in self.steps:
            image, target = step(image, target)
        boxes = target["boxes"]
        # An area by the mask stays the share of its box that it was.
        target = {**target, "area": target["area"] * _box_areas(boxes) / before.clamp(min=1e-6)}
        if self.crops:
            keep = ((boxes[:, 2:] - boxes[:, :2]) >= _MIN_SIDE).all(dim=1)
            if "masks" in target:
                keep = keep & target["masks"].bool().flatten(1).any(dim=1)
            target |= {key: target[key][keep] for key in _OF_OBJECTS if key in target}
        return image, target


def _box_areas(boxes: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).as_subclass(Tensor)
    return sides.prod(dim=1)
