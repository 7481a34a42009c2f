"""Interpretations on disk: the same again, for the same model alone."""

import copy
import os

import pytest
import torch

from fulgurite.callbacks.representative_interpretation import CutError, Interpretation, interpret
from fulgurite.callbacks.representative_interpretation.saved import FORMAT


@pytest.fixture(scope="module")
def found(fitted, shapes):
    images, labels = shapes(300, seed=1)
    return interpret(fitted, images[1], images, labels=labels, boundaries=15, exact=True, maps="elementwise")


@pytest.fixture
def path(found, tmp_path):
    found.save(tmp_path / "folder" / "found.pt")
    return tmp_path / "folder" / "found.pt"


@pytest.mark.filterwarnings("ignore::fulgurite.callbacks.representative_interpretation.DegenerateCutWarning")
def test_all_of_it_returns(found, path, fitted, shapes):
    images, _ = shapes(60, seed=4)
    again = Interpretation.load(path, copy.deepcopy(fitted))
    assert again.to_dict() == found.to_dict()
    assert (again.seconds, again.gap, again.label_mix, again.cuts) == (
        found.seconds,
        found.gap,
        found.label_mix,
        found.cuts,
    )
    assert str(again) == str(found)
    assert torch.equal(again.distances, found.distances)
    assert torch.equal(again.distance(images), found.distance(images))
    assert torch.equal(again.heatmap(images), found.heatmap(images))
    assert torch.equal(Interpretation.load(path, fitted, images).covers(images), found.covers(images))


def test_plain_types_alone(path):
    state = torch.load(path, weights_only=True)
    assert FORMAT in state["header"]
    assert os.listdir(path.parent) == [path.name]


def test_what_is_not_defined_stays_so(fitted, shapes, tmp_path):
    images, labels = shapes(300, seed=1)
    lonely = interpret(fitted, images[1], images[labels != 1], cut="1", boundaries=5)
    lonely.save(tmp_path / "lonely.pt")
    again = Interpretation.load(tmp_path / "lonely.pt", fitted)
    assert again.coverage != again.coverage
    assert again.notes == lonely.notes
    assert again.to_dict() == lonely.to_dict()


def test_another_model_is_refused(path, fitted):
    other = copy.deepcopy(fitted)
    with torch.no_grad():
        other[5].bias[0] += 1e-6
    with pytest.raises(ValueError, match="another model, or other weights"):
        Interpretation.load(path, other)


def test_a_model_without_the_cut(path):
    with pytest.raises(CutError, match="there is no cut"):
        Interpretation.load(path, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)))


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04 no archive"])
def test_a_file_that_is_none(tmp_path, fitted, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match="is no saved interpretation"):
        Interpretation.load(tmp_path / "x.pt", fitted)


@pytest.mark.parametrize(
    "state",
    [
        {"other": 1},
        {"header": "[]"},
        {"header": "no json"},
        {"header": '{"format": "fulgurite-representative-interpretation", "version": 99}'},
        {"header": '{"format": "fulgurite-representative-interpretation", "version": 1}'},
        [],
    ],
)
def test_another_content(tmp_path, fitted, state):
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is"):
        Interpretation.load(tmp_path / "x.pt", fitted)


def test_no_file(fitted, tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        Interpretation.load(tmp_path / "x.pt", fitted)


def test_nothing_half_written(found, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no space left")

    (tmp_path / "found.pt").write_text("old")
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        found.save(tmp_path / "found.pt")
    assert (tmp_path / "found.pt").read_text() == "old"
    assert os.listdir(tmp_path) == ["found.pt"]
