import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.models import SparseClassifier, SparseNetwork
from fulgurite.models.sparse_network.layered import DenseMLP, SparseMLP

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
NETWORKS = {
    "dense": lambda: DenseMLP([6, 8, 3]),
    "sparse": lambda: SparseMLP([6, 8, 3], density=0.5),
    "pruned": lambda: SparseNetwork.from_sequential(pruned([6, 8, 3])),
    "masked": lambda: pruned([6, 8, 3]),
}


def pruned(sizes):
    network = DenseMLP(sizes)
    for module in network:
        if isinstance(module, nn.Linear):
            nn.utils.prune.l1_unstructured(module, "weight", amount=0.5)
    return network


def rows(count=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(dim=1))


def make_trainer(folder, epochs=1, **options):
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        **{"logger": False, "enable_progress_bar": False, "enable_model_summary": False, **options},
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_learns_and_is_measured(tmp_path, name):
    pl.seed_everything(0)
    classifier = SparseClassifier(NETWORKS[name](), num_classes=3, learning_rate=0.02)
    trainer = make_trainer(tmp_path, 12, enable_checkpointing=False)
    data = rows()
    trainer.fit(classifier, DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, batch_size=50))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(metrics) == {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    with torch.no_grad():
        logits = classifier(data.tensors[0])
    right = (logits.argmax(dim=1) == data.tensors[1]).float().mean().item()
    assert metrics["val/accuracy"] == pytest.approx(right)
    assert metrics["val/loss"] == pytest.approx(functional.cross_entropy(logits, data.tensors[1]).item(), rel=1e-5)
    assert right > 0.75
    (tested,) = trainer.test(classifier, DataLoader(data, batch_size=7), verbose=False)
    assert tested["test/accuracy"] == pytest.approx(right)
    assert torch.cat(trainer.predict(classifier, DataLoader(data, batch_size=7))).equal(logits.argmax(dim=1))


def test_one_logit_is_enough_for_two_classes():
    network = nn.Linear(4, 1)
    classifier = SparseClassifier(network, num_classes=2)
    x, labels = torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
    loss = functional.cross_entropy(classifier(x), labels)
    wanted = functional.binary_cross_entropy_with_logits(network(x)[:, 0], labels.float())
    torch.testing.assert_close(loss, wanted)


def test_a_wrong_width_is_said():
    classifier = SparseClassifier(nn.Linear(4, 3), num_classes=10)
    with pytest.raises(ValueError, match=r"gave \(5, 3\) for inputs \(5, 4\); want \(5, 10\)"):
        classifier(torch.zeros(5, 4))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_missing_network_is_said_in_the_same_words_at_every_use(tmp_path, optimizer):
    classifier = SparseClassifier(num_classes=2, optimizer=optimizer)
    message = "no network yet: pass network=, or add a callback that makes one, such as NeatEvolution"
    with pytest.raises(ValueError, match=message):
        classifier(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, enable_checkpointing=False).fit(classifier, DataLoader(rows(8)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_classes": 1}, "num_classes=1"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"optimizer": "lion"}, "choose from adam, adamw, sgd"),
        ({"schedule": "linear"}, "choose from cosine, constant"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        SparseClassifier(nn.Linear(4, 2), **{"num_classes": 2, **options})


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers(tmp_path, name, kind):
    classifier = SparseClassifier(nn.Linear(6, 3), num_classes=3, optimizer=name, weight_decay=0.1, learning_rate=0.5)
    trainer = make_trainer(tmp_path, enable_checkpointing=False)
    trainer.fit(classifier, DataLoader(rows(16)))
    (optimizer,) = trainer.optimizers
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.1)


def test_the_cosine_schedule_ends_at_zero(tmp_path):
    classifier = SparseClassifier(nn.Linear(6, 3), num_classes=3, schedule="cosine")
    trainer = make_trainer(tmp_path, 2, enable_checkpointing=False)
    trainer.fit(classifier, DataLoader(rows(32), batch_size=8))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="needs the end of the run"):
        make_trainer(tmp_path, -1, max_time={"seconds": 1}, enable_checkpointing=False).fit(
            classifier, DataLoader(rows(8))
        )


def test_checkpoints_of_sparse_networks_load_into_dense_ones(tmp_path):
    trained = SparseClassifier(NETWORKS["pruned"](), num_classes=3)
    trainer = make_trainer(tmp_path)
    trainer.fit(trained, DataLoader(rows(16)))
    trainer.save_checkpoint(tmp_path / "sparse.ckpt")
    x = torch.randn(4, 6)
    for network in (DenseMLP([6, 8, 3]), None, SparseMLP([6, 5, 3], density=0.9)):
        loaded = SparseClassifier.load_from_checkpoint(tmp_path / "sparse.ckpt", network=network, weights_only=True)
        assert torch.equal(loaded.network.edges, trained.network.edges)
        assert torch.equal(loaded(x), trained(x))
