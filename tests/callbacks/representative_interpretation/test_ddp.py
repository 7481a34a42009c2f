"""The callback over two processes of a real Trainer."""

import json

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import RepresentativeInterpretation

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.filterwarnings("ignore:RepresentativeInterpretation:UserWarning"),
]


class Classifier(pl.LightningModule):
    def __init__(self, network, folder):
        super().__init__()
        self.network, self.folder = network, folder

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def on_fit_end(self):
        passes = [c for c in self.trainer.callbacks if isinstance(c, RepresentativeInterpretation)]
        told = {
            "weights": [weight.double().sum().item() for weight in self.parameters()],
            "random": torch.get_rng_state().sum().item(),
            "metrics": {
                name: value.item()
                for name, value in self.trainer.callback_metrics.items()
                if name.startswith("representative_interpretation/")
            },
            "passes": [len(callback.history) for callback in passes],
            "best": self.trainer.checkpoint_callback.best_model_path if passes else None,
        }
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(told))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def fit(tmp_path, make_network, shapes, callbacks):
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=callbacks,
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=2,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    pl.seed_everything(1, verbose=False)
    data = TensorDataset(*shapes(240))
    module = Classifier(nn.Sequential(*make_network()), tmp_path)
    trainer.fit(module, DataLoader(data, batch_size=20, shuffle=True), DataLoader(data, batch_size=20))
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_the_first_rank_looks_and_all_know_the_numbers(tmp_path, make_network, shapes):
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    checkpoint = pl.callbacks.ModelCheckpoint(
        tmp_path / "kept", monitor="representative_interpretation/coverage", mode="max", filename="{epoch}"
    )
    interpretation = RepresentativeInterpretation(reference=80, held_out=20, boundaries=8)
    first, second = fit(tmp_path / "with", make_network, shapes, [interpretation, checkpoint])
    plain, other = fit(tmp_path / "without", make_network, shapes, [])
    assert first["passes"] == [3]
    assert second["passes"] == [0]
    assert first["metrics"] == second["metrics"]
    assert "representative_interpretation/coverage" in first["metrics"]
    assert first["best"] == second["best"] != ""
    assert (first["weights"], first["random"]) == (plain["weights"], plain["random"])
    assert (second["weights"], second["random"]) == (other["weights"], other["random"])
    folder = tmp_path / "with" / "representative_interpretation"
    assert (folder / "report.html").exists()
    told = json.loads((folder / "groups.json").read_text())
    assert told["reference"]["seen"] == 120, "the first rank's share of the validation images"
