"""Masks as COCO writes them, polygons and run lengths, drawn pixel for pixel as COCO's own tools draw them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FINE = 5  # COCO's tools draw borders on a grid five times as fine


def segmentation_mask(segmentation: Any, size: tuple[int, int]) -> Tensor:
    """Draw one object's segmentation.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, …]``, whose union is meant; or run lengths
            ``{"size": [H, W], "counts": …}``, as a list of numbers or in COCO's compressed text.
        size: (H, W) of the image.

    Returns:
        (H, W), uint8, 1 within the object.

    Raises:
        ValueError: another form; run lengths of another size, or whose sum is not H · W.

    Example:
        >>> segmentation_mask([[0, 0, 2, 0, 2, 1, 0, 1]], (2, 3)).tolist()
        [[1, 1, 0], [0, 0, 0]]
        >>> segmentation_mask({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3)).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    if isinstance(segmentation, Mapping):
        return torch.from_numpy(_from_runs(segmentation, size))
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str | bytes):
        raise ValueError(f"got a segmentation of type {type(segmentation).__name__}; want polygons or run lengths")
    mask = np.zeros(size, dtype=np.uint8)
    for polygon in segmentation:
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or len(points) % 2 or len(points) < 6 or not np.isfinite(points).all():
            raise ValueError(f"got a polygon of {points.size} numbers; want x and y of three points or more")
        mask |= _from_polygon(points.reshape(-1, 2), size)
    return torch.from_numpy(mask)


def _from_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The rule of COCO's ``rleFrPoly``: walk the border on the fine grid, flip inside and outside where it crosses."""
    height, width = size
    corners = (points * _FINE + 0.5).astype(np.int64)
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = abs(x1 - x0), abs(y1 - y0)
        steps = np.arange(max(dx, dy) + 1)
        # Either way along an edge gives the same pixels: it is walked from its lower end, then read in its order.
        flipped = (dx >= dy and x0 > x1) or (dx < dy and y0 > y1)
        if flipped:
            x0, y0, x1, y1 = x1, y1, x0, y0
        if dx >= dy:
            slope = (y1 - y0) / dx if dx else 0.0
            u, v = steps + x0, (y0 + slope * steps + 0.5).astype(np.int64)
        else:
            slope = (x1 - x0) / dy
            u, v = (x0 + slope * steps + 0.5).astype(np.int64), steps + y0
        xs.append(u[::-1] if flipped else u)
        ys.append(v[::-1] if flipped else v)
    x, y = np.concatenate(xs), np.concatenate(ys)
    moved = x[1:] != x[:-1]
    column = (np.where(x[1:] < x[:-1], x[1:], x[1:] - 1)[moved] + 0.5) / _FINE - 0.5
    row = (np.minimum(y[1:], y[:-1])[moved] + 0.5) / _FINE - 0.5
    inside = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    flips = column[inside].astype(np.int64) * height + np.ceil(row[inside].clip(0, height)).astype(np.int64)
    changes = np.bincount(flips, minlength=height * width)[: height * width]
    return (changes.cumsum() & 1).astype(np.uint8).reshape(width, height).T


def _from_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    if list(runs.get("size", ())) != list(size):
        raise ValueError(f"got run lengths for {runs.get('size')}; want {list(size)}, height and width of the image")
    counts = runs.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    lengths = np.asarray(_decompress(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"got run lengths of {lengths.sum()} pixels; want {size[0] * size[1]}, as the image has")
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(np.uint8)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _decompress(text: str) -> list[int]:
    """COCO's text of run lengths: five bits a character, lowest first, as differences from the last but one run."""
    lengths: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        while True:
            if place >= len(text):
                raise ValueError("got compressed run lengths that break off; want COCO's text")
            bits = ord(text[place]) - 48
            place += 1
            value |= (bits & 0x1F) << shift
            shift += 5
            if not bits & 0x20:
                if bits & 0x10:
                    value |= -1 << shift
                break
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths
