import json

import pytest

from fulgurite.recipes.cli import main
from fulgurite.recipes.dynamic_gnn import commands
from fulgurite.recipes.library import RecipeError

SMALL = ["--statistics", "snapshots=8,nodes=40,nnz=60,features=2", "--link", "pcie", "--ranks", "1,2"]


def test_a_plan_from_statistics_leaves_json_picture_and_page(tmp_path, capsys):
    output = tmp_path / "made" / "my.json"
    assert commands.main(["plan", *SMALL, "--network", "WDGCN", "--hidden", "4,3", "--output", str(output)]) == 0
    plan = json.loads(output.read_text())
    assert plan["network"] == "WDGCN"
    assert [row["ranks"] for row in plan["rows"]] == [1, 2]
    assert plan["link"]["source"] == "assumed"
    assert sorted(path.name for path in output.parent.iterdir()) == ["my.html", "my.json", "my.png"]
    said = capsys.readouterr().out
    assert "WDGCN, predicted" in said
    assert "Recommended: " in said
    assert str(output) in said


def test_tm_gcn_gets_its_m_product(tmp_path):
    assert commands.main(["plan", *SMALL, "--network", "TMGCN", "--output", str(tmp_path / "plan.json")]) == 0
    assert json.loads((tmp_path / "plan.json").read_text())["statistics"]["m_window"] == 20


RECIPE = """
model:
  class_path: DynamicNodeClassifier
  init_args:
    network:
      class_path: WDGCN
      init_args: {in_channels: 2, hidden_channels: [4]}
data:
  class_path: TemporalGraph
  init_args:
    generator:
      class_path: fulgurite.data.transaction_graph.TransactionGraph
      init_args: {num_nodes: 60, num_steps: 20}
    task: node
trainer:
  devices: 2
  accelerator: cpu
  strategy: {class_path: SnapshotParallelStrategy}
"""


@pytest.mark.filterwarnings("ignore")
def test_a_plan_from_a_recipe_of_several_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    words = ["plan", "mine.yaml", "--ranks", "1,2", "--link", "nvlink", "--model.network.init_args.hidden_channels=[5]"]
    assert commands.main([*words, "--device", "cpu"]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["statistics"]["nodes"] == 60
    assert {row["basis"] for row in plan["rows"]} == {"replayed"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a recipe, or --statistics"),
        (["a", *SMALL], "give a recipe, or --statistics"),
        (SMALL, "give a network, too"),
        ([*SMALL, "--network", "WDGN"], "'WDGCN'"),
        ([*SMALL, "--network", "os.system"], "no such network"),
        ([*SMALL, "--network", "WDGCN", "--hidden", "4,x"], "--hidden x: expected a whole number"),
        ([*SMALL, "--network", "WDGCN", "--trainer.devices=2"], "overrides are for a recipe"),
        ([*SMALL, "--network", "WDGCN", "--ranks", "0"], "--ranks 0"),
        ([*SMALL, "--network", "WDGCN", "--ranks", "5-7"], "--ranks 5-7"),
        ([*SMALL, "--network", "WDGCN", "--ranks", "4-1"], "--ranks 4-1"),
        ([*SMALL, "--network", "WDGCN", "--memory", "16XB"], "--memory 16XB"),
        ([*SMALL, "--network", "WDGCN", "--memory", "1.2.3GB"], "--memory 1.2.3GB"),
        ([*SMALL, "--network", "WDGCN", "--blocks", "0"], "--blocks 0"),
        ([*SMALL, "--network", "WDGCN", "--link", "string"], "--link string"),
        ([*SMALL, "--network", "WDGCN", "--alpha=-1"], "alpha -1.0"),
        ([*SMALL, "--network", "WDGCN", "--efficiency", "2"], "--efficiency 2.0"),
        ([*SMALL, "--network", "WDGCN", "--threads", "0"], "--threads 0"),
        ([*SMALL, "--network", "WDGCN", "--output", "plan.html"], "--output plan.html"),
        (["--statistics", "snapshots=8", "--network", "WDGCN", "--link", "pcie"], "nodes is missing"),
        (
            ["--statistics", "snapshots=0,nodes=4,nnz=1,features=2", "--network", "WDGCN", "--link", "pcie"],
            "snapshots=0",
        ),
        (["mine", "--network", "WDGCN"], "go with --statistics"),
        (["seqpoint/translatio"], "'seqpoint/translation'"),
        (["mine", "yours"], "unknown word 'yours'"),
        (["mine", "--link"], "--help"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        commands.main(["plan", *words])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_a_recipe_of_something_else_is_told_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="its model Translator has no dynamic `network`"):
        commands.main(["plan", "seqpoint/translation", "--link", "pcie"])


def test_help_says_what_it_is_for(capsys):
    assert commands.main([]) == 0
    assert "plan" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        commands.main(["plan", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "fulgurite dynamic-gnn plan dynamic_gnn/laundering" in said
    assert "Everything is predicted" in said


def test_the_command_is_found_by_its_name(capsys):
    assert main(["dynamic-gnn", "plan"]) == 1
    assert "give a recipe" in capsys.readouterr().err
