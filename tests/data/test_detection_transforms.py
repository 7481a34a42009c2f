"""Images, boxes, masks and areas change together: a painted rectangle stays where its box says."""

import pytest
import torch
from torchvision import tv_tensors

from fulgurite.data.detection_transforms import AUGMENTS, ScaleJitterCrop, detection_transform

SIZE = (40, 60)


def scene(boxes):
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for number, (left, top, right, bottom) in enumerate(boxes):
        image[number, top:bottom, left:right] = 255  # a channel an object
        masks[number, top:bottom, left:right] = 1
    frame = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return tv_tensors.Image(image), {
        "boxes": tv_tensors.BoundingBoxes(frame, format="XYXY", canvas_size=SIZE),
        "labels": torch.arange(1, len(boxes) + 1),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
        "area": (frame[:, 2:] - frame[:, :2]).prod(dim=1),
        "masks": tv_tensors.Mask(masks),
        "image_id": torch.tensor(0),
    }


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("seed", range(6))
def test_what_is_painted_stays_in_its_box(augment, seed):
    torch.manual_seed(seed)
    image, target = scene([(4, 6, 24, 18), (30, 10, 54, 36)])
    image, target = detection_transform(augment=augment, max_side=48)(image, target)
    assert image.shape == (3, 32, 48)
    assert image.dtype == torch.float32
    assert float(image[:3].max()) <= 1 + 1e-6
    assert len(target["boxes"]) == len(target["labels"]) == len(target["area"]) == len(target["masks"])
    for box, label, mask in zip(target["boxes"], target["labels"].tolist(), target["masks"], strict=True):
        if (box[2:] - box[:2]).min() < 4:
            continue  # the border that blurs is all that the window has left of it
        rows, columns = torch.nonzero(image[label - 1] > 0.7, as_tuple=True)
        hull = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (hull - box).abs().max() <= 1.5
        inside = mask.bool()
        assert float(image[label - 1][inside].mean()) > 0.7


def test_flips_happen_and_the_plain_transform_changes_nothing():
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        _, target = detection_transform(augment="flips")(*scene([(4, 6, 24, 18)]))
        seen.add(tuple(target["boxes"][0].tolist()))
    assert seen == {(4, 6, 24, 18), (36, 6, 56, 18), (4, 22, 24, 34), (36, 22, 56, 34)}
    _, target = detection_transform()(*scene([(4, 6, 24, 18)]))
    assert target["boxes"].tolist() == [[4, 6, 24, 18]]
    assert target["area"].tolist() == [240]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_an_image_without_objects_passes(augment):
    image, target = detection_transform(augment=augment, max_side=30)(*scene([]))
    assert image.shape == (3, 20, 30)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 20, 30)


def test_a_box_out_of_the_window_goes_with_its_label_and_mask():
    lost = 0
    for seed in range(12):
        torch.manual_seed(seed)
        image, target = ScaleJitterCrop(3.0, 3.0)(*scene([(0, 0, 4, 4), (50, 30, 60, 40)]))
        torch.manual_seed(seed)
        steps = detection_transform(augment="jitter", scales=(3.0, 3.0))
        image, target = steps(*scene([(0, 0, 4, 4), (50, 30, 60, 40)]))
        assert image.shape == (3, *SIZE)
        assert target["masks"].flatten(1).any(dim=1).all()
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()
        lost += 2 - len(target["labels"])
    assert lost >= 12  # three times as large, the two are never in one window


def test_options():
    with pytest.raises(ValueError, match="got augment='turn'; choose from none"):
        detection_transform(augment="turn")
    with pytest.raises(ValueError, match="want 0 < low <= high"):
        ScaleJitterCrop(2.0, 1.0)
