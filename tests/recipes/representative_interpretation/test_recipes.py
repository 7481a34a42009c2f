"""Every recipe of RepresentativeInterpretation takes a step; the one that needs data runs whole on a small folder."""

import numpy as np
import pytest
from PIL import Image

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe, recipes_of
from fulgurite.recipes.lightning_cli import run_cli
from fulgurite.recipes.trust import allow_list

REGISTRY = discover()
PREFIX = "representative_interpretation/"  # of recipes and of metrics
NAMES = [recipe.name for recipe in recipes_of(REGISTRY) if recipe.name.startswith(PREFIX)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of class folders: red discs and blue squares on noise, as JPEG files of two sizes."""
    generator = np.random.default_rng(0)
    for name in ("disc", "square"):
        (tmp_path / "data" / "images" / name).mkdir(parents=True)
        for number in range(24):
            height, width = (40, 52) if number % 2 else (52, 40)
            y, x = np.mgrid[:height, :width]
            radius = generator.integers(8, 14)
            down, right = (generator.integers(radius, side - radius) for side in (height, width))
            away = np.abs(y - down), np.abs(x - right)
            inside = np.hypot(*away) < radius if name == "disc" else np.maximum(*away) < 0.85 * radius
            pixels = generator.integers(40, 100, (height, width, 3), dtype=np.uint8)
            pixels[inside] = (230, 60, 60) if name == "disc" else (60, 60, 230)
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / name / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_they_are_there():
    assert [name.removeprefix(PREFIX) for name in NAMES] == ["image_folder", "mnist", "shortcut"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "shortcut"])
def test_a_recipe_has_no_fault(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = check_recipe(find_recipe(PREFIX + name, REGISTRY), REGISTRY, args=("--trainer.accelerator=cpu",))
    assert (outcome.status, outcome.message) == ("ok", "")


def test_a_folder_of_ones_own_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    outcome = check_recipe(find_recipe(PREFIX + "image_folder", REGISTRY), REGISTRY)
    assert outcome.status == "not run"
    assert "the data folder 'images' (give --data.root, or set $FULGURITE_DATA)" in outcome.message


@pytest.mark.slow
def test_a_folder_of_ones_own_is_taken_from_the_option_or_the_environment(photos, monkeypatch):
    recipe = find_recipe(PREFIX + "image_folder", REGISTRY)
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    args = ("--trainer.accelerator=cpu", f"--data.root={photos / 'images'}")
    outcome = check_recipe(recipe, REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")
    monkeypatch.setenv("FULGURITE_DATA", str(photos))
    outcome = check_recipe(recipe, REGISTRY, args=("--trainer.accelerator=cpu", "--model.num_classes=3"))
    assert outcome.status == "fault"
    assert "num_classes=3 for data of 2 classes (disc, square); give num_classes=2" in outcome.message


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fulgurite.callbacks.representative_interpretation.clues.GroupAlarm")
def test_a_folder_of_ones_own_is_learned_and_interpreted(photos):
    recipe = find_recipe(PREFIX + "image_folder", REGISTRY)
    args = [
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=8",
        "--data.image_size=32",
        "--data.batch_size=7",
        "--trainer.logger=false",
    ]
    args += ["--trainer.callbacks.every_n_epochs=0"]
    args += [f"--data.root={photos / 'images'}", "--data.val_share=0.4", "--trainer.enable_progress_bar=false"]
    cli = run_cli(["fit", "--config", str(recipe.path), *args], REGISTRY, allow_list(REGISTRY), name=recipe.name)
    metrics = cli.trainer.callback_metrics
    assert metrics["val/accuracy"] >= 0.7
    assert 0 < metrics["representative_interpretation/coverage"] <= 1
    (report,) = photos.parent.rglob("report.html")
    assert "disc" in report.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2].startswith(f"#   fulgurite run {name}")
    tries = opening[opening.index("# Try:") :]
    assert len([line for line in tries if line.startswith(f"#   fulgurite run {name} --")]) == 2
    assert any(metric.startswith(PREFIX) for metric in recipe.settings["expect"])
