"""A run with the callback is, bit by bit, the run without it."""

import gc
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RepresentativeInterpretation
from fulgurite.callbacks.representative_interpretation.sampling import Sample
from fulgurite.callbacks.representative_interpretation.survey import survey

pytestmark = pytest.mark.filterwarnings(
    "ignore:RepresentativeInterpretation:UserWarning",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)


class Classifier(pl.LightningModule):
    """All that can go wrong: in-place and functional ReLU, dropout, a frozen BatchNorm, buffers."""

    def __init__(self, *, inplace=False, dropout=0.0, frozen=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace))
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace), nn.MaxPool2d(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(288, 16), nn.ReLU(inplace), nn.Linear(16, 3))
        self.inplace, self.frozen = inplace, frozen
        if frozen:
            self.stem.requires_grad_(False)
        self.seen, self.modes = [], []

    def forward(self, images):
        hidden = F.relu(self.body(self.stem(images)), inplace=self.inplace)
        return self.head(self.dropout(hidden))

    def on_train_epoch_start(self):
        if self.frozen:
            self.stem[1].eval()

    def training_step(self, batch, batch_idx):
        self.seen.append(batch[0].double().sum().item())
        self.modes.append([module.training for module in self.modules()])
        noise = 0.01 * random.random() + 0.01 * float(np.random.rand())
        return F.cross_entropy(self(batch[0] + noise * torch.rand_like(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([weight for weight in self.parameters() if weight.requires_grad], lr=5e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


def state_of(module, trainer):
    """Everything that a pass could have touched."""
    return {
        "weights": module.state_dict(),
        "grads": [None if weight.grad is None else weight.grad.clone() for weight in module.parameters()],
        "flags": [weight.requires_grad for weight in module.parameters()],
        "modes": module.modes,
        "mode at the end": [part.training for part in module.modules()],
        "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "batches": module.seen,
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "switches": [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()],
        "loss": trainer.callback_metrics.get("val/loss"),
    }


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def trainer_for(tmp_path, callbacks, **options):
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(default_root_dir=tmp_path, callbacks=callbacks, **quiet | options)


def fit(tmp_path, data, callbacks, *, network=None, validate=True, **options):
    pl.seed_everything(3, verbose=False)
    module = Classifier(**(network or {}))
    trainer = trainer_for(tmp_path, callbacks, **{"max_epochs": 2} | options)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    trainer.fit(module, loader, DataLoader(data, batch_size=50) if validate else None)
    return state_of(module, trainer)


@pytest.fixture(scope="module")
def data(shapes):
    return TensorDataset(*shapes(180))


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({}, {}),
        ({"inplace": True}, {}),
        ({"dropout": 0.3}, {}),
        ({"frozen": True}, {}),
        ({"inplace": True, "dropout": 0.3, "frozen": True}, {"precision": "bf16-mixed"}),
        ({"dropout": 0.3}, {"validate": False}),
        ({"inplace": True}, {"val_check_interval": 0.5, "num_sanity_val_steps": 1, "gradient_clip_val": 1.0}),
    ],
    ids=["plain", "in-place", "dropout", "frozen", "bf16", "no validation", "often"],
)
def test_a_run_is_the_same_bit_by_bit(tmp_path, data, network, options):
    interpretation = RepresentativeInterpretation(reference=60, boundaries=5, held_out=20, cut="stem")
    without = fit(tmp_path / "without", data, [], network=network, **options)
    with_it = fit(tmp_path / "with", data, [interpretation], network=network, **options)
    assert [snapshot.kind for snapshot in interpretation.history] == ["light", "light", "full"]
    for name, value in without.items():
        assert same(value, with_it[name]), name


def test_validate_leaves_no_trace(tmp_path, data):
    pl.seed_everything(3, verbose=False)
    module = Classifier(inplace=True, dropout=0.2)
    module.stem.eval()
    states = []
    for callbacks in ([], [RepresentativeInterpretation(reference=60, boundaries=5)]):
        pl.seed_everything(5, verbose=False)
        trainer = trainer_for(tmp_path, callbacks)
        trainer.validate(module, DataLoader(data, batch_size=50), verbose=False)
        states.append(state_of(module, trainer))
    assert same(*states)
    (interpretation,) = callbacks
    assert [snapshot.kind for snapshot in interpretation.history] == ["full"]
    assert interpretation.report.exists()
    for found in interpretation.survey.groups:
        assert not found.planes.weight.is_inference()
    module.train()(data.tensors[0][:4]).sum().backward()


def alive(kind):
    gc.collect()
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_passes(fitted, shapes):
    sample = Sample(*shapes(60, seed=3), 60)
    tensors, before = [], None
    for number in range(100):
        found = survey(fitted, sample, full=False, groups_per_class=1, boundaries=3, cut="1", before=before)
        before = found.snapshot
        del found
        if number in (3, 50, 99):
            tensors.append(alive(torch.Tensor))
    assert len(set(tensors)) == 1
    assert not any(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in fitted.modules())


@pytest.mark.slow
def test_memory_is_flat_over_the_epochs(tmp_path, data):
    class Count(pl.Callback):
        def __init__(self):
            self.tensors, self.figures = [], []

        def on_train_epoch_start(self, trainer, pl_module):
            self.tensors.append(alive(torch.Tensor))
            self.figures.append(alive(Figure))

    count = Count()
    interpretation = RepresentativeInterpretation(reference=40, held_out=10, boundaries=3, cut="body")
    pl.seed_everything(3, verbose=False)
    trainer = trainer_for(tmp_path, [interpretation, count], max_epochs=5, limit_train_batches=1)
    trainer.fit(Classifier(), DataLoader(data, batch_size=32, shuffle=True), DataLoader(data, batch_size=60))
    assert len(interpretation.history) == 6
    assert max(count.tensors[2:]) <= min(count.tensors[2:]) + 60, "groups come and go with the classes predicted"
    assert max(count.figures) == 0
    assert all(not snapshot.groups for snapshot in interpretation.history[:-1])
