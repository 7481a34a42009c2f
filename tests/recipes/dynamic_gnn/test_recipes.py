"""Every recipe of dynamic graphs takes a step, those that need data on small folders in the real formats."""

import json

import numpy as np
import pytest

from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe, recipes_of
from fulgurite.recipes.lightning_cli import run_cli
from fulgurite.recipes.trust import allow_list

REGISTRY = discover()
PREFIX = "dynamic_gnn/"
NAMES = [recipe.name for recipe in recipes_of(REGISTRY) if recipe.name.startswith(PREFIX)]
FOLDERS = {"amlsim": "amlsim_20k/20K_cycle200", "tennis": "twitter_tennis"}


def write_amlsim(folder):
    """A small set of transfers, in the files and columns of AMLSim's sample."""
    events = TransactionGraph(num_nodes=300, num_steps=45, events_per_step=60, decoys=0).events()
    accounts = np.arange(300)
    fraud = np.isin(accounts, np.concatenate([events.source, events.target])[np.tile(events.laundering, 2)])
    step = np.full(300, -1)
    chosen = events.laundering
    step[events.source[chosen][::-1]] = events.time[chosen][::-1] + 1
    folder.mkdir(parents=True)
    rows = [f"{account},{int(fraud[account])},184.44,{step[account]}" for account in accounts]
    (folder / "nodes.csv").write_text("\n".join(["nodeid,isFraud,init_balance,fraudStep", *rows]) + "\n")
    columns = zip(events.source, events.target, events.amount.round(2), events.time + 1, strict=True)
    rows = [",".join(str(value) for value in row) for row in columns]
    (folder / "transactions.csv").write_text("\n".join(["sourceNodeId,targetNodeId,value,time", *rows]) + "\n")
    totals = f"nodes: 300 ({fraud.sum()} fraud nodes)\ntransactions: {len(events):,}\npatterns: 90 cycles\n"
    (folder / "metadata.txt").write_text(totals)


def write_tennis(folder):
    """A small mention graph, in the form of PyTorch Geometric Temporal's file; a few accounts get all the attention."""
    random = np.random.default_rng(0)
    content = {}
    for number in range(30):
        source, target = random.integers(0, 40, 25), np.minimum(random.geometric(0.2, 25), 39)
        edges = np.unique(np.stack([source, target], axis=1), axis=0)
        degree = np.bincount(edges.ravel(), minlength=40)
        content[str(number)] = {
            "index": number,
            "edges": edges.tolist(),
            "weights": random.integers(1, 42, len(edges)).tolist(),
            "y": (degree**2).tolist(),
            "X": [[int(each), 0.5] for each in degree],
        }
    folder.mkdir(parents=True)
    content |= {"time_periods": 30, "node_ids": {f"player{number}": number for number in range(40)}}
    (folder / "tiny_tennis.json").write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Both folders, where $FULGURITE_DATA says."""
    write_amlsim(tmp_path / "data" / FOLDERS["amlsim"])
    write_tennis(tmp_path / "data" / FOLDERS["tennis"])
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_they_are_there():
    wanted = ["amlsim", "laundering", "link_prediction", "tennis", "two_ranks"]
    assert [name.removeprefix(PREFIX) for name in NAMES] == wanted


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2].startswith(f"#   fulgurite run {name}")
    overrides = [line for line in opening[3:] if line.startswith(f"#   fulgurite run {name} --")]
    assert len(overrides) == 2
    assert recipe.settings["expect"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["laundering", "link_prediction"])
def test_a_recipe_has_no_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(PREFIX + name, REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_take_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(PREFIX + "two_ranks", REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_recipe_with_needs_runs_on_a_small_folder(name, data):
    outcome = check_recipe(find_recipe(PREFIX + name, REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", FOLDERS)
def test_data_that_is_missing_is_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    outcome = check_recipe(find_recipe(PREFIX + name, REGISTRY), REGISTRY)
    assert outcome.status == "not run"
    assert f"the data folder '{FOLDERS[name]}' (give --data.root" in outcome.message


@pytest.mark.slow
def test_a_file_that_is_wrong_is_named_with_its_line(data):
    path = data / FOLDERS["amlsim"] / "transactions.csv"
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(",", ",9", 1)
    path.write_text("\n".join(lines))
    outcome = check_recipe(find_recipe(PREFIX + "amlsim", REGISTRY), REGISTRY)
    assert outcome.status == "fault"
    assert "transactions.csv, line 8: got targetNodeId 9" in outcome.message


@pytest.mark.slow
def test_other_networks_and_options_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = find_recipe(PREFIX + "laundering", REGISTRY)
    for args in (
        ("--model.network=StaticGCN",),
        ("--model.network=TMGCN", "--model.network.window=4", "--data.m_window=4"),
        ("--data.window_size=10", "--data.edge_life=5", "--data.symmetrise=true"),
    ):
        outcome = check_recipe(recipe, REGISTRY, args=args)
        assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
def test_a_small_folder_is_learned(data):
    recipe = find_recipe(PREFIX + "tennis", REGISTRY)
    options = ["max_epochs=60", "check_val_every_n_epoch=60", "logger=false", "enable_progress_bar=false"]
    args = [*(f"--trainer.{option}" for option in options), f"--data.root={data / FOLDERS['tennis']}"]
    cli = run_cli(["fit", "--config", str(recipe.path), *args], REGISTRY, allow_list(REGISTRY), name=recipe.name)
    share = cli.datamodule.part("val").target_label.double().mean()
    assert 0.01 < share < 0.3
    assert cli.trainer.callback_metrics["val/ap"] > share + 0.3
