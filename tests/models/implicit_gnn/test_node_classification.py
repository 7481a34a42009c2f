import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

from fulgurite.data.graph_chains import GraphChains
from fulgurite.models.implicit_gnn import GCN, Asynchronous, Distributed, ImplicitGNN, ImplicitNodeClassifier


def trainer(epochs, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet, **options)


@pytest.mark.parametrize("block", ["ignn", "nemon"])
def test_it_learns_what_stands_twenty_hops_away_and_a_gcn_of_three_layers_does_not(block):
    seed_everything(0, verbose=False)
    data = GraphChains(length=20)
    workers = Asynchronous(parts=6, churn=0.05)
    network = ImplicitGNN(4, 2, block=block, kappa=0.95, self_loops=False)
    module = ImplicitNodeClassifier(network, workers=workers, control=GCN(4, 2, num_layers=3), learning_rate=0.02)
    ran = trainer(40, check_val_every_n_epoch=40)
    ran.fit(module, data)
    got = {name: float(value) for name, value in ran.callback_metrics.items()}
    assert got["val/accuracy"] == 1.0
    assert got["val/workers/accuracy"] == got["val/accuracy"]
    assert got["val/workers/agreement"] == 1.0
    assert got["val/workers/error_bound"] < 1e-4
    assert got["val/workers/decided"] == 1.0
    assert got["val/contraction"] < 0.9501
    assert got["val/control/accuracy"] < 0.8


@pytest.mark.slow
def test_a_gcn_that_is_deep_enough_is_right_in_step_and_wrong_out_of_it():
    seed_everything(0, verbose=False)
    data = GraphChains(length=10)
    workers = Asynchronous(parts=5, loss=0.2, churn=0.1)
    network = ImplicitGNN(4, 2, kappa=0.95)
    module = ImplicitNodeClassifier(network, workers=workers, control=GCN(4, 2, num_layers=10), learning_rate=0.01)
    ran = trainer(200, check_val_every_n_epoch=200)
    ran.fit(module, data)
    got = {name: float(value) for name, value in ran.callback_metrics.items()}
    assert got["val/accuracy"] == got["val/workers/accuracy"] == 1.0
    assert got["val/control/accuracy"] > 0.95
    assert got["val/control/workers/accuracy"] < 0.9


def test_a_checkpoint_gives_the_same_back(tmp_path):
    data = GraphChains(num_chains=6, length=4)
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2), learning_rate=0.05)
    ran = trainer(2)
    ran.fit(module, data)
    ran.save_checkpoint(tmp_path / "last.ckpt")
    again = ImplicitNodeClassifier.load_from_checkpoint(tmp_path / "last.ckpt", network=ImplicitGNN(4, 2))
    assert again.learning_rate == 0.05
    assert torch.equal(again(data.part("val")), module(data.part("val")))


def test_control_and_network_do_not_see_each_other():
    batch = GraphChains(num_chains=6, length=4).part("train")
    gradients = []
    for control in (None, GCN(4, 2)):
        torch.manual_seed(0)
        module = ImplicitNodeClassifier(ImplicitGNN(4, 2), control=control)
        module.log = lambda *args, **kwargs: None
        module.training_step(batch, 0).backward()
        gradients.append([parameter.grad for parameter in module.network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_predictions_come_with_their_error():
    data = GraphChains(num_chains=8, length=4)
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2), workers=Asynchronous(parts=3))
    (found,) = trainer(1).predict(module, data)
    mask = data.part("test").mask
    assert found.node.tolist() == mask.nonzero()[:, 0].tolist()
    torch.testing.assert_close(found.score.sum(dim=1), torch.ones(len(found.node), dtype=found.score.dtype))
    assert (found.error < 1e-3).all()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_it_trains_and_tests_with_every_optimizer(optimizer):
    data = GraphChains(num_chains=6, length=4)
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2), optimizer=optimizer)
    ran = trainer(2)
    ran.fit(module, data)
    assert "test/accuracy" in ran.test(module, data, verbose=False)[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"optimizer": "lion"}, "'lion'"), ({"learning_rate": 0.0}, "learning_rate"), ({"weight_decay": -1.0}, "decay")],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ImplicitNodeClassifier(ImplicitGNN(4, 2), **options)


def test_peers_measure_what_was_learnt():
    data = GraphChains(num_chains=8, length=4)
    workers = Distributed(peers=2, parts=3, heartbeat_s=0.05, silence_s=1.0)
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2), workers=workers)
    (got,) = trainer(1).test(module, data, verbose=False)
    assert got["test/workers/accuracy"] == got["test/accuracy"]
    assert got["test/workers/error_bound"] < 1e-5


def test_peers_have_no_schedule_to_run_a_control_under():
    with pytest.raises(ValueError, match="no control"):
        ImplicitNodeClassifier(ImplicitGNN(4, 2), workers=Distributed(), control=GCN(4, 2))


def test_a_batch_of_another_kind_is_refused():
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2))
    with pytest.raises(ValueError, match="got a batch of Tensor"):
        trainer(1).predict(module, DataLoader([torch.ones(3, 4)], batch_size=None))


def test_a_batch_without_targets_is_refused():
    batch = GraphChains(num_chains=6, length=4).part("train")
    module = ImplicitNodeClassifier(ImplicitGNN(4, 2))
    with pytest.raises(ValueError, match="without a node"):
        module.training_step(batch._replace(mask=torch.zeros_like(batch.mask)), 0)
