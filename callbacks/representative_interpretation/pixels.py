"""Pixels: images as they are shown, maps as a layer of colour over them, and where in a picture a map is hottest."""

import base64
import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

COOL, WARM = (255, 176, 32), (230, 57, 0)  # a map's colour where it is weak and where it is strong
_MOST_SIDE = 192  # larger images are made smaller for the page; nobody sees the difference on a thumbnail
_MAP_SIDE = 64
_NAMES = (
    ("the top left corner", "the top edge", "the top right corner"),
    ("the left edge", "the middle", "the right edge"),
    ("the bottom left corner", "the bottom edge", "the bottom right corner"),
)


class Scale:
    """From images as the network gets them to pixels: each channel's range over the sample becomes 0..255.

    This undoes a normalisation by channel wherever the sample holds both a black and a white value of it. Three
    channels are colours; any other number of them is shown as their mean.

    Args:
        images: (N, C, H, W) or (N, H, W) the sample.

    Example:
        >>> scale = Scale(torch.tensor([[[[-1.0, 1.0]]], [[[0.0, 0.0]]]]))
        >>> scale.pixels(torch.tensor([[[-1.0, 0.0, 1.0]]]))[..., 0].tolist()
        [[0, 127, 255]]
    """

    def __init__(self, images: Tensor) -> None:
        channels = _channels(images).float().transpose(0, 1).flatten(1)
        self._low = channels.amin(1)[:, None, None]
        self._range = (channels.amax(1)[:, None, None] - self._low).clamp_min(1e-12)

    def pixels(self, image: Tensor) -> NDArray[np.uint8]:
        """(H, W, 3) of one image (C, H, W) or (H, W)."""
        shares = ((_channels(image[None])[0].float() - self._low) / self._range).clamp(0, 1)
        colours = shares if len(shares) == 3 else shares.mean(0, keepdim=True).expand(3, -1, -1)
        return (colours * 255).to(torch.uint8).permute(1, 2, 0).numpy()


def hottest(heat: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The ``share`` of the pixels where a map is hottest, ties by index; none of a map that is zero.

    Example:
        >>> hottest(np.arange(20.0).reshape(4, 5), 0.1).nonzero()[1].tolist()
        [3, 4]
    """
    count = max(1, round(share * heat.size)) if heat.any() else 0
    spot = np.zeros(heat.size, dtype=bool)
    spot[np.argsort(-heat.ravel(), kind="stable")[:count]] = True
    return spot.reshape(heat.shape)


def place_of(spot: NDArray[np.bool_]) -> str:
    """Where pixels lie, in words: the ninth of the picture that holds most of them, if it holds half.

    Example:
        >>> spot = np.zeros((9, 9), dtype=bool)
        >>> spot[7:, 7:] = True
        >>> place_of(spot)
        'the bottom right corner'
    """
    rows, columns = np.nonzero(spot)
    if not len(rows):
        return "nowhere"
    cells = (rows * 3 // spot.shape[0]) * 3 + columns * 3 // spot.shape[1]
    counts = np.bincount(cells, minlength=9)
    most = int(counts.argmax())
    return _NAMES[most // 3][most % 3] if counts[most] * 2 >= len(rows) else "several parts of the picture"


def is_at_edge(spot: NDArray[np.bool_]) -> bool:
    """Whether pixels lie together at an edge or in a corner.

    Example:
        >>> spot = np.zeros((9, 9), dtype=bool)
        >>> spot[7:, 7:] = True
        >>> is_at_edge(spot), is_at_edge(~spot)
        (True, False)
    """
    return place_of(spot).endswith(("edge", "corner"))


def coloured(heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A map (h, w) as a layer of colour (h, w, 4): see-through where it is 0, red and nearly opaque where it is 1.

    Example:
        >>> coloured(np.array([[0.0, 1.0]]))[0].tolist()
        [[255, 176, 32, 0], [230, 57, 0, 209]]
    """
    share = np.clip(np.asarray(heat, dtype=float), 0, 1)[..., None]
    colour = np.array(COOL) * (1 - share) + np.array(WARM) * share
    return np.concatenate([colour, 209 * share**0.8], axis=-1).round().astype(np.uint8)


def contrast(heat: NDArray[np.floating]) -> NDArray[np.float64]:
    """A map from its least to its largest value, as 0 to 1.

    Example:
        >>> contrast(np.array([2.0, 3.0, 4.0])).tolist(), contrast(np.array([2.0, 2.0])).tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.0])
    """
    low, span = float(heat.min()), float(heat.max() - heat.min())
    return (np.asarray(heat, dtype=np.float64) - low) / (span or 1.0)


def over(pixels: NDArray[np.uint8], layer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) with a layer of colour (H, W, 4) over it.

    Example:
        >>> over(np.zeros((1, 1, 3), np.uint8), np.array([[[255, 0, 0, 255]]], np.uint8)).tolist()
        [[[255, 0, 0]]]
    """
    opaque = layer[..., 3:].astype(float) / 255
    return (pixels * (1 - opaque) + layer[..., :3] * opaque).round().astype(np.uint8)


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as a PNG file.

    Example:
        >>> as_png(np.zeros((2, 2, 3), np.uint8))[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def as_uri(pixels: NDArray[np.uint8], *, side: int | None = None) -> str:
    """An image (H, W, 3) or a layer (H, W, 4) as a ``data:`` URI; photographs as JPEG, what is small or clear as PNG.

    Args:
        pixels: the image.
        side: make it smaller until no side is longer than this.

    Example:
        >>> as_uri(np.zeros((8, 8, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    layer = pixels.shape[-1] == 4
    image = Image.fromarray(pixels)
    most = side or (_MAP_SIDE if layer else _MOST_SIDE)
    if max(image.size) > most:
        scale = most / max(image.size)
        smaller = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(smaller, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if layer or max(image.size) <= _MAP_SIDE else "jpeg"
    image.save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _channels(images: Tensor) -> Tensor:
    return images if images.ndim == 4 else images[:, None]
