"""Recipes as tests, run by pytest in a throwaway project (`pytester`)."""

import sys
from pathlib import Path

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.library import recipes_of

GOOD = """
trainer: {max_epochs: 1, accelerator: cpu, callbacks: [{class_path: RichProgressBar}]}
model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}
"""
NEEDY = GOOD + "needs: {data: [a_folder_that_nobody_has]}\n"
BAD = GOOD.replace("max_epochs", "max_epoch_count")
TWO = GOOD.replace("accelerator: cpu", "accelerator: cpu, devices: 2, strategy: ddp")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    for name, text in {
        "good.yaml": GOOD,
        "deep/er/needy.yml": NEEDY,
        "build/bad.yaml": BAD,
        "notes.txt": "no recipe",
    }.items():
        path = pytester.path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pytester.makepyfile(test_ordinary="def test_it(): pass")
    return pytester


ROOT = Path(__file__).resolve().parents[2]
ALLOW = ("--allow-import", "lightning.pytorch.demos")


def test_every_yaml_is_one_test(project):
    result = project.runpytest_subprocess("--recipes", "mine", *ALLOW, "-rs")
    result.assert_outcomes(passed=2, skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*needs the data folder 'a_folder_that_nobody_has'*"])
    result.stdout.fnmatch_lines(["*bad.yaml:2: Trainer has no option 'max_epoch_count'; did you mean 'max_epochs'*"])


def test_off_unless_asked(project):
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_one_recipe_can_be_chosen(project):
    result = project.runpytest_subprocess("--recipes", "mine", *ALLOW, "mine/good.yaml")
    result.assert_outcomes(passed=1)


def test_a_folder_that_is_not_there_is_said(project):
    result = project.runpytest_subprocess("--recipes", "nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--recipes nowhere: no such folder*"])


def test_neither_torch_nor_lightning_is_imported_until_asked(pytester):
    pytester.makepyfile("import sys\ndef test_it(): assert not {'torch', 'lightning'} & set(sys.modules)")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_run_in_a_check_of_their_own(pytester):
    (pytester.path / "mine").mkdir()
    (pytester.path / "mine" / "two.yaml").write_text(TWO)
    (pytester.path / "mine" / "two_bad.yaml").write_text(TWO.replace("BoringModel", "BoringModul"))
    result = pytester.runpytest_subprocess("--recipes", "mine", *ALLOW)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*two_bad.yaml:3: *has no 'BoringModul'; did you mean 'BoringModel'*"])


@pytest.mark.slow
def test_our_own_recipes_pass_or_wait_for_data(pytester, monkeypatch):
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    folder = ROOT / "recipes"
    recipes = recipes_of(discover())
    waiting = [recipe for recipe in recipes if recipe.settings.get("needs", {}).get("data")]
    result = pytester.run(sys.executable, "-m", "pytest", "--recipes", folder, folder, "-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=len(recipes) - len(waiting), skipped=len(waiting))


@pytest.mark.slow
def test_our_own_recipes_are_collected_one_and_all(pytester):
    recipes = recipes_of(discover())
    folder = ROOT / "recipes"
    result = pytester.run(sys.executable, "-m", "pytest", "--recipes", folder, folder, "--collect-only", "-q")
    collected = [line for line in result.outlines if line.endswith("::check")]
    assert len(collected) == len(recipes) > 0
