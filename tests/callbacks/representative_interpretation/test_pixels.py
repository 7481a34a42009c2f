import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from fulgurite.callbacks.representative_interpretation.pixels import Scale, as_uri, coloured, hottest, over, place_of


def test_a_normalisation_by_channel_is_undone():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 5, 7), generator=generator)
    pixels[0, :, 0, 0], pixels[1, :, 0, 0] = 0, 255
    mean, deviation = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    images = (pixels / 255 - mean) / deviation
    shown = Scale(images).pixels(images[3])
    assert shown.shape == (5, 7, 3)
    assert abs(shown.astype(int) - pixels[3].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 1, 5, 6), (4, 2, 5, 6), (4, 9, 5, 6)])
def test_other_channels_are_shown_in_grey(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    shown = Scale(images).pixels(images[0])
    assert shown.shape == (5, 6, 3)
    assert (shown == shown[..., :1]).all()


def test_images_that_are_all_alike_are_shown():
    assert Scale(torch.ones(3, 1, 4, 4)).pixels(torch.ones(1, 4, 4)).max() == 0


def test_the_hottest_pixels_and_where_they_are():
    heat = np.zeros((30, 30))
    assert not hottest(heat, 0.1).any()
    assert place_of(hottest(heat, 0.1)) == "nowhere"
    heat[:9, 21:] = 1
    spot = hottest(heat, 0.1)
    assert spot.sum() == 90
    assert place_of(spot) == "the top right corner"
    heat[:] = np.arange(30) % 2
    assert place_of(hottest(heat, 0.5)) == "several parts of the picture"


def test_a_layer_hides_nothing_where_the_map_is_zero():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    heat = np.zeros((6, 8))
    heat[2:, 3] = [0.1, 0.4, 0.8, 1.0]
    shown = over(pixels, coloured(heat))
    assert (shown[heat == 0] == pixels[heat == 0]).all()
    assert (shown[heat > 0.3] != pixels[heat > 0.3]).any(-1).all()
    assert (np.diff(coloured(heat)[2:, 3, 3].astype(int)) > 0).all()


@pytest.mark.parametrize(("side", "kind"), [(28, "png"), (224, "jpeg"), (500, "jpeg")])
def test_an_image_becomes_a_uri(side, kind):
    pixels = np.full((side, side // 2, 3), 77, dtype=np.uint8)
    head, data = as_uri(pixels).split(",")
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == (min(side, 192) // 2, min(side, 192))
    assert abs(np.asarray(image).astype(int) - 77).max() <= 1


def test_a_layer_keeps_what_is_see_through():
    layer = coloured(np.eye(100))
    image = Image.open(io.BytesIO(base64.b64decode(as_uri(layer).split(",")[1])))
    assert image.size == (64, 64)
    assert np.asarray(image)[..., 3].min() == 0
