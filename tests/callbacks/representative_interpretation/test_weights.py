"""Changed weights are noticed however they were changed, and the same ones are hashed once."""

import copy
import gc

import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation import interpret, weights
from fulgurite.callbacks.representative_interpretation.cut import Split, split
from fulgurite.callbacks.representative_interpretation.reference import Reference


def by_data(model):
    model[3].weight.data[0, 0] += 1e-6


def in_place(model):
    with torch.no_grad():
        model[3].weight.mul_(1.0)  # the same values, which a new version hides


def by_kernel(model):
    model.train()(torch.ones(4, 1, 12, 12))
    model.eval()


def another(model):
    model[3].bias = nn.Parameter(model[3].bias.detach() * 2)


def signs(model):
    model[3].weight.data[:2, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    model[3].weight.data[:2, :2].neg_()


def order(model):
    model[3].weight.data.copy_(model[3].weight.data.flip(0))


@pytest.mark.parametrize(
    ("change", "same"), [(by_data, 0), (in_place, 1), (by_kernel, 0), (another, 0), (signs, 0), (order, 0)]
)
def test_changes_are_seen(fitted, shapes, change, same):
    model = copy.deepcopy(fitted)
    parts = split(model, "1", shapes(16)[0])
    before, mark = weights.fingerprint(parts), weights.marks(model)
    change(model)
    assert weights.marks(model) != mark
    assert weights.fingerprint(parts) == parts.fingerprint()
    assert (weights.fingerprint(parts) == before) is bool(same)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128])
def test_every_type_of_number(dtype):
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.arange(9.0).view(3, 3).to(dtype))
    layer.register_buffer("seen", torch.tensor([True, False]))
    before = weights.marks(layer)
    assert weights.marks(layer) == before
    layer.weight.data[0, 1] += 1
    assert weights.marks(layer) != before
    before = weights.marks(layer)
    layer.seen.data[1] = True
    assert weights.marks(layer) != before


@pytest.mark.parametrize("size", [0, 1, 2, 3, 127, 128, 129, 1000])
def test_bits_and_their_places_count(size):
    bits = torch.arange(size, dtype=torch.int32) - 3
    sums = [int(weights._checksum(one)) for one in (bits, bits.clone(), bits.flip(0), bits + 1, bits[1:])]
    assert sums[0] == sums[1]
    assert sums[0] != sums[2] or size < 2
    assert sums[0] != sums[3] or not size
    assert sums[4] == int(weights._checksum(bits[1:].clone()))  # whatever it lies beside


def test_weights_are_hashed_once_for_many_questions(fitted, shapes, monkeypatch):
    images, _ = shapes(100, seed=1)
    calls = []
    hashed = Split.fingerprint
    monkeypatch.setattr(Split, "fingerprint", lambda parts: calls.append(parts) or hashed(parts))
    reference = Reference(images)
    for index in range(3):
        found = interpret(fitted, images[index], reference, cut="1", boundaries=5)
        found.covers(images[:4]), found.rank(images[:4]), found.heatmap(images[:4])
    assert len(calls) == 1


def test_what_is_known_is_forgotten_with_the_split(fitted, shapes):
    parts = split(fitted, "1", shapes(16)[0])
    weights.fingerprint(parts)
    gc.collect()
    count = len(weights._known)
    del parts
    gc.collect()
    assert len(weights._known) == count - 1
