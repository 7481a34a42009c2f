"""Nothing is certified that is not so: steps, data and objectives are checked where they are computed."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def fit(fits, chosen=None, module=None, train=None, **options):
    module = fits.probe() if module is None else module
    run = fits.trainer(chosen, **options)
    with fits.quiet():
        run.fit(module, fits.loader() if train is None else train)
    return run, module


class LongerSteps(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step > 2:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 3.0


class Noise(pl.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        module.network.weight.grad += 1e-6


@pytest.mark.parametrize("hook", [LongerSteps, Noise])
@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_a_step_that_is_not_the_certified_one_is_refused(fits, hook, precision):
    with pytest.raises(ValueError, match=r"a step was not parameters - lr \* gradient with lr = 0.64: it is off by"):
        fit(fits, max_epochs=20, callbacks=[hook()], precision=precision)


def test_clipping_by_the_module_is_refused(fits):
    module = fits.probe()
    module.configure_gradient_clipping = lambda optimizer, **_: nn.utils.clip_grad_norm_(module.parameters(), 1e-3)
    with pytest.raises(ValueError, match="gradients that no hook alters or clips"):
        fit(fits, None, module)


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
def test_honest_steps_pass_for_long(fits, precision):
    run, _ = fit(fits, max_epochs=100, precision=precision)
    assert run.strategy.verdict[0] == "certified"


def test_several_loaders_are_refused(fits):
    with pytest.raises(ValueError, match="got several loaders to train from"):
        fit(fits, train=[fits.loader(), fits.loader()])


def test_more_shards_than_notes_can_tell_of_are_refused(fits):
    with pytest.raises(ValueError, match="got shards=5000; expected 1 or more, up to 4096"):
        fits.strategy(shards=5000)


class Squares(pl.LightningModule):
    """Least squares from parameters that are not 0, under SGD, with any number of rows."""

    def __init__(self, wants=None, decay=0.2):
        super().__init__()
        torch.manual_seed(3)
        self.head, self.decay = nn.Linear(6, 3), decay
        if wants is not None:
            self.objective_bounds = lambda: wants

    def training_step(self, batch, index):
        loss = functional.mse_loss(self.head(batch[0]), functional.one_hot(batch[1], 3).to(self.head.weight.dtype))
        return loss + self.decay / 2 * sum(weight.square().sum() for weight in self.parameters())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_what_joins_differs_where_the_step_or_the_bounds_differ(fits):
    def fingerprint(rate=0.64, decay=fits.MU, watched=True):
        module = fits.probe()
        module.learning_rate = rate
        module.objective_bounds = lambda: (decay, 1.0 + decay)
        chosen = fits.strategy(certify="report", full_batch=watched)
        run = fits.trainer(chosen, limit_train_batches=1, max_epochs=1)
        with fits.quiet():
            try:
                run.fit(module, fits.loader())
            except ValueError:
                assert decay != fits.MU
        return chosen.training.map.fingerprint()

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(rate=0.6), fingerprint(decay=0.3), fingerprint(watched=False)}) == 4


def test_a_value_from_a_file_makes_x_larger(fits, tmp_path):
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=2)
    path = tmp_path / "shard-0001.pt"
    kept = torch.load(path, weights_only=True)
    # Written before its X was known.
    kept["value"] = kept["value"] * 0 + 30.0
    kept["radius"] = None
    torch.save(kept, path)
    run, _ = fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=3)
    distance = float(np.linalg.norm(kept["value"].numpy() - run.strategy.training.map.centre))
    certificate = run.strategy.certificate()
    assert certificate.certified
    assert certificate.r0 >= 2 * distance


def test_facts_of_a_file_are_not_believed(fits, tmp_path):
    plain, _ = fit(fits, max_epochs=3)
    fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=2)
    for path in tmp_path.iterdir():
        kept = torch.load(path, weights_only=True)
        kept["facts"] = {"loss": "cross_entropy", "slope": 1e-9, "spread": 1.0, "rows": 10}
        torch.save(kept, path)
    run, _ = fit(fits, fits.strategy(checkpoints=str(tmp_path)), max_epochs=3)
    assert run.strategy.training.facts == plain.strategy.training.facts
    assert run.strategy.certificate().r0 == pytest.approx(plain.strategy.certificate().r0)


def test_scaled_gradients_are_pulled_as_strongly(fits):
    def end(precision):
        chosen = fits.strategy(certify="report", lam=0.5)
        chosen.precision_plugin = precision
        module = Squares()
        run = fits.trainer(chosen, precision=None, max_epochs=10)
        with fits.quiet():
            run.fit(module, fits.loader())
        blocks = run.strategy.peer.blocks()
        return np.stack([blocks[i].value for i in range(fits.SHARDS)])

    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**12))
    plain = MixedPrecision("bf16-mixed", "cpu")
    np.testing.assert_allclose(end(scaled), end(plain), rtol=0, atol=0.05)


def test_steps_that_overflow_are_not_counted(fits):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=10**6)
    chosen = fits.strategy(certify="report")
    chosen.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    run = fits.trainer(chosen, precision=None, max_epochs=-1, max_steps=40)
    with fits.quiet():
        run.fit(Squares(), fits.loader())
    skipped = round(np.log2(2.0**40 / scaler.get_scale()))
    assert skipped > 5
    assert sum(run.strategy.training.counts.values()) == 40 - skipped


class Spoilt(pl.LightningModule):
    """One step in three is not a number; or all of them are."""

    def __init__(self, every):
        super().__init__()
        self.head, self.every, self.steps = nn.Linear(6, 3), every, 0

    def training_step(self, batch, index):
        self.steps += 1
        return functional.cross_entropy(self.head(batch[0]), batch[1]) * (
            float("nan") if self.steps % self.every == 0 else 1.0
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_step_that_is_not_finite_is_not_counted(fits, caplog):
    _, module = fit(fits, fits.strategy(certify="report"), Spoilt(3), max_epochs=3)
    assert module.steps > 3 * fits.SHARDS
    assert torch.isfinite(module.head.weight).all()
    assert "a step led to parameters that are not finite; it is not counted" in caplog.text
    with pytest.raises(ValueError, match="3 steps in a row led to parameters that are not finite"):
        fit(fits, fits.strategy(certify="report"), Spoilt(1))


def loader(fits, data):
    return DataLoader(data, batch_size=7, shuffle=True)


@pytest.mark.parametrize("watched", [True, False])
def test_a_newcomer_with_other_data_is_refused_by_name(fits, tmp_path, watched):
    x, labels = fits.data().tensors
    # Of equal length, where their content can be compared.
    other = TensorDataset(x.flip(0), labels.flip(0)) if watched else TensorDataset(x[:-1], labels[:-1])

    def make(data, **options):
        def run(pipe):
            chosen = fits.strategy(
                run="test", key=fits.KEY, full_batch=watched, certify="require" if watched else "report", **options
            )
            fits.trainer(chosen, max_epochs=-1, callbacks=[fits.Told(pipe, 0.002)]).fit(
                fits.probe(), loader(fits, data)
            )

        return run

    with fits.Fits(tmp_path) as group:
        one = group.start(make(fits.data()))
        group.until(
            lambda: group.said[one].get("rounds", 0) > 5 or sum(group.said[one].get("counts", {0: 0}).values()) > 9
        )
        two = group.start(make(other, join=[group.said[one]["address"]]))
        group.until(lambda: group.ends[two])
        assert "this process trains on 4" in group.ends[two], "\n".join(group.report())
        assert "expected the same data" in group.ends[two]
        assert group.ends[one] is None
        group.finish(one)
