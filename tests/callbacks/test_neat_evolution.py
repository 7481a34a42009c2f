import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from fulgurite.callbacks.neat_evolution import NeatEvolution
from fulgurite.data.labelled import LabelledData
from fulgurite.models.sparse_network.classifier import SparseClassifier

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
pytest.importorskip("neat")


class Task(LabelledData):
    def __init__(self):
        super().__init__(batch_size=16, val_share=0.3, test_share=0, normalize=True, seed=0, num_workers=0)

    def load(self):
        x = torch.randn(120, 5, generator=torch.Generator().manual_seed(2))
        return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()


def make_trainer(folder, *callbacks, epochs=6, **options):
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )


class Start(pl.Callback):
    def on_fit_start(self, trainer, pl_module):
        self.network = pl_module.network
        features, labels = (
            part for part in (trainer.datamodule.part("val").features, trainer.datamodule.part("val").labels)
        )
        with torch.no_grad():
            self.accuracy = (pl_module.network(features).argmax(dim=1) == labels).float().mean().item()
        self.weight = pl_module.network.weight.detach().clone()


def test_the_evolved_network_is_trained_on_and_its_gain_is_told(tmp_path):
    classifier, start = SparseClassifier(num_classes=3, learning_rate=0.05), Start()
    trainer = make_trainer(tmp_path, NeatEvolution(population=20, generations=4), start)
    trainer.fit(classifier, Task())
    metrics = trainer.callback_metrics
    assert metrics["neat/start"].item() == pytest.approx(start.accuracy)
    assert metrics["neat/gain"].item() == pytest.approx(metrics["val/accuracy"].item() - start.accuracy)
    assert not torch.equal(classifier.network.weight, start.weight)
    assert classifier.network is start.network
    (optimizer,) = trainer.optimizers
    assert any(parameter is classifier.network.weight for parameter in optimizer.param_groups[0]["params"])
    assert (tmp_path / "neat_evolution" / "network.png").read_bytes().startswith(b"\x89PNG")


def test_more_generations_leave_the_order_of_batches_as_it_was(tmp_path):
    seen = []
    for generations in (1, 3):
        torch.manual_seed(0)
        classifier = SparseClassifier(num_classes=3)
        order = []
        classifier.on_train_batch_start = lambda batch, batch_idx, order=order: order.append(batch[0].sum().item())
        make_trainer(tmp_path, NeatEvolution(population=10, generations=generations), epochs=1).fit(classifier, Task())
        seen.append(order)
    assert seen[0] == seen[1]


def test_a_resumed_run_goes_on_with_the_network_of_the_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path, NeatEvolution(population=10, generations=2), epochs=1)
    classifier = SparseClassifier(num_classes=3)
    trainer.fit(classifier, Task())
    trainer.save_checkpoint(tmp_path / "evolved.ckpt")
    resumed = SparseClassifier(num_classes=3)
    again = make_trainer(tmp_path, NeatEvolution(population=12, generations=1, seed=5), epochs=2)
    again.fit(resumed, Task(), ckpt_path=tmp_path / "evolved.ckpt", weights_only=True)
    assert torch.equal(resumed.network.edges, classifier.network.edges)
    assert len(resumed.network.bias) == len(classifier.network.bias)
    assert again.callback_metrics["neat/start"] == trainer.callback_metrics["neat/start"]


def test_what_it_needs_is_said(tmp_path):
    evolution = NeatEvolution(population=10, generations=1)
    with pytest.raises(ValueError, match="give fit\\(\\) a LightningDataModule"):
        make_trainer(tmp_path, evolution).fit(SparseClassifier(num_classes=3), DataLoader(Task().part("train")))
    with pytest.raises(ValueError, match="population=1, generations=30"):
        NeatEvolution(population=1)

    class Bare(Task):
        def train_dataloader(self):
            return DataLoader(self.part("train").features, batch_size=4)

    with pytest.raises(ValueError, match=r"wants batches of \(features"):
        make_trainer(tmp_path, evolution).fit(SparseClassifier(num_classes=3), Bare())
