"""The recipes that detect take a step, on fixtures in their data sets' own form where they need one."""

import importlib.util
from pathlib import Path

import pytest

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe

REGISTRY = discover()
NAMES = ["repgraph/scenes_detection", "repgraph/bccd", "repgraph/coco"]


def writer(name):
    """What tests/data writes fixtures with."""
    path = Path(__file__).parents[2] / "data" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"fixtures_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(name, *args):
    args = ("--trainer.accelerator=cpu", *args)
    outcome = check_recipe(find_recipe(name, REGISTRY), REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(name, REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert f"fulgurite run {name}" in opening[2]
    assert len([line for line in opening[3:] if line.startswith(f"#   fulgurite run {name} --")]) == 2
    assert recipe.settings["expect"]


@pytest.mark.slow
def test_scenes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check("repgraph/scenes_detection", "--data.init_args.num_train=8", "--data.init_args.num_val=8")


@pytest.mark.slow
def test_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write = writer("test_voc_detection").write
    for number in range(4):
        cells = [("RBC", 0, 20, 20, 90, 90), ("WBC", 0, 60, 60, 140, 110), ("Platelets", 0, 1, 1, 20, 22)]
        write(tmp_path / "bccd", f"n{number}", cells, size=(160, 120))
    for part, names in (("train", "n0\nn1\nn2"), ("val", "n3")):
        (tmp_path / "bccd" / "ImageSets" / f"{part}.txt").write_text(names)
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    check("repgraph/bccd")


@pytest.mark.slow
def test_coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fixture = writer("test_coco_detection")
    categories = [(number + number // 11, f"thing {number}") for number in range(1, 81)]  # with gaps, as COCO's
    crowd = fixture.item(2, iscrowd=1, segmentation=fixture.CROWD, bbox=[0, 0, 2, 20], category_id=1)
    for part in ("train2017", "val2017"):
        fixture.write(tmp_path / "coco", part, [fixture.item(1), crowd], categories=categories)
    monkeypatch.setenv("FULGURITE_DATA", str(tmp_path))
    small = ("resnet18", "weights=null", "min_size=64", "max_size=96", "pyramid_width=16", "head_width=16")
    options = ["--model.init_args.backbone=resnet18", *(f"--model.init_args.{option}" for option in small[1:])]
    check("repgraph/coco", "--trainer.devices=1", "--data.init_args.num_workers=0", *options)
