import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fulgurite.models.sequence_module import SequenceModule


class Line(nn.Module):
    """The smallest network that a SequenceModule takes."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def check(self, batch):
        pass


class Fit(SequenceModule):
    stay_on_host = ()

    def loss(self, batch) -> Tensor:
        return (self.network.slope - batch["slope"]).square().mean()

    def measure(self, batch, batch_idx, stage):
        pass


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class StopAfterAnEpoch(Callback):
    def on_train_epoch_end(self, trainer, *_):
        trainer.should_stop = True


def fit(tmp_path, warmup_steps: int, max_epochs: int, stop: bool = False) -> list[float]:
    callback = Rates()
    data = DataLoader([{"slope": torch.ones(2)}] * 4, batch_size=None)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0, max_epochs=max_epochs,
        callbacks=[callback, StopAfterAnEpoch()] if stop else [callback],
    )  # fmt: skip
    trainer.fit(Fit(Line(), learning_rate=0.8, warmup_steps=warmup_steps), data, data)
    return callback.rates


def test_rate_rises_and_falls(tmp_path):
    assert fit(tmp_path, warmup_steps=4, max_epochs=2) == pytest.approx(
        [0.8 * min(1, (step + 1) / 4) * (1 - step / 8) for step in range(8)]
    )


def test_rate_without_warmup_starts_at_the_top(tmp_path):
    assert fit(tmp_path, warmup_steps=0, max_epochs=1) == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_rate_of_a_run_without_an_end_does_not_fall(tmp_path):
    assert fit(tmp_path, warmup_steps=2, max_epochs=-1, stop=True) == pytest.approx([0.4, 0.8, 0.8, 0.8])
