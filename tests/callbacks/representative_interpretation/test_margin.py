import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.callbacks.representative_interpretation import margin as module
from fulgurite.callbacks.representative_interpretation.margin import (
    MeasuredHead,
    differentiate,
    margin,
    strongest_rival,
)


def make_head(*, seed=0, inplace=False):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(18, 12), nn.ReLU(), nn.Linear(12, 4)
    ).double()


def make_points(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 3, dtype=torch.float64, generator=generator)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), label=st.integers(0, 3))
def test_the_gradient_is_that_of_each_point_alone(seed, label):
    head, points = make_head(seed=seed), make_points(7, seed=seed)
    found = differentiate(head, points, label=label)
    for number, point in enumerate(points):
        leaf = point[None].clone().requires_grad_()
        logits = head(leaf)[0]
        rival = max((k for k in range(4) if k != label), key=lambda k, z=logits: float(z[k].detach()))
        value = logits[label] - logits[rival]
        (wanted,) = torch.autograd.grad(value, leaf)
        assert found.rival[number] == rival
        torch.testing.assert_close(found.gradient[number], wanted[0])
        torch.testing.assert_close(found.value[number], value.detach())
        torch.testing.assert_close(found.logits[number], logits.detach())
    torch.testing.assert_close(margin(head, points, label=label), found.value)


def test_a_rival_that_is_given_is_kept():
    head, points = make_head(), make_points(5)
    rival = torch.tensor([1, 2, 3, 1, 2])
    found = differentiate(head, points, label=0, rival=rival)
    assert found.rival.tolist() == rival.tolist()
    torch.testing.assert_close(found.value, found.logits[:, 0] - found.logits[range(5), rival])


def test_no_call_of_the_head_takes_more_than_its_share_of_memory(monkeypatch):
    head, points, sizes = make_head(), make_points(10), []

    def watched(features):
        sizes.append(features.numel())
        return head(features)

    whole = differentiate(watched, points, label=1)
    assert sizes == [180]
    monkeypatch.setattr(module, "_ELEMENTS", 60)
    parts = differentiate(watched, points, label=1)
    value = margin(watched, points, label=1)
    assert max(sizes[1:]) == 54
    torch.testing.assert_close(parts.gradient, whole.gradient)
    torch.testing.assert_close(value, whole.value)
    monkeypatch.setattr(module, "_ELEMENTS", 1)
    torch.testing.assert_close(differentiate(watched, points, label=1).gradient, whole.gradient)


def test_a_head_with_large_layers_gets_fewer_points_at_a_time(monkeypatch):
    """180 features, 18,000 activations: what counts is what the layers hold, all of it where there are gradients."""
    sizes = []

    def wide(points):
        sizes.append(len(points))
        hidden = points.flatten(1).repeat(1, 100)
        return (hidden.relu() + hidden.sigmoid())[:, :4]

    points = make_points(10)
    whole = differentiate(wide, points, label=1)
    assert sizes == [10]
    monkeypatch.setattr(module, "_ACTIVATIONS", 4 * 1800 * 3)
    sizes.clear()
    head = MeasuredHead(wide)
    value = margin(head, points, label=1)
    assert sizes == [1, 3, 3, 3]
    assert (head.largest, head.all) == (1800, 4 * 1800)
    sizes.clear()
    parts = differentiate(head, points, label=1)
    assert sizes == [3, 3, 3, 1]
    sizes.clear()
    assert differentiate(MeasuredHead(wide), points, label=1).value.tolist() == whole.value.tolist()
    assert sizes[0] == 1
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=0, atol=0)
    torch.testing.assert_close(value, whole.value, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_head_and_the_points_are_left_as_they_were(mode):
    head = make_head(inplace=True)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with mode():
        points = make_points(5)
        kept = points.clone()
        found = differentiate(head, points, label=2)
        margin(head, points, label=2)
    assert torch.equal(points, kept)
    assert float(found.gradient.abs().sum()) > 0
    assert not found.value.requires_grad
    assert not found.logits.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in head.parameters())
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_without_points_there_is_nothing():
    found = differentiate(make_head(), make_points(0), label=0)
    assert [len(column) for column in found] == [0, 0, 0, 0]
    assert found.gradient.shape == (0, 2, 3, 3)


def test_two_classes_have_one_rival():
    assert strongest_rival(torch.tensor([[1.0, 5.0], [2.0, -3.0]]), 1).tolist() == [0, 0]
    assert strongest_rival(torch.tensor([[1.0, 5.0], [2.0, -3.0]]), 0).tolist() == [1, 1]
