import numpy as np
import pytest
import torch
from torch import nn

from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters


def module(dtype=torch.float32):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).to(dtype)
    made[0].bias.requires_grad_(False)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_trains_is_read_and_written_and_nothing_else(dtype):
    made = module(dtype)
    flat = FlatParameters(made)
    assert flat.names == ("0.weight", "1.weight", "1.bias")
    assert flat.size == 12
    frozen, vector = made[0].bias.clone(), flat.read()
    assert vector.dtype == (np.float32 if dtype == torch.float32 else np.float64)
    expected = torch.cat([made[0].weight.flatten(), made[1].weight.flatten(), made[1].bias]).detach().numpy()
    assert np.array_equal(vector, expected)
    flat.write(np.arange(12, dtype=vector.dtype))
    assert made[1].bias.tolist() == [10.0, 11.0]
    assert torch.equal(made[0].bias, frozen)
    assert np.array_equal(flat.read(), np.arange(12))
    vector[:] = 5  # a copy
    assert np.array_equal(flat.read(), np.arange(12))


def test_written_values_do_not_share_memory():
    flat = FlatParameters(module())
    source = np.ones(12, dtype=np.float32)
    source.flags.writeable = False  # as values of shards are
    flat.write(source)
    with torch.no_grad():
        for weight in flat._weights:
            weight += 1
    assert (source == 1).all()


def test_gradients_are_read_and_added_to():
    made = module()
    flat = FlatParameters(made)
    assert not flat.gradient().any()
    flat.add_to_gradient(np.arange(12, dtype=np.float32))
    flat.add_to_gradient(np.ones(12, dtype=np.float32))
    assert np.array_equal(flat.gradient(), np.arange(12) + 1)
    assert made[0].bias.grad is None


def test_entries_are_named_and_shaped():
    flat = FlatParameters(module())
    entries = flat.entries(np.arange(12, dtype=np.float32))
    assert {name: tuple(part.shape) for name, part in entries.items()} == {
        "0.weight": (2, 3),
        "1.weight": (2, 2),
        "1.bias": (2,),
    }
    assert entries["1.bias"].tolist() == [10.0, 11.0]
    assert flat.identity() == "0.weight (2, 3)\n1.weight (2, 2)\n1.bias (2,)"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made: made.requires_grad_(False), "without parameters that require a gradient"),
        (lambda made: made[1].double(), "of type float32, float64"),
        (lambda made: made.half(), "of type float16"),
    ],
)
def test_what_cannot_be_one_vector_is_refused(spoil, words):
    made = module()
    spoil(made)
    with pytest.raises(ValueError, match=words):
        FlatParameters(made)
