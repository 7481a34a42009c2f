"""Peeling: round by round, as long as there are images and time."""

import time

import pytest

from fulgurite.callbacks.representative_interpretation.anchors import Options
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.peeling import Peeling, classes_of
from fulgurite.callbacks.representative_interpretation.reference import Reference


@pytest.fixture(scope="module")
def parts(fitted, shapes):
    return split(fitted, "0.2", shapes(16)[0])


@pytest.fixture
def reference(shapes, parts):
    reference = Reference(shapes(200, seed=1)[0])
    reference.read(parts)
    return reference


def test_every_class_has_its_first_group_before_any_has_a_second(reference, parts):
    found = Peeling(reference, parts, Options(6), classes_of(reference, None), groups_per_class=3, smallest=1).run()
    labels = [one.label for one in found]
    assert labels[:3] == [0, 1, 2]
    assert len(labels) > 4
    assert labels == [label for turn in range(3) for label in (0, 1, 2) if labels.count(label) > turn]


def test_each_medoid_is_among_the_images_that_are_left(reference, parts):
    held = {0: set(), 1: set(), 2: set()}
    for one in Peeling(reference, parts, Options(6), (0, 1, 2), groups_per_class=4, smallest=1).run():
        assert one.reference_index not in held[one.label]
        own = [index for index in one.members.tolist() if reference.predicted[index] == one.label]
        assert one.reference_index in own
        assert not held[one.label] & set(own)
        held[one.label] |= set(own)


def test_no_further_group_of_too_few(reference, parts):
    found = Peeling(reference, parts, Options(6), (0, 1, 2), groups_per_class=9, smallest=1000).run()
    assert len(found) == 3
    every = Peeling(reference, parts, Options(6), (0, 1, 2), groups_per_class=99, smallest=1).run()
    assert sum(one.own for one in every) == 200


def test_time_is_over_between_rounds(reference, parts):
    peeling = Peeling(reference, parts, Options(6), (0, 1, 2), groups_per_class=9, smallest=1)
    peeling.deadline = time.monotonic() + 1000
    peeling.progress = lambda done, most: setattr(peeling, "deadline", 0.0 if done == 3 else peeling.deadline)
    assert len(peeling.run()) == 3
    assert peeling.notes == ["time was over before every class had all of its groups"]


def test_classes(reference):
    assert classes_of(reference, None) == (0, 1, 2)
    assert classes_of(reference, {2, 1}) == (1, 2)
    with pytest.raises(ValueError, match="got class 9"):
        classes_of(reference, [1, 9])


def test_no_time_for_an_optimum(reference, parts):
    (only,) = Peeling(reference, parts, Options(6, exact=True), (0, 1, 2), deadline=time.monotonic() - 1).run()
    assert only.gap is None
    assert "the optimum was not proven in time: these are the greedy algorithm's planes" in only.notes
