import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fulgurite.callbacks.representative_interpretation.linearity import (
    Operators,
    bends,
    is_affine,
    watch,
)


def maps(seed=0, count=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 6, 6, generator=generator, dtype=torch.float64)


def drawn(*layers):
    torch.manual_seed(0)
    net = nn.Sequential(*[layer() if isinstance(layer, type) else layer for layer in layers]).double().eval()
    return net.requires_grad_(False)


def linear(inputs=144):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 5))


PIECEWISE = {
    "relu": lambda: drawn(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), linear()),
    "leaky": lambda: drawn(nn.Conv2d(4, 4, 3, padding=1), nn.LeakyReLU(), linear()),
    "prelu": lambda: drawn(nn.Conv2d(4, 4, 3, padding=1), nn.PReLU(4), linear()),
    "relu6": lambda: drawn(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU6(inplace=True), linear()),
    "max-pool": lambda: drawn(nn.MaxPool2d(2), linear(36)),
    "pools": lambda: drawn(nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(2), linear(16)),
    "upsample": lambda: drawn(nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), linear(576)),
}
HEADS = {
    "functional": lambda x: F.relu(F.avg_pool2d(x, 2)).flatten(1),
    "mask": lambda x: (x * (x > 0)).flatten(1),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x).flatten(1),
    "max over channels": lambda x: x.amax(1).flatten(1),
    "into a buffer": lambda x: into_a_buffer(x),
    "gather": lambda x: x.flatten(1).sort(1).values,
}
SMOOTH = {
    "silu is not": lambda x: F.silu(x).flatten(1),
    "gelu is not": lambda x: F.gelu(x).flatten(1),
    "hardswish is not": lambda x: F.hardswish(x).flatten(1),
    "layer_norm is not": lambda x: F.layer_norm(x, (6, 6)).flatten(1),
    "group_norm is not": lambda x: F.group_norm(x, 2).flatten(1),
    "softmax is not": lambda x: x.flatten(1).softmax(1),
    "mul multiplies features with features": lambda x: (x * x.mean((2, 3), keepdim=True).clamp(0, 1)).flatten(1),
    "bmm multiplies features with features": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).flatten(1),
    "div divides by features": lambda x: (x / x.abs().amax()).flatten(1),
    "statistics of the batch": lambda x: F.batch_norm(x, None, None, training=True).flatten(1),
    "reads values": lambda x: x.flatten(1) if x.sum().item() > 0 else -x.flatten(1),
}


def into_a_buffer(x):
    out = torch.zeros(len(x), 8, 6, 6, dtype=x.dtype)
    out[:, :4] = x
    out[:, 4:] = 2 * x
    return F.relu_(out).flatten(1)


def why_not(head, features):
    """Both witnesses, as a cut asks them."""
    return watch(head, features[:2])[1].reason or bends(head, features)


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_modules(name):
    assert why_not(PIECEWISE[name](), maps()) == ""


@pytest.mark.parametrize("name", HEADS)
def test_piecewise_linear_functions(name):
    assert why_not(HEADS[name], maps()) == ""


@pytest.mark.parametrize("reason", SMOOTH)
def test_smooth_functions_say_what_they_are(reason):
    assert reason in why_not(SMOOTH[reason], maps())


def test_writing_into_a_buffer_is_followed():
    def hidden(x):
        out = torch.zeros_like(x)
        out[:, :2] = x[:, :2]
        return F.silu(out).flatten(1)

    assert "silu" in why_not(hidden, maps())


def test_gates_that_do_not_come_from_the_features_are_linear():
    gate = F.silu(torch.ones(4, 1, 1, dtype=torch.float64))
    assert why_not(lambda x: F.relu(x * torch.sigmoid(gate)).flatten(1), maps()) == ""


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_the_gradient_alone_tells_smooth_from_bent(seed):
    torch.manual_seed(seed)
    first, last = nn.Conv2d(4, 16, 3).double(), nn.Linear(256, 3).double()
    assert bends(lambda x: last(F.relu(first(x)).flatten(1)), maps(seed), seed=seed) == ""
    assert "slope changes" in bends(lambda x: last(F.silu(first(x)).flatten(1)), maps(seed), seed=seed)


def test_a_gradient_that_is_not_the_slope_is_found():
    assert "not the slope" in bends(lambda x: (x + 0.5 * x.detach()).flatten(1), maps())


def test_many_kinks_are_still_piecewise_linear():
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(4 if _ == 0 else 64, 64, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 36, 4)).double()
    assert why_not(net, maps()) == ""


@pytest.mark.parametrize("smooth", [False, True])
def test_few_maps_go_through_the_head_at_a_time(smooth):
    sizes = []

    def head(x):
        sizes.append(len(x))
        return (F.silu(x) if smooth else F.relu(x)).flatten(1)

    bends(head, maps(count=8))
    assert max(sizes) <= 4
    assert sum(sizes) <= (12 if smooth else 4)
    sizes.clear()
    assert not is_affine(head, maps(count=8))
    assert sizes == [6]


def test_kinks_at_the_first_points_alone_do_not_make_a_head_smooth():
    calls = []

    def head(x):
        calls.append(0)
        return (x**2 if len(calls) == 1 else F.relu(x)).flatten(1)

    assert bends(head, maps()) == ""
    assert len(calls) == 2


def test_affine_is_what_all_pairs_say():
    """Kinks that only the last map reaches."""
    features = maps(count=8).abs()
    features[6] -= 5
    assert not is_affine(lambda x: x.relu().flatten(1), features)
    assert is_affine(lambda x: x.relu().flatten(1), features[:6])


def test_affine():
    pooled = drawn(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), linear(8))
    assert is_affine(pooled, maps())
    assert is_affine(pooled.float(), maps().float())
    assert not is_affine(PIECEWISE["relu"](), maps())
    assert not is_affine(PIECEWISE["relu"]().float(), maps().float())


def test_one_feature_map_or_equal_ones_do_not_make_a_head_affine():
    assert not is_affine(PIECEWISE["relu"](), maps(count=1))
    assert not is_affine(PIECEWISE["relu"](), maps(count=1).expand(4, -1, -1, -1))


def test_loss_of_precision_is_seen():
    assert watch(lambda x: F.relu(x.float()).double(), maps())[1].narrow == "to_copy computes in float32"
    assert watch(F.relu, maps())[1].narrow == ""


def beside(x, *, mask=False):
    probabilities = x.flatten(1).softmax(1)
    narrow = probabilities.bfloat16()
    logits = torch.where(narrow > 0.01, x.flatten(1), 0 * x.flatten(1)) if mask else F.relu(x).flatten(1)
    logits.add_(1)
    probabilities.log_()
    return logits[:, :5]


def test_what_is_computed_beside_the_logits_says_nothing_about_them():
    _, origin = watch(beside, maps())
    assert (origin.last, origin.reason, origin.narrow, origin.probabilities) == ("add", "", "", "")
    assert "softmax is not" in watch(lambda x: beside(x, mask=True), maps())[1].reason


def test_probabilities_are_recognised_whatever_view_of_them_is_returned():
    for last in (torch.softmax, torch.log_softmax):
        _, origin = watch(lambda x, last=last: torch.cat([last(x.flatten(1), 1)[:, :3], x[:, 0, 0, :2]], 1), maps())
        assert origin.probabilities == last.__name__
    _, origin = watch(lambda x: 2 * x.flatten(1).softmax(1), maps())
    assert (origin.probabilities, origin.last) == ("", "mul")


def test_mixing_operators_are_counted():
    net = drawn(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    with Operators() as seen:
        net(maps())
    assert seen.mixing == 2
