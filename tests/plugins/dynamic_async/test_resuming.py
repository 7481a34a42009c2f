"""``fit(ckpt_path=...)`` goes on where the checkpoint was."""

import logging

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional


class Network(pl.LightningModule):
    def __init__(self, optimizer=torch.optim.Adam, rate=0.02):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.optimizer, self.rate, self.steps = optimizer, rate, 0

    def training_step(self, batch, index):
        self.steps += 1
        return functional.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=self.rate)


class Counted(pl.Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, *_):
        self.steps += 1


def fit(fits, module, path=None, chosen=None, **options):
    steps = Counted()
    run = fits.trainer(chosen or fits.strategy(certify="report", full_batch=True), callbacks=[steps], **options)
    with fits.quiet():
        run.fit(module, fits.loader(), ckpt_path=path)
    return run, steps.steps


def states(run):
    peer = run.strategy.peer
    return np.stack([block.value for _, block in sorted(peer.blocks().items())])


@pytest.mark.parametrize("kind", ["certified", "star", "adam"])
def test_three_rounds_and_two_more_are_five_to_the_bit(fits, tmp_path, kind):
    def chosen():
        return fits.strategy(certify="report", full_batch=True, topology="star" if kind == "star" else "complete")

    make = Network if kind == "adam" else fits.probe
    whole, _ = fit(fits, make(), chosen=chosen(), max_epochs=5)
    first, _ = fit(fits, make(), chosen=chosen(), max_epochs=3)
    path = tmp_path / "three.ckpt"
    first.save_checkpoint(path)
    second, steps = fit(fits, make(), path, chosen=chosen(), max_epochs=5)
    assert steps == 2 * fits.SHARDS
    assert second.strategy.training.counts == dict.fromkeys(range(fits.SHARDS), 5)
    assert np.array_equal(states(second), states(whole))
    assert np.array_equal(second.strategy.training.map.centre, whole.strategy.training.map.centre)
    assert second.strategy.verdict[0] == whole.strategy.verdict[0]
    if kind == "certified":
        certificate = second.strategy.certificate()
        assert certificate.certified
        assert certificate.gamma == whole.strategy.certificate().gamma


def test_from_a_checkpoint_written_while_it_trains(fits, tmp_path):
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    run = fits.trainer(callbacks=[saved], max_epochs=4, enable_checkpointing=True)
    with fits.quiet():
        run.fit(fits.probe(), fits.loader())
    assert torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["dynamic_async"]["shards"][0]["evaluations"] == 2
    again, steps = fit(fits, fits.probe(), tmp_path / "epoch=1.ckpt", max_epochs=4)
    assert steps == 2 * fits.SHARDS
    assert np.array_equal(states(again), states(run))


def test_with_nothing_left_to_do_nothing_is_done(fits, tmp_path):
    run, module = fit(fits, fits.probe(), max_epochs=3)[0], fits.probe()
    path = tmp_path / "three.ckpt"
    run.save_checkpoint(path)
    weight = run.lightning_module.network.weight
    again, steps = fit(fits, module, path, max_epochs=3)
    assert steps == 0
    # Lightning reads the weights into a module of float32, and converts that.
    torch.testing.assert_close(module.network.weight, weight, rtol=0, atol=1e-7)
    assert again.max_epochs == 3
    assert again.strategy.verdict == ("empirical", "nothing was trained: max_epochs were over")


@pytest.mark.parametrize(
    ("options", "module"),
    [({"shards": 3}, {}), ({"lam": 0.25}, {}), ({"topology": "star"}, {}), ({}, {"optimizer": torch.optim.SGD})],
)
def test_another_training_is_refused_with_what_to_do(fits, tmp_path, options, module):
    run, _ = fit(fits, Network(), max_epochs=1)
    path = tmp_path / "one.ckpt"
    run.save_checkpoint(path)
    chosen = fits.strategy(**{"certify": "report", "full_batch": True} | options)
    words = "the checkpoint is of a training with shards=4, lam=0.5, topology=complete; .* leave out ckpt_path"
    with pytest.raises(ValueError, match=words):
        fit(fits, Network(**module), path, chosen=chosen, max_epochs=2)


def test_another_rate_of_a_certified_training_is_refused(fits, tmp_path):
    run, _ = fit(fits, fits.probe(), max_epochs=1)
    path = tmp_path / "one.ckpt"
    run.save_checkpoint(path)
    module = fits.probe()
    module.learning_rate = 0.5
    with pytest.raises(ValueError, match="expected the same as then"):
        fit(fits, module, path, max_epochs=2)


def test_a_checkpoint_of_another_strategy_is_begun_from(fits, tmp_path, caplog):
    plain = fits.trainer("auto", max_epochs=1)
    with fits.quiet():
        plain.fit(Network(torch.optim.SGD), fits.loader())
    path = tmp_path / "plain.ckpt"
    plain.save_checkpoint(path)
    kept = torch.load(path, weights_only=True)["state_dict"]["body.0.weight"].double()
    with caplog.at_level(logging.WARNING):
        run, steps = fit(fits, Network(torch.optim.SGD), path, max_epochs=1)
    assert "the checkpoint is of another strategy: training begins anew, from its weights" in caplog.text
    assert steps == fits.SHARDS
    centre = run.strategy.training.map.centre[: kept.numel()]
    np.testing.assert_allclose(centre, kept.flatten().numpy(), rtol=0, atol=1e-7)


def test_of_weights_that_were_changed_nothing_else_is_kept(fits, tmp_path):
    run, _ = fit(fits, fits.probe(), max_epochs=1)
    with torch.no_grad():
        run.lightning_module.network.weight += 1
    run.save_checkpoint(tmp_path / "changed.ckpt")
    assert "dynamic_async" not in torch.load(tmp_path / "changed.ckpt", weights_only=True)


def test_two_peers_go_on_together(fits, tmp_path):
    run, _ = fit(fits, fits.probe(), max_epochs=7)
    path = tmp_path / "seven.ckpt"
    run.save_checkpoint(path)
    before = states(run)

    def make(**options):
        def work(pipe):
            chosen = fits.strategy(run="test", key=fits.KEY, **options)
            going = fits.trainer(chosen, max_epochs=-1, callbacks=[fits.Told(pipe, 0.002)])
            going.fit(fits.probe(), fits.loader(), ckpt_path=path)

        return work

    with fits.Fits(tmp_path) as group:
        one = group.start(make())
        group.until(lambda: group.said[one].get("rounds", 0) > 2)
        assert all(count >= 7 for count in group.said[one]["counts"].values())
        two = group.start(make(join=[group.said[one]["address"]]))
        group.until(group.whole(one, two, rounds=3))
        group.finish(one, two)
        found = fits.answer()
        # Nobody has gone back to the checkpoint, not to speak of the start.
        for i, state in group.said[one]["states"].items():
            assert np.linalg.norm(state - found[i]) < np.linalg.norm(before[i] - found[i])
