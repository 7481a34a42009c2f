"""Testing by sliding windows, at several scales, and mirrored: logits or probabilities averaged where they overlap."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Predict = Callable[[Tensor], Tensor]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Give where windows begin along one side, such that all of it is covered; the last one ends at its end.

    Example:
        >>> window_starts(10, window=4, stride=3), window_starts(11, window=4, stride=3), window_starts(3, 4, 3)
        ([0, 3, 6], [0, 3, 6, 7], [0])
    """
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(predict: Predict, images: Tensor, crop_size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Average the logits of windows that cover an image.

    Args:
        predict: (B, C, h, w) → logits (B, K, h, w).
        images: (B, C, H, W).
        crop_size: height and width of a window, at most; a smaller image is one window as it is.
        stride: rows and columns between windows; at most the window's, or pixels would be left out.

    Returns:
        (B, K, H, W), each pixel the mean over the windows that cover it.

    Example:
        >>> slide(lambda x: 2 * x, torch.ones(1, 3, 9, 7), (4, 4), (3, 3)).unique()
        tensor([2.])
    """
    height, width = images.shape[2:]
    rows = window_starts(height, crop_size[0], stride[0])
    columns = window_starts(width, crop_size[1], stride[1])
    if len(rows) == len(columns) == 1:
        return predict(images)
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            area = (..., slice(top, top + crop_size[0]), slice(left, left + crop_size[1]))
            logits = predict(images[area])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width, dtype=torch.float32)
            total[area] += logits
            count[area] += 1
    assert total is not None
    return total / count


def scaled(predict: Predict, images: Tensor, scales: Sequence[float], *, flip: bool) -> Tensor:
    """Average the class probabilities of an image at several scales, and of its mirror image.

    Args:
        predict: (B, C, h, w) → logits (B, K, h, w) for any h, w.
        images: (B, C, H, W).
        scales: factors of both sides; 1 is the image itself.
        flip: whether each scale is also mirrored left to right.

    Returns:
        (B, K, H, W) logarithms of the mean probabilities; for one scale and no mirror image, the logits.

    Example:
        >>> scaled(lambda x: x, torch.zeros(1, 4, 6, 6), (0.5, 1.0), flip=True).exp()[0, :, 0, 0]
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    if tuple(scales) == (1.0,) and not flip:
        return predict(images)
    size = (images.shape[2], images.shape[3])
    total: Tensor | None = None
    for scale in scales:
        view = images if scale == 1 else _resize(images, (round(size[0] * scale), round(size[1] * scale)))
        for mirrored in (False, True)[: 1 + flip]:
            logits = predict(view.flip(-1) if mirrored else view)
            logits = _resize(logits.flip(-1) if mirrored else logits, size)
            probabilities = logits.float().softmax(dim=1)
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return (total / (len(scales) * (1 + flip))).clamp_min(torch.finfo(torch.float32).tiny).log()


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    size = (max(1, size[0]), max(1, size[1]))
    if values.shape[2:] == size:
        return values
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False)
