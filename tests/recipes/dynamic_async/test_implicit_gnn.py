"""The recipe takes a step, with workers under a schedule and with peers; its bars are for ``fulgurite run``."""

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe

REGISTRY = discover()
NAME = "dynamic_async/implicit_gnn"


@pytest.mark.slow
def test_it_has_no_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(NAME, REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.slow
def test_workers_may_be_peers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = find_recipe(NAME, REGISTRY).text
    before, _, rest = text.partition("    workers:")
    after = rest.partition("\ndata:\n")[2].partition("expect:")[0]
    own = tmp_path / "peers.yaml"
    own.write_text(f"{before}    workers: {{peers: 2, parts: 4}}\ndata:\n{after}")
    outcome = check_recipe(find_recipe(str(own), REGISTRY), REGISTRY)
    assert (outcome.status, outcome.message) == ("ok", "")


def test_it_opens_with_what_it_shows_and_how_to_run_it():
    recipe = find_recipe(NAME, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2] == f"#   fulgurite run {NAME}"
    assert len([line for line in opening[3:] if line.startswith(f"#   fulgurite run {NAME} --")]) == 2
    assert recipe.settings["expect"]
