"""A reference is read once, however it is given, and nobody's random numbers are drawn for it."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.reference import Reference, looking_into


class Noisy(Dataset):
    """Images that are drawn anew whenever they are asked for."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(1, 3, 3) + random.random() + np.random.rand(), index


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.fixture(scope="module")
def parts(fitted, shapes):
    return split(fitted, "1", shapes(16)[0])


@pytest.mark.parametrize(
    "source",
    [
        lambda images, labels: (images, labels),
        lambda images, labels: TensorDataset(images, labels),
        lambda images, labels: DataLoader(TensorDataset(images, labels, labels), batch_size=7),
        lambda images, labels: DataLoader(TensorDataset(images, labels.int()), batch_size=30, num_workers=1),
    ],
)
def test_images_come_in_several_ways(source, shapes):
    images, labels = shapes(30)
    reference = Reference(source(images, labels), batch_size=8)
    assert torch.equal(reference.images, images)
    assert torch.equal(reference.labels, labels)
    assert reference.labels.dtype == torch.int64


def test_images_without_labels(shapes):
    images, labels = shapes(30)
    for source in (images, TensorDataset(images), DataLoader(images, batch_size=4)):
        assert torch.equal(Reference(source).images, images)
        assert Reference(source).labels is None
    soft = DataLoader(TensorDataset(images, torch.rand(30, generator=torch.Generator().manual_seed(0))))
    assert Reference(soft).labels is None
    assert torch.equal(Reference(TensorDataset(images, 0 * labels), labels=labels).labels, labels)


@pytest.mark.parametrize("own", [False, True])
def test_reading_a_loader_draws_from_nobody(own):
    generator = torch.Generator().manual_seed(3) if own else None
    loader = DataLoader(Noisy(), batch_size=3, shuffle=True, generator=generator)
    before, stood = states(), generator.get_state() if own else None
    first, second = Reference(loader, seed=5), Reference(loader, seed=5)
    assert states() == before
    assert stood is None or torch.equal(generator.get_state(), stood)
    assert torch.equal(first.images, second.images)
    assert first.labels.tolist() == second.labels.tolist() != sorted(first.labels.tolist())
    assert not torch.equal(Reference(loader, seed=6).images, first.images)


def test_logits_and_predictions(fitted, shapes, parts):
    images, _ = shapes(50, seed=1)
    reference = Reference(images, batch_size=16)
    assert not reference.is_read
    with pytest.raises(RuntimeError, match="no net has read"):
        _ = reference.logits
    reference.read(parts)
    with torch.no_grad():
        expected = fitted(images)
    assert torch.allclose(reference.logits, expected, atol=1e-5)
    assert torch.equal(reference.predicted, expected.argmax(1))
    assert sum(reference.counts.values()) == 50
    assert reference.counts == dict(enumerate(expected.argmax(1).bincount().tolist()))


@pytest.mark.parametrize("streams", [False, True])
def test_feature_maps_are_kept_or_computed_again(streams, shapes, parts):
    images, _ = shapes(50, seed=1)
    size = 50 * 16 * 36 * 4
    reference = Reference(images, batch_size=16, most_bytes=size - streams)
    reference.read(parts)
    assert reference.streams is streams
    found = [features for _, features in reference.features(parts)]
    assert [len(features) for features in found] == [16, 16, 16, 2]
    assert torch.allclose(torch.cat(found), parts.features(images), atol=1e-6)
    index = torch.tensor([40, 3, 3])
    assert torch.allclose(reference.take(parts, index), parts.features(images[index]), atol=1e-6)


def test_images_are_read_once(fitted, shapes):
    images, _ = shapes(50, seed=1)
    seen = []
    handle = fitted[0][0].register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    try:
        parts = split(fitted, "1", images[:8])
        reference = Reference(images)
        seen.clear()
        for _ in range(3):
            reference.read(parts)
            _ = reference.predicted, list(reference.features(parts)), reference.take(parts, torch.arange(5))
    finally:
        handle.remove()
    assert sum(seen) == 50 + 1  # whose feature maps tell how large all are


def test_a_split_is_known_by_model_cut_and_weights(make_network, shapes):
    images, _ = shapes(20)
    model, other = make_network().eval(), make_network().eval()
    reference = Reference(images)
    parts = split(model, "1", images)
    reference.read(parts, source=(model, None, "1"))
    assert reference.split_for((model, None, "1")) is parts
    assert reference.split_for((model, None, "0")) is None
    assert reference.split_for((other, None, "1")) is None
    assert reference.split_for((model, nn.Identity(), "1")) is None
    with torch.no_grad():
        model[3].bias.data[0] += 1
    assert reference.split_for((model, None, "1")) is None


def test_images_of_inference_mode_and_with_gradients(shapes):
    with torch.inference_mode():
        images = shapes(5)[0] * 1
    assert not Reference(images).images.is_inference()
    leaf = shapes(5)[0].requires_grad_()
    assert not Reference(leaf * 2).images.requires_grad


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (np.zeros((3, 1, 2, 2)), {}, "reference of type ndarray"),
        ("a folder", {}, "type str"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), {}, "got reference images of uint8; expected a float tensor"),
        (torch.zeros(5), {}, r"shape \(5,\); expected a float tensor .* with at least one image"),
        (torch.zeros(0, 1, 2, 2), {}, "at least one image"),
        (torch.full((3, 1, 2, 2), torch.nan), {}, r"NaN or infinity in reference images \[0, 1, 2\]"),
        (torch.tensor([0.0, 0.0, torch.inf]).view(3, 1, 1, 1), {}, r"images \[2\]"),
        (torch.tensor([0.0] * 299 + [torch.nan] * 2).view(301, 1, 1, 1), {}, r"images \[299, 300\]"),
        (torch.zeros(3, 1, 2, 2), {"labels": torch.zeros(2, dtype=torch.int64)}, "for 3 images"),
        (torch.zeros(3, 1, 2, 2), {"labels": torch.zeros(3)}, "whole number"),
        (torch.zeros(3, 1, 2, 2), {"batch_size": 0}, "batch_size=0"),
        (DataLoader([{"image": torch.zeros(1, 2, 2)}]), {}, "batches of type dict"),
        (DataLoader([]), {}, "without a batch"),
    ],
)
def test_bad_input_is_named(images, options, said):
    with pytest.raises(ValueError, match=said):
        Reference(images, **options)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_only_modules_are_looked_into():
    with pytest.raises(ValueError, match="type function"), looking_into(lambda images: images):
        pass
    with pytest.raises(ValueError, match=r"scripted model, .* made from"), looking_into(torch.jit.script(nn.ReLU())):
        pass


class Wide(nn.Module):
    """Returns more than logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return {"logits": self.model(images)}

    def take(self, out):
        return out["logits"]


def test_a_method_that_takes_the_logits_is_the_same_each_time(fitted, shapes):
    images, _ = shapes(20)
    model, reference = Wide(fitted), Reference(images)
    parts = split(model, "model.1", images, logits=model.take)
    reference.read(parts, source=(model, model.take, "model.1"))
    assert reference.split_for((model, model.take, "model.1")) is parts
    assert reference.split_for((model, Wide(fitted).take, "model.1")) is None


@pytest.mark.parametrize(("most_bytes", "passes"), [(10**9, 2), (0, 1)])
def test_another_cut_of_the_same_net_knows_the_logits(make_network, shapes, most_bytes, passes):
    images, _ = shapes(60, seed=1)
    with torch.random.fork_rng():
        model = make_network().eval()
    first, second = (split(model, cut, images[:8]) for cut in ("1", "0"))
    seen = []
    model[0][0].register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    reference = Reference(images, batch_size=10, most_bytes=most_bytes)
    reference.read(first)
    before = reference.logits.clone()
    reference.read(second)
    assert sum(seen) == 60 * passes + 2
    assert torch.equal(reference.logits, before)
    assert torch.equal(torch.cat([maps for _, maps in reference.features(second)]), second.features(images))
    with torch.no_grad():
        model[5].bias += 1
    reference.read(split(model, "1", images[:8]))
    assert torch.allclose(reference.logits, before + 1, atol=1e-5)
