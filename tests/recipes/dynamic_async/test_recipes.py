"""Every recipe of dynamic asynchronous iterations opens with how to run it, and takes a step."""

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe, uses_processes
from fulgurite.recipes.library import find_recipe, recipes_of

REGISTRY = discover()
PREFIX = "dynamic_async/"
NAMES = [recipe.name for recipe in recipes_of(REGISTRY) if recipe.name.startswith(PREFIX)]


def test_they_are_there():
    assert [name.removeprefix(PREFIX) for name in NAMES] == ["elastic_probe", "implicit_gnn", "ray", "routing"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2].startswith(f"#   fulgurite run {name}")
    overrides = [line for line in opening[3:] if line.startswith(f"#   fulgurite run {name} --")]
    assert len(overrides) == 2
    assert recipe.settings["expect"]


@pytest.mark.parametrize(
    ("name", "args", "several"),
    [
        ("elastic_probe", (), True),
        ("elastic_probe", ("--trainer.strategy.init_args.local_peers=1",), False),
        ("elastic_probe", ("--trainer.strategy.local_peers=1",), False),
        ("ray", (), True),
        ("routing", (), False),
        ("routing", ("--trainer.strategy=DynamicAsyncStrategy", "--trainer.strategy.local_peers=2"), True),
    ],
)
def test_a_recipe_that_starts_peers_is_checked_in_a_process_of_its_own(name, args, several):
    assert uses_processes(find_recipe(PREFIX + name, REGISTRY).settings, args) is several


@pytest.mark.slow
@pytest.mark.parametrize("name", ["implicit_gnn", "routing"])
def test_a_recipe_has_no_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(PREFIX + name, REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
@pytest.mark.distributed
def test_local_peers_take_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("--trainer.strategy.init_args.local_peers=2",)
    outcome = check_recipe(find_recipe(PREFIX + "elastic_probe", REGISTRY), REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_fault_of_local_peers_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("--trainer.strategy.init_args.local_peers=2", "--model.init_args.learning_rate=5")
    outcome = check_recipe(find_recipe(PREFIX + "elastic_probe", REGISTRY), REGISTRY, args=args)
    assert outcome.status == "fault"
    assert "certify: require, but the answer would not be certified: the learning rate is 5" in outcome.message


@pytest.mark.slow
@pytest.mark.distributed
def test_peers_in_ray_actors_take_a_step(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(PREFIX + "ray", REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")
