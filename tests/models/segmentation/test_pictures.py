from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fulgurite.models.segmentation.pictures import class_colours, draw_segmentation, publish

RED, GREEN, BLUE, VOID = (255, 0, 0), (0, 255, 0), (0, 0, 255), (216, 222, 228)
PALETTE = torch.tensor([RED, GREEN, BLUE], dtype=torch.uint8)


def tiles(picture, rows, size, enlarged):
    """The three tiles of each row, read off their middle points: (rows, 3, H, W, 3)."""
    pixels = np.asarray(picture)
    factor = enlarged // size
    step = enlarged + 8
    found = np.empty((rows, 3, size, size, 3), np.uint8)
    for row in range(rows):
        for column in range(3):
            top, left = 26 + row * step, 8 + column * step
            tile = pixels[top : top + enlarged, left : left + enlarged]
            found[row, column] = tile[factor // 2 :: factor, factor // 2 :: factor]
    return found


def test_each_pixel_has_its_classes_colour_and_void_is_grey():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (2, 4, 4), generator=generator)
    truth[0, 0, 0] = 255
    predicted = torch.randint(3, (2, 4, 4), generator=generator)
    images = torch.rand(2, 3, 4, 4, generator=generator)
    picture = draw_segmentation(
        images, truth, predicted, class_names=["a", "b", "c"], palette=PALETTE, mean=(0, 0, 0), std=(1, 1, 1)
    )
    found = tiles(picture, rows=2, size=4, enlarged=160)
    assert np.array_equal(found[:, 0], (images * 255).round().byte().permute(0, 2, 3, 1).numpy())
    wanted_truth, wanted_predicted = PALETTE[truth.clamp_max(2)].numpy(), PALETTE[predicted].numpy()
    wanted_truth[0, 0, 0] = wanted_predicted[0, 0, 0] = VOID
    assert np.array_equal(found[:, 1], wanted_truth)
    assert np.array_equal(found[:, 2], wanted_predicted)


def test_the_normalisation_is_taken_back():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    pixels = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    masks = torch.zeros(1, 4, 4, dtype=torch.int64)
    picture = draw_segmentation(images, masks, masks, class_names=["a", "b"], mean=mean, std=std)
    found = tiles(picture, rows=1, size=4, enlarged=160)[0, 0]
    assert np.abs(found.astype(int) - (pixels[0] * 255).round().permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_images_of_other_channels_are_grey_by_their_first(channels):
    images = torch.zeros(1, channels, 4, 4)
    images[0, 0, 0, 0], images[0, -1, 3, 3] = 2.0, 2.0
    masks = torch.zeros(1, 4, 4, dtype=torch.int64)
    found = tiles(draw_segmentation(images, masks, masks, class_names=["a", "b"]), rows=1, size=4, enlarged=160)[0, 0]
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[3, 3].tolist() == ([255, 255, 255] if channels == 1 else [0, 0, 0])


def test_the_legend_names_the_classes_that_occur_only():
    """Below the tiles there is each occurring class's colour, and no other's."""
    truth, predicted = torch.zeros(1, 4, 4, dtype=torch.int64), torch.full((1, 4, 4), 2)
    picture = np.asarray(
        draw_segmentation(torch.rand(1, 3, 4, 4), truth, predicted, class_names=["a", "b", "c"], palette=PALETTE)
    )
    colours = {tuple(int(value) for value in pixel) for pixel in picture[26 + 168 :].reshape(-1, 3)}
    assert {RED, BLUE} <= colours
    assert GREEN not in colours
    assert VOID not in colours


def test_many_classes_are_cut_short_and_large_images_made_smaller():
    masks = torch.arange(600 * 700).reshape(1, 600, 700) % 60
    picture = draw_segmentation(torch.rand(1, 3, 600, 700), masks, masks, class_names=[f"class {n}" for n in range(60)])
    assert picture.width == 3 * 480 + 4 * 8


def test_colours_of_classes_differ_and_are_pascals():
    colours = class_colours(200)
    assert len(colours.unique(dim=0)) == 200
    assert colours[15].tolist() == [192, 128, 128]  # PASCAL VOC's person


def test_a_picture_is_written_whole_and_logged(tmp_path):
    calls = []
    experiment = SimpleNamespace(add_image=lambda name, image, **options: calls.append((name, image.shape, options)))
    loggers = [SimpleNamespace(experiment=experiment), SimpleNamespace(experiment=object()), SimpleNamespace()]
    picture = Image.new("RGB", (6, 4), RED)
    path = tmp_path / "pictures" / "val.png"
    publish(picture, path=path, loggers=loggers, name="val/pictures", step=7)
    assert calls == [("val/pictures", (4, 6, 3), {"global_step": 7, "dataformats": "HWC"})]
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))


def test_a_picture_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "val.png"
    publish(Image.new("RGB", (6, 4), RED), path=path, loggers=[], name="n", step=0)
    before = path.read_bytes()

    def full(self, file, format):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        publish(Image.new("RGB", (6, 4), BLUE), path=path, loggers=[], name="n", step=1)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["val.png"]
