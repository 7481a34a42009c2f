"""The benchmark's parts in small, in this process where they need no other."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "benchmarks.md"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """``script(name)``: a module of the benchmarks, where files are written into a folder of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def run(script, monkeypatch, capsys, *options):
    """What the command writes as JSON, and what it prints."""
    monkeypatch.setattr(sys, "argv", ["dynamic_gnn.py", "--quick", "--json", "found.json", *options])
    script("dynamic_gnn").main()
    return json.loads(Path("found.json").read_text()), capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_take_steps_when_told(script):
    ranks, cases = script("dynamic_gnn_ranks"), script("dynamic_gnn_cases")
    size = cases.Size(100, 4, 4, 200)
    with ranks.started(lambda: [ranks.Ranks(ranks.Arrangement(2, 1), "CDGCN", size, 1)]) as (group,):
        (_, first, sent), (_, second, later) = group.step(), group.step()
    assert 0 < second != first < 2
    assert later == 2 * sent > 0


def test_speed_tells_gains_and_how_far_apart_losses_are(script):
    page = script("dynamic_gnn_page")
    row = {"seconds": {"one": [2, 1.9, 2.1], "two": [1.25, 1, 1.5], "threads": [1.6, 1, 2]}, "apart": 3e-7, "sent": 5e6}
    results = {"date": "today", "machine": "here", "gpu": False}
    text = page.report(results | {"speed": {"rows": {"CDGCN": row}, "layers": 2, "title": "small"}})
    assert "**1.60×**" in text
    assert "1.25×" in text
    assert "3e-07" in text


@pytest.mark.slow
def test_tables_of_what_needs_one_process(script, monkeypatch, capsys):
    before = PAGE.read_text(encoding="utf-8")
    results, printed = run(script, monkeypatch, capsys, "--only", "transfer", "memory")
    for row in results["transfer"]["rows"]:
        moved = row["bytes"]
        assert moved["auto"] == sum(row["formats"].values()) <= min(moved.values())
    assert {row["window"] for row in results["transfer"]["rows"]} == {1, 10, 20}
    for row in results["memory"]["rows"]:
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.15)
    for words in ("What travels to the device", "Peak memory of a step"):
        assert words in printed
    assert "Not measured on a GPU yet" in printed or results["gpu"]
    assert PAGE.read_text(encoding="utf-8") == before  # small sizes write no page


def test_without_a_peer_ours_is_measured(script, monkeypatch, capsys):
    monkeypatch.setattr(script("dynamic_gnn_against_peer"), "FORMULAS", {"WDGCN": ("a cell", "")})
    results, printed = run(script, monkeypatch, capsys, "--only", "peer")
    (size,) = results["peer"]["sizes"]
    assert set(size["rows"]) == {"WDGCN"}
    assert "Peer not measured" in printed


def test_a_peer_that_is_not_installed_is_named(script):
    if importlib.util.find_spec("torch_geometric"):
        pytest.skip("torch_geometric is installed here")
    with pytest.raises(ModuleNotFoundError, match="No module named 'torch_geometric'"):
        script("dynamic_gnn_peer").import_peers()


def test_learning_chooses_a_rate_and_runs_no_cell_twice(script, tmp_path, monkeypatch):
    learning = script("dynamic_gnn_learning")
    calls = []

    def train(settings, seed):
        """The middle rate does best."""
        calls.append((settings["network"], settings["model"]["learning_rate"], seed))
        value = 0.9 if settings["model"]["learning_rate"] == learning.RATES[1] else 0.1
        return {"val": value, "epoch": 10, "test": {metric: value + seed / 100 for metric in settings["metrics"]}}

    case = learning.Case("links", "link_prediction", 20)
    monkeypatch.setattr(learning, "train", train)
    monkeypatch.setattr(learning, "cases", lambda quick: [case])
    found = learning.measure(False, tmp_path / "cells.jsonl")
    assert len(calls) == len(learning.METHODS) * (len(learning.RATES) + len(learning.SEEDS))
    assert learning.TUNING_SEED not in learning.SEEDS
    for row in found["cases"][0]["rows"].values():
        assert row["rate"] == learning.RATES[1]
        assert row["scores"]["ap"] == [0.9 + seed / 100 for seed in learning.SEEDS]
    assert learning.measure(False, tmp_path / "cells.jsonl") == found
    assert len(calls) == len(learning.METHODS) * (len(learning.RATES) + len(learning.SEEDS))
    # Cells whose settings have changed are run again.
    monkeypatch.setattr(learning, "cases", lambda quick: [learning.Case("links", "link_prediction", 21)])
    learning.measure(False, tmp_path / "cells.jsonl")
    wide = sum(method.wide for method in learning.METHODS)
    assert len(calls) == (len(learning.METHODS) + wide) * (len(learning.RATES) + len(learning.SEEDS))


@pytest.mark.slow
def test_learning_trains_and_prints_margins(script, monkeypatch, capsys):
    learning = script("dynamic_gnn_learning")
    monkeypatch.setattr(
        learning, "METHODS", [each for each in learning.METHODS if each.network in ("CDGCN", "NoGraph")]
    )
    results, printed = run(script, monkeypatch, capsys, "--only", "learning")
    (case,) = results["learning"]["cases"]
    assert set(case["rows"]) == {"CD-GCN", "no graph", "no graph, with memory"}
    assert all(0 < value < 1 for row in case["rows"].values() for (value,) in row["scores"].values())
    assert "What is learned" in printed
    assert printed.count("baseline |") == 2
