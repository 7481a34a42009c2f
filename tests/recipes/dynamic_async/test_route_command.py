import json

import pytest

from fulgurite.plugins.dynamic_async.routing import experiment, networks, schedules
from fulgurite.recipes.cli import main
from fulgurite.recipes.dynamic_async import commands
from fulgurite.recipes.library import RecipeError


def test_a_built_in_network(tmp_path, capsys):
    output = tmp_path / "made" / "run.json"
    assert commands.main(["route", "count-to-sixteen", "--schedule", "synchronous", "--output", str(output)]) == 0
    run = json.loads(output.read_text())
    assert [epoch["used"] for epoch in run["epochs"]] == [2, 14]
    assert [epoch["verdict"]["k_star"] for epoch in run["epochs"]] == [16, 16]
    assert sorted(path.name for path in output.parent.iterdir()) == ["run.html", "run.json", "run.png"]
    said = capsys.readouterr().out
    assert "k*" in said
    assert "certified" in said
    assert "Of 2 epochs that held k* pseudocycles, all were right by then." in " ".join(said.split())
    assert str(output) in said.replace("\n", "")


def test_a_file_of_ones_own_and_its_word_for_the_algebra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.topology").write_text("nodes A B C\nlink A B\nlink B C\nalgebra rip\nat 30 leave A\nticks 120\n")
    assert main(["dynamic-async", "route", "my.topology", "--seed", "3", "--loss", "0.3"]) == 0
    run = json.loads((tmp_path / "route.json").read_text())
    assert (run["algebra"], run["topology"]) == ("rip", "my.topology")
    assert run["schedule"] == "random, active 0.5, delay up to 4, loss 0.3, seed 3"
    assert main(["dynamic-async", "route", "my.topology", "--algebra", "widest"]) == 0
    assert json.loads((tmp_path / "route.json").read_text())["algebra"] == "widest"


def test_the_random_network(tmp_path):
    words = ["route", "random", "--nodes", "9", "--destinations", "2", "--epochs", "3", "--schedule", "fair"]
    assert commands.main([*words, "--out", str(tmp_path / "r.json")]) == 0
    run = json.loads((tmp_path / "r.json").read_text())
    assert (run["nodes"], run["destinations"], len(run["epochs"])) == (9, 2, 3)


BAD = {
    ("bad-gaget",): "bad-gaget: no such file, and none is built in by that name; did you mean 'bad-gadget'?",
    ("disagree", "--nodes", "9"): "--nodes is for the network random; disagree has its own",
    ("random", "--nodes", "3"): "--nodes 3: expected at least 4",
    ("random", "--nodes", "many"): "argument --nodes: invalid int value: 'many'; see: fulgurite dynamic-async route",
    ("disagree", "--algebra", "ospf"): "invalid choice: 'ospf'",
    ("disagree", "--delay", "0"): "max_delay must be at least 1 tick; got 0",
    ("disagree", "--loss", "3"): "loss is a probability, in 0 to 1; got 3",
    ("disagree", "--output", "x.png"): "--output x.png: the JSON's name",
    (): "the following arguments are required: FILE|NAME",
    ("broken",): "broken:2: no node is named 'C'",
}


@pytest.mark.parametrize("words", BAD, ids=[" ".join(words) for words in BAD])
def test_errors_are_one_line_and_leave_nothing(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").write_text("nodes A B\nlink A C\n")
    assert main(["dynamic-async", "route", *words]) == 1
    said = capsys.readouterr().err
    assert BAD[words] in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be written: "):
        commands.main(["route", "disagree", "--output", str(tmp_path / "file" / "run.json")])


def test_help_names_every_choice(capsys):
    assert commands.main([]) == 0
    with pytest.raises(SystemExit):
        commands.main(["route", "--help"])
    said = capsys.readouterr().out
    assert tuple(networks.BUILT_IN) == commands.BUILT_IN
    assert commands.ALGEBRAS == experiment.ALGEBRAS
    assert commands.MANNERS == schedules.MANNERS
    assert all(name in said for name in (*commands.BUILT_IN, *commands.ALGEBRAS, *commands.MANNERS))
