import json
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fulgurite.callbacks import ConvergenceCertifier
from fulgurite.callbacks.convergence_picture import draw_convergence
from fulgurite.callbacks.convergence_record import ConvergenceRecord, Point
from fulgurite.models.softmax_probe import SoftmaxProbe
from fulgurite.plugins.dynamic_async.strategy import DynamicAsyncStrategy

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def loader():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 5, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=4, shuffle=True)


def probe():
    return SoftmaxProbe(2, in_features=5, features=6, weight_decay=0.2, learning_rate=0.6)


class Network(pl.LightningModule):
    """Draws random numbers in its steps."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch[0].sum().item())
        return functional.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callbacks, *, strategy=None, module=None, seed=0, **options):
    torch.manual_seed(seed)
    module = module() if module else probe()
    run = pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "strategy": strategy or DynamicAsyncStrategy(shards=3, eps=1e-3, heartbeat_s=0.2),
            "max_epochs": -1,
            "precision": "64-true",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": callbacks,
        }
        | options
    )
    run.fit(module, loader())
    return run, module


@pytest.mark.parametrize("topology", ["complete", "star"])
def test_a_certified_run_is_compared_with_its_answer(tmp_path, topology):
    strategy = DynamicAsyncStrategy(shards=3, eps=1e-3, heartbeat_s=0.2, topology=topology)
    run, _ = fit([ConvergenceCertifier(folder=tmp_path)], strategy=strategy)
    found = {name.removeprefix("certificate/"): float(value) for name, value in run.callback_metrics.items()}
    assert found["certified"] == found["holds"] == 1
    assert 0 < found["error"] <= found["bound"] <= 1e-3
    assert found["gamma"] < 1
    assert found["needed"] == found["rounds"]
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert written["verdict"] == "certified"
    assert written["error"] == found["error"]
    points = written["points"]
    assert points[-1]["rounds"] == found["rounds"]
    # Not only at the end: the bound held all along, and both fell.
    both = [(point["distance"], point["bound"]) for point in points if point["bound"] is not None]
    assert len(both) > 10
    assert all(distance <= bound for distance, bound in both)
    assert both[-1][1] < both[0][1] / 1000
    assert (tmp_path / "convergence.png").stat().st_size > 10_000


def test_numbers_go_to_the_loggers_while_it_runs(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit([ConvergenceCertifier()], logger=logger, log_every_n_steps=3)
    table = np.genfromtxt(tmp_path / "lightning_logs/version_0/metrics.csv", delimiter=",", names=True)
    rounds = table["certificaterounds"]
    assert np.isfinite(rounds).sum() > 10
    assert np.nanmax(rounds) == rounds[np.isfinite(rounds)][-1]
    assert np.isfinite(table["certificateerror"]).sum() == 1
    assert (tmp_path / "lightning_logs/version_0/convergence/certificate.json").exists()


@pytest.mark.parametrize("kind", ["certified", "mini-batches", "another strategy"])
def test_it_only_looks(tmp_path, kind):
    results = []
    for callbacks in ([], [ConvergenceCertifier(folder=tmp_path)]):
        strategies = {
            "certified": DynamicAsyncStrategy(shards=3, eps=1e-3, heartbeat_s=0.2),
            "mini-batches": DynamicAsyncStrategy(shards=3, heartbeat_s=0.2),
            "another strategy": "auto",
        }
        module = None if kind == "certified" else Network
        epochs = -1 if kind == "certified" else 3
        _, found = fit(callbacks, strategy=strategies[kind], module=module, max_epochs=epochs, precision="32-true")
        results.append(
            (nn.utils.parameters_to_vector(found.parameters()), torch.get_rng_state(), getattr(found, "seen", []))
        )
    without, watched = results
    assert torch.equal(without[0], watched[0])
    assert torch.equal(without[1], watched[1])
    assert without[2] == watched[2]
    assert (tmp_path / "certificate.json").exists()


def test_without_bounds_it_is_empirical_with_the_reason(tmp_path):
    strategy = DynamicAsyncStrategy(shards=3, heartbeat_s=0.2)
    run, _ = fit([ConvergenceCertifier(folder=tmp_path)], strategy=strategy, module=Network, max_epochs=4)
    assert float(run.callback_metrics["certificate/certified"]) == 0
    assert float(run.callback_metrics["certificate/holds"]) == 0
    assert "certificate/bound" not in run.callback_metrics
    assert "certificate/error" not in run.callback_metrics
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert written["verdict"] == "empirical"
    assert "Network has no objective_bounds" in written["reason"]
    assert all(point["bound"] is None for point in written["points"])
    assert "guaranteed" not in (tmp_path / "certificate.json").read_text()


def test_a_run_that_is_not_certified_is_measured_where_it_can_be(tmp_path):
    def fast():
        module = probe()
        optimizer = torch.optim.SGD(module.network.parameters(), lr=0.3, momentum=0.5)
        module.configure_optimizers = lambda: optimizer
        return module

    strategy = DynamicAsyncStrategy(shards=3, heartbeat_s=0.2, full_batch=True)
    run, _ = fit([ConvergenceCertifier(folder=tmp_path)], strategy=strategy, module=fast, max_epochs=300)
    assert float(run.callback_metrics["certificate/error"]) < 1e-6
    assert float(run.callback_metrics["certificate/holds"]) == 0
    assert "SGD has momentum=0.5" in json.loads((tmp_path / "certificate.json").read_text())["reason"]


def test_no_reference_no_error(tmp_path):
    run, _ = fit([ConvergenceCertifier(reference="none", folder=tmp_path)])
    assert "certificate/error" not in run.callback_metrics
    assert float(run.callback_metrics["certificate/holds"]) == 0
    assert float(run.callback_metrics["certificate/bound"]) <= 1e-3


def test_a_full_disk_is_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.warns(UserWarning, match="could not write to .*No space left on device"):
        run, _ = fit([ConvergenceCertifier(folder=tmp_path)])
    assert list(tmp_path.iterdir()) == []
    assert float(run.callback_metrics["certificate/holds"]) == 1


def test_a_module_that_cannot_be_solved_directly_is_a_warning(tmp_path):
    def stubborn():
        module = probe()
        module.__deepcopy__ = lambda memo: (_ for _ in ()).throw(TypeError("not to be copied"))
        return module

    with pytest.warns(UserWarning, match="could not solve directly: TypeError: not to be copied"):
        run, _ = fit([ConvergenceCertifier(folder=tmp_path)], module=stubborn)
    assert "certificate/error" not in run.callback_metrics


def test_fast_dev_run_writes_nothing(tmp_path):
    fit([ConvergenceCertifier(folder=tmp_path)], fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "words"), [({"eps": 0.0}, "eps=0.0"), ({"reference": "lbfgs"}, "'lbfgs'; choose")])
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ConvergenceCertifier(**options)


def test_a_record_keeps_newest_distances_and_few_views():
    record = ConvergenceRecord()
    for k in range(300):
        record.add(Point(k, 0.0, view=(k // 10,), states={0: np.zeros(1)}))
    asked = []
    record.measure(lambda point: asked.append(point.view) or 1.0)
    assert len(set(asked)) == 6
    assert len(record.points) < 300
    assert record.points[-1].distance == 1.0
    assert math.isnan(record.points[0].distance)
    assert all(point.states is None for point in record.points)


def test_the_picture_of_an_empirical_run():
    points = [Point(k, 0.0, contraction=0.9) for k in range(5)]
    axis = draw_convergence(points, "empirical").axes[0]
    assert axis.get_yscale() == "linear"
    assert axis.get_xlabel() == "epochs"
