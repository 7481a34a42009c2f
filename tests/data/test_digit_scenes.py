import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data import DigitScenes
from fulgurite.data.digit_canvas import MIN_VISIBLE

NUMBER = st.integers(0, 10_000)
MANY = 10_001


@pytest.fixture(scope="module")
def scenes():
    return {
        (task, part): DigitScenes(task=task, num_train=MANY, num_val=MANY, side=96).part(part)
        for task in ("segmentation", "detection")
        for part in ("train", "val")
    }


@given(number=NUMBER, part=st.sampled_from(["train", "val"]))
@settings(deadline=None, max_examples=60)
def test_masks_are_disjoint_boxes_their_hulls_and_classes_their_union(scenes, number, part):
    image, target = scenes["detection", part][number]
    pixels, classes = scenes["segmentation", part][number]
    masks, labels = target["masks"], target["labels"]
    assert image.shape == (3, 96, 96)
    assert 0 <= image.min() < image.max() <= 1
    assert 1 <= len(labels) <= 6
    assert masks.dtype == torch.uint8
    assert set(masks.unique().tolist()) == {0, 1}
    assert masks.sum(dim=0).max() == 1
    assert (masks.sum(dim=(1, 2)) >= MIN_VISIBLE).all()
    assert torch.equal((masks * labels[:, None, None]).sum(dim=0), classes)
    for mask, box, area in zip(masks, target["boxes"], target["area"], strict=True):
        y, x = mask.nonzero().T
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert area == mask.sum()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(pixels * std + mean, image)


@given(number=NUMBER)
@settings(deadline=None, max_examples=20)
def test_a_scene_follows_from_its_number_and_seed(scenes, number):
    rows = scenes["segmentation", "train"]
    rows[number // 2]
    again = pickle.loads(pickle.dumps(rows))
    assert all(torch.equal(one, other) for one, other in zip(rows[number], again[number], strict=True))
    assert not torch.equal(rows[number][0], rows[(number + 1) % MANY][0])
    assert not torch.equal(rows[number][0], scenes["segmentation", "val"][number][0])


def test_workers_and_seeds():
    options = {"num_train": 6, "num_val": 6, "num_test": 6, "batch_size": 4, "side": 48}
    here, there, other = (
        list(DigitScenes(**options, **more).val_dataloader()) for more in ({}, {"num_workers": 2}, {"seed": 1})
    )
    assert [len(masks) for _, masks in here] == [4, 2]
    for one, two, three in zip(here, there, other, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert not torch.equal(one[1], three[1])


def test_digits_are_parted_before_scenes_are_composed():
    data = DigitScenes()
    rows = {part: data.part(part).rows for part in ("train", "val", "test")}
    assert {part: len(mine) for part, mine in rows.items()} == {"train": 4000, "val": 500, "test": 500}
    assert len(np.unique(np.concatenate(list(rows.values())))) == 5000


def test_how_many_digits_are_seen_and_all_classes_are():
    part = DigitScenes().part("train")
    found = [part.scene(number).digits for number in range(300)]
    counts = np.bincount([len(digits) for digits in found], minlength=8)
    assert (counts[2:7] > 25).all()
    assert counts[7] == 0
    assert (np.bincount(np.concatenate(found), minlength=10) > 60).all()


def test_augmented_scenes_are_new_ones_of_training_alone():
    data = DigitScenes(augment=True, side=48)
    torch.manual_seed(0)
    first, second = data.part("train")[0][0], data.part("train")[0][0]
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    assert torch.equal(data.part("train")[0][0], first)
    assert torch.equal(data.part("val")[0][0], data.part("val")[0][0])


def test_what_a_model_is_told():
    pixels = DigitScenes()
    boxes = DigitScenes(task="detection")
    far = DigitScenes(variant="region")
    assert (pixels.num_classes, pixels.class_names[:2], pixels.in_channels) == (11, ("background", "0"), 3)
    assert (boxes.num_classes, boxes.class_names[0], boxes.mean) == (10, "0", (0.0,) * 3)
    assert (far.num_classes, far.in_channels, far.side) == (6, 9, 32)
    assert all(len(data.palette.unique(dim=0)) == data.num_classes for data in (pixels, boxes, far))
    images = next(iter(DigitScenes(side=32, num_test=3).predict_dataloader()))
    assert images.shape == (3, 3, 32, 32)
    images, targets = next(iter(DigitScenes(task="detection", batch_size=2).test_dataloader()))
    assert [len(images), len(targets)] == [2, 2]
    assert targets[1]["image_id"] == 1


@pytest.mark.parametrize("variant", ["region", "key"])
def test_a_pixels_class_is_marked_in_the_opposite_quadrant_and_independent_of_its_own(variant):
    part = DigitScenes(variant=variant, num_train=600).part("train")
    table = np.zeros((6, 6))
    for image, labels in (part[number] for number in range(600)):
        quadrants = labels.view(2, 16, 2, 16).permute(0, 2, 1, 3).flatten(2)
        assert (quadrants == quadrants[..., :1]).all()
        maps = image[1:7].reshape(6, 2, 16, 2, 16).permute(1, 3, 0, 2, 4).flatten(3)
        marked = maps.mean(dim=3).argmax(dim=2) if variant == "region" else maps.topk(9).values.mean(3).argmax(dim=2)
        assert torch.equal(marked.flip(0, 1), quadrants[..., 0])
        for own, label in zip(marked.flatten(), quadrants[..., 0].flatten(), strict=True):
            table[own, label] += 1
    assert np.abs(table / 2400 - 1 / 36).max() < 0.02
    assert part[0][0][-1, :, 0].tolist() == [-1.0] * 32
    assert part[0][0][-2, 0].tolist() == [-1.0] * 32


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"task": "boxes"}, "task='boxes'; choose from segmentation, detection"),
        ({"variant": "far"}, "choose from scenes, region, key"),
        ({"task": "detection", "variant": "key"}, "has no objects"),
        ({"side": 31}, "side=31; want 32 or more"),
        ({"side": 33, "variant": "key"}, "even number"),
        ({"num_val": 0}, "num_val=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        DigitScenes(**options)
    with pytest.raises(IndexError, match="got scene 3; there are 3"):
        DigitScenes(num_val=3).part("val")[3]
