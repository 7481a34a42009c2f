import json
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from fulgurite.models.routing import RoutingExperiment
from fulgurite.plugins.dynamic_async.routing.errors import TopologyError
from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe


def trainer_of(folder, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.* returned .None.")
def test_a_trainer_s_epoch_is_the_network_s(tmp_path):
    module = RoutingExperiment(num_nodes=6, num_destinations=2, num_epochs=3, ticks_per_epoch=30, max_delay=2)
    trainer = trainer_of(tmp_path, max_epochs=10)
    trainer.fit(module)
    run = module.run()
    assert trainer.current_epoch == 3  # stopped after the network's last
    logged = Path(trainer.logger.experiment.metrics_file_path).read_text()
    rows = [line.split(",") for line in logged.splitlines()]
    column = rows[0].index("routing/wrong")
    wrong = [float(row[column]) for row in rows[1:] if row[column]]
    assert wrong == run.wrong.tolist()
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    last = run.epochs[-1]
    assert metrics["routing/used"] == last.used
    assert metrics["routing/k_star"] == last.verdict.k_star
    assert metrics["routing/wrong_at_end"] == 0
    assert metrics["routing/unsettled"] == 0
    assert metrics["routing/bounds_broken"] == 0
    assert metrics["routing/most_used"] == max(epoch.used for epoch in run.epochs)
    assert json.loads((tmp_path / "lightning_logs/version_0/route.json").read_text())["nodes"] == 6
    assert {path.suffix for path in (tmp_path / "lightning_logs/version_0").glob("route.*")} == {
        ".html",
        ".json",
        ".png",
    }


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.* returned .None.")
def test_what_cannot_converge_is_logged_as_such(tmp_path):
    module = RoutingExperiment("count-to-infinity", report=False)
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(module)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["routing/unsettled"] == 1
    assert metrics["routing/used"] == -1
    assert metrics["routing/k_star"] == -1
    assert metrics["routing/wrong_at_end"] == 2
    assert not list(tmp_path.rglob("route.*"))


def test_options_are_checked_when_it_is_built(tmp_path):
    with pytest.raises(TopologyError, match="cannot be read"):
        RoutingExperiment(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="max_delay"):
        RoutingExperiment("disagree", max_delay=0)


def test_the_recipe_takes_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = discover()
    outcome = check_recipe(find_recipe("dynamic_async/routing", registry), registry)
    assert (outcome.status, outcome.message) == ("ok", "")
