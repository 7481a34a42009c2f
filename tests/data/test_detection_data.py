"""Boxes are checked, batches are lists, and a wrong file is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fulgurite.data.detection_data import BoxedImage, DetectionData, check_boxes, data_folder

BOX = torch.tensor([[2.0, 2, 8, 6]])


def record(path, *, size=(10, 12), boxes=BOX):
    labels = torch.ones(len(boxes), dtype=torch.int64)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return BoxedImage(str(path), size, boxes, labels, torch.zeros_like(labels), area, 5)


class Given(DetectionData):
    def __init__(self, records, **options):
        options = {
            "batch_size": 2,
            "max_side": None,
            "augment": "none",
            "bad_boxes": "error",
            "num_workers": 0,
        } | options
        super().__init__(**options)
        self.given = records

    def make_records(self):
        self.class_names = ("cell",)
        return {"train": self.given, "val": self.given}


def test_images_of_mixed_sizes_and_without_boxes_make_a_batch(tmp_path):
    Image.new("RGB", (12, 10), "white").save(tmp_path / "a.png")
    Image.new("L", (7, 9)).save(tmp_path / "b.png")
    data = Given([record(tmp_path / "a.png"), record(tmp_path / "b.png", size=(9, 7), boxes=BOX[:0])])
    images, targets = next(iter(data.val_dataloader()))
    assert [tuple(image.shape) for image in images] == [(3, 10, 12), (3, 9, 7)]
    assert float(images[0].min()) == 1.0
    assert images[0].dtype == torch.float32
    assert [tuple(target["boxes"].shape) for target in targets] == [(1, 4), (0, 4)]
    assert targets[0]["image_id"].item() == 5
    assert all(type(value) is torch.Tensor for target in targets for value in target.values())
    assert data.num_classes == 1


def test_an_image_keeps_its_pixels_where_the_boxes_are_whatever_its_orientation_tag(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (12, 10)).save(tmp_path / "a.jpg", exif=exif)
    image, _ = Given([record(tmp_path / "a.jpg")]).part("train")[0]
    assert image.shape == (3, 10, 12)


def test_an_image_of_another_size_than_its_annotation_is_named(tmp_path):
    Image.new("RGB", (12, 11)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: is 12 × 11, its annotation says 12 × 10"):
        Given([record(tmp_path / "a.png")]).part("train")[0]


def test_a_part_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="Given has no test part; it has train, val"):
        Given([record(tmp_path)]).test_dataloader()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, "got batch_size=0; want at least 1"),
        ({"max_side": 0}, "got max_side=0"),
        ({"augment": "turn"}, "got augment='turn'; choose from none, mirror, flips, jitter"),
        ({"bad_boxes": "drop"}, "got bad_boxes='drop'; choose from error, repair"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        Given([], **option)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([2, 2, 2, 6], r"a\.xml: box 2, \(2, 2, 2, 6\), has no area; want x1 < x2 and y1 < y2"),
        ([5, 2, 3, 6], "has no area"),
        ([2, 2, 14, 6], r"box 2, \(2, 2, 14, 6\), is outside the image, 12 × 10"),
        ([-2, 2, 3, 6], "is outside the image"),
        ([12, 2, 13, 6], "is outside the image"),
        ([float("nan"), 2, 3, 6], "is not finite"),
    ],
)
def test_a_bad_box_is_named(box, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor([[0.0, 0, 1, 1], box]), (10, 12), place="a.xml")


def test_a_pixel_over_the_border_is_cut_off():
    boxes, keep = check_boxes(torch.tensor([[-1.0, 0, 13, 10.5]]), (10, 12), place="a.xml")
    assert boxes.tolist() == [[0, 0, 12, 10]]
    assert keep.all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 4), max_size=6))
def test_repaired_boxes_are_within_the_image(sides):
    boxes, keep = check_boxes(torch.tensor(sides).reshape(-1, 4), (10, 12), place="a", bad="repair")
    kept = boxes[keep]
    assert (kept[:, 2:] > kept[:, :2]).all()
    assert (kept >= 0).all()
    assert (kept <= torch.tensor([12, 10, 12, 10])).all()
    for row, side in enumerate(sides):  # none that has an area in the image is lost
        left, top, right, bottom = torch.tensor(side).tolist()
        assert bool(keep[row]) == (min(right, 12) > max(left, 0) and min(bottom, 10) > max(top, 0))


def test_no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    with pytest.raises(ValueError, match="X has no folder: give root, or set"):
        data_folder(None, "voc", asker="X")
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="voc is not a folder"):
        data_folder(None, "voc", asker="X")
    (tmp_path / "voc").mkdir()
    assert data_folder(None, "voc", asker="X") == tmp_path / "voc"
