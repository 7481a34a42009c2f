"""Logits that the head behind a cut stands by, and images that have none."""

import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation import interpret, interpret_classes
from fulgurite.callbacks.representative_interpretation.answers import answers
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.reference import Reference


def narrow_network(dtype):
    """Logits near 8, where bfloat16 has steps of 1/16: many near ties."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.ReLU()
        model = nn.Sequential(*layers, nn.Linear(32, 10))
    with torch.no_grad():
        model[6].bias += 8
    return model.to(dtype).eval()


@pytest.fixture(scope="module")
def noise():
    return torch.randn(120, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_net_in_half_precision_is_interpreted_whatever_it_rounds(dtype, noise):
    model = narrow_network(dtype)
    reference = Reference(noise)
    parts = split(model, "2", noise[:16])
    reference.read(parts)
    assert reference.logits.dtype == parts.dtype == torch.float64
    with torch.no_grad():
        rounded = model(noise.to(dtype))
    assert torch.allclose(reference.logits, rounded.double(), rtol=0.02)
    if dtype == torch.bfloat16:
        unlike = (reference.predicted != rounded.argmax(1)).nonzero().flatten().tolist()
        assert unlike, "no near tie: the test would say nothing"
        for index in unlike[:5]:
            found = interpret(model, noise[index], reference, cut="2", boundaries=10)
            assert found.label == reference.predicted[index]
            assert "the net computes in bfloat16: its classes are those of its head in float64" in found.notes
            assert index in found.members.tolist()
            assert found.covers(noise[index : index + 1]).all()
            assert found.evaluate(noise).own == found.class_size
    groups = interpret_classes(model, reference, cut="2", boundaries=5, groups_per_class=1)
    assert sorted(groups.by_class) == sorted(reference.counts)


def test_a_net_in_full_precision_answers_for_itself(fitted, shapes):
    images, _ = shapes(8)
    parts = split(fitted, "1", images)
    features, logits = answers(parts, images, what="images")
    expected = parts.predict(images)
    assert torch.equal(features, expected[0])
    assert torch.equal(logits, expected[1])


class Roots(nn.Module):
    """NaN for images of negative sum."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images / images.sum((1, 2, 3), keepdim=True).sqrt())


class TestNotFinite:
    def test_reference_images_are_named(self, fitted, shapes):
        images, _ = shapes(300, seed=1)
        images[261] *= -1
        with pytest.raises(
            ValueError, match=r"not finite \(NaN or infinite\) for reference images 261; .* leave these"
        ):
            interpret(Roots(fitted), images[0], images, cut="model.1", boundaries=5)
        images[21:30] *= -1
        with pytest.raises(ValueError, match="images 21, 22, 23, 24, 25, …;"):
            interpret_classes(Roots(fitted), images, cut="model.1", boundaries=5)

    def test_x_and_other_images(self, fitted, shapes):
        images, _ = shapes(300, seed=1)
        model = Roots(fitted)
        with pytest.raises(ValueError, match=r"not finite .* for x"):
            interpret(model, -images[0], images, cut="model.1", boundaries=5)
        found = interpret(model, images[0], images, cut="model.1", boundaries=5)
        images[261] *= -1
        with pytest.raises(ValueError, match="for images 261"):
            found.covers(images)

    def test_a_reference_that_failed_is_not_read(self, fitted, shapes):
        images, _ = shapes(50, seed=1)
        reference = Reference(images)
        reference.images[40] *= -1
        parts = split(Roots(fitted), "model.1", images[:8])
        with pytest.raises(ValueError, match="images 40;"):
            reference.read(parts)
        assert not reference.is_read

    def test_half_precision_that_overflows(self, noise):
        model = narrow_network(torch.float16)
        with torch.no_grad():
            model[6].weight *= 1000
        images = noise.clone()
        images[50] *= 1000  # too much for the last layer alone, whose answer in full precision is finite
        with pytest.raises(ValueError, match=r"not finite .* for reference images 50;"):
            interpret(model, images[0], images, cut="2", boundaries=5)
