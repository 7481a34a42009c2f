import lightning.pytorch as pl
import pytest
import torch
from torch.func import functional_call

from fulgurite.data import Digits
from fulgurite.models.softmax_probe import RandomFourierFeatures, SoftmaxProbe


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_inner_products_are_the_gaussian_kernel():
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = RandomFourierFeatures(5, 200_000, bandwidth=2.0).double()(x)
    expected = torch.exp(-torch.cdist(x, x).square() / (2 * 2.0**2))
    assert (features @ features.T - expected).abs().max() < 0.01


@pytest.mark.parametrize("options", [{"weight_decay": 0.05}, {"weight_decay": 0.3, "backbone": "gap_cnn"}])
def test_the_stated_bounds_hold_for_the_hessian(options):
    probe = SoftmaxProbe(4, in_features=64, features=16, **options).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (12,), generator=generator)
    names, shapes = zip(*((name, w.shape) for name, w in probe.network.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    with torch.no_grad():
        phi = probe.body(x)
        phi = phi / phi.norm(dim=1, keepdim=True).clamp_min(1)

    def loss(flat):
        weights = {n: p.view(s) for n, p, s in zip(names, flat.split(sizes), shapes, strict=True)}
        logits = functional_call(probe.network, weights, (phi,))
        return torch.nn.functional.cross_entropy(logits, labels) + probe.decay / 2 * flat.square().sum()

    low, high = probe.objective_bounds()
    for scale in (0.0, 1.0, 10.0):
        point = scale * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
        eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, point))
        assert low - 1e-9 <= eigenvalues[0]
        assert eigenvalues[-1] <= high + 1e-9


def test_the_loss_has_the_decay_and_only_the_head_trains():
    probe = SoftmaxProbe(10, weight_decay=0.2)
    torch.nn.init.ones_(probe.network.weight)
    batch = torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2])
    probe.log = lambda *_, **__: None
    expected = torch.log(torch.tensor(10.0)) + 0.1 * 5120
    torch.testing.assert_close(probe.training_step(batch, 0), expected)
    assert [name for name, w in probe.named_parameters() if w.requires_grad] == ["network.weight", "network.bias"]


def test_a_frozen_body_stays_in_eval_mode_and_unchanged():
    probe = SoftmaxProbe(10, backbone="gap_cnn", learning_rate=0.5)
    before = {name: value.clone() for name, value in probe.body.state_dict().items()}
    trainer(max_epochs=1, limit_train_batches=2).fit(probe, Digits(batch_size=8))
    assert all(torch.equal(value, before[name]) for name, value in probe.body.state_dict().items())
    assert probe.network.weight.abs().sum() > 0


def test_it_learns_digits():
    probe, data = SoftmaxProbe(10, features=256, weight_decay=0.001, learning_rate=0.9), Digits(batch_size=64)
    run = trainer(max_epochs=10)
    run.fit(probe, data)
    assert run.callback_metrics["val/accuracy"] > 0.85


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_decay": 0.0}, "weight_decay=0.0"),
        ({"features": 15}, "even number"),
        ({"bandwidth": 0.0}, "bandwidth=0.0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        SoftmaxProbe(10, **options)
