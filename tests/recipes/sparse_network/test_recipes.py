"""Every recipe of SparseNetwork takes a step; whether it reaches its bars is for ``fulgurite run``."""

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe, recipes_of

REGISTRY = discover()
NAMES = [recipe.name for recipe in recipes_of(REGISTRY) if recipe.name.startswith("sparse_network/")]


def test_they_are_there():
    wanted = ["neat_finetune", "pruned_mnist", "radix", "rigl_mnist"]
    assert [name.partition("/")[2] for name in NAMES] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_no_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(name, REGISTRY), REGISTRY, args=("--trainer.accelerator=cpu",))
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2] == f"#   fulgurite run {name}"
    overrides = [line for line in opening[3:] if line.startswith(f"#   fulgurite run {name} --")]
    assert len(overrides) == 2
    assert recipe.settings["expect"]
