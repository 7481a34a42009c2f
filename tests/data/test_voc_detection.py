"""VOC's folders are read, by its lists or without, and what is wrong is named."""

import pytest
import torch
from PIL import Image

from fulgurite.data.voc_detection import VocDetection

OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write(root, name, objects, *, size=(30, 20), suffix=".jpg", image=True):
    for folder in ("Annotations", "ImageSets", "JPEGImages"):
        (root / folder).mkdir(exist_ok=True, parents=True)
    inner = "".join(OBJECT.format(*item) for item in objects)
    text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{inner}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)
    if image:
        Image.new("RGB", size).save(root / "JPEGImages" / f"{name}{suffix}")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "a", [("cat", 0, 1, 1, 30, 20), ("dog", 1, 3, 4, 10, 12)])
    write(tmp_path, "b", [], suffix=".png")
    write(tmp_path, "c", [("dog", 0, 5, 5, 9, 9)])
    (tmp_path / "ImageSets" / "train.txt").write_text("a\nb\n\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("c\n")
    return tmp_path


def test_boxes_count_from_zero_and_end_behind_the_last_pixel(folder):
    data = VocDetection(str(folder))
    data.setup()
    first, second = data.part("train").records
    assert first.boxes.tolist() == [[0, 0, 30, 20], [2, 3, 10, 12]]
    assert first.labels.tolist() == [1, 2]
    assert data.class_names == ("cat", "dog")
    assert second.boxes.shape == (0, 4)
    assert data.part("val").records[0].labels.tolist() == [2]
    images, targets = next(iter(data.train_dataloader()))
    assert len(images) == len(targets) == 2


def test_options(folder):
    data = VocDetection(str(folder), one_based=False, difficult="drop", classes=["dog", "cat"])
    assert data.part("train").records[0].boxes.tolist() == [[1, 1, 30, 20]]
    assert data.part("train").records[0].labels.tolist() == [2]
    for option, message in (
        ({"val_share": 1.0}, "got val_share=1.0"),
        ({"difficult": "ignore"}, "choose from keep, drop"),
        ({"classes": ["a", "a"]}, "each once"),
    ):
        with pytest.raises(ValueError, match=message):
            VocDetection(str(folder), **option)


def test_without_lists_the_validation_part_is_cut_always_the_same(tmp_path):
    for number in range(10):
        write(tmp_path, f"n{number}", [("cat", 0, 1, 1, 5, 5)])
    parts = []
    for _ in range(2):
        data = VocDetection(str(tmp_path), val_share=0.3)
        parts.append([[record.path for record in data.part(part).records] for part in ("train", "val")])
    assert parts[0] == parts[1]
    assert sum(map(len, parts[0])) == 10
    assert all(parts[0])


def test_lists_in_main_are_taken_first(folder):
    (folder / "ImageSets" / "Main").mkdir()
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a 1\n")
    assert len(VocDetection(str(folder)).part("train")) == 1


def break_xml(root):
    (root / "Annotations" / "a.xml").write_text("<annotation><size>")


def no_annotation(root):
    (root / "Annotations" / "b.xml").unlink()


def no_image(root):
    (root / "JPEGImages" / "a.jpg").unlink()


def broken_image(root):
    (root / "JPEGImages" / "a.jpg").write_bytes(b"no image")


def unknown_class(root):
    write(root, "c", [("cow", 0, 1, 1, 5, 5)])


def outside(root):
    write(root, "c", [("cat", 0, 1, 1, 50, 5)])


def flat(root):
    write(root, "c", [("cat", 0, 9, 1, 3, 5)])


def no_number(root):
    write(root, "c", [("cat", 0, "x", 1, 3, 5)])


def nameless(root):
    write(root, "c", [("", 0, 1, 1, 3, 5)])


def no_size(root):
    (root / "Annotations" / "a.xml").write_text("<annotation><object><name>cat</name></object></annotation>")


def no_box(root):
    text = "<annotation><size><width>30</width><height>20</height></size><object><name>cat</name></object></annotation>"
    (root / "Annotations" / "a.xml").write_text(text)


def empty_list(root):
    (root / "ImageSets" / "val.txt").write_text("\n")


def no_train(root):
    (root / "ImageSets" / "train.txt").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_xml, r"a\.xml: is not XML that can be read"),
        (no_annotation, r"b\.xml: there is no such annotation"),
        (no_image, r"a\.jpg: there is no such image, which is in the train part"),
        (broken_image, r"no images that can be read: .*a\.jpg"),
        (unknown_class, r"c\.xml: has an object of class 'cow'; known are cat, dog"),
        (outside, r"c\.xml: box 1, \(0, 0, 50, 5\), is outside the image, 30 × 20"),
        (flat, r"c\.xml: box 1, .* has no area"),
        (no_number, r"c\.xml: says <xmin>x</xmin> in a <bndbox>; want a number"),
        (nameless, r"c\.xml: has an object without a <name>"),
        (no_size, r"a\.xml: says no <size>"),
        (no_box, r"a\.xml: its 'cat' has no <bndbox>"),
        (empty_list, r"val\.txt: names no image"),
        (no_train, r"has val\.txt but no train\.txt"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, harm, message):
    harm(folder)
    with pytest.raises(ValueError, match=message) as caught:
        VocDetection(str(folder)).setup()
    assert "\n" not in str(caught.value)


def test_bad_boxes_are_repaired_where_that_is_wanted(folder):
    write(folder, "c", [("cat", 0, 1, 1, 50, 5), ("cat", 0, 9, 1, 3, 5)])
    data = VocDetection(str(folder), bad_boxes="repair")
    assert data.part("val").records[0].boxes.tolist() == [[0, 0, 30, 5]]
    assert data.repaired == 1


def test_the_cells(shared_data):
    if not (shared_data / "bccd").is_dir():
        pytest.skip(f"no folder bccd in {shared_data}")
    data = VocDetection(str(shared_data / "bccd"), max_side=320)
    assert data.class_names is None
    counts = [torch.cat([record.labels for record in data.part(part).records]).bincount() for part in ("train", "val")]
    assert data.class_names == ("Platelets", "RBC", "WBC")
    assert [count.tolist() for count in counts] == [[0, 167, 1821, 168], [0, 51, 572, 50]]
    image, target = data.part("val")[0]
    assert image.shape == (3, 240, 320)
    assert (target["boxes"] <= torch.tensor([320, 240, 320, 240])).all()
