import numpy as np
import pytest
import torch

from fulgurite.data import Digits

datasets = pytest.importorskip("sklearn.datasets")
PARTS = ("train", "val", "test")


def test_the_images_are_scikit_learns():
    data = Digits(normalize=False)
    images = torch.cat([data.part(part).features for part in PARTS])
    labels = torch.cat([data.part(part).labels for part in PARTS])
    theirs = datasets.load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    mine = sorted((label, (image * 16).tolist()) for image, label in zip(images.numpy(), labels.tolist(), strict=True))
    wanted = zip(theirs.images[:, None].astype(np.float32), theirs.target.tolist(), strict=True)
    assert mine == sorted((label, image.tolist()) for image, label in wanted)


def test_they_are_standardised_by_one_mean_and_spread():
    train, plain = (Digits(normalize=normalize).part("train").features for normalize in (True, False))
    torch.testing.assert_close(train, (plain - plain.mean()) / plain.std())


def test_classes_have_names():
    assert Digits().class_names == tuple("0123456789")
