import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation.masking import average_drop, average_increase, keep_top

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    images=st.integers(0, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    share=st.floats(0, 1),
    levels=st.integers(1, 50),
)
def test_keeps_exactly_the_hottest_pixels(seed, images, height, width, share, levels):
    rng = np.random.default_rng(seed)
    heat = rng.integers(0, levels, (images, height, width)) / levels
    pictures = rng.random((images, 3, height, width)) + 1
    found = keep_top(torch.from_numpy(pictures), torch.from_numpy(heat), share).numpy()
    for picture, map_, masked in zip(pictures, heat, found, strict=True):
        order = np.lexsort([np.arange(height * width), -map_.ravel()])  # the last key first
        kept = order[: round(share * height * width)]
        expected = np.zeros((3, height * width))
        expected[:, kept] = picture.reshape(3, -1)[:, kept]
        assert np.array_equal(masked.reshape(3, -1), expected)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 4, 5), (2, 3, 6, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8])
def test_any_axes_between_and_any_dtype(shape, dtype):
    images = torch.ones(shape, dtype=dtype)
    heat = torch.arange(40.0).reshape(2, 4, 5)
    masked = keep_top(images, heat, 0.25)
    assert masked.dtype == dtype
    assert masked.shape == shape
    assert torch.equal(masked.reshape(2, -1, 20)[:, 0].sum(dim=1), torch.full((2,), 5, dtype=masked.sum().dtype))
    assert images.all(), "the given images were changed"


def test_equally_hot_pixels_are_kept_row_by_row():
    masked = keep_top(torch.ones(1, 1, 2, 3), torch.zeros(1, 2, 3), 4 / 6)
    assert masked[0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_rest_becomes_what_fill_says():
    images, heat = torch.ones(1, 2, 1, 2), torch.tensor([[[0.0, 1.0]]])
    assert keep_top(images, heat, 0.5, fill=-2.0)[0].tolist() == [[[-2, 1]], [[-2, 1]]]
    mean = torch.tensor([5.0, 7.0])[:, None, None]
    assert keep_top(images, heat, 0.5, fill=mean)[0].tolist() == [[[5, 1]], [[7, 1]]]


@pytest.mark.parametrize(
    ("images", "heat", "share", "message"),
    [
        (torch.ones(2, 1, 4, 4), torch.ones(2, 4, 5), 0.5, r"got maps of shape \(2, 4, 5\) for images \(2, 1, 4, 4\)"),
        (torch.ones(2, 1, 4, 4), torch.ones(4, 4), 0.5, "got maps of shape"),
        (torch.ones(4, 4), torch.ones(4, 4), 0.5, "got maps of shape"),
        (torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2), 1.5, "got share=1.5"),
        (torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2), float("nan"), "got share=nan"),
        (torch.ones(1, 1, 2, 2), torch.full((1, 2, 2), torch.nan), 0.5, "got NaN in a map"),
    ],
)
def test_what_cannot_be_masked_is_said(images, heat, share, message):
    with pytest.raises(ValueError, match=message):
        keep_top(images, heat, share)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, images=st.integers(1, 8), classes=st.integers(2, 6), scale=st.floats(0.1, 30))
def test_equal_the_definitions(seed, images, classes, scale):
    rng = np.random.default_rng(seed)
    full, kept = (rng.normal(size=(images, classes)).astype(np.float32) * np.float32(scale) for _ in range(2))
    label = rng.integers(classes, size=images)

    def confidence(logits):
        powers = np.exp(logits.astype(np.float64))
        return (powers / powers.sum(axis=1, keepdims=True))[np.arange(images), label]

    before, after = confidence(full), confidence(kept)
    arguments = torch.from_numpy(full), torch.from_numpy(kept), torch.from_numpy(label)
    assert average_drop(*arguments) == pytest.approx((np.maximum(0, before - after) / before).mean(), abs=1e-12)
    clear = np.abs(after - before) > 1e-12
    assert (after[clear] > before[clear]).sum() <= average_increase(*arguments) * images + 1e-9
    assert average_increase(*arguments) * images <= (after >= before - 1e-12).sum() + 1e-9


def test_values_by_hand():
    full = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).log1p()  # confidences 3/4, 1/2, 1/2
    kept = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]).log1p()  # 1/2, 3/4, 1/2
    assert average_drop(full, kept, 0) == pytest.approx(1 / 9, abs=1e-7)
    assert average_increase(full, kept, 0) == pytest.approx(1 / 3)


def test_confidences_that_no_float_can_hold():
    """The confidence falls from e^-2000 to e^-3000 and rises from 1 - e^-50 to 1 - e^-60."""
    full, kept = torch.tensor([[0.0, 2000.0], [50.0, 0.0]]), torch.tensor([[0.0, 3000.0], [60.0, 0.0]])
    assert average_drop(full, kept, 0) == 0.5
    assert average_increase(full, kept, 0) == 0.5


def test_half_precision_logits_are_compared_in_double():
    full, kept = torch.tensor([[9.0, 0.0]]).half(), torch.tensor([[8.0, 0.0]]).half()
    expected = 1 - torch.tensor(8.0).double().sigmoid() / torch.tensor(9.0).double().sigmoid()
    assert average_drop(full, kept, 0) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("measure", [average_drop, average_increase])
@pytest.mark.parametrize(
    ("full", "kept", "label", "message"),
    [
        (torch.ones(2, 3), torch.ones(3, 3), 0, r"got logits of shapes \(2, 3\) and \(3, 3\)"),
        (torch.ones(2, 1), torch.ones(2, 1), 0, r"a single logit z is \(0, z\)"),
        (torch.ones(2), torch.ones(2), 0, "got logits of shapes"),
        (torch.ones(0, 3), torch.ones(0, 3), 0, "got no images"),
        (torch.ones(2, 3), torch.ones(2, 3), 3, "got label=3; expected a class from 0 to 2"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 1, 2]), "or one for each image"),
        (torch.ones(2, 3), torch.ones(2, 3), -1, "got label=-1"),
        (torch.ones(2, 3), torch.full((2, 3), torch.nan), 0, "not finite"),
        (torch.full((2, 3), torch.inf), torch.ones(2, 3), 0, "not finite"),
    ],
)
def test_what_cannot_be_measured_is_said(measure, full, kept, label, message):
    with pytest.raises(ValueError, match=message):
        measure(full, kept, label)
