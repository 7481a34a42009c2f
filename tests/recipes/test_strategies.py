"""How a recipe names a plugin's strategy."""

from pathlib import Path

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

from fulgurite.plugins.registry import Plugin, Registry, discover
from fulgurite.recipes.library import Recipe, RecipeError
from fulgurite.recipes.lint import lint, load_named
from fulgurite.recipes.trust import allow_list

RECIPE = """
trainer:
  accelerator: cpu
  strategy: {}
"""


def check(tmp_path: Path, strategy: str, registry: Registry) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(strategy))
    lint(Recipe("recipe.yaml", path).document(), registry, allow_list(registry, ()))


@pytest.mark.parametrize(
    "strategy",
    [
        "auto",
        "ddp",
        "snapshot_parallel",
        "Snapshot_Parallel",
        "{class_path: SnapshotParallelStrategy, init_args: {blocks: 2}}",
    ],
)
def test_names_and_classes_pass(tmp_path, strategy):
    check(tmp_path, strategy, discover())


def test_a_name_that_nobody_has_gets_its_line_and_the_nearest_one(tmp_path):
    with pytest.raises(RecipeError, match=r"yaml:4: no strategy 'snapshot_paralel'; did you mean 'snapshot_parallel'"):
        check(tmp_path, "snapshot_paralel", discover())


def test_an_option_that_the_strategy_lacks_is_said(tmp_path):
    with pytest.raises(RecipeError, match="SnapshotParallelStrategy has no option 'block'; did you mean 'blocks'"):
        check(tmp_path, "{class_path: SnapshotParallelStrategy, init_args: {block: 2}}", discover())


def test_a_plugin_s_strategy_is_registered_when_it_is_named():
    home = "lightning.pytorch.strategies:SingleDeviceStrategy"
    registry = Registry.from_plugins([Plugin("acme", "", strategies={"acme_solo": home})])
    load_named(["trainer", "ddp"], registry)
    assert "acme_solo" not in StrategyRegistry
    try:
        load_named(["acme_solo"], registry)
        assert StrategyRegistry["acme_solo"]["strategy"] is SingleDeviceStrategy
        load_named(["acme_solo"], registry)
    finally:
        StrategyRegistry.remove("acme_solo")


def test_our_names_are_those_that_importing_the_package_registers():
    registry = discover()
    load_named(list(registry.strategies), registry)
    assert set(registry.strategies) <= set(StrategyRegistry.available_strategies())
    assert StrategyRegistry["snapshot_parallel_fork"]["init_params"] == {"start_method": "fork"}
