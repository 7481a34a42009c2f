"""COCO's folders are read as pycocotools reads them, and what is wrong is named."""

import json

import pytest
import torch
from PIL import Image

from fulgurite.data.coco_detection import CocoDetectionData

CROWD = {"size": [20, 30], "counts": [0, 40, 560]}


def write(root, part, annotations, *, images=2, categories=((18, "dog"), (3, "car"))):
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    (root / part).mkdir(exist_ok=True)
    entries = []
    for number in range(images):
        Image.new("RGB", (30, 20)).save(root / part / f"{number:012}.jpg")
        entries.append({"id": 100 + number, "file_name": f"{number:012}.jpg", "height": 20, "width": 30})
    content = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def item(number, **changes):
    box = {"bbox": [2, 3, 10, 5], "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]], "area": 50.0, "iscrowd": 0}
    return {"id": number, "image_id": 100, "category_id": 18, **box, **changes}


@pytest.fixture
def folder(tmp_path):
    crowd = item(2, iscrowd=1, segmentation=CROWD, bbox=[0, 0, 2, 20], category_id=3)
    for part in ("train2017", "val2017"):
        write(tmp_path, part, [item(1), crowd])
    return tmp_path


def test_categories_become_labels_and_crowds_stay_for_the_metric(folder):
    data = CocoDetectionData(str(folder), masks=True)
    assert len(data.part("train")) == 2
    assert data.class_names == ("car", "dog")
    assert data.num_classes == 2
    _, trained = data.part("train")[0]
    assert trained["labels"].tolist() == [2]
    _, target = data.part("val")[0]
    assert target["boxes"].tolist() == [[2, 3, 12, 8], [0, 0, 2, 20]]
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [50, 50]
    assert target["masks"].flatten(1).sum(dim=1).tolist() == [50, 40]
    assert target["masks"][0, 3:8, 2:12].all()
    _, nothing = data.part("val")[1]
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"].shape == (0, 20, 30)
    assert nothing["image_id"].item() == 101


def test_images_in_which_nothing_is_marked_may_be_left_out_of_training(folder):
    data = CocoDetectionData(str(folder), keep_empty=False, max_side=15)
    assert len(data.part("train")) == 1
    assert len(data.part("val")) == 2
    image, target = data.part("train")[0]
    assert image.shape == (3, 10, 15)
    assert target["boxes"].tolist() == [[1, 1.5, 6, 4]]
    assert target["area"].tolist() == [12.5]
    assert "masks" not in target


def test_the_official_reader_gives_the_same(folder):
    api = pytest.importorskip("faster_coco_eval").COCO(str(folder / "annotations" / "instances_val2017.json"))
    _, target = CocoDetectionData(str(folder), masks=True).part("val")[0]
    for row, entry in enumerate(api.loadAnns(api.getAnnIds(imgIds=[100]))):
        assert torch.equal(target["masks"][row], torch.from_numpy(api.annToMask(entry)))
        left, top, width, height = entry["bbox"]
        assert target["boxes"][row].tolist() == [left, top, left + width, top + height]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 7}, "annotation 1 is of image 7, which is not there"),
        ({"category_id": 4}, "annotation 1 has category 4; known are 3, 18"),
        ({"bbox": [1, 2, 0, 5]}, r"0\.jpg: box 1, \(1, 2, 1, 7\), has no area"),
        ({"bbox": [1, 2, 90, 5]}, "box 1, .* is outside the image, 30 × 20"),
        ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]; want \[x, y, width, height\]"),
    ],
)
def test_a_wrong_annotation_is_named(folder, changes, message):
    write(folder, "val2017", [item(1, **changes)])
    with pytest.raises(ValueError, match=message) as caught:
        CocoDetectionData(str(folder)).setup()
    assert "\n" not in str(caught.value)
    assert "instances_val2017.json" in str(caught.value)


def test_a_wrong_segmentation_is_named_when_it_is_drawn(folder):
    write(folder, "val2017", [item(1, segmentation=[[1, 2]])])
    with pytest.raises(ValueError, match=r"instances_val2017\.json: annotation 1: got a polygon of 2 numbers"):
        CocoDetectionData(str(folder), masks=True).part("val")[0]


def test_bad_boxes_are_repaired_where_that_is_wanted(folder):
    write(folder, "val2017", [item(1, bbox=[1, 2, 0, 5]), item(2, bbox=[20, 2, 90, 5])])
    data = CocoDetectionData(str(folder), bad_boxes="repair", masks=True)
    _, target = data.part("val")[0]
    assert target["boxes"].tolist() == [[20, 2, 30, 7]]
    assert len(target["masks"]) == data.repaired == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON that can be read"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [1], "annotations": [], "categories": []}', "has something that is no mapping"),
        ('{"images": [], "annotations": [], "categories": []}', "has no category"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "a category has no 'name'; it has id"),
    ],
)
def test_a_wrong_file_is_named(folder, text, message):
    (folder / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(ValueError, match=r"instances_train2017\.json: .*" + message):
        CocoDetectionData(str(folder)).setup()


def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match=r"instances_other\.json: there is no such file"):
        CocoDetectionData(str(folder), val="other").setup()
    write(folder, "val2017", [], categories=((18, "dog"), (3, "cow")))
    with pytest.raises(ValueError, match="other categories than the training part, differing in 'car', 'cow'"):
        CocoDetectionData(str(folder)).setup()
    write(folder, "val2017", [])
    (folder / "val2017" / "000000000000.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="no images that can be read"):
        CocoDetectionData(str(folder), check_files=True).setup()
