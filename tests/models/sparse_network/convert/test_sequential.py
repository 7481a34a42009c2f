import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from fulgurite.models.sparse_network import SparseNetwork
from fulgurite.models.sparse_network.convert.sequential import from_sequential


class Residual(nn.Module):
    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Dense(nn.Module):
    """As DenseNet: what was computed before stays beside what is new."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(10, 3)

    def forward(self, x):
        x = torch.cat([x, functional.relu(self.first(x))], dim=1)
        return self.second(x)


class Arithmetic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.randn(6))
        self.register_buffer("mixing", torch.randn(6, 4))

    def forward(self, x):
        h = self.layer(x)
        h = torch.sub(2 * h, x, alpha=0.5) * self.scale + 1.5
        left, right = h.chunk(2, dim=-1)
        gated = left * torch.sigmoid(right)
        h = torch.cat((gated, 1 - h[:, 2:5]), -1) / 3
        return -h @ self.mixing


class InPlace(nn.Module):
    """Reads a tensor again after it was overwritten."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.layer(x)
        r = self.relu(h)
        h += r
        functional.elu(h, inplace=True)
        return h * 3 + r


class Masked(nn.Module):
    """A mask of the user's own, multiplied in when called."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4))
        self.register_buffer("mask", torch.rand(4, 6) < 0.4)

    def forward(self, x, scale=2.0):
        return functional.linear(x, self.weight * self.mask, self.bias) * scale


class Constants(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x) * torch.tensor([1.0, -2.0, 3.0]) + torch.ones(3).cumsum(0)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        return self.layer(x.view(x.size(0), -1)).tanh()


def batch_norm() -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(6)
    norm(torch.randn(50, 6) * 3 + 1)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


MODULES = {
    "layer": lambda: nn.Linear(6, 3),
    "without_bias": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ELU()), nn.Sequential(nn.Linear(5, 2))),
    "no_activation": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Identity(), nn.Linear(4, 3)),
    "identity_first": lambda: nn.Sequential(nn.Identity(), nn.Dropout(), nn.Linear(6, 3), nn.Identity()),
    "activation_first": lambda: nn.Sequential(nn.Tanh(), nn.SiLU(), nn.Linear(6, 3), nn.GELU()),
    "residual": lambda: nn.Sequential(Residual(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6))), nn.Tanh()),
    "residual_of_layer": lambda: nn.Sequential(Residual(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 2)),
    "residual_of_residual": lambda: Residual(nn.Sequential(Residual(nn.Linear(6, 6)), nn.Sigmoid())),
    "batch_norm": lambda: nn.Sequential(batch_norm(), nn.Linear(6, 6), batch_norm(), nn.ReLU(), nn.Linear(6, 2)),
    "dense": Dense,
    "arithmetic": Arithmetic,
    "in_place": InPlace,
    "masked": Masked,
    "constants": Constants,
    "weight_norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.Softplus()),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("pruned", [False, True])
def test_equals_the_module(name, pruned):
    torch.manual_seed(0)
    module = MODULES[name]().double().eval()
    if pruned:
        for layer in [layer for layer in module.modules() if type(layer) is nn.Linear]:
            prune.random_unstructured(layer, "weight", amount=0.6)
            if layer.bias is not None:
                prune.random_unstructured(layer, "bias", amount=0.5)
    x = torch.randn(7, 6, dtype=torch.float64)
    net = SparseNetwork.from_sequential(module)
    torch.testing.assert_close(net(x), module(x), rtol=1e-10, atol=1e-12)
    assert net.weight.dtype == torch.float64


def test_only_what_a_mask_keeps_becomes_edges():
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
    prune.global_unstructured([(module[0], "weight"), (module[2], "weight")], prune.L1Unstructured, amount=0.95)
    with torch.no_grad():
        # A weight that the mask keeps may be 0 at the moment, and the optimizer moves weight_orig alone.
        place = module[0].weight_mask.nonzero()[0]
        module[0].weight_orig[*place] = 0
    net = from_sequential(module)
    assert net.num_edges == int(module[0].weight_mask.sum() + module[2].weight_mask.sum()) == 40
    x = torch.randn(5, 30)
    torch.testing.assert_close(net(x), module(x))


def test_zeros_are_pruned_weights():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        module[0].weight[1] = 0  # a dead unit, which is relu(bias)
        module[0].bias[1] = 0.7
        module[2].weight[0, 0] = 0
    net = from_sequential(module)
    assert net.num_edges == 8 + 5
    assert net.num_nodes == 4 + 3 + 2
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), module(x))


def test_skips_become_edges_of_weight_1():
    body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    net = from_sequential(nn.Sequential(Residual(body), nn.ReLU()).eval())
    assert net.num_edges == 24 + 24 + 4
    assert net.num_nodes == 4 + 6 + 4  # the sum, its ReLU and the last linear layer are the same units
    skips = net.edges[:, 0] + 10 == net.edges[:, 1]
    assert skips.sum() == 4
    assert (net.weight[skips] == 1).all()


def test_a_skip_beside_an_edge_is_added_to_it():
    layer = nn.Linear(3, 3, bias=False)
    net = from_sequential(Residual(layer).eval())
    assert net.num_edges == 9
    weight = torch.zeros(3, 3)
    weight[net.edges[:, 1] - 3, net.edges[:, 0]] = net.weight.detach()
    torch.testing.assert_close(weight, layer.weight.detach() + torch.eye(3))


def test_a_square_has_two_edges_from_different_nodes():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    net = from_sequential(Square(), num_inputs=3)
    x = torch.randn(4, 3)
    torch.testing.assert_close(net(x), x * x)


def test_flattened_images():
    torch.manual_seed(3)
    x = torch.randn(5, 1, 2, 3)
    for module in (Image().eval(), nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).eval()):
        torch.testing.assert_close(from_sequential(module)(x.flatten(1)), module(x))


def test_the_module_stays_as_it_is():
    torch.manual_seed(4)
    module = nn.Sequential(Masked(), nn.ReLU(), nn.Linear(4, 2))
    prune.random_unstructured(module[0], "weight", amount=0.5)
    prune.random_unstructured(module[2], "weight", amount=0.5)
    x = torch.randn(3, 6)
    expected = module(x)
    before = [dict(part.__dict__) for part in module.modules()]
    net = from_sequential(module)
    assert [dict(part.__dict__) for part in module.modules()] == before
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(net(x), expected)
    with torch.no_grad():
        net.weight.zero_()
    torch.testing.assert_close(module(x), expected)


def test_training_mode_is_converted_with_a_warning():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.ReLU())
    with pytest.warns(UserWarning, match="_1 is in training mode, and is converted as in evaluation mode"):
        net = from_sequential(module)
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), module.eval()(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_sequential(module)


def test_options_reach_the_network():
    net = from_sequential(nn.Linear(3, 2).eval(), backend="reference", dtype=torch.float64)
    assert net.backend == "reference"
    assert net.weight.dtype == torch.float64
    assert from_sequential(nn.Linear(3, 2).half()).weight.dtype == torch.float32


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_random_stacks(seed, data):
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    width = 5
    for kind in data.draw(st.lists(st.sampled_from(["linear", "residual", "activation", "norm", "gate"]), max_size=6)):
        if kind == "linear":
            out = data.draw(st.integers(1, 7))
            layers.append(nn.Linear(width, out))
            width = out
        elif kind == "residual":
            layers.append(Residual(nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, width))))
        elif kind == "gate":
            layers.append(Residual(Residual(nn.Sigmoid())))
        elif kind == "norm":
            layers.append(nn.BatchNorm1d(width))
        else:
            layers.append(data.draw(st.sampled_from([nn.ReLU(), nn.ELU(), nn.Identity(), nn.SiLU()])))
    module = nn.Sequential(*layers).double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            prune.random_unstructured(layer, "weight", amount=data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])))
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y = from_sequential(module, num_inputs=5, dtype=torch.float64, backend="reference")(x)
    expected = module(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)
    if expected.requires_grad:
        torch.testing.assert_close(
            *(
                torch.autograd.grad(value.sum(), x, allow_unused=True, materialize_grads=True)[0]
                for value in (y, expected)
            ),
            rtol=1e-9,
            atol=1e-11,
        )


@pytest.mark.parametrize("module", [[nn.Linear(2, 2)], nn.Linear, None, torch.relu])
def test_only_modules_are_converted(module):
    with pytest.raises(ValueError, match=r"^got .* to convert, a .*; pass an nn.Module, of a list of layers nn.Seq"):
        from_sequential(module)
