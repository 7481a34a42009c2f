"""What is done to an image and its mask together."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from typing_extensions import override

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Size = tuple[int, int]


class RandomScale(v2.Transform):
    """Scales by a random factor, images bilinearly, masks to their nearest pixels.

    Args:
        low: smallest factor.
        high: largest factor.

    Raises:
        ValueError: factors that are not 0 < low ≤ high.

    Example:
        >>> image, mask = tv_tensors.Image(torch.zeros(3, 20, 30)), tv_tensors.Mask(torch.zeros(20, 30))
        >>> [tuple(scaled.shape) for scaled in RandomScale(0.5, 0.5)(image, mask)]
        [(3, 10, 15), (10, 15)]
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"got a scale from {low} to {high}; want 0 < smallest <= largest")
        self.low = low
        self.high = high

    @override
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor, and give the new size that all inputs get."""
        height, width = functional.get_size(flat_inputs[0])
        factor = torch.empty(()).uniform_(self.low, self.high).item()
        # Not to a single pixel: torch 2.15 fails on resizing bytes to 1 × 1.
        return {"size": [max(2, round(height * factor)), max(2, round(width * factor))]}

    @override
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input."""
        return functional.resize(inpt, params["size"], antialias=True)


def segmentation_transform(
    *,
    size: Size | None = None,
    scale: tuple[float, float] | None = None,
    crop_size: Size | None = None,
    flip: float = 0.0,
    photometric: bool = False,
    mean: Sequence[float],
    std: Sequence[float],
    ignore_index: int | None,
) -> Transform:
    """Compose what is done to an image and its mask.

    In this order: resize, scale, crop, flip, photometric changes, normalisation. Masks keep their values: they are
    resized to the nearest pixel, and where a crop is larger than the image they are filled up with ``ignore_index``
    (the image with its mean, which is 0 after normalisation).

    Args:
        size: (H, W) that everything is brought to first.
        scale: smallest and largest factor of a random scale.
        crop_size: (H, W) of a random crop.
        flip: probability that left and right are swapped.
        photometric: random brightness, contrast and saturation, ± 40 % each, and hue, ± 5 % of the circle.
        mean: of each channel, of values in [0, 1].
        std: likewise.
        ignore_index: the mask's value outside the image.

    Returns:
        A function of (image (C, H, W) uint8, mask (H, W) integers) that gives (float32, int64).

    Raises:
        ValueError: an option out of range; a crop without an ``ignore_index``.

    Example:
        >>> change = segmentation_transform(crop_size=(8, 8), mean=[0.0], std=[1.0], ignore_index=255)
        >>> image, mask = change(torch.full((1, 4, 8), 255, dtype=torch.uint8), torch.ones(4, 8, dtype=torch.uint8))
        >>> image.shape, mask.unique().tolist(), bool((image[0, mask == 1] == 1).all())
        (torch.Size([1, 8, 8]), [1, 255], True)
    """
    for name, wanted in (("size", size), ("crop_size", crop_size)):
        if wanted is not None and (len(wanted) != 2 or min(wanted) < 1):
            raise ValueError(f"got {name}={wanted}; want (height, width), at least 1 each")
    if not 0 <= flip <= 1:
        raise ValueError(f"got flip={flip}; want a probability from 0 to 1")
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise ValueError(f"got mean={list(mean)} and std={list(std)}; want one of each a channel, std above 0")
    steps: list[nn.Module] = []
    if size is not None:
        steps.append(v2.Resize(list(size), antialias=True))
    if scale is not None:
        steps.append(RandomScale(*scale))
    if crop_size is not None:
        if ignore_index is None:
            raise ValueError("got crop_size without ignore_index; want a value for what a crop has outside the image")
        fill = {tv_tensors.Image: [round(255 * value) for value in mean], tv_tensors.Mask: ignore_index}
        steps.append(v2.RandomCrop(list(crop_size), pad_if_needed=True, fill=fill))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if photometric:
        steps.append(v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05))
    steps.append(v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True))
    steps.append(v2.Normalize(list(mean), list(std)))
    return _Jointly(v2.Compose(steps))


class _Jointly:
    """Plain tensors in and out; a class, so that workers can be sent it."""

    def __init__(self, change: v2.Compose) -> None:
        self._change = change

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # int64 from the start: an ignore_index such as 1000 does not fit into a byte.
        changed, labels = self._change(tv_tensors.Image(image), tv_tensors.Mask(mask.long()))
        return changed.as_subclass(Tensor), labels.as_subclass(Tensor)
