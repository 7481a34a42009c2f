import math

import neat.activations
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fulgurite.models.sparse_network.activations import ACTIVATIONS, activation_id

# Both sides of every kink and clamp, the points themselves, and places between.
POINTS = [0.0, 1e-7, 2e-7, 0.01, 0.3, 0.5, 0.99, 1.0, 1.01, 2.5, 3.39, 3.4, 3.41, 5.0, 11.99, 12.0, 12.01, 24.0, 31.9]
POINTS += [19.0, 32.0, 32.1, 59.9, 60.0, 60.1, 75.0]
POINTS = sorted({sign * point for point in POINTS for sign in (-1.0, 1.0)})
NEAT = neat.activations.ActivationFunctionSet().functions


def test_ids_never_change():
    torchs = ["identity", "relu", "relu32", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh", "sin"]
    torchs += ["gauss", "abs", "square", "exp", "hardtanh"]
    neats = ["sigmoid", "tanh", "sin", "gauss", "relu", "elu", "lelu", "selu", "softplus", "identity", "clamped", "inv"]
    neats += ["log", "exp", "abs", "hat", "square", "cube"]
    names = [*torchs, *(f"neat_{name}" for name in neats)]
    assert [(entry.id, entry.name) for entry in ACTIVATIONS.values()] == list(enumerate(names))
    assert {name: activation_id(name) for name in ACTIVATIONS} == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_autograds(name):
    entry = ACTIVATIONS[name]
    z = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    y = entry.function(z)
    (expected,) = torch.autograd.grad(y.sum(), z)
    got = entry.derivative((z if entry.needs_input else y).detach())
    clamped = name.startswith("neat_") and entry.needs_input  # where its bounds show, slopes may be tiny
    tolerance = 2.1e-9 if name == "softplus" else 0.0 if clamped else 1e-14
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_is_kept(name, dtype):
    entry = ACTIVATIONS[name]
    z = torch.tensor(POINTS, dtype=dtype)
    y = entry.function(z)
    assert y.dtype == dtype
    assert entry.derivative(z if entry.needs_input else y).dtype == dtype


# z³ has its derivative from the output too, but a root costs more than keeping z.
@pytest.mark.parametrize("name", [name for name, it in ACTIVATIONS.items() if it.needs_input and name != "neat_cube"])
def test_needs_input_is_no_waste(name):
    """Two inputs of one output and unlike derivatives: no function of the output could give both."""
    entry = ACTIVATIONS[name]
    z = torch.cat([torch.linspace(-80, 80, 64_001, dtype=torch.float64), torch.tensor(POINTS, dtype=torch.float64)])
    y, slope = entry.function(z), entry.derivative(z)
    order = torch.argsort(y)
    gap, change = y[order].diff(), slope[order].diff().abs()
    assert (change[gap <= 1e-3 * change] > 0).any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays(name):
    assert ACTIVATIONS[name].function(torch.tensor([math.nan, 0.5])).isnan().tolist() == [True, False]


def test_all_of_neat_pythons_are_there():
    assert {name for name in ACTIVATIONS if name.startswith("neat_")} == {f"neat_{name}" for name in NEAT}


@pytest.mark.parametrize("name", NEAT)
@hypothesis_settings(deadline=None)
@given(z=st.floats(-1e3, 1e3) | st.sampled_from(POINTS))
def test_neat_functions_are_neat_pythons(name, z):
    got = ACTIVATIONS[f"neat_{name}"].function(torch.tensor([z], dtype=torch.float64)).item()
    assert math.isclose(got, NEAT[name](z), rel_tol=1e-12, abs_tol=1e-15)


def test_neat_functions_are_not_torchs():
    z = torch.tensor([0.3])
    for name in ("sigmoid", "tanh", "sin", "gauss", "softplus"):
        assert ACTIVATIONS[name].function(z) != ACTIVATIONS[f"neat_{name}"].function(z)


def test_relu32_ends_at_32():
    assert ACTIVATIONS["relu32"].function(torch.tensor([-1.0, 5.0, 40.0])).tolist() == [0.0, 5.0, 32.0]


def test_unknown_name_tells_the_nearest():
    with pytest.raises(ValueError, match="no activation 'tahn'; did you mean 'tanh'"):
        activation_id("tahn")
    with pytest.raises(ValueError, match=r"no activation 'zzz'; choose from identity, relu, .*neat_cube"):
        activation_id("zzz")
