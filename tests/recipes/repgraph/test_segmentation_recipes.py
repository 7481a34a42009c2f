"""RepGraph's recipes of torch-only segmentation take a step; whether they reach their bars is for ``fulgurite run``."""

import numpy as np
import pytest
from PIL import Image

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe

REGISTRY = discover()
NAMES = ["repgraph/camvid", "repgraph/far_context", "repgraph/scenes_segmentation"]


@pytest.fixture
def streets(tmp_path, monkeypatch):
    """A folder as CamVid's: photographs and index masks with void."""
    generator = np.random.default_rng(0)
    for part, number in (("train", 8), ("val", 2)):
        for kind, extension in (("images", "jpg"), ("labels", "png")):
            folder = tmp_path / "data" / "camvid_small" / part / kind
            folder.mkdir(parents=True)
            for index in range(number):
                shape = (180, 240, 3) if kind == "images" else (180, 240)
                values = generator.integers(0, 256 if kind == "images" else 12, shape, dtype=np.uint8)
                Image.fromarray(values).save(folder / f"{index}.{extension}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repgraph/far_context", "repgraph/scenes_segmentation"])
def test_a_recipe_has_no_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(name, REGISTRY), REGISTRY, args=("--trainer.accelerator=cpu",))
    assert (outcome.status, outcome.message) == ("ok", "")


def test_camvid_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    outcome = check_recipe(find_recipe("repgraph/camvid", REGISTRY), REGISTRY)
    assert outcome.status == "not run"
    assert "camvid_small" in outcome.message


@pytest.mark.slow
def test_camvid_is_taken_from_the_environment(streets, monkeypatch):
    monkeypatch.setenv("FULGURITE_DATA", str(streets))
    args = ("--trainer.accelerator=cpu", "--data.batch_size=2")
    outcome = check_recipe(find_recipe("repgraph/camvid", REGISTRY), REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2].startswith(f"#   fulgurite run {name}")
    assert len([line for line in opening[3:] if line.startswith(f"#   fulgurite run {name} --")]) == 2
    assert recipe.settings["expect"]
