"""Pictures of what a detector found: the truth beside it, boxes, masks, names and scores."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_INK, _PAPER = (36, 41, 47), (255, 255, 255)
_GAP, _LINE = 8, 18
_LEAST, _MOST = 480, 640  # the width that an image is drawn with
_CROWD = 10  # objects of an image above which their names would hide them
_VEIL = 0.45  # how much of a mask's colour lies over the image
# Told apart also by people who do not see red and green (Okabe and Ito), and by their names in the picture.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def draw_detections(
    drawn: Sequence[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]],
    *,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> Image.Image:
    """Draw images with their true boxes on the left and what was found on the right, a row each.

    Names and scores stand at the boxes. Where an image has more than 10 of them, and each class a colour of its
    own (up to 7), the names stand above the picture instead, since they would hide what is in the boxes.

    Args:
        drawn: (image (3, H, W) in [0, 1], target, detections) each, with ``boxes``, ``labels`` from 1, ``masks``
            (n, H, W) if there are some, and ``scores`` of the detections.
        class_names: of label 1, 2, ….
        threshold: score from which on a detection is drawn.

    Example:
        >>> objects = {"boxes": torch.tensor([[4.0, 4, 30, 20]]), "labels": torch.tensor([1])}
        >>> found = {**objects, "scores": torch.tensor([0.9])}
        >>> draw_detections([(torch.rand(3, 64, 64), objects, found)], class_names=["cell"]).size
        (1048, 546)
    """
    font = ImageFont.load_default(size=12)
    pairs = []
    for _, target, found in drawn:
        keep = found["scores"] >= threshold
        pairs.append((target, {key: value[keep] for key, value in found.items()}))
    most = max((len(objects["labels"]) for pair in pairs for objects in pair), default=0)
    named = most <= _CROWD or len(class_names) > len(_COLOURS)
    rows = [
        [_draw(image, objects, class_names if named else None, font) for objects in pair]
        for (image, *_), pair in zip(drawn, pairs, strict=True)
    ]
    widths = [max(row[side].width for row in rows) for side in (0, 1)]
    top = _GAP + _LINE * (1 if named else 2)
    height = top + sum(row[0].height + _GAP for row in rows)
    picture = Image.new("RGB", (sum(widths) + 3 * _GAP, height), _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, _GAP), "truth", fill=_INK, font=font)
    pen.text((2 * _GAP + widths[0], _GAP), f"found, score {threshold:g} or more", fill=_INK, font=font)
    left = _GAP
    for label, name in enumerate(() if named else class_names, start=1):
        pen.rectangle((left, _GAP + _LINE, left + 11, _GAP + _LINE + 11), fill=_colour(label))
        pen.text((left + 16, _GAP + _LINE), name, fill=_INK, font=font)
        left += 28 + round(font.getlength(name))
    for row in rows:
        picture.paste(row[0], (_GAP, top))
        picture.paste(row[1], (2 * _GAP + widths[0], top))
        top += row[0].height + _GAP
    return picture


def _draw(
    image: Tensor,
    objects: Mapping[str, Tensor],
    class_names: Sequence[str] | None,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    pixels = image.detach().float().cpu().nan_to_num(0.0).clamp(0, 1)
    labels = objects["labels"].tolist()
    for label, mask in zip(labels, objects["masks"].cpu() if "masks" in objects else (), strict=False):
        veil = torch.tensor(_colour(label))[:, None, None] / 255
        pixels = torch.where(mask.bool(), (1 - _VEIL) * pixels + _VEIL * veil, pixels)
    tile = Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    factor = max(1.0, round(_LEAST / tile.width)) if tile.width < _LEAST else min(1.0, _MOST / tile.width)
    tile = tile.resize((round(tile.width * factor), round(tile.height * factor)), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(tile)
    scores = objects["scores"].tolist() if "scores" in objects else [None] * len(labels)
    for box, label, score in zip(objects["boxes"].tolist(), labels, scores, strict=True):
        left, top, right, bottom = (side * factor for side in box)
        colour = _colour(label)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
        if class_names is None:
            continue
        text = class_names[label - 1] + ("" if score is None else f" {score:.2f}")
        length = font.getlength(text)
        x, y = max(0.0, min(left, tile.width - length - 4)), top - 15 if top >= 15 else top
        pen.rectangle((x, y, x + length + 4, y + 14), fill=colour)
        pen.text((x + 2, y), text, fill=_INK, font=font)
    return tile


def _colour(label: int) -> tuple[int, int, int]:
    return _COLOURS[label % len(_COLOURS)]
