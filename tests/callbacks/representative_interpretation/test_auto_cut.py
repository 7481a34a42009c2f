"""Which cut is taken, and what is said of the others."""

import time
import warnings

import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation import CutError, DegenerateCutWarning, cut_table, measuring
from fulgurite.callbacks.representative_interpretation import auto_cut as module
from fulgurite.callbacks.representative_interpretation.anchors import Options
from fulgurite.callbacks.representative_interpretation.auto_cut import choose_cut, cut_of, warn_if_degenerate
from fulgurite.callbacks.representative_interpretation.measuring import Measuring
from fulgurite.callbacks.representative_interpretation.reference import Reference


@pytest.fixture(scope="module")
def images(shapes):
    return shapes(240, seed=1)[0]


@pytest.fixture
def pooled(images):
    """Affine behind its last convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Conv2d(i, o, 3), nn.ReLU()) for i, o in ((1, 6), (6, 6), (6, 8))]
        model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        model[5].weight *= 100
        model[5].bias -= model(images).mean(0)
    return model.eval()


def measured_as(monkeypatch, coverage):
    """Make each cut cover what the test says."""

    def measure(measuring, parts, *, even_affine):
        measuring.reference.read(parts)
        row = module.CutRow(parts.name, parts.shape, True, parts.affine, None, None, None, None, "")
        if parts.affine and not even_affine:
            return row
        return module.replace(row, coverage=coverage[parts.name], purity=1.0, planes=1.0, exact=1.0)

    monkeypatch.setattr(Measuring, "row", measure)


def verdicts(choice):
    return {row.name: row.verdict for row in choice.rows}


def test_the_last_cut_that_says_more_than_the_class(fitted, images, monkeypatch):
    measured_as(monkeypatch, {"0.2": 0.2, "1.3": 0.95})
    reference = Reference(images)
    choice = choose_cut(fitted, reference)
    assert choice.split.name == "1.3"
    assert verdicts(choice) == {"0.2": "not measured", "1.3": "chosen"}
    assert verdicts(choose_cut(fitted, reference, every=True)) == {"0.2": "earlier than needed", "1.3": "chosen"}
    choice = choose_cut(fitted, reference, most_coverage=0.9)
    assert verdicts(choice) == {"0.2": "chosen", "1.3": "covers above 90%"}
    assert reference.split_for((fitted, None, "0.2")) is choice.split


def test_affine_heads_are_skipped(pooled, images, monkeypatch):
    measured_as(monkeypatch, {"0.1": 0.3, "1.1": 0.6, "2.1": 0.1})
    choice = choose_cut(pooled, Reference(images))
    assert verdicts(choice) == {"0.1": "not measured", "1.1": "chosen", "2.1": "affine behind it"}
    assert choice.rows[2].coverage is None
    choice = choose_cut(pooled, Reference(images), every=True)
    assert choice.split.name == "1.1"
    assert choice.rows[2].coverage == 0.1


def test_where_none_is_left_the_one_that_covers_least(pooled, images, monkeypatch):
    measured_as(monkeypatch, {"0.1": 0.99, "1.1": 0.98})
    with pytest.warns(DegenerateCutWarning, match=r"every cut says little: .* covers 98\.0%") as caught:
        choice = choose_cut(pooled, Reference(images))
    assert caught[0].filename == __file__
    assert verdicts(choice) == {
        "0.1": "covers above 95%",
        "1.1": "chosen: no cut says more",
        "2.1": "affine behind it",
    }


def test_nothing_but_an_affine_head(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        model[4].bias -= model(images).mean(0)
    with pytest.warns(DegenerateCutWarning, match="affine"):
        choice = choose_cut(model, Reference(images))
    assert (choice.split.name, verdicts(choice)) == ("1", {"1": "chosen: no cut says more"})


def test_real_measurements(fitted, images):
    reference = Reference(images)
    choice = choose_cut(fitted, reference, options=Options(boundaries=12), most_coverage=0.99, every=True)
    for row in choice.rows:
        assert 0 < row.coverage <= 1
        assert 0.5 < row.purity <= 1
        assert 1 <= row.planes <= 12
        assert row.exact == 1 or row.name == "0.2"
    assert choice.rows[0].coverage < choice.rows[1].coverage


def test_maps_too_large_to_be_tried(fitted, images, monkeypatch):
    monkeypatch.setattr(measuring, "_LARGEST", 16 * 50 * 8 * 144 - 1)
    choice = choose_cut(fitted, Reference(images), most_coverage=1.0, every=True)
    assert choice.split.name == "1.3"
    assert verdicts(choice)["0.2"] == "too large to be tried: name it to use it"


def test_time_is_over(fitted, images, monkeypatch):
    measured_as(monkeypatch, {"0.2": 0.2, "1.3": 0.99})
    with pytest.warns(DegenerateCutWarning):
        choice = choose_cut(fitted, Reference(images), deadline=time.monotonic() - 1)
    assert verdicts(choice) == {"0.2": "not measured", "1.3": "chosen: no cut says more"}


def test_one_predicted_class_is_no_reason_to_look_at_every_cut(fitted, shapes):
    images, labels = shapes(90)
    choice = choose_cut(fitted, Reference(images[labels == 1]))
    assert verdicts(choice) == {"0.2": "not measured", "1.3": "chosen: no cut says more"}


def test_no_cut_at_all(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(CutError, match="name a cut that you know of"):
        choose_cut(model, Reference(images))


class TestFirstRun:
    def test_images_of_another_size(self, fitted):
        for cut in ("1", "auto"):
            with pytest.raises(
                ValueError, match=r"failed on images \(9, 1, 8, 8\) \(RuntimeError: .*; expected the torch"
            ):
                cut_of(fitted, Reference(torch.rand(9, 1, 8, 8)), cut, options=Options())

    def test_memory_that_is_short_is_nothing_else(self, images):
        class Large(nn.Module):
            def forward(self, images):
                raise torch.OutOfMemoryError

        with pytest.raises(torch.OutOfMemoryError):
            cut_of(Large(), Reference(images), "auto", options=Options())


class TestCutOf:
    def test_what_is_known_is_not_chosen_again(self, fitted, images, monkeypatch):
        measured_as(monkeypatch, {"0.2": 0.2, "1.3": 0.99})
        reference = Reference(images)
        first = cut_of(fitted, reference, "auto", options=Options())
        again = cut_of(fitted, reference, "auto", options=Options())
        assert again.split is first.split
        assert again.rows == first.rows
        named = cut_of(fitted, reference, "0.2", options=Options())
        assert (named.split is first.split, named.rows) == (True, ())

    def test_another_cut_is_read_anew(self, fitted, images, monkeypatch):
        measured_as(monkeypatch, {"0.2": 0.2, "1.3": 0.99})
        reference = Reference(images)
        first = cut_of(fitted, reference, "auto", options=Options())
        assert cut_of(fitted, reference, "1.3", options=Options()).split.name == "1.3"
        assert cut_of(fitted, reference, "auto", options=Options()).split is not first.split


class TestWarning:
    def choice(self, model, images, cut):
        reference = Reference(images)
        return reference, cut_of(model, reference, cut, options=Options())

    def test_an_affine_head(self, pooled, images):
        reference, choice = self.choice(pooled, images, "2.1")
        with pytest.warns(
            DegenerateCutWarning, match=r"at the cut '2\.1' .* affine: .*; try the cut '1\.1', or cut='a"
        ):
            warn_if_degenerate(pooled, reference, choice, alone=False)

    def test_once_a_reading(self, pooled, images):
        reference, choice = self.choice(pooled, images, "2.1")
        with pytest.warns(DegenerateCutWarning):
            warn_if_degenerate(pooled, reference, choice, alone=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_degenerate(pooled, reference, choice, alone=False)

    def test_much_coverage_and_no_earlier_cut(self, fitted, images):
        reference, choice = self.choice(fitted, images, "0.2")
        with pytest.warns(DegenerateCutWarning, match=r"covers 97\.0% .*; there is no earlier cut"):
            warn_if_degenerate(fitted, reference, choice, coverage=0.97, alone=False)

    def test_nothing_to_say(self, fitted, images):
        reference, choice = self.choice(fitted, images, "1.3")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_degenerate(fitted, reference, choice, coverage=0.95, alone=False)


@pytest.mark.filterwarnings("error")
class TestTable:
    def test_every_cut_is_measured(self, pooled, images):
        table = cut_table(pooled, images, boundaries=6)
        assert [row.name for row in table] == ["0.1", "1.1", "2.1"]
        assert all(0 < row.coverage <= 1 and 0 < row.purity <= 1 and row.planes for row in table)
        assert table[2].affine
        assert table[:2] == table.rows[:2]
        lines = str(table).splitlines()
        assert len(lines) == 4
        assert next(line for line in lines if "chosen" in line).startswith(table.chosen)

    def test_it_chooses_as_auto_does(self, fitted, images):
        reference = Reference(images)
        table = cut_table(fitted, reference, boundaries=12, most_coverage=0.99)
        choice = choose_cut(fitted, Reference(images), options=Options(boundaries=12), most_coverage=0.99)
        assert table.chosen == choice.split.name
        assert cut_table(fitted, images, boundaries=12, most_coverage=0.99) == table

    def test_time_may_be_over(self, fitted, images):
        table = cut_table(fitted, images, deadline=time.monotonic() - 1, boundaries=6)
        assert [row.coverage is None for row in table] == [True, False]
        assert table[0].verdict == "not measured"

    def test_bad_input(self, fitted, images):
        with pytest.raises(ValueError, match="boundaries=0"):
            cut_table(fitted, images, boundaries=0)
        with pytest.raises(ValueError, match=r"expected a torch\.nn\.Module"):
            cut_table(lambda images: images, images)
