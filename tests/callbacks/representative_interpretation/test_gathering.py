"""Images come out of loaders of all kinds, and what cannot be put together is told what to do."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fulgurite.callbacks.representative_interpretation.gathering import gather, private_random


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_random_states_return_after_an_error():
    before = states()
    with pytest.raises(KeyError), private_random(DataLoader([1]), 0):
        torch.rand(3), random.random(), np.random.rand()
        raise KeyError
    assert states() == before


class Stream(IterableDataset):
    """Does not know its length, or says a wrong one."""

    def __init__(self, images, length=None):
        self.images = images
        if length is not None:
            self.length = length

    def __len__(self):
        if not hasattr(self, "length"):
            raise TypeError
        return self.length

    def __iter__(self):
        return iter(self.images)


@pytest.fixture(scope="module")
def images():
    return torch.rand(23, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize(
    "loader",
    [
        lambda images: DataLoader(TensorDataset(images), batch_size=5),
        lambda images: DataLoader(images, batch_size=30),
        lambda images: DataLoader(images, batch_size=None),
        lambda images: DataLoader(images, batch_sampler=[[0, 1, 2], list(range(3, 23))]),
        lambda images: DataLoader(Stream(images), batch_size=5),
        lambda images: DataLoader(Stream(images, 7), batch_size=5),
        lambda images: DataLoader(Stream(images, 500), batch_size=5),
        lambda images: DataLoader(Stream(images, 10), batch_size=10),
    ],
)
def test_every_image_in_order(loader, images):
    if loader(images).batch_size is None and loader(images).batch_sampler is None:
        images = images[:, None]  # without batching an item is a batch itself
    assert torch.equal(gather(loader(images), batch_size=4, seed=0)[0], images.reshape(-1, *images.shape[-3:]))


def test_a_last_batch_that_is_dropped(images):
    loader = DataLoader(TensorDataset(images, torch.arange(23)), batch_size=5, drop_last=True)
    found, labels = gather(loader, batch_size=4, seed=0)
    assert torch.equal(found, images[:20])
    assert labels.tolist() == list(range(20))


def test_images_are_held_once(images, monkeypatch):
    def refuse(tensors, *given, **options):
        assert all(one.ndim == 1 for one in tensors), "images are put together a second time"
        return cat(tensors, *given, **options)

    cat = torch.cat
    monkeypatch.setattr(torch, "cat", refuse)
    loader = DataLoader(TensorDataset(images, torch.arange(23)), batch_size=5)
    assert torch.equal(gather(loader, batch_size=4, seed=0)[0], images)


class Pictures(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        from PIL import Image

        return Image.new("RGB", (8, 8)), index


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_without_a_transform(workers):
    pytest.importorskip("PIL")
    with pytest.raises(
        ValueError, match=r"could not be read \(.*PIL.*\); expected images as float tensors .*transform"
    ):
        gather(DataLoader(Pictures(), num_workers=workers), batch_size=4, seed=0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_images_of_several_sizes(batch_size):
    loader = DataLoader([torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)], batch_size=batch_size)
    said = r"float32 \(1, 4, 4\) and torch.float32 \(1, 5, 4\)" if batch_size == 1 else r"could not be read \(stack"
    with pytest.raises(ValueError, match=rf"{said}.*; expected images as float tensors of one shape; .*Resize"):
        gather(loader, batch_size=4, seed=0)


def test_batches_that_are_no_images():
    with pytest.raises(ValueError, match=r"batches of type dict; .* wrap the data set in one that gives these"):
        gather(DataLoader([{"image": torch.zeros(1, 2, 2)}]), batch_size=4, seed=0)
