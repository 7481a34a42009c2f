"""Masks equal those of COCO's own tools, pixel for pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.coco_masks import segmentation_mask

coco = pytest.importorskip("faster_coco_eval.core.mask")


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1))
def test_polygons_and_run_lengths_equal_cocos(seed):
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(1, 60, 2))
    polygons = []
    for _ in range(random.integers(1, 3)):
        points = random.uniform(-0.2, 1.2, (random.integers(3, 9), 2)) * [width, height]
        polygons.append(points.round(int(random.integers(0, 3))).ravel().tolist())
    runs = coco.merge(coco.frPyObjects(polygons, height, width))
    wanted = torch.from_numpy(coco.decode(runs))
    size = (height, width)
    assert torch.equal(segmentation_mask(polygons, size), wanted)
    text = {"size": [height, width], "counts": runs["counts"]}
    assert torch.equal(segmentation_mask(text, size), wanted)
    flat = np.concatenate([[0], wanted.numpy().T.ravel(), [2]])
    counts = np.diff(np.concatenate([[0], np.nonzero(np.diff(flat))[0]])).tolist()
    assert torch.equal(segmentation_mask({"size": [height, width], "counts": counts}, size), wanted)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "a polygon of 4 numbers; want x and y of three points or more"),
        ("text", "of type str; want polygons or run lengths"),
        (None, "of type NoneType"),
        ({"size": [3, 4], "counts": [12]}, r"got run lengths for \[3, 4\]; want \[4, 3\]"),
        ({"size": [4, 3], "counts": [5, 5]}, "got run lengths of 10 pixels; want 12"),
        ({"size": [4, 3], "counts": "P"}, "break off"),
    ],
)
def test_what_is_no_segmentation(segmentation, message):
    with pytest.raises(ValueError, match=message):
        segmentation_mask(segmentation, (4, 3))
