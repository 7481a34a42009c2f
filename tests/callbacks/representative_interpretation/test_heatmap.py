import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.heatmap import heatmaps, plane_maps
from fulgurite.callbacks.representative_interpretation.planes import Planes

SEEDS = st.integers(0, 2**32 - 1)
KINDS = ("channel", "elementwise")


def planes_of(weight, positive=None):
    count = len(weight)
    return Planes(
        weight=weight,
        bias=torch.arange(count, dtype=weight.dtype) - 1.5,
        point=torch.zeros_like(weight),
        rival=torch.ones(count, dtype=torch.long),
        grade=("exact",) * count,
        residual=torch.zeros(count, dtype=weight.dtype),
        positive=torch.ones(count, dtype=torch.bool) if positive is None else torch.as_tensor(positive),
        label=0,
    )


def drawn(seed, images=3, count=4, shape=(5, 4, 3)):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    positive = torch.rand(count, generator=generator) < 0.5
    return planes_of(weight, positive), torch.randn(images, *shape, generator=generator)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, images=st.integers(0, 4), count=st.integers(0, 5))
def test_elementwise_maps_add_up_to_the_planes_value(seed, images, count):
    planes, features = drawn(seed, images, count)
    total = plane_maps(planes, features, maps="elementwise").sum(dim=(2, 3))
    sign = torch.where(planes.positive, 1.0, -1.0).double()
    torch.testing.assert_close(total, sign * (planes.value(features) - planes.bias), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, maps=st.sampled_from(KINDS))
def test_maps_equal_loops_over_channels(seed, maps):
    planes, features = drawn(seed)
    found = plane_maps(planes, features, maps=maps)
    for image, psi in enumerate(features.double().numpy()):
        for plane, weight in enumerate(planes.weight.numpy()):
            expected = np.zeros(psi.shape[1:])
            for channel in range(len(psi)):
                expected += (weight[channel].mean() if maps == "channel" else weight[channel]) * psi[channel]
            expected *= 1 if planes.positive[plane] else -1
            np.testing.assert_allclose(found[image, plane], expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, maps=st.sampled_from(KINDS))
def test_maps_speak_for_the_side_of_x_whichever_it_is(seed, maps):
    """A plane written with the other sign is the same plane, with x on its negative side."""
    planes, features = drawn(seed)
    turned = planes_of(-planes.weight, ~planes.positive)
    torch.testing.assert_close(plane_maps(planes, features, maps=maps), plane_maps(turned, features, maps=maps))


@settings(deadline=None, max_examples=40)
@given(
    seed=SEEDS,
    images=st.integers(0, 4),
    count=st.integers(1, 4),
    height=st.integers(1, 37),
    width=st.integers(1, 37),
    maps=st.sampled_from(KINDS),
)
def test_heat_is_the_mean_of_scaled_maps_at_any_size(seed, images, count, height, width, maps):
    planes, features = drawn(seed, images, count)
    heat = heatmaps(planes, features, maps=maps, size=(height, width))
    assert heat.shape == (images, height, width)
    assert ((heat >= 0) & (heat <= 1)).all()
    found = plane_maps(planes, features, maps=maps).clamp_min(0)
    for image in range(images):
        scaled = []
        for one in found[image]:
            large = torch.nn.Upsample(size=(height, width), mode="bilinear")(one[None, None])[0, 0]
            low, high = large.min(), large.max()
            scaled.append((large - low) / (high - low) if high - low > 1e-12 else torch.zeros_like(large))
        torch.testing.assert_close(heat[image], torch.stack(scaled).mean(dim=0), rtol=0, atol=1e-12)


def test_each_image_and_plane_reaches_from_zero_to_one():
    planes, features = drawn(0, count=1)
    heat = heatmaps(planes, features * torch.tensor([1e-6, 1, 1e6])[:, None, None, None], maps="channel", size=(9, 7))
    assert heat.amax(dim=(1, 2)).tolist() == [1, 1, 1]
    assert heat.amin(dim=(1, 2)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -0.3, 1e30])
def test_maps_without_contrast_are_zero_and_never_nan(value, dtype, signed):
    planes = planes_of(torch.ones(2, 1, 5, 3, dtype=dtype))
    heat = heatmaps(planes, torch.full((2, 1, 5, 3), value), maps="channel", size=(23, 17), signed=signed)
    expected = np.sign(np.float32(value)) if signed else 0
    torch.testing.assert_close(heat, torch.full_like(heat, expected))


@pytest.mark.parametrize("signed", [False, True])
def test_differences_next_to_zero_are_not_lost(signed):
    planes = planes_of(torch.ones(1, 1, 1, 2, dtype=torch.float64))
    features = torch.tensor([[[[0.0, 1e-310]]]], dtype=torch.float64)
    assert heatmaps(planes, features, maps="channel", size=(1, 2), signed=signed).tolist() == [[[0.0, 1.0]]]


def test_without_planes_all_is_zero():
    heat = heatmaps(planes_of(torch.zeros(0, 2, 3, 3).double()), torch.ones(2, 2, 3, 3), maps="channel", size=(6, 5))
    assert heat.shape == (2, 6, 5)
    assert not heat.any()


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, maps=st.sampled_from(KINDS))
def test_signed_maps_show_what_speaks_against(seed, maps):
    planes, features = drawn(seed, count=1)
    size = features.shape[-2:]
    signed = heatmaps(planes, features, maps=maps, size=size, signed=True)
    raw = plane_maps(planes, features, maps=maps)[:, 0]
    assert (signed.abs().amax(dim=(1, 2)) == 1).all()
    assert torch.equal(signed.sign(), raw.sign())
    turned = planes_of(planes.weight, ~planes.positive)
    torch.testing.assert_close(heatmaps(turned, features, maps=maps, size=size, signed=True), -signed)


def test_many_images_in_parts_give_the_same(monkeypatch):
    planes, features = drawn(4, images=7)
    whole = heatmaps(planes, features, maps="elementwise", size=(8, 8))
    monkeypatch.setattr("fulgurite.callbacks.representative_interpretation.heatmap._ELEMENTS", 2 * 4 * 64)
    assert torch.equal(heatmaps(planes, features, maps="elementwise", size=(8, 8)), whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": torch.zeros(1, 5, 4, 4)}, r"got features of shape \(1, 5, 4, 4\); expected \(B, 5, 4, 3\)"),
        ({"features": torch.zeros(5, 4, 3)}, r"got features of shape \(5, 4, 3\)"),
        ({"features": torch.full((1, 5, 4, 3), torch.inf)}, "not finite"),
        ({"maps": "chanel"}, "got maps='chanel'; expected one of channel, elementwise"),
        ({"size": (0, 4)}, r"got size=\(0, 4\)"),
    ],
)
def test_what_is_wrong_is_said(changed, message):
    right = {"features": torch.zeros(1, 5, 4, 3), "maps": "channel", "size": (4, 4)} | changed
    with pytest.raises(ValueError, match=message):
        heatmaps(drawn(0)[0], **right)
