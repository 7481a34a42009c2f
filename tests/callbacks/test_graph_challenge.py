import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks.graph_challenge import GraphChallenge, layer_by_layer
from fulgurite.models.sparse_network.classifier import SparseClassifier
from fulgurite.models.sparse_network.radix import radix_inputs, radix_net

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
CPU = torch.device("cpu")


def test_the_answer_is_checked_and_not_always_the_same():
    found = GraphChallenge(layers=24, inputs=24).run(CPU)
    assert found["radix/mismatches"] == 0
    assert found["radix/error"] < 1e-4
    assert 6 <= found["radix/survivors"] <= 18
    assert found["radix/giga_edges_per_second"] > 0


def test_a_wrong_network_would_be_noticed(monkeypatch):
    """The check does not use the operator it checks."""
    challenge = GraphChallenge(layers=6, inputs=16)

    def broken(network, x):
        return layer_by_layer(network, x.flip(1)).flip(0)

    monkeypatch.setattr("fulgurite.callbacks.graph_challenge.layer_by_layer", broken)
    found = challenge.run(CPU)
    assert found["radix/error"] > 0.1
    assert found["radix/mismatches"] > 0


def test_products_of_matrices_are_what_the_definition_says():
    network, x = radix_net(1024, 2), radix_inputs("iid", 1024, 3).double()
    y = x
    for layer in range(2):
        matrix = torch.zeros(1024, 1024, dtype=torch.float64)
        for source, target in (network.edges[network.edges[:, 0] // 1024 == layer] % 1024).tolist():
            matrix[source, target] = 1 / 16
        y = (y @ matrix - 0.3).clamp(0, 32)
    torch.testing.assert_close(layer_by_layer(network, x.float()).double(), y, rtol=1e-5, atol=1e-5)


def test_the_training_is_left_as_it_was_and_the_numbers_are_logged(tmp_path):
    weights = []
    for callbacks in ([], [GraphChallenge(layers=3, inputs=4)]):
        torch.manual_seed(0)
        classifier = SparseClassifier(nn.Linear(4, 2), num_classes=2)
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = TensorDataset(torch.arange(40.0).view(10, 4), torch.arange(10) % 2)
        trainer.fit(classifier, DataLoader(data, shuffle=True))
        weights.append(classifier.network.weight.detach().clone())
    assert torch.equal(*weights)
    assert {"radix/survivors", "radix/mismatches", "radix/error"} <= set(trainer.callback_metrics)


def test_bad_options():
    with pytest.raises(ValueError, match="layers=0, inputs=256"):
        GraphChallenge(layers=0)
