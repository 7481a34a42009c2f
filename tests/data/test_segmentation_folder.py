import numpy as np
import pytest
import torch
from PIL import Image

from fulgurite.data import SegmentationFolder


def fill(root, parts=("train", "val"), count=3, size=(12, 16)):
    """Images whose red channel is 60 times the class of the mask; class 255 in a corner."""
    for part in parts:
        for kind in ("images", "labels"):
            (root / part / kind).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng([len(part), number])
            mask = generator.integers(0, 3, size=size).astype(np.uint8)
            image = np.zeros((*size, 3), np.uint8)
            image[..., 0] = 60 * mask
            mask[0, 0] = 255
            Image.fromarray(image).save(root / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / part / "labels" / f"{number}.png")
    return str(root)


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "num_classes": 3}


def test_images_and_masks_belong_together(tmp_path):
    data = SegmentationFolder(root=fill(tmp_path, ("train", "val", "test")), batch_size=2, **PLAIN)
    for loader, rows in ((data.train_dataloader(), [2]), (data.val_dataloader(), [2, 1])):
        batches = list(loader)
        assert [len(images) for images, _ in batches] == rows
        for images, masks in batches:
            assert (images.shape[1:], masks.shape[1:]) == ((3, 12, 16), (12, 16))
            assert (images.dtype, masks.dtype) == (torch.float32, torch.int64)
            torch.testing.assert_close(images[:, 0][masks < 255], masks[masks < 255] * 60 / 255)
            assert (masks == 255).sum() == len(masks)
    assert [images.shape[0] for images in data.predict_dataloader()] == [2, 1]
    assert data.class_names == ("0", "1", "2")


@pytest.mark.parametrize("size", [(12, 16), (5, 4), (16, 30)])
def test_altered_images_still_belong_to_their_masks(tmp_path, size):
    root = fill(tmp_path, ("train",), size=(24, 24))
    data = SegmentationFolder(root=root, crop_size=size, flip=0.5, **PLAIN)
    torch.manual_seed(0)
    seen = set()
    for _ in range(10):
        image, mask = data.part("train")[0]
        assert (image.shape, mask.shape) == ((3, *size), size)
        torch.testing.assert_close(image[0][mask < 255], mask[mask < 255] * 60 / 255)
        seen.add(mask.numpy().tobytes())
    assert len(seen) > 3
    scaled = SegmentationFolder(root=root, scale=(0.4, 1.7), crop_size=size, photometric=True, **PLAIN).part("train")
    for _ in range(10):
        image, mask = scaled[0]
        assert (image.shape, mask.shape) == ((3, *size), size)
        assert set(mask.unique().tolist()) <= {0, 1, 2, 255}


def test_names_come_from_a_file_or_options(tmp_path):
    root = fill(tmp_path)
    (tmp_path / "classes.txt").write_text("road\nsky\n\ntree\n")
    data = SegmentationFolder(root=root)
    data.setup()
    assert (data.class_names, data.num_classes) == (("road", "sky", "tree"), 3)
    assert SegmentationFolder(class_names=["a", "b"]).num_classes == 2
    with pytest.raises(ValueError, match=r"classes.txt: has 3 names, num_classes is 4"):
        SegmentationFolder(root=root, num_classes=4).setup()
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"give num_classes or class_names, or write classes\.txt"):
        SegmentationFolder(root=root).setup()


def test_images_to_predict_need_no_masks(tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    for name, size in (("a", (8, 6)), ("b", (6, 8))):
        Image.new("RGB", size).save(folder / f"{name}.jpg")
    data = SegmentationFolder(num_classes=3, predict_folder=str(folder), eval_batch_size=1)
    data.setup("predict")
    assert [tuple(images.shape) for images in data.predict_dataloader()] == [(1, 3, 6, 8), (1, 3, 8, 6)]
    with pytest.raises(ValueError, match=r"images of 6 × 8 and 8 × 6 pixels .* in one batch; want one size"):
        list(SegmentationFolder(num_classes=3, predict_folder=str(folder)).predict_dataloader())


def save(path, values, mode="L"):
    Image.fromarray(values).convert(mode).save(path)


WHOLE = np.zeros((12, 16), np.uint8)
FAULTS = {
    "no mask": (lambda p: (p / "labels/1.png").unlink(), r"images/1\.png: an image without a mask"),
    "no image": (lambda p: (p / "images/1.png").unlink(), r"labels/1\.png: a mask without an image"),
    "size": (lambda p: save(p / "labels/1.png", WHOLE[:, :8]), r"1\.png: is 8 × 12 pixels, its image .* is 16 × 12"),
    "class": (lambda p: save(p / "labels/1.png", WHOLE + 7), r"1\.png: has class 7, 192 pixels; want 0 to 2 or 255"),
    "colours": (lambda p: save(p / "labels/1.png", WHOLE, "RGB"), r"1\.png: has colours \(mode RGB\); want a grey"),
    "palette": (lambda p: save(p / "labels/1.png", WHOLE, "P"), r"1\.png: has a palette; want a grey image"),
    "twice": (lambda p: save(p / "images/1.bmp", WHOLE), r"1\.png: has the same name as 1\.bmp"),
    "broken": (lambda p: (p / "labels/1.png").write_bytes(b""), r"1\.png \(no known image format\)"),
    "missing": (lambda p: (p / "labels").rename(p / "masks"), r"labels: no such folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named_when_the_data_is_set_up(tmp_path, fault):
    root = fill(tmp_path)
    SegmentationFolder(root=root, **PLAIN).setup()
    spoil, match = FAULTS[fault]
    spoil(tmp_path / "val")
    with pytest.raises(ValueError, match=match):
        SegmentationFolder(root=root, **PLAIN).setup()


def test_masks_of_sixteen_bits_and_suffixes(tmp_path):
    root = fill(tmp_path, ("train",), count=1)
    (tmp_path / "train/labels/0.png").unlink()
    Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(tmp_path / "train/labels/0_L.png")
    data = SegmentationFolder(root=root, mask_suffix="_L", num_classes=3, ignore_index=1000, crop_size=(14, 14))
    assert data.part("train")[0][1].unique().tolist() == [1000]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes=3 and 2 class_names"),
        ({"class_names": ["a", "a"]}, "all different"),
        ({"scale": (2.0, 0.5)}, "smallest <= largest"),
        ({"crop_size": (0, 4)}, r"crop_size=\(0, 4\)"),
        ({"crop_size": (4, 4), "ignore_index": None}, "crop_size without ignore_index"),
        ({"flip": 1.5}, "flip=1.5"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"mean": (0.0,)}, "want three numbers"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        SegmentationFolder(**options)


def test_no_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    with pytest.raises(ValueError, match="give root, or set"):
        SegmentationFolder(num_classes=2).setup()
    with pytest.raises(ValueError, match="has no folder train, val or test"):
        SegmentationFolder(root=str(tmp_path), num_classes=2).setup()
    with pytest.raises(ValueError, match="has no test part; it has train, val"):
        SegmentationFolder(root=fill(tmp_path), **PLAIN).test_dataloader()


def test_camvid(shared_data):
    data = SegmentationFolder(root=str(shared_data / "camvid_small"), num_classes=11, ignore_index=11)
    assert (len(data.part("train")), len(data.part("val"))) == (180, 50)
    images, masks = next(iter(data.val_dataloader()))
    assert (images.shape, masks.shape) == ((8, 3, 180, 240), (8, 180, 240))
    assert 11 in masks
