"""Scenes of handwritten digits on a textured canvas, with the pixels that are seen of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

MIN_VISIBLE = 20  # pixels; of less nobody could tell the digit
_OPAQUE = 128  # a stroke's pixel is one that shows more of the ink than of what lies below
_FIRST_SIDE, _LAST_SIDE = 3 / 16, 7 / 16  # of a digit, in sides of the canvas
_LEAST_SIDE = 20  # below, a thin 1 has too few pixels
_COLOURS = 6  # drawn for each digit, of which the one that stands out most is taken


@dataclass(frozen=True, eq=False, repr=False)
class DigitScene:
    """What is seen of a scene.

    Args:
        image: (3, side, side) uint8.
        instances: (side, side) uint8; n on the visible strokes of the n-th digit, 0 elsewhere.
        digits: (N,) int64, from 0 to 9; nearer ones first.

    Example:
        >>> scene = DigitScene(np.zeros((3, 4, 4), np.uint8), np.eye(4, dtype=np.uint8), np.array([7]))
        >>> scene.boxes().tolist(), scene.masks().sum().item(), scene.semantic()[0].tolist()
        ([[0, 0, 4, 4]], 4, [8, 0, 0, 0])
    """

    image: Bytes
    instances: Bytes
    digits: NDArray[np.int64]

    def masks(self) -> Bytes:
        """Give the visible pixels of each digit, (N, side, side), 0 or 1."""
        numbers = np.arange(1, len(self.digits) + 1, dtype=np.uint8)
        return np.equal(self.instances, numbers[:, None, None]).astype(np.uint8)

    def boxes(self) -> NDArray[np.int64]:
        """Give the tight hulls of the masks, (N, 4), as (left, top, right, bottom), right and bottom exclusive."""
        masks = self.masks()
        side = self.instances.shape[-1]
        if not len(masks):
            return np.zeros((0, 4), dtype=np.int64)
        across, down = np.asarray(masks.any(axis=1)), np.asarray(masks.any(axis=2))
        left, top = across.argmax(axis=1), down.argmax(axis=1)
        right, bottom = side - across[:, ::-1].argmax(axis=1), side - down[:, ::-1].argmax(axis=1)
        return np.stack([left, top, right, bottom], axis=1)

    def semantic(self) -> NDArray[np.int64]:
        """Give each pixel's class, (side, side): digit + 1 on visible strokes, 0 on the background."""
        return np.concatenate([[0], self.digits + 1])[self.instances]


def compose_scene(
    pixels: Bytes,
    digits: NDArray[np.int64],
    rows: Sequence[int] | NDArray[np.int64],
    generator: np.random.Generator,
    *,
    side: int,
    count: tuple[int, int] = (2, 6),
) -> DigitScene:
    """Throw digits on a textured canvas, each of its own size, colour and place, the nearer over the farther.

    A digit of which fewer than 20 pixels would be seen is left out, as if it had not been thrown: it is not drawn,
    hides nothing and has no mask, box or label. Hence there may be fewer than ``count`` says.

    Args:
        pixels: (M, 28, 28) uint8 images, strokes bright.
        digits: (M,) int64 what they show.
        rows: which of them may be used.
        generator: all chance comes from it.
        side: pixels of a side of the canvas.
        count: fewest and most digits that are thrown.

    Example:
        >>> strokes = np.zeros((1, 28, 28), np.uint8)
        >>> strokes[0, 4:24, 12:16] = 255
        >>> scene = compose_scene(strokes, np.array([1]), [0], np.random.default_rng(0), side=64)
        >>> scene.image.shape, set(scene.digits.tolist())
        ((3, 64, 64), {1})
    """
    canvas, colour = _texture(generator, side)
    thrown = generator.choice(np.asarray(rows), size=int(generator.integers(count[0], count[1] + 1)))
    low = min(side, max(_LEAST_SIDE, round(_FIRST_SIDE * side)))
    high = min(side, max(low + 4, round(_LAST_SIDE * side)))
    sides = generator.integers(low, high + 1, size=len(thrown))
    places = generator.random((len(thrown), 2))
    inks = generator.integers(0, 256, size=(len(thrown), _COLOURS, 3)).astype(np.float32)
    inks = inks[np.arange(len(thrown)), np.abs(inks - colour).sum(axis=2).argmax(axis=1)]
    instances = np.zeros((side, side), dtype=np.uint8)
    drawn = []
    # From the nearest to the farthest, so that what is seen of one is known before anything below it.
    for row, size, place, ink in zip(thrown, sides, places, inks, strict=True):
        top, left = (place * (side - size + 1)).astype(int)
        window = np.s_[top : top + size, left : left + size]
        strokes = np.asarray(Image.fromarray(pixels[row]).resize((size, size), Image.Resampling.BILINEAR))
        seen = (strokes >= _OPAQUE) & (instances[window] == 0)
        if np.count_nonzero(seen) < MIN_VISIBLE:
            continue
        drawn.append((window, strokes, ink, digits[row]))
        instances[window][seen] = len(drawn)
    for window, strokes, ink, _ in reversed(drawn):
        cover = strokes.astype(np.float32)[..., None] / 255
        below = canvas[window]
        below += cover * (ink - below)
    image = np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(2, 0, 1))
    return DigitScene(image, instances, np.array([digit for *_, digit in drawn], dtype=np.int64))


def _texture(generator: np.random.Generator, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Blotches, stripes and grain around one colour; the canvas (side, side, 3) and that colour."""
    colour = generator.integers(30, 226, size=3)
    cells = int(generator.integers(3, 9))
    blotches = (colour + generator.integers(-30, 31, size=(cells, cells, 3))).clip(0, 255).astype(np.uint8)
    canvas = np.asarray(Image.fromarray(blotches).resize((side, side), Image.Resampling.BICUBIC)).astype(np.float32)
    angle, period = generator.random() * np.pi, 4 + generator.random() * 12
    place = np.arange(side) * (2 * np.pi / period)
    # A plane wave is the real part of a product, so that two rows of sines do for all pixels.
    wave = np.outer(np.exp(1j * np.sin(angle) * place), np.exp(1j * np.cos(angle) * place)).real
    canvas += (generator.random() * 15 * wave).astype(np.float32)[..., None]
    canvas += generator.integers(-12, 13, size=(side, side, 3), dtype=np.int8)
    return canvas, colour.astype(np.float32)
