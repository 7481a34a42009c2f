"""Scenes in which a pixel's class is decided far away: by the digit in the diagonally opposite quadrant."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FarVariant = Literal["region", "key"]
FAR_CLASSES = 6  # the digits 0 to 5
FAR_CHANNELS = 1 + FAR_CLASSES + 2  # strokes, a map of each class, y, x
_REGION_NOISE, _REGION_HEIGHT = 0.5, 1.0
_KEY_NOISE, _KEY_HEIGHT = 0.3, 2.0
_STROKE_NOISE = 0.5
_KEY_SIDE, _MARK_SIDE = 5 / 32, 3 / 32  # of a key's digit and of the mark in its middle, in sides of the map


def compose_far_context(
    pixels: NDArray[np.uint8],
    rows_of_class: list[NDArray[np.int64]],
    generator: np.random.Generator,
    *,
    side: int,
    variant: FarVariant,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw a digit of one of six classes in each quadrant; the label of a pixel is that of the opposite quadrant.

    The four classes are drawn independently, so that nothing in a quadrant says anything about its own label.
    ``region``: the digit is as large as its quadrant, and the map of its class is 1 in the whole quadrant, with noise
    of spread 0.5 on all maps: wherever one looks in the opposite quadrant, the answer is there. ``key``: the digit is
    5/32 of the side and lies anywhere in its quadrant; the map of its class is 2 on the middle of it, 3/32 of the
    side, with noise of spread 0.3: one has to find it.

    Args:
        pixels: (M, 28, 28) uint8 images, strokes bright.
        rows_of_class: for each class, which of them show it and may be used.
        generator: all chance comes from it.
        side: H = W, even.
        variant: see above.

    Returns:
        (9, side, side) float32: strokes in [0, 1] with noise of spread 0.5, six class maps, y and x from −1 to 1;
        and (side, side) int64 classes.

    Example:
        >>> strokes = np.full((6, 28, 28), 255, np.uint8)
        >>> rows = [np.array([digit]) for digit in range(6)]
        >>> image, labels = compose_far_context(strokes, rows, np.random.default_rng(0), side=32, variant="region")
        >>> image.shape, labels[0, 0] == image[1:7, 16:, 16:].mean(axis=(1, 2)).argmax()
        ((9, 32, 32), np.True_)
    """
    half = side // 2
    classes = generator.integers(0, FAR_CLASSES, size=(2, 2))
    noise = _REGION_NOISE if variant == "region" else _KEY_NOISE
    image = np.empty((FAR_CHANNELS, side, side), dtype=np.float32)
    generator.standard_normal(out=image[:-2], dtype=np.float32)
    image[0] *= _STROKE_NOISE
    image[1:-2] *= noise
    image[-1] = np.linspace(-1, 1, side, dtype=np.float32)
    image[-2] = image[-1].T
    if variant == "region":
        size, mark, height = half, half, _REGION_HEIGHT
    else:
        size, mark, height = max(3, round(_KEY_SIDE * side)), max(1, round(_MARK_SIDE * side)), _KEY_HEIGHT
    margin = (size - mark) // 2
    for (row, column), kind in np.ndenumerate(classes):
        strokes = Image.fromarray(pixels[generator.choice(rows_of_class[kind])])
        down, across = generator.integers(0, half - size + 1, size=2)
        top, left = row * half + down, column * half + across
        window = np.s_[top : top + size, left : left + size]
        image[0][window] += np.asarray(strokes.resize((size, size), Image.Resampling.BILINEAR)) / np.float32(255)
        top, left = top + margin, left + margin
        image[1 + kind, top : top + mark, left : left + mark] += height
    return image, classes[::-1, ::-1].repeat(half, axis=0).repeat(half, axis=1)
