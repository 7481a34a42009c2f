import random
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RandomState
from fulgurite.callbacks.random_state import KEY, random_state, set_random_state


class Noisy(pl.LightningModule):
    """Draws from all three generators, so that any one left unrestored changes the weights."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        (x,) = batch
        self.seen.append(x.sum().item())
        return (self.net(x) * (1 + 0.1 * random.random() + 0.1 * float(np.random.randn()))).square().mean()

    def validation_step(self, batch, batch_idx):
        self.net(batch[0] + torch.randn(4))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Scheduled(Noisy):
    """Has the loaders set up before any hook of a callback runs."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


def fit(folder: Path, epochs, *, resume=None, callbacks=True, devices=1, validate=True, kind=Noisy, workers=0):
    pl.seed_everything(7 if resume is None else 99)  # a resumed process starts from another state
    data = TensorDataset(torch.arange(64.0).reshape(16, 4) / 64)
    module = kind()
    checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        devices=devices,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[checkpoint, *([RandomState()] if callbacks else [])],
    )
    trainer.fit(
        module,
        DataLoader(data, batch_size=4, shuffle=True, num_workers=workers),
        DataLoader(data, batch_size=8) if validate else None,
        ckpt_path=resume,
        weights_only=True,
    )
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
@pytest.mark.parametrize("validate", [False, True])
def test_a_resumed_run_is_bit_identical(tmp_path, validate):
    whole = fit(tmp_path / "whole", 4, validate=validate)
    fit(tmp_path / "part", 2, validate=validate)
    resumed = fit(tmp_path / "part", 4, resume=tmp_path / "part" / "epoch=1.ckpt", validate=validate)
    assert resumed.seen == whole.seen[8:]
    assert same(whole, resumed)


@pytest.mark.parametrize("workers", [0, 2])
def test_so_is_one_whose_loaders_are_set_up_early(tmp_path, workers):
    options = {"kind": Scheduled, "workers": workers}
    whole = fit(tmp_path / "whole", 4, **options)
    fit(tmp_path / "part", 2, **options)
    resumed = fit(tmp_path / "part", 4, resume=tmp_path / "part" / "epoch=1.ckpt", **options)
    assert resumed.seen == whole.seen[8:]
    assert same(whole, resumed)


def test_without_the_callback_it_is_not(tmp_path):
    whole = fit(tmp_path / "whole", 4)
    fit(tmp_path / "part", 2, callbacks=False)
    resumed = fit(tmp_path / "part", 4, resume=tmp_path / "part" / "epoch=1.ckpt", callbacks=False)
    assert resumed.seen != whole.seen[8:]
    assert not same(whole, resumed)


def test_saving_changes_nothing(tmp_path):
    with_it, without = fit(tmp_path / "on", 2), fit(tmp_path / "off", 2, callbacks=False)
    assert with_it.seen == without.seen
    assert same(with_it, without)


def test_the_state_is_plain_and_reloads_under_weights_only(tmp_path):
    fit(tmp_path, 1)
    checkpoint = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert set(checkpoint[KEY][0]) == {"torch", "numpy", "python"}


def test_a_checkpoint_without_state_is_said(tmp_path):
    fit(tmp_path, 1, callbacks=False)
    with pytest.warns(UserWarning, match="written without RandomState"):
        fit(tmp_path, 2, resume=tmp_path / "epoch=0.ckpt")


def test_another_number_of_ranks_is_said():
    callback = RandomState()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module = Noisy()
    callback.on_load_checkpoint(trainer, module, {KEY: [random_state(), random_state()]})
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="2 ranks, this run has 1"):
        callback.on_fit_start(trainer, module)
    assert torch.equal(before, torch.get_rng_state())


def test_all_generators_come_back():
    state = random_state()
    first = (torch.rand(3), np.random.randn(3), random.random(), random.gauss(0, 1))
    set_random_state(state)
    again = (torch.rand(3), np.random.randn(3), random.random(), random.gauss(0, 1))
    assert torch.equal(first[0], again[0])
    assert (first[1] == again[1]).all()
    assert first[2:] == again[2:]
