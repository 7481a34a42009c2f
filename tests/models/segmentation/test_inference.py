import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.models.segmentation.inference import scaled, slide, window_starts

sides = st.integers(1, 23)


@settings(deadline=None, max_examples=100)
@given(length=sides, window=sides, data=st.data())
def test_windows_cover_all_and_none_reaches_out(length, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))
    assert all(start >= 0 and (start + window <= length or start == 0) for start in starts)
    assert all(second - first <= stride for first, second in itertools.pairwise(starts))


@settings(deadline=None, max_examples=30)
@given(size=st.tuples(sides, sides), window=st.tuples(sides, sides), data=st.data())
def test_a_network_of_single_pixels_gives_what_it_gives_on_the_whole(size, window, data):
    stride = tuple(data.draw(st.integers(1, side)) for side in window)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    network = nn.Conv2d(2, 3, 1).double().requires_grad_(False)
    images = torch.rand(2, 2, *size, dtype=torch.float64)
    # Sums of windows are kept in single precision.
    torch.testing.assert_close(slide(network, images, window, stride).double(), network(images), rtol=1e-5, atol=1e-6)


def test_a_constant_network_gives_its_constant():
    logits = slide(lambda x: torch.full((len(x), 2, *x.shape[2:]), 7.0), torch.rand(1, 3, 11, 17), (4, 5), (3, 2))
    assert torch.equal(logits, torch.full((1, 2, 11, 17), 7.0))


def test_each_pixel_is_the_mean_over_the_windows_that_cover_it():
    """The n-th window gives n everywhere; who covers a pixel is counted by hand."""
    seen = []

    def predict(x):
        seen.append(x[0, 0, 0, 0].item())
        return torch.full((1, 1, *x.shape[2:]), float(len(seen)))

    images = torch.arange(30.0).reshape(1, 1, 5, 6)
    found = slide(predict, images, (3, 4), (2, 2))
    windows = [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert seen == [images[0, 0, top, left].item() for top, left in windows]
    for y in range(5):
        for x in range(6):
            covering = [n + 1 for n, (top, left) in enumerate(windows) if 0 <= y - top < 3 and 0 <= x - left < 4]
            assert found[0, 0, y, x].item() == pytest.approx(sum(covering) / len(covering))


def test_a_smaller_image_is_one_window():
    sizes = []
    slide(lambda x: sizes.append(tuple(x.shape[2:])) or x, torch.rand(1, 1, 5, 6), (8, 8), (4, 4))
    assert sizes == [(5, 6)]


def test_one_scale_gives_the_logits_as_they_are():
    images = torch.randn(1, 3, 4, 4)
    assert scaled(lambda x: 2 * x, images, (1.0,), flip=False) is not images
    assert torch.equal(scaled(lambda x: 2 * x, images, (1.0,), flip=False), 2 * images)


def test_a_mirrored_view_is_mirrored_back():
    images = torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(scaled(lambda x: x, images, (1.0,), flip=True), images.log_softmax(1))
    left = torch.linspace(-1, 1, 6).expand(1, 1, 4, 6)  # a network that tells left from right
    mean = (((images + left).softmax(1) + (images + left.flip(-1)).softmax(1)) / 2).log()
    torch.testing.assert_close(scaled(lambda x: x + left, images, (1.0,), flip=True), mean)


def test_scales_are_averaged_as_probabilities_at_the_images_size():
    sizes = []

    def predict(x):
        sizes.append(tuple(x.shape[2:]))
        logits = torch.zeros(1, 2, *x.shape[2:])
        logits[:, 1] = len(sizes)
        return logits

    found = scaled(predict, torch.rand(1, 3, 9, 6), (0.5, 1.0, 1.5), flip=False)
    assert sizes == [(4, 3), (9, 6), (14, 9)]
    wanted = sum(torch.tensor([0.0, float(n)]).softmax(0) for n in (1, 2, 3)) / 3
    torch.testing.assert_close(found.exp(), wanted[None, :, None, None].expand(1, 2, 9, 6))
