"""What is left of a fit when it is over, and who ends it for whom."""

import time

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer


class Steps(pl.Callback):
    """Counts steps; gives up far beyond what is due, where a fit would never end."""

    def __init__(self, most=200):
        self.count, self.most, self.epochs = 0, most, []

    def on_train_batch_end(self, trainer, *_):
        self.count += 1
        if self.count > self.most:
            raise AssertionError("this fit does not end")

    def on_train_epoch_end(self, trainer, *_):
        self.epochs.append(trainer.max_epochs)


def test_a_second_fit_of_a_trainer_ends_like_the_first(fits):
    steps = Steps()
    run, module = fits.trainer(max_epochs=2, callbacks=[steps]), fits.probe()
    with fits.quiet():
        run.fit(module, fits.loader())
        first = {i: block.value for i, block in run.strategy.peer.blocks().items()}
        assert run.max_epochs == 2
        assert set(steps.epochs) == {-1}
        run.fit(module, fits.loader())
    assert steps.count == 2 * 2 * fits.SHARDS
    assert run.max_epochs == 2
    # It begins where the first has ended.
    centre = np.mean([first[i] for i in range(fits.SHARDS)], axis=0)
    np.testing.assert_allclose(run.strategy.training.map.centre, centre, rtol=0, atol=1e-15)


def test_each_fit_decides_anew_whether_it_takes_whole_shards(fits):
    run, plain = fits.trainer(fits.strategy(certify="report"), max_epochs=1), fits.probe()
    plain.objective_bounds = None
    with fits.quiet():
        run.fit(plain, fits.loader())
        assert not run.strategy.shard_loader.full_batch
        run.fit(fits.probe(), fits.loader())
    assert run.strategy.shard_loader.full_batch


def test_max_epochs_is_put_back_after_an_error(fits):
    run = fits.trainer(max_epochs=5, callbacks=[Steps(most=3)])
    with fits.quiet(), pytest.raises(AssertionError, match="does not end"):
        run.fit(fits.probe(), fits.loader())
    assert run.max_epochs == 5


def moved(weight):
    with torch.no_grad():
        weight += 1
    return weight.detach().clone()


def test_after_fit_the_module_is_what_it_is(fits, tmp_path):
    seen = []
    run, module = fits.trainer(max_epochs=2), fits.probe()
    with fits.quiet():
        run.fit(module, fits.loader())
        weight = moved(module.network.weight)
        run.save_checkpoint(tmp_path / "moved.ckpt")
        kept = torch.load(tmp_path / "moved.ckpt", weights_only=True)["state_dict"]["network.weight"]
        torch.testing.assert_close(kept.double(), weight.double(), rtol=0, atol=0)
        other = fits.probe()
        for validated, path in ((module, tmp_path / "moved.ckpt"), (other, None)):
            validated.validation_step = lambda *_, of=validated: seen.append(of.network.weight.detach().clone())
            run.validate(validated, fits.loader(), ckpt_path=path, verbose=False)
    assert all(torch.equal(found, weight.to(found)) for found in seen[:6])
    assert all(torch.equal(found.double(), fits.probe().double().network.weight) for found in seen[6:])
    assert len(seen) == 12


class Ends(pl.Callback):
    """Says that it begins, and how it ended."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_train_start(self, *_):
        self.pipe.send({"began": True})

    def on_fit_end(self, trainer, module):
        peer, counts = trainer.strategy.peer, trainer.strategy.training.counts
        weights = torch.cat([weight.detach().flatten() for weight in module.network.parameters()])
        said = {"stopped": peer.stopped, "counts": dict(counts), "weights": weights.numpy()}
        self.pipe.send(said | {"leads": trainer.is_global_zero})


class Slow(pl.Callback):
    def on_train_batch_end(self, *_):
        time.sleep(0.005)


def pair(fits, group, *, shards=None, one=(), two=(), options=None):
    """Two peers, with callbacks of their own."""
    shards = {} if shards is None else {"shards": shards}

    def make(extra, **more):
        def run(pipe):
            callbacks = [Slow(), fits.Told(pipe), *extra(), Ends(pipe)] if extra else [fits.Told(pipe), Ends(pipe)]
            chosen = fits.strategy(run="test", key=fits.KEY, **shards, **more)
            run = fits.trainer(chosen, max_epochs=-1, callbacks=callbacks, **(options or {}))
            run.fit(fits.probe(), fits.loader(), fits.loader())

        return run

    first = group.start(make(one))
    group.until(lambda: "address" in group.said[first])
    second = group.start(make(two, join=[group.said[first]["address"]]))
    return first, second


def test_early_stopping_of_one_ends_it_for_all(fits, tmp_path):
    def stops():
        return [EarlyStopping("val/loss", min_delta=10.0, patience=30)]

    with fits.Fits(tmp_path) as group:
        one, two = pair(fits, group, one=stops, two=list)
        group.until(lambda: group.said[two].get("hosted"))
        group.until(lambda: group.ends[one] and group.ends[two])
        assert group.ends == ["well", "well"], "\n".join(group.report())
        assert group.said[one]["stopped"]
        assert group.said[two]["stopped"]
        # The last steps of each may not have reached the other.
        np.testing.assert_allclose(group.said[one]["weights"], group.said[two]["weights"], rtol=0, atol=1e-2)


def test_max_time_is_the_processs_own(fits, tmp_path):
    with fits.Fits(tmp_path) as group:
        one, two = pair(fits, group, one=lambda: [Timer({"seconds": 6})], two=list)
        group.until(lambda: group.said[two].get("hosted"))
        group.until(lambda: group.ends[one])
        assert group.ends[one] == "well", "\n".join(group.report())
        assert not group.said[one]["stopped"]
        before = sum(group.said[two]["counts"].values())
        group.until(lambda: group.said[two]["hosted"] == tuple(range(fits.SHARDS)))
        group.until(lambda: sum(group.said[two]["counts"].values()) > before + 20)
        assert group.ends[two] is None
        group.finish(two)


def test_who_hosts_nothing_ends_and_does_not_lead(fits, tmp_path):
    with fits.Fits(tmp_path) as group:
        one, two = pair(fits, group, shards=1, one=list)
        group.until(lambda: group.said[two].get("began"))
        before = sum(group.said[one]["counts"].values())
        group.until(lambda: sum(group.said[one]["counts"].values()) > before + 60)
        group.finish(one, two)
        assert group.said[one]["leads"]
        assert not group.said[two]["leads"]
        np.testing.assert_array_equal(group.said[one]["weights"], group.said[two]["weights"])
