"""``fulgurite seqpoint plan | replay | compare``, as a person runs them."""

import re

import lightning.pytorch  # noqa: F401  first: its log handler keeps the stderr that it finds when it is imported
import numpy as np
import pytest

from fulgurite.callbacks.seqpoint import Plan
from fulgurite.recipes.cli import main
from fulgurite.recipes.library import RecipeError
from fulgurite.recipes.seqpoint.building import schedule
from fulgurite.recipes.seqpoint.commands import read_lengths

SMALL = ["--data.targets=[fr, de]", "--data.batch_size=8", "--model.network.hidden_size=8"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lengths(path, count=400):
    rng = np.random.default_rng(0)
    rows = [f"{a},{b}" for a, b in zip(rng.integers(1, 60, count), rng.integers(1, 70, count), strict=True)]
    path.write_text("source,target\n" + "\n".join(rows) + "\n")


@pytest.mark.parametrize("bucket", [False, True])
def test_a_plan_from_lengths_alone(bucket, folder, capsys):
    write_lengths(folder / "lengths.csv")
    words = ["seqpoint", "plan", "--lengths", "lengths.csv", "--batch-size", "4", "--output", "p.json", "--points", "5"]
    assert main([*words, *(["--bucket"] if bucket else [])]) == 0
    plan = Plan.load("p.json")
    assert plan.columns == ("batch", "source", "target")
    assert plan.iterations == 100
    assert plan.weights.sum() == pytest.approx(100, abs=1e-9)
    assert "most likely to run out of memory" in capsys.readouterr().out


def test_lengths_become_the_shapes_of_their_batches(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("3\n9\n5\n7\n1\n")
    shapes, columns = read_lengths(path, 2, True, 0)
    assert shapes.tolist() == [[2, 3], [2, 7], [1, 9]]
    assert columns == ("batch", "source")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("source\n3\nx\n", "lengths.csv:3"),
        ("3,4\n5\n", "lengths.csv:2"),
        ("3,4,5\n", "lengths.csv:1"),
        ("3\n0\n", "lengths.csv:2"),
        ("3\n\n4\n", "lengths.csv:2"),
        ("source,target\n", "no lengths"),
    ],
)
def test_a_faulty_line_is_named(text, fault, tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text(text)
    with pytest.raises(RecipeError, match=fault):
        read_lengths(path, 2, False, 0)


@pytest.mark.slow
def test_plan_replay_and_compare_work_together(folder, capsys):
    assert main(["seqpoint", "plan", "seqpoint/translation", *SMALL, "--output", "plan.json"]) == 0
    plan = Plan.load("plan.json")
    assert plan.measured == ()
    for name in ("before", "after"):
        words = [
            "seqpoint",
            "replay",
            "seqpoint/translation",
            *SMALL,
            "--plan",
            "plan.json",
            "--output",
            f"{name}.json",
        ]
        assert main(words) == 0
    capsys.readouterr()
    measured = Plan.load("before.json")
    assert [len(times) for times in measured.measured] == [len(point.runs) for point in plan.points]
    assert measured.project().total > 0
    assert main(["seqpoint", "compare", "before.json", "after.json"]) == 0
    assert re.search(r"Speed-up \d\.\d+×", capsys.readouterr().out)
    assert main(["seqpoint", "replay", "seqpoint/translation", "--data.targets=[fr]", "--plan", "plan.json"]) == 1
    assert "this plan is for other data" in capsys.readouterr().err


@pytest.mark.slow
def test_replay_under_gradient_accumulation_times_steps_where_the_optimizer_runs(folder, capsys):
    accumulate = [*SMALL, "--trainer.accumulate_grad_batches=3"]
    assert main(["seqpoint", "plan", "seqpoint/translation", *accumulate, "--points=6"]) == 0
    plan = Plan.load("plan.json")
    assert plan.columns[-1] == "optimizer_step"
    assert any(point.shape[-1] for point in plan.points)
    assert main(["seqpoint", "replay", "seqpoint/translation", *accumulate, "--plan", "plan.json"]) == 0
    assert "Projected epoch" in capsys.readouterr().out


def test_the_schedule_puts_optimizer_steps_where_they_happen():
    stepping = np.array([0, 0, 1, 0, 0, 1, 0, 0, 1])
    order = schedule([2, 0, 8, 1, 5], stepping, 3, 2)
    assert sorted(run for run in order if run is not None) == [0, 1, 2, 5, 8]
    assert order[:3] == [None] * 3
    for position, run in enumerate(order):
        if run is not None:
            assert stepping[run] == ((position + 1) % 3 == 0)


def test_a_broken_plan_is_one_line(folder, capsys):
    (folder / "plan.json").write_text("{")
    assert main(["seqpoint", "compare", "plan.json", "plan.json"]) == 1
    assert "plan.json" in capsys.readouterr().err
