"""Cuts are measured on few images, which stand for all and are not read again and again."""

import warnings

import pytest
import torch

from fulgurite.callbacks.representative_interpretation import interpret, interpret_classes, measuring
from fulgurite.callbacks.representative_interpretation.anchors import Options
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.measuring import Measuring, stratified
from fulgurite.callbacks.representative_interpretation.reference import Reference

pytestmark = pytest.mark.filterwarnings(
    "ignore::fulgurite.callbacks.representative_interpretation.DegenerateCutWarning"
)


@pytest.fixture(scope="module")
def images(shapes):
    return shapes(1500, seed=1)[0]


@pytest.fixture
def passes(fitted):
    """How many images have gone through the net."""
    seen = []
    handle = fitted[0][0].register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    yield seen
    handle.remove()


@pytest.mark.parametrize("most_bytes", [0, 2**28])
def test_choosing_a_cut_reads_a_reference_once_or_twice(fitted, images, passes, most_bytes):
    found = interpret(fitted, images[0], images, boundaries=10, most_bytes=most_bytes)
    measured = [row for row in found.cuts if row.coverage is not None]
    assert len(measured) == 2
    # The predicted classes, and then the planes' values or the feature maps at the cut that was chosen; and the 1,000
    # images of the measurement once a cut.
    assert sum(passes) < 2 * 1500 + len(measured) * 1000 + 300


@pytest.mark.parametrize("most_bytes", [0, 2**28])
def test_a_small_reference_is_read_a_few_times_at_most(fitted, images, passes, most_bytes):
    found = interpret(fitted, images[0], images[:400], boundaries=10, most_bytes=most_bytes)
    measured = sum(row.coverage is not None for row in found.cuts)
    assert sum(passes) < (2 + measured if not most_bytes else measured) * 400 + 300


def test_groups_take_the_size_too(fitted, images):
    streamed = interpret_classes(fitted, images[:200], cut="0.2", boundaries=5, most_bytes=0, groups_per_class=1)
    kept = interpret_classes(fitted, images[:200], cut="0.2", boundaries=5, groups_per_class=1)
    assert streamed.to_dict() == kept.to_dict()


def test_the_part_says_what_the_whole_says(fitted, images, monkeypatch):
    parts = split(fitted, "0.2", images[:16])
    options = Options(boundaries=12, delta=15, exact=True)
    reference = Reference(images)
    part = Measuring(reference, options).row(parts, even_affine=False)
    asked = []
    monkeypatch.setattr(measuring, "MOST_IMAGES", 1500)
    blocks = measuring.interpret_in_blocks
    monkeypatch.setattr(measuring, "interpret_in_blocks", lambda *given: asked.append(given[3]) or blocks(*given))
    whole = Measuring(reference, options).row(parts, even_affine=False)
    assert part.coverage == pytest.approx(whole.coverage, abs=0.15)
    assert part.purity == pytest.approx(whole.purity, abs=0.05)
    assert asked == [Options(boundaries=12, delta=15, exact=False)]
    monkeypatch.setattr(measuring, "MOST_IMAGES", 500)
    Measuring(reference, options).row(parts, even_affine=False)
    assert asked[1].delta == 5


def test_drawing_by_class():
    classes = torch.cat([torch.zeros(5000), torch.ones(4000), torch.full((7,), 2), torch.full((3,), 3)]).long()
    index = stratified(classes[torch.randperm(9010, generator=torch.Generator().manual_seed(0))], 1000, seed=0)
    assert len(index) == 1000 == len(index.unique())
    assert torch.equal(index, index.sort().values)
    shares = classes[stratified(classes, 1000, seed=0)].bincount().tolist()
    assert shares[3] == 3
    assert 5 <= shares[2] <= 7
    assert shares[0] / shares[1] == pytest.approx(5 / 4, abs=0.02)
    assert torch.equal(stratified(classes, 1000, seed=0), stratified(classes, 1000, seed=0))
    assert not torch.equal(stratified(classes, 1000, seed=0), stratified(classes, 1000, seed=1))
    assert stratified(classes, 9010, seed=0).tolist() == list(range(9010))


def test_more_classes_than_there_is_room_for():
    classes = torch.arange(300).repeat_interleave(4)
    drawn = classes[stratified(classes, 100, seed=0)]
    assert len(drawn.unique()) == 100


def test_one_class_of_many_images(fitted, shapes):
    images, labels = shapes(3600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = interpret(fitted, images[1], images[labels == 1], boundaries=5)
    assert found.cuts[-1].coverage == 1
