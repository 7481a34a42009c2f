import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fulgurite.plugins.dynamic_async.objective import ObjectiveError, ObjectiveWatch

LOSSES = {
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy_with_logits": functional.binary_cross_entropy_with_logits,
    "mse_loss": functional.mse_loss,
}


def case(name, seed=0, rows=12, width=5, classes=3, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator, dtype=dtype)
    if name == "cross_entropy":
        labels = torch.randint(classes, (rows,), generator=generator)
    else:
        labels = torch.rand(rows, classes, generator=generator, dtype=dtype)
    body = nn.Linear(width, width, dtype=dtype).requires_grad_(False)
    head = nn.Linear(width, classes, bias=bias, dtype=dtype)
    with torch.no_grad():
        head.weight.normal_(generator=generator)
    return nn.Sequential(body, nn.ReLU(), head), x, labels


def gradients(module, x, labels, loss, decay):
    value = loss(module(x), labels) + decay / 2 * sum(w.square().sum() for w in module[-1].parameters())
    value.backward()


def sharpest(module, x, labels, loss, decay):
    """The loss's greatest curvature anywhere, by looking at many points."""
    features, head = module[:-1](x), module[-1]
    shapes = [w.shape for w in head.parameters()]

    def value(flat):
        parts = [p.view(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        return loss(functional.linear(features, *parts), labels) + decay / 2 * flat.square().sum()

    size = sum(s.numel() for s in shapes)
    points = [torch.zeros(size, dtype=x.dtype), torch.ones(size, dtype=x.dtype)]
    return max(float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(value, p))[-1]) for p in points)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    seed=st.integers(0, 2**31),
    bias=st.booleans(),
    decay=st.floats(1e-3, 10),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_true_bounds_pass(name, seed, bias, decay, dtype):
    module, x, labels = case(name, seed, bias=bias, dtype=dtype)
    with ObjectiveWatch(module, (decay, 1000.0)) as watch:
        gradients(module, x, labels, LOSSES[name], decay)
        watch.verify(labels)
    assert watch.loss == name


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_smoother_than_it_is_is_refused(name):
    module, x, labels = case(name)
    true = sharpest(module, x, labels, LOSSES[name], 0.1)
    with ObjectiveWatch(module, (0.1, true * 0.99)) as watch:
        gradients(module, x, labels, LOSSES[name], 0.1)
        with pytest.raises(ObjectiveError, match=r"states L = .* on this shard it is up to"):
            watch.verify(labels)


def test_squared_loss_is_bounded_by_exactly_its_curvature():
    module, x, labels = case("mse_loss")
    true = sharpest(module, x, labels, functional.mse_loss, 0.1)
    with ObjectiveWatch(module, (0.1, true * 1.0001)) as watch:
        gradients(module, x, labels, functional.mse_loss, 0.1)
        watch.verify(labels)


@pytest.mark.parametrize("decay", [0.05, 0.2])
def test_another_decay_than_stated_is_refused(decay):
    module, x, labels = case("cross_entropy")
    with ObjectiveWatch(module, (0.1, 100.0)) as watch:
        gradients(module, x, labels, functional.cross_entropy, decay)
        with pytest.raises(ObjectiveError, match=rf"states mu = 0.1; .* weight decay of {decay:g} "):
            watch.verify(labels)


def test_a_penalty_of_the_norm_that_is_not_convex_is_refused():
    module, x, labels = case("cross_entropy")

    def loss(logits, labels):
        return functional.cross_entropy(logits, labels) + sum(w.square().sum() for w in module[-1].parameters()).log1p()

    with ObjectiveWatch(module, (0.1, 100.0)) as watch:
        gradients(module, x, labels, loss, 0.0)
        with pytest.raises(ObjectiveError, match="make it constant"):
            watch.verify(labels)


@pytest.mark.parametrize("change", ["dropout", "noise", "labels"])
def test_data_that_change_between_two_evaluations_are_refused(change):
    torch.manual_seed(0)
    module, x, labels = case("cross_entropy")
    module = nn.Sequential(nn.Dropout(0.5) if change == "dropout" else nn.Identity(), *module)
    watch = ObjectiveWatch(module, (0.1, 100.0))
    with pytest.raises(ObjectiveError, match="shard 3 are others than at its last evaluation"):
        for _ in range(2):
            module.zero_grad()
            with watch:
                gradients(module, x, labels, functional.cross_entropy, 0.1)
                watch.verify(labels, shard=3)
            x = x + 0.1 * torch.randn_like(x) if change == "noise" else x
            labels = labels.flip(0) if change == "labels" else labels
    with watch:  # another shard has other data
        module.zero_grad()
        gradients(module, x, labels, functional.cross_entropy, 0.1)
        watch.verify(labels, shard=4)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.3),
        lambda z, y: functional.cross_entropy(z, y, reduction="sum"),
        lambda z, y: functional.cross_entropy(z, y) + z.sin().mean(),
        lambda z, y: functional.cross_entropy(z**2, y),
    ],
    ids=["smoothed", "summed", "with a sine", "of squares"],
)
def test_another_loss_is_refused(loss):
    module, x, labels = case("cross_entropy")
    with ObjectiveWatch(module, (0.1, 100.0)) as watch:
        gradients(module, x, labels, loss, 0.1)
        with pytest.raises(ObjectiveError, match="the loss is not"):
            watch.verify(labels)


def test_clipped_gradients_are_refused():
    module, x, labels = case("cross_entropy")
    with ObjectiveWatch(module, (0.1, 100.0)) as watch:
        gradients(module, x, labels, functional.cross_entropy, 0.1)
        nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
        with pytest.raises(ObjectiveError, match="gradient differs"):
            watch.verify(labels)


def test_a_head_that_ran_twice_is_refused():
    module, x, labels = case("cross_entropy")
    with ObjectiveWatch(module, (0.1, 100.0)) as watch:
        module(x)
        gradients(module, x, labels, functional.cross_entropy, 0.1)
        with pytest.raises(ObjectiveError, match="ran 2 times"):
            watch.verify(labels)


def test_nothing_stays_on_the_module():
    module, _, _ = case("cross_entropy")
    with ObjectiveWatch(module, (0.1, 1.0)):
        pass
    assert not module[-1]._forward_hooks


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.requires_grad_(True), "2 linear layers train"),
        (lambda m: m.requires_grad_(False), "0 linear layers train"),
        (lambda m: m[2].bias.requires_grad_(False), "'bias' does not train"),
        (lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(1))), "'scale' trains"),
    ],
)
def test_anything_but_one_head_is_refused(change, words):
    module, _, _ = case("cross_entropy")
    change(module)
    with pytest.raises(ObjectiveError, match=words):
        ObjectiveWatch(module, (0.1, 1.0))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.1, float("inf")), 3, ("a", "b")])
def test_bounds_that_are_none(bounds):
    module, _, _ = case("cross_entropy")
    with pytest.raises(ObjectiveError, match=r"objective_bounds\(\) gave"):
        ObjectiveWatch(module, bounds)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_the_slope_at_any_point_is_that_of_the_loss(name, bias):
    module, x, labels = case(name, bias=bias)
    head = module[-1]
    with ObjectiveWatch(module, (0.3, 1000.0)) as watch:
        gradients(module, x, labels, LOSSES[name], 0.3)
        watch.verify(labels)
        point = torch.randn(sum(weight.numel() for weight in head.parameters()), dtype=x.dtype)
        found = watch.slope(labels, point)
    nn.utils.vector_to_parameters(point, head.parameters())
    module.zero_grad()
    gradients(module, x, labels, LOSSES[name], 0.3)
    true = torch.cat([weight.grad.flatten() for weight in head.parameters()]).norm()
    assert found == pytest.approx(float(true), rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
def test_a_decay_below_rounding_is_not_taken_for_shown(scale):
    # Without any decay; the one that is stated is lost in float32.
    module, x, labels = case("cross_entropy", dtype=torch.float32)
    with ObjectiveWatch(module, (1e-6, 1e6)) as watch:
        gradients(module, x * scale, labels, functional.cross_entropy, 0.0)
        try:
            watch.verify(labels)
        except ObjectiveError:
            return
        assert not watch.shown


def test_at_parameters_of_0_no_decay_is_shown():
    module, x, labels = case("cross_entropy")
    for weight, shown in ((0.0, False), (0.1, True)):
        nn.init.constant_(module[-1].weight, weight)
        nn.init.constant_(module[-1].bias, weight)
        module.zero_grad()
        with ObjectiveWatch(module, (0.1, 1000.0)) as watch:
            gradients(module, x, labels, functional.cross_entropy, 0.1)
            watch.verify(labels)
        assert watch.shown == shown


def test_labels_beyond_what_a_loss_is_bounded_for_are_refused():
    module, x, labels = case("binary_cross_entropy_with_logits")
    labels[0, 0] = 50.0
    with ObjectiveWatch(module, (0.1, 1000.0)) as watch:
        gradients(module, x, labels, functional.binary_cross_entropy_with_logits, 0.1)
        with pytest.raises(ObjectiveError, match="the loss is not"):
            watch.verify(labels)
    module, x, labels = case("cross_entropy")
    labels[0] = -100
    with ObjectiveWatch(module, (0.1, 1000.0)) as watch:
        gradients(module, x, labels, functional.cross_entropy, 0.1)
        with pytest.raises(ObjectiveError, match=r"labels from -100 to 2 for 3 logits; .*ignore_index"):
            watch.verify(labels)


def test_what_passes_is_within_the_bounds_that_are_used():
    module, x, labels = case("mse_loss")
    true = sharpest(module, x, labels, functional.mse_loss, 0.1)
    with ObjectiveWatch(module, (0.1, true * (1 - 0.9e-5))) as watch:
        gradients(module, x, labels, functional.mse_loss, 0.1)
        watch.verify(labels)
    assert watch.bounds[0] == 0.1
    assert watch.bounds[1] >= true
