import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.data import Digits
from fulgurite.models import ImageClassifier
from fulgurite.models.image_classification.network import build_network


def make_trainer(folder, epochs=1, **options):
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **options},
    )


@pytest.mark.parametrize("backbone", ["small_cnn", "gap_cnn"])
def test_real_digits_are_learned_and_measured(tmp_path, backbone):
    pl.seed_everything(0)
    classifier = ImageClassifier(10, backbone=backbone, in_channels=1, learning_rate=5e-3)
    trainer = make_trainer(tmp_path, 5, enable_checkpointing=False)
    data = Digits()
    trainer.fit(classifier, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(metrics) == {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    rows = data.part("val")
    with torch.no_grad():
        logits = classifier.eval()(rows.features)
    right = (logits.argmax(dim=1) == rows.labels).float().mean().item()
    assert metrics["val/accuracy"] == pytest.approx(right)
    assert metrics["val/loss"] == pytest.approx(functional.cross_entropy(logits, rows.labels).item(), rel=1e-4)
    assert right > (0.9 if backbone == "small_cnn" else 0.7)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12), "the cosine schedule has ended"
    (tested,) = trainer.test(classifier, data, verbose=False)
    assert set(tested) == {"test/loss", "test/accuracy"}
    assert torch.cat(trainer.predict(classifier, data.val_dataloader())).equal(logits.argmax(dim=1))


def test_a_checkpoint_loads_although_the_first_weights_are_gone(tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "first.pt"
    torch.save(build_network("gap_cnn", num_classes=3, in_channels=1).state_dict(), weights)
    classifier = ImageClassifier(3, backbone="gap_cnn", in_channels=1, weights=str(weights), optimizer="sgd")
    assert torch.equal(classifier.network.head[2].weight, torch.load(weights)["head.2.weight"])
    trainer = make_trainer(tmp_path)
    rows = TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8) % 3)
    trainer.fit(classifier, DataLoader(rows, batch_size=4), DataLoader(rows))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    weights.unlink()
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.hparams["optimizer"] == "sgd"
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.eval()(images), classifier.eval()(images))


def test_other_classes_than_the_datas_are_said_before_training(tmp_path):
    classifier = ImageClassifier(9, in_channels=1)
    with pytest.raises(ValueError, match=r"num_classes=9 for data of 10 classes \(0, 1, .*9\); give num_classes=10"):
        make_trainer(tmp_path, enable_checkpointing=False).fit(classifier, Digits())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"optimizer": "lion"}, "choose from adam, adamw, sgd"),
        ({"schedule": "linear"}, "choose from cosine, constant"),
        ({"backbone": "small"}, "no network 'small'"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        ImageClassifier(**{"num_classes": 2, **options})
