"""The recipes of mmsegmentation, on small folders in each data set's own format."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fulgurite.plugins.registry import discover
from fulgurite.recipes.check import check_recipe
from fulgurite.recipes.library import find_recipe

pytest.importorskip("mmseg")
REGISTRY = discover()
NAMES = ["ade20k", "cityscapes", "mmseg", "pascal_context"]
SMALL = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--data.crop_size=[32,32]",
)
CHANGES = """
backbone: {depth: 18, base_channels: 8, stem_channels: 8}
decode_head: {in_channels: 64, channels: 16}
auxiliary_head: {in_channels: 32, channels: 8}
"""


def write_pair(image: Path, mask: Path, classes: list[int], rng: np.random.Generator, size=(40, 56)) -> None:
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(image)
    Image.fromarray(rng.choice(classes, size).astype(np.uint8)).save(mask)


def ade20k(root: Path, rng: np.random.Generator) -> None:
    for part, code in (("training", "train"), ("validation", "val")):
        for index in range(2):
            name = f"ADE_{code}_{index:08d}"
            size = (40, 56) if index else (48, 36)
            classes = list(range(151))
            write_pair(root / f"images/{part}/{name}.jpg", root / f"annotations/{part}/{name}.png", classes, rng, size)


def cityscapes(root: Path, rng: np.random.Generator) -> None:
    for part, city in (("train", "aachen"), ("val", "munster")):
        for index in range(2):
            name = f"{city}_{index:06d}_000019"
            write_pair(
                root / f"leftImg8bit/{part}/{city}/{name}_leftImg8bit.png",
                root / f"gtFine/{part}/{city}/{name}_gtFine_labelTrainIds.png",
                [*range(19), 255],
                rng,
            )
            (root / f"gtFine/{part}/{city}/{name}_gtFine_polygons.json").write_text("{}")


def pascal_context(root: Path, rng: np.random.Generator) -> None:
    lists = root / "ImageSets/SegmentationContext"
    lists.mkdir(parents=True)
    for part, names in (("train", ["2008_000002", "2008_000003"]), ("val", ["2008_000007", "2008_000009"])):
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            image, mask = root / f"JPEGImages/{name}.jpg", root / f"SegmentationClassContext/{name}.png"
            write_pair(image, mask, list(range(60)), rng)
    write_pair(root / "JPEGImages/unlisted.jpg", root / "unlisted.png", [0], rng)


@pytest.mark.slow
@pytest.mark.parametrize("write", [ade20k, cityscapes, pascal_context], ids=lambda write: write.__name__)
def test_a_recipe_of_the_paper_runs_on_its_data_s_own_format(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", np.random.default_rng(0))
    changes = yaml.safe_load(CHANGES)
    if write is cityscapes:
        changes["test_cfg"] = {"crop_size": [32, 32], "stride": [24, 24]}
    args = (*SMALL, f"--model.changes={json.dumps(changes)}", f"--data.root={tmp_path / 'data'}")
    outcome = check_recipe(find_recipe(f"repgraph/{write.__name__}", REGISTRY), REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "pascal_context"])
def test_without_its_data_a_recipe_says_so(name, monkeypatch):
    monkeypatch.delenv("FULGURITE_DATA", raising=False)
    outcome = check_recipe(find_recipe(f"repgraph/{name}", REGISTRY), REGISTRY)
    assert outcome.status == "not run"
    assert "--data.root" in outcome.message


@pytest.mark.slow
def test_digit_scenes_are_learned_from_by_a_model_of_mmseg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ("--data.side=64", "--data.num_train=8", "--data.num_val=2", "--data.num_test=2", "--data.batch_size=4")
    args = ("--trainer.accelerator=cpu", *sizes)
    outcome = check_recipe(find_recipe("repgraph/mmseg", REGISTRY), REGISTRY, args=args)
    assert (outcome.status, outcome.message) == ("ok", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_shows_and_how_to_run_it(name):
    recipe = find_recipe(f"repgraph/{name}", REGISTRY)
    opening = [line for line in recipe.text.splitlines() if line.startswith("#")]
    assert opening[2].startswith(f"#   fulgurite run repgraph/{name}")
    assert len([line for line in opening[3:] if line.startswith(f"#   fulgurite run repgraph/{name} --")]) == 2
    assert recipe.settings["expect"]
