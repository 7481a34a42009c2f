"""The command line as a person meets it."""

import re
import subprocess
import sys

import lightning.pytorch as pl  # first: its log handler keeps the stderr that it finds when it is imported
import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.cli import main
from fulgurite.recipes.library import recipes_of

RECIPE = """# A recipe for tests.
trainer:
  max_epochs: 1
  accelerator: cpu
  callbacks:
    - class_path: EarlyStopping
      init_args: {monitor: loss}
model:
  class_path: lightning.pytorch.demos.boring_classes.BoringModel
"""
DEMOS = ["--allow-import", "lightning.pytorch.demos"]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str = RECIPE) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        return "mine.yaml"

    return write


def line_of(capsys) -> str:
    """What was printed, which must be one line."""
    output = capsys.readouterr()
    lines = (output.out + output.err).strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_help_names_every_command(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for word in ("list", "show", "copy", "check", "run", "plugins", "fit", "validate", "test", "predict", "seqpoint"):
        assert re.search(rf"^  {word}\b", text, re.MULTILINE)


@pytest.mark.parametrize("command", ["list", "show", "copy", "check", "run", "plugins"])
def test_each_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"fulgurite {command}" in capsys.readouterr().out


def test_list_shows_every_recipe_with_its_summary(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes_of(discover()))
    assert any(line.split()[:2] == ["seqpoint/translation", "SeqPoint"] for line in lines)


def test_show_prints_the_file_and_copy_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "seqpoint/translation"]) == 0
    shown = capsys.readouterr().out
    assert main(["copy", "seqpoint/translation", "mine"]) == 0
    assert (tmp_path / "mine.yaml").read_text() == shown
    assert capsys.readouterr().out == "mine.yaml\n"
    assert main(["copy", "seqpoint/translation", "mine"]) == 1
    assert "exists already" in line_of(capsys)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["lst"], "no command 'lst'; did you mean 'list'"),
        (["run"], "give a recipe's name"),
        (["show"], "give a recipe's name"),
        (["show", "a", "b"], "one word too many: 'b'"),
        (["run", "seqpoint/transltion"], "did you mean 'seqpoint/translation'"),
        (["check", "missing.yaml"], "missing.yaml: no such file"),
        (["fit", "--config"], "give a file"),
        (["fit", "--config", "missing.yaml"], "missing.yaml: no such file"),
        (["seqpoint", "plan"], "give a recipe, or --lengths"),
        (["seqpoint", "plann"], "invalid choice: 'plann'"),
        (["seqpoint", "compare", "no.json", "no.json"], "cannot read the plan no.json"),
        (["seqpoint", "compare", "a.json"], "AFTER.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert text in line_of(capsys)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("max_epochs", "max_epoch"), "mine.yaml:3: Trainer has no option 'max_epoch'; did you mean 'max_epochs'"),
        (("max_epochs: 1", "max_epochs: two"), "mine.yaml:3: trainer.max_epochs: got two, expected int or null"),
        (("EarlyStopping", "EarlyStoping"), "mine.yaml:6: no class 'EarlyStoping'; did you mean 'EarlyStopping'"),
        (("monitor:", "moniter:"), "mine.yaml:7: EarlyStopping has no option 'moniter'; did you mean 'monitor'"),
        (("init_args", "init_arg"), "mine.yaml:7: no such key 'init_arg' beside class_path; did you mean 'init_args'"),
        (("trainer:", "trainr:"), "mine.yaml:2: no such key 'trainr'; did you mean 'trainer'"),
        (("BoringModel", "BoringModl"), "mine.yaml:9: lightning.pytorch.demos.boring_classes has no 'BoringModl'; did"),
        (("boring_classes", "boring_class"), "mine.yaml:9: no module 'lightning.pytorch.demos.boring_class'"),
        (("  class_path: light", "  class_pth: light"), "mine.yaml:8: model names no class"),
        (("{monitor: loss}", "{monitor: loss, patience: soon}"), "patience: got soon, expected int"),
        (("model:", "needs: {gpus: [1]}\nmodel:"), "needs: no such kind 'gpus'"),
        (("model:", "expect: {loss: about 3}\nmodel:"), "mine.yaml:8: expect: loss: got 'about 3'"),
        (("trainer:\n", "data: 3\ntrainer:\n"), "mine.yaml:2: data: got int, expected a mapping"),
    ],
)
def test_a_fault_in_a_recipe_says_where_and_what_is_right(change, text, recipe, capsys):
    assert main(["check", recipe(RECIPE.replace(*change)), *DEMOS]) == 1
    line = line_of(capsys)
    assert line.startswith("fault    mine.yaml: ")
    assert text in line


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("--trainer.max_epochs=two", "command line: trainer.max_epochs: got two, expected int or null"),
        ("--trainer.callbacks=SeqPont", "did you mean 'SeqPoint'"),
        ("--trainer.max_epohs=2", "did you mean 'max_epochs'"),
        ("--optimizer=Adm", "did you mean 'Adam'"),
        ("--modl.x=2", "no such option"),
    ],
)
def test_a_fault_in_an_override_says_so(override, text, recipe, capsys):
    assert main(["run", recipe(), *DEMOS, override]) == 1
    assert text in line_of(capsys)


@pytest.mark.parametrize("value", ["EarlyStoping", "[EarlyStoping]", "{class_path: EarlyStoping}", "3", "[3]"])
def test_callbacks_in_every_form_are_read(value, recipe, capsys):
    name = recipe(f"trainer: {{callbacks: {value}}}\n")
    assert main(["check", name, *DEMOS]) == 1
    assert re.search("did you mean 'EarlyStopping'|got 3, expected a class's name", line_of(capsys))


def test_check_takes_several_and_says_what_could_not_run(recipe, tmp_path, capsys):
    recipe(RECIPE.replace("{monitor: loss}", "{monitor: loss, check_on_train_epoch_end: false}"))
    (tmp_path / "needy.yaml").write_text(RECIPE + "needs: {data: [nowhere]}\n")
    assert main(["check", "mine.yaml", "needy.yaml", *DEMOS]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ok       mine.yaml"
    assert second.startswith("not run  needy.yaml: needs the data folder 'nowhere'")
    assert main(["run", "needy.yaml", *DEMOS]) == 1
    assert "needs the data folder" in line_of(capsys)


def test_an_exception_inside_is_one_line_and_traceback_shows_it(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_model.py").write_text(
        "import lightning.pytorch as pl\n"
        "class Broken(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        raise RuntimeError('no luck')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = recipe("seed_everything: 1\nmodel: {class_path: broken_model.Broken}\n")
    assert main(["run", name, "--allow-import", "broken_model"]) == 1
    assert issubclass(sys.modules["broken_model"].Broken, pl.LightningModule)
    assert "no luck" in line_of(capsys)
    assert main(["run", name, "--allow-import", "broken_model", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", [["list"], ["plugins"], ["show", "seqpoint/translation"]])
def test_light_commands_work_as_processes(command, tmp_path):
    words = [sys.executable, "-m", "fulgurite.recipes.cli", *command]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "seqpoint" in done.stdout.lower()
    assert done.stderr == ""
