"""Pictures of what a network made of images: image, truth and prediction side by side, with a legend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fulgurite.plugins.files import replacing

_INK, _PAPER, _VOID = (36, 41, 47), (255, 255, 255), (216, 222, 228)
_LEAST, _MOST = 160, 480  # the width that an image is drawn with, by whole factors where it is enlarged
_GAP, _LINE, _SWATCH = 8, 18, 12
_MOST_CLASSES = 24


def class_colours(num_classes: int) -> Tensor:
    """Give a colour to each class, (K, 3) uint8, as PASCAL VOC does: bits of the class spread over red, green, blue.

    Example:
        >>> class_colours(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    classes = torch.arange(num_classes)
    colours = torch.zeros(num_classes, 3, dtype=torch.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.to(torch.uint8)


def draw_segmentation(
    images: Tensor,
    truth: Tensor,
    predicted: Tensor,
    *,
    class_names: Sequence[str],
    palette: Tensor | None = None,
    ignore_index: int | None = 255,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Image.Image:
    """Draw images beside their true and their predicted classes, a row each, and a legend of the classes that occur.

    Args:
        images: (B, C, H, W) float; with 1 or 3 channels as they are, else their first channel in grey.
        truth: (B, H, W) classes; ``ignore_index`` is drawn in light grey, in the prediction too, so that one sees
            what does not count.
        predicted: (B, H, W) classes.
        class_names: K names.
        palette: (K, 3) uint8; ``None``: :func:`class_colours`.
        ignore_index: the void label, or ``None``.
        mean: which, with ``std``, was taken off a channel; ``None``: the images' own range is shown.
        std: see ``mean``.

    Example:
        >>> masks = torch.zeros(2, 8, 8, dtype=torch.int64)
        >>> draw_segmentation(torch.rand(2, 3, 8, 8), masks, masks, class_names=["sky", "road"]).size
        (512, 388)
    """
    colours = class_colours(len(class_names)) if palette is None else palette.cpu()
    pixels = _pixels(images.detach().float().cpu(), mean, std)
    truth, predicted = truth.cpu(), predicted.cpu()
    void = torch.zeros_like(truth, dtype=torch.bool) if ignore_index is None else truth == ignore_index
    columns = [pixels, _paint(truth, colours, void), _paint(predicted, colours, void)]
    height, width = (int(side) for side in truth.shape[1:])
    factor = max(1, -(-_LEAST // width)) if width < _LEAST else min(1.0, _MOST / width)
    size = (round(width * factor), round(height * factor))
    occurring = torch.cat([truth[~void], predicted[~void]]).unique().tolist()
    entries = [(class_names[index], tuple(colours[index].tolist())) for index in occurring[:_MOST_CLASSES]]
    if len(occurring) > _MOST_CLASSES:
        entries.append((f"and {len(occurring) - _MOST_CLASSES} more", _PAPER))
    if bool(void.any()):
        entries.append(("void", _VOID))
    font = ImageFont.load_default(size=12)
    full = 3 * size[0] + 4 * _GAP
    places, lines = _lay_out([name for name, _ in entries], full, font)
    top = _GAP + _LINE
    legend = top + len(truth) * (size[1] + _GAP)
    picture = Image.new("RGB", (full, legend + lines * _LINE + _GAP), _PAPER)
    pen = ImageDraw.Draw(picture)
    for column, (title, rows) in enumerate(zip(("image", "truth", "prediction"), columns, strict=True)):
        left = _GAP + column * (size[0] + _GAP)
        pen.text((left, _GAP), title, fill=_INK, font=font)
        for row, values in enumerate(rows):
            tile = Image.fromarray(values).resize(size, Image.Resampling.NEAREST)
            picture.paste(tile, (left, top + row * (size[1] + _GAP)))
    for (name, colour), (x, line) in zip(entries, places, strict=True):
        y = legend + line * _LINE
        pen.rectangle((x, y, x + _SWATCH, y + _SWATCH), fill=colour, outline=_INK)
        pen.text((x + _SWATCH + 5, y - 1), name, fill=_INK, font=font)
    return picture


def publish(picture: Image.Image, *, path: Path | None, loggers: Sequence[Any], name: str, step: int) -> None:
    """Give a picture to TensorBoard, where it is among the loggers, and write it, whole or not at all.

    Args:
        picture: the picture.
        path: the file; ``None`` for none.
        loggers: the Trainer's.
        name: under which it is logged.
        step: of the run.

    Raises:
        OSError: the file cannot be written; one that was there is left as it was.
    """
    for logger in loggers:
        add = getattr(getattr(logger, "experiment", None), "add_image", None)
        if callable(add):
            add(name, np.asarray(picture), global_step=step, dataformats="HWC")
    if path is not None:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG")


def _pixels(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> np.ndarray[Any, Any]:
    if mean is not None and std is not None and len(mean) == len(std) == images.shape[1]:
        images = images * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    if mean is None or float(images.min()) < -0.5 or float(images.max()) > 1.5:
        least = images.amin(dim=(1, 2, 3), keepdim=True)
        images = (images - least) / (images.amax(dim=(1, 2, 3), keepdim=True) - least).clamp_min(1e-12)
    shown = (images.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())


def _paint(classes: Tensor, colours: Tensor, void: Tensor) -> np.ndarray[Any, Any]:
    painted = colours[classes.masked_fill(void, 0)]
    painted[void] = torch.tensor(_VOID, dtype=torch.uint8)
    return np.ascontiguousarray(painted.numpy())


def _lay_out(names: Sequence[str], width: int, font: Any) -> tuple[list[tuple[int, int]], int]:
    """Where each entry of the legend stands, (x, line), and the number of lines."""
    places, x, line = [], _GAP, 0
    for name in names:
        length = _SWATCH + 5 + round(font.getlength(name)) + 14
        if x > _GAP and x + length > width:
            x, line = _GAP, line + 1
        places.append((x, line))
        x += length
    return places, line + 1
