import math

import numpy as np
import pytest
import torch

from fulgurite.callbacks.representative_interpretation.spots import Spot, evenly, find_spot

SIDE = 20


def pictures(count, *, seed=0):
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def uniform():
    return {kind: np.full((SIDE, SIDE), SIDE**-2.0) for kind in ("channel", "elementwise")}


def classify_by(region):
    """Class 1 where a region is bright."""

    def classify(images):
        bright = images[(slice(None), 0, *region)].flatten(1).mean(1) > 0.9
        return torch.stack([(~bright).float(), bright.float()], dim=1)

    return classify


def look(images, classify, *, maps=None, tried=64):
    predicted = classify(images).argmax(1)
    return find_spot(
        maps or uniform(),
        "channel",
        images,
        members=torch.nonzero(predicted == 1).flatten(),
        strangers=torch.nonzero(predicted == 0).flatten(),
        label=1,
        classify=classify,
        tried=tried,
        chance=np.random.default_rng(0),
    )


CORNER = (slice(0, 4), slice(0, 4))
MIDDLE = (slice(8, 12), slice(8, 12))


def test_a_patch_in_the_corner_decides():
    images = pictures(120)
    images[:30, 0, :4, :4] = 1.0
    spot = look(images, classify_by(CORNER))
    assert spot.decides
    assert spot.place == "the top left corner"
    assert (spot.turned, spot.alike, spot.alike_elsewhere) == (1.0, 1.0, 0.0)
    assert spot.where.sum() == spot.where[:4, :4].sum() == 16
    assert len(spot.takers) == len(spot.pasted) == 4
    assert (classify_by(CORNER)(spot.pasted).argmax(1) == 1).all()
    assert (classify_by(CORNER)(images[spot.takers]).argmax(1) == 0).all()


def test_a_patch_on_half_of_the_members_decides_as_well():
    """The others are of the class by something in the middle."""

    def classify(images):
        return torch.maximum(classify_by(CORNER)(images), classify_by(MIDDLE)(images)) * torch.tensor([0.9, 1.0])

    images = pictures(160)
    images[:20, 0, :4, :4] = 1.0
    images[20:40, 0, 8:12, 8:12] = 1.0
    spot = look(images, classify)
    assert spot.decides
    assert spot.place == "the top left corner"
    assert spot.alike == pytest.approx(0.5)


def test_what_the_network_does_not_go_by_is_no_spot():
    """A patch that all members have, and that nothing depends on."""
    images = pictures(120)
    images[:30, 0, :4, :4] = 1.0
    images[:30, 0, 8:12, 8:12] = 1.0
    spot = look(images, classify_by(MIDDLE))
    assert not spot.decides
    assert math.isnan(spot.alike)


def test_the_middle_is_where_things_are():
    images = pictures(120)
    images[:30, 0, 8:12, 8:12] = 1.0
    hot = uniform()
    hot["channel"][7:13, 7:13] *= 50
    spot = look(images, classify_by(MIDDLE), maps=hot)
    assert not spot.decides
    assert spot.place == "the middle"
    assert spot.turned == 1.0


def test_what_members_do_not_share_is_no_spot():
    """The corner decides, yet it looks different in every member."""
    images = 0.5 * pictures(160)
    noise = 0.93 + 0.07 * pictures(30, seed=1)[:, 0, :4, :4]
    images[:30, 0, :4, :4] = noise
    assert look(images, classify_by(CORNER)).decides  # nearly white in all of them: the same
    flipped = torch.rand(30, 4, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    images[:30, 0, :4, :4] = torch.where(flipped, 0.0, 2.0)
    assert not look(images, lambda x: classify_by(CORNER)(x * 4)).decides


@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 40)])
def test_without_members_or_strangers_nothing_is_tried(first, count):
    images = pictures(40)
    images[first:count, 0, :4, :4] = 1.0
    spot = look(images, classify_by(CORNER))
    assert isinstance(spot, Spot)
    assert math.isnan(spot.turned)
    assert not spot.decides
    assert len(spot.takers) == 0


def test_maps_that_are_empty_have_no_spot():
    images = pictures(60)
    images[:20, 0, :4, :4] = 1.0
    spot = look(images, classify_by(CORNER), maps={kind: np.zeros((SIDE, SIDE)) for kind in uniform()})
    assert not spot.where.any()
    assert spot.place == "nowhere"


def test_colour_and_pictures_without_channels():
    images = pictures(120).expand(-1, 3, -1, -1).clone()
    images[:30, :, :4, :4] = 1.0
    assert look(images, classify_by(CORNER)).decides
    flat = images[:, 0]
    assert look(flat, lambda x: classify_by(CORNER)(x[:, None])).decides


def test_evenly_keeps_both_ends():
    assert evenly(torch.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert evenly(torch.arange(3), 5).tolist() == [0, 1, 2]


def test_ground_that_others_cover_is_no_spot():
    """Members have nothing in the corner, half of the others have something there, and the network goes by that."""

    def classify(images):
        dark = images[:, 0, :4, :4].flatten(1).mean(1) < 0.1
        middle = classify_by(MIDDLE)(images)[:, 1] > 0
        return torch.stack([(~(dark & middle)).float(), (dark & middle).float()], dim=1)

    images = pictures(160)
    images[:, 0, :4, :4] = 0.0
    images[60::2, 0, :4, :4] = pictures(50, seed=3)[:, 0, :4, :4]
    images[:40, 0, 8:12, 8:12] = 1.0
    assert not look(images, classify).decides


@pytest.mark.parametrize(("count", "decides"), [(7, False), (8, True)])
def test_a_handful_is_no_evidence(count, decides):
    images = pictures(120)
    images[:count, 0, :4, :4] = 1.0
    assert look(images, classify_by(CORNER)).decides == decides
