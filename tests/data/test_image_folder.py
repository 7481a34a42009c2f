import pickle

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from fulgurite.data import ImageFolder

COLOURS = {"blue": (20, 40, 200), "red": (220, 30, 10)}


def fill(folder, classes=("blue", "red"), count=10, size=(20, 30)):
    """Images in the colour of their class, the grey value of the green channel telling them apart."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.empty((*size, 3), dtype=np.uint8)
            pixels[:] = COLOURS.get(name, (128, 128, 128))
            pixels[..., 1] = number * 5
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return str(folder)


def test_class_folders_are_split_by_class_and_every_time_the_same(tmp_path):
    root = fill(tmp_path)
    data = ImageFolder(root=root, image_size=8, test_share=0.1, normalize="none")
    parts = {name: data.part(name) for name in ("train", "val", "test")}
    assert data.class_names == ("blue", "red")
    assert {name: part.labels.bincount().tolist() for name, part in parts.items()} == {
        "train": [7, 7],
        "val": [2, 2],
        "test": [1, 1],
    }
    paths = [path for part in parts.values() for path in part.paths]
    assert len(set(paths)) == 20
    assert ImageFolder(root=root, test_share=0.1).part("val").paths == parts["val"].paths
    assert ImageFolder(root=root, test_share=0.1, seed=1).part("val").paths != parts["val"].paths
    for images, labels in data.train_dataloader():
        assert images.shape[1:] == (3, 8, 8)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal((images[:, 0] > 0.5).all(dim=(1, 2)).long(), labels), "each image has its class's colour"


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_folders_of_parts_are_taken_as_they_are(tmp_path, val):
    fill(tmp_path / "train", count=6)
    fill(tmp_path / val, ("red",), count=3)
    data = ImageFolder(root=str(tmp_path), val_share=0.5, test_share=1 / 3)
    assert data.part("train").labels.tolist() == [0] * 4 + [1] * 4
    assert data.part("val").labels.tolist() == [1] * 3
    assert data.part("test").labels.tolist() == [0, 0, 1, 1], "no folder has it, so training images are cut"
    fill(tmp_path / "test", count=1)
    data = ImageFolder(root=str(tmp_path))
    assert [len(data.part(part)) for part in ("train", "val", "test")] == [12, 3, 2]


def test_train_may_be_a_class(tmp_path):
    data = ImageFolder(root=fill(tmp_path, ("bus", "train", "test")))
    data.setup()
    assert data.class_names == ("bus", "test", "train")


@pytest.mark.parametrize("size", [(20, 30), (30, 20), (5, 3)])
@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_every_image_gets_the_wanted_size(tmp_path, size, resize, part):
    data = ImageFolder(root=fill(tmp_path, size=size), image_size=12, resize=resize, normalize="none", augment="crop")
    image, _ = data.part(part)[0]
    assert image.shape == (3, 12, 12)
    red = image[0] * 255
    if part == "train" or resize != "pad":
        torch.testing.assert_close(red, torch.full((12, 12), 20.0), atol=1.01, rtol=0)
    else:
        assert red[5, 5] == 20
        assert {red[0, 5].item(), red[5, 0].item()} == {0, 20}, "the short side is filled up with black"


def test_values_are_scaled_as_asked(tmp_path):
    root = fill(tmp_path)
    plain, half, imagenet, grey = (
        ImageFolder(root=root, image_size=4, **options).part("val")[0][0]
        for options in (
            {"normalize": "none"},
            {"normalize": "half"},
            {},
            {"grey": True, "normalize": "none"},
        )
    )
    torch.testing.assert_close(plain[2], torch.full((4, 4), 200 / 255))
    torch.testing.assert_close(half, plain * 2 - 1)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(imagenet, (plain - mean[:, None, None]) / spread[:, None, None])
    assert grey.shape == (1, 4, 4)
    weighted = (plain * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0, keepdim=True)
    torch.testing.assert_close(grey, weighted, atol=1 / 255, rtol=0)


def test_only_training_images_are_altered_and_only_if_asked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        Image.fromarray(pixels).save(tmp_path / name)

    def views(augment, part):
        data = ImageFolder(root=str(tmp_path), image_size=16, val_share=0.5, normalize="none", augment=augment)
        rows = data.part(part)
        torch.manual_seed(0)
        return {rows[0][0].numpy().tobytes() for _ in range(30)}

    assert len(views("none", "train")) == 1
    assert len(views("mirror", "train")) == 2
    assert len(views("crop", "train")) > 10
    assert all(len(views(augment, "val")) == 1 for augment in ("none", "mirror", "crop"))


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    fill(tmp_path / "images")
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    assert len(ImageFolder().part("train")) == 16
    assert len(ImageFolder(root=fill(tmp_path / "others", count=5)).part("train")) == 8
    monkeypatch.delenv("FULGURITE_DATA")
    with pytest.raises(ValueError, match=r"give root, or set \$FULGURITE_DATA to a folder that has 'images'"):
        ImageFolder().setup()


def test_broken_files_are_named_at_setup_or_when_they_are_read(tmp_path):
    root = fill(tmp_path)
    (tmp_path / "red" / "99.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"red/99\.png \(no known image format\); remove or replace"):
        ImageFolder(root=root).setup()
    data = ImageFolder(root=root, check_files=False, val_share=0)
    with pytest.raises(ValueError, match=r"red/99\.png: cannot be decoded"):
        list(data.train_dataloader())


def empty(root):
    (root / "green").mkdir()


def lonely(root):
    for path in (root / "red").iterdir():
        path.unlink()
    (root / "red").rmdir()


def unknown(root):
    fill(root / "train")
    fill(root / "val", ("red", "pink"))


def hollow(root):
    fill(root / "train")
    (root / "val" / "red").mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (empty, r"green: holds no image; fill it, or remove it"),
        (lonely, r"has 1 class folders; want 2 or more"),
        (unknown, r"pink: no such class; those of the training part are blue, red"),
        (hollow, r"val: holds no image"),
    ],
)
def test_folders_that_are_not_as_they_should_be(tmp_path, change, match):
    root = fill(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=match):
        ImageFolder(root=root).setup()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"resize": "stretch"}, "choose from crop, squash, pad"),
        ({"normalize": "zero"}, "choose from imagenet, half, none"),
        ({"augment": "all"}, "choose from none, mirror, crop"),
        ({"val_share": 1.0}, "val_share=1.0"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        ImageFolder(**options)


def test_no_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        ImageFolder(root=str(tmp_path / "nowhere")).setup()
    with pytest.raises(ValueError, match="there is no test part; test_share is 0"):
        ImageFolder(root=fill(tmp_path)).test_dataloader()


def test_options_come_from_yaml_and_workers_can_be_sent_everything(tmp_path):
    root = fill(tmp_path)
    parser = ArgumentParser()
    parser.add_class_arguments(ImageFolder, "data")
    config = parser.parse_string(f"data:\n  root: {root}\n  image_size: 8\n  augment: crop\n  num_workers: 1\n")
    data = parser.instantiate(config).data
    dataset = pickle.loads(pickle.dumps(data.part("val")))
    assert torch.equal(dataset[0][0], data.part("val")[0][0])
    torch.set_num_threads(1)
    here = ImageFolder(root=root, image_size=8).val_dataloader()
    for mine, theirs in zip(here, data.val_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
