"""Several images share a pass over the reference, and come to the same as one by one."""

import time

import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation import anchors as module
from fulgurite.callbacks.representative_interpretation.anchors import (
    Options,
    anchors_of,
    boundaries_of,
    interpret_anchors,
    interpret_in_blocks,
)
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.reference import Reference

INDEX = [0, 7, 20, 33]


@pytest.fixture(scope="module")
def images(shapes):
    return shapes(200, seed=1)[0]


@pytest.fixture(scope="module")
def parts(fitted, images):
    return split(fitted, "0.2", images[:16])


@pytest.fixture(scope="module")
def one_by_one(images, parts):
    reference = Reference(images)
    return [interpret_anchors(reference, parts, anchors_of(reference, parts, [i]), Options(8))[0] for i in INDEX]


@pytest.mark.parametrize(
    ("most_bytes", "block"), [(10**9, 1), (0, 1), (0, 10**9), (0, 3 * 8 * 10 * (2 * 8 * 144 + 200))]
)
def test_in_one_pass_or_in_several(images, parts, one_by_one, most_bytes, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    reference = Reference(images, most_bytes=most_bytes)
    reference.read(parts)
    sizes = []
    found = interpret_in_blocks(
        reference, parts, anchors_of(reference, parts, INDEX), Options(8), until=lambda found: sizes.append(len(found))
    )
    assert sizes == ([1, 2, 3, 4] if most_bytes or block == 1 else [4] if block == 10**9 else [3, 4])
    assert [one.to_dict() for one in found] == [one.to_dict() for one in one_by_one]
    assert [one.reference_index for one in found] == INDEX


def test_stopping_early(images, parts):
    reference = Reference(images)
    anchors = anchors_of(reference, parts, INDEX)
    assert len(interpret_in_blocks(reference, parts, anchors, Options(8), until=lambda found: len(found) == 2)) == 2


@pytest.fixture(scope="module")
def many():
    """A net of 26 classes, and images that it gives nearly all of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 32), nn.ReLU())
        model.append(nn.Linear(32, 26))
    images = torch.randn(1500, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[5].bias -= model(images).mean(0)
    return split(model, "1", images[:16]), images


def test_more_boundaries_where_there_are_many_classes(many):
    parts, images = many
    reference = Reference(images)
    reference.read(parts)
    assert len(reference.counts) > 21
    (found,) = interpret_anchors(reference, parts, anchors_of(reference, parts, [0]), Options(10))
    assert found.sampled == boundaries_of(Options(10), len(reference.counts) - 1) == 100
    assert "100 boundaries are sampled, not 10, to meet more of the other classes" in found.notes
    (plenty,) = interpret_anchors(reference, parts, anchors_of(reference, parts, [0]), Options(120))
    assert plenty.sampled == 120
    assert not any("are sampled" in note for note in plenty.notes)


def test_memory_is_reckoned_with_the_boundaries_that_are_drawn(many, monkeypatch):
    parts, images = many
    reference = Reference(images, most_bytes=0)
    reference.read(parts)
    sizes = []
    monkeypatch.setattr(module, "_BLOCK", 2 * 8 * 100 * (2 * 96 + 1500))
    anchors = anchors_of(reference, parts, list(range(4)))
    interpret_in_blocks(reference, parts, anchors, Options(10), until=lambda found: sizes.append(len(found)))
    assert sizes == [2, 4]


def test_segments_without_a_boundary_are_counted(images, parts, monkeypatch):
    reference = Reference(images)
    found = module.find_planes
    monkeypatch.setattr(module, "find_planes", lambda *given, **options: found(*given, **options).select([0, 2, 3]))
    (one,) = interpret_anchors(reference, parts, anchors_of(reference, parts, [0]), Options(8))
    assert one.sampled == 3
    assert "7 of 10 segments gave no boundary, as where classes tie all over" in one.notes


def test_no_images_to_interpret(images, parts):
    assert interpret_anchors(Reference(images), parts, [], Options(8)) == []


def test_an_optimum_is_looked_for_in_the_time_that_is_left(images, parts, monkeypatch):
    reference, asked = Reference(images), []
    optimal = module.optimal_cover

    def watched(off, own, *, delta, time_limit):
        asked.append(time_limit)
        return optimal(off, own, delta=delta, time_limit=time_limit)

    monkeypatch.setattr(module, "optimal_cover", watched)
    anchors, options = anchors_of(reference, parts, INDEX[:2]), Options(8, exact=True)
    for left in (None, 1000.0, 20.0):
        deadline = None if left is None else time.monotonic() + left
        assert all(
            one.gap is not None for one in interpret_in_blocks(reference, parts, anchors, options, deadline=deadline)
        )
    assert asked[:4] == [60.0] * 4
    assert all(10 < limit < 20 for limit in asked[4:])
    (late, _) = interpret_in_blocks(reference, parts, anchors, options, deadline=time.monotonic() - 1)
    assert len(asked) == 6
    assert late.gap is None
    assert "the optimum was not proven in time: these are the greedy algorithm's planes" in late.notes


def test_images_of_earlier_groups_count_no_more(images, parts, one_by_one):
    reference = Reference(images)
    (anchor,) = anchors_of(reference, parts, [0])
    first = one_by_one[0]
    gone = torch.zeros(200, dtype=torch.bool)
    gone[first.members[first.members != 0][:10]] = True
    gone &= reference.predicted == first.label
    (second,) = interpret_anchors(reference, parts, [module.replace(anchor, gone=gone)], Options(8))
    assert not set(second.members.tolist()) & set(gone.nonzero().flatten().tolist())
    assert second.class_size == first.class_size
    assert second.own <= first.class_size - int(gone.sum())


def test_planes_are_kept_on_the_cpu_and_features_apart(images, parts):
    reference = Reference(images)
    found, _ = interpret_anchors(reference, parts, anchors_of(reference, parts, [3, 4]), Options(8))
    assert found.planes.weight.dtype == torch.float64
    assert found.planes.weight.device.type == "cpu"
    # A view would keep the whole reference's feature maps alive.
    assert found.planes.point.shape == found.planes.weight.shape
    assert found.planes.point.isnan().all()
    assert found.planes.point.untyped_storage().nbytes() == 8
    for kept in (found.anchor, found.image, found.planes.weight):
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()
