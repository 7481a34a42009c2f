"""What an interpretation says of other images."""

import copy
import json

import pytest
import torch

from fulgurite.callbacks.representative_interpretation import interpret
from fulgurite.callbacks.representative_interpretation.interpretation import Evaluation, Interpretation


@pytest.fixture(scope="module")
def reference(shapes):
    return shapes(300, seed=1)


@pytest.fixture(scope="module")
def unseen(shapes):
    return shapes(280, seed=2)


@pytest.fixture(scope="module")
def found(fitted, reference):
    images, labels = reference
    return interpret(fitted, images[1], images, labels=labels, cut="0.2", boundaries=15)


@pytest.fixture(scope="module")
def sides(fitted, found, unseen):
    """By hand: whether on x's side of each plane, and the semantic distance."""
    with torch.no_grad():
        features, x = (fitted[0](images).double() for images in (unseen[0], found.image[None]))
    value, origin = (
        torch.einsum("qkhw,bkhw->bq", found.planes.weight, psi) + found.planes.bias for psi in (features, x)
    )
    assert torch.equal(origin[0] >= 0, found.planes.positive)
    return ((value >= 0) == (origin >= 0)).all(1), (value - origin).abs().sum(1)


def test_covers_and_distance(found, unseen, sides):
    inside, distance = sides
    assert 0 < inside.sum() < 280
    assert torch.equal(found.covers(unseen[0]), inside)
    measured = found.distance(unseen[0])
    assert measured.dtype == torch.float64
    assert torch.allclose(measured[inside], distance[inside], rtol=1e-5)
    assert measured[~inside].isinf().all()


def test_rank_is_of_the_covered_nearest_first(found, unseen, sides):
    inside, distance = sides
    order = found.rank(unseen[0])
    assert sorted(order.tolist()) == inside.nonzero().flatten().tolist()
    assert (distance[order].diff() >= -1e-6).all()
    assert found.rank(unseen[0][~inside]).tolist() == []


def test_members_are_what_covers_says_of_the_reference(found, reference):
    assert found.covers(reference[0]).nonzero().flatten().tolist() == found.members.tolist()
    assert torch.allclose(found.distance(reference[0])[found.members], found.distances, atol=1e-6)
    assert found.rank(reference[0])[0] == 1


def test_evaluation(found, unseen, sides, fitted):
    inside, _ = sides
    images, labels = unseen
    with torch.no_grad():
        own = fitted(images).argmax(1) == found.label
    held_out = found.evaluate(images, labels)
    assert (held_out.images, held_out.own, held_out.covered) == (280, int(own.sum()), int(inside.sum()))
    assert held_out.own_covered == int((own & inside).sum())
    assert held_out.coverage == held_out.own_covered / held_out.own
    assert held_out.purity == held_out.own_covered / held_out.covered
    assert held_out.accuracy == pytest.approx(float((labels[inside] == found.label).double().mean()))
    assert found.evaluate(images).accuracy is None
    with pytest.raises(ValueError, match="for 280 images; expected a whole number for each"):
        found.evaluate(images, labels[:3])
    nothing = Evaluation(images=3, own=0, covered=0, own_covered=0, accuracy=None)
    assert nothing.coverage != nothing.coverage
    assert nothing.purity != nothing.purity


@pytest.mark.parametrize("maps", ["channel", "elementwise"])
def test_heat_maps(found, unseen, maps):
    heat = found.heatmap(unseen[0][:5], maps=maps)
    assert heat.shape == (5, 12, 12)
    assert 0 <= heat.min() <= heat.max() <= 1
    assert heat.amax() > 0.5
    assert found.heatmap(unseen[0][:2], maps=maps, size=(30, 20)).shape == (2, 30, 20)


def test_the_kind_of_map_that_was_asked_for_is_the_default(found, fitted, reference, unseen):
    images, _ = reference
    other = interpret(fitted, images[1], images, cut="0.2", boundaries=15, maps="elementwise")
    batch = unseen[0][:3]
    assert torch.equal(other.heatmap(batch), found.heatmap(batch, maps="elementwise"))
    assert torch.equal(found.heatmap(batch), found.heatmap(batch, maps="channel"))
    assert not torch.equal(found.heatmap(batch), other.heatmap(batch))


def test_a_model_that_has_changed_is_refused(fitted, reference):
    images, _ = reference
    model = copy.deepcopy(fitted)
    found = interpret(model, images[0], images, cut="0.2", boundaries=5)
    assert found.covers(images[:3]).shape == (3,)
    model[0][1].running_mean.data[0] += 1e-3
    for method in (found.covers, found.distance, found.rank, found.heatmap, found.evaluate):
        with pytest.raises(ValueError, match="weights have changed"):
            method(images[:3])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(2, 1, 8, 8), r"got images \(2, 1, 8, 8\); expected \(B, 1, 12, 12\)"),
        (torch.zeros(1, 12, 12), r"expected \(B, 1, 12, 12\)"),
        (torch.zeros(2, 1, 12, 12, dtype=torch.uint8), "of uint8; expected a float"),
        (torch.full((2, 1, 12, 12), torch.nan), "NaN or infinity"),
        (torch.zeros(0, 1, 12, 12), "at least one image"),
        ([1], "images as list"),
    ],
)
def test_bad_images(found, images, said):
    for method in (found.covers, found.rank, found.heatmap, found.evaluate):
        with pytest.raises(ValueError, match=said):
            method(images)


def test_words(found, fitted, reference):
    images, _ = reference
    assert repr(found).startswith("Interpretation(label=1, cut='0.2', planes=")
    text = str(found)
    assert f"{len(found.planes)} of 15 boundaries hold {found.own} of {found.class_size} images" in text
    assert "true labels: " in text
    exact = interpret(fitted, images[1], images, cut="0.2", boundaries=15, exact=True)
    assert f"{exact.gap:.1%} below the optimum" in str(exact)
    assert "true labels" not in str(exact)
    assert exact.label_mix is exact.label_purity is None


def test_as_plain_json(found):
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain == found.to_dict()
    assert "seconds" not in plain
    assert plain["members"] == found.members.tolist()
    assert len(plain["planes"]) == len(found.planes)
    assert {plane["grade"] for plane in plain["planes"]} <= {"exact", "segment", "tangent"}


def test_batches_are_those_that_were_asked_for(fitted, reference, tmp_path):
    images, _ = reference
    found = interpret(fitted, images[1], images, cut="0.2", boundaries=5, batch_size=70)
    found.save(tmp_path / "found.pt")
    for one in (found, Interpretation.load(tmp_path / "found.pt", fitted)):
        seen = []
        handle = fitted[0][0].register_forward_hook(lambda module, given, output, seen=seen: seen.append(len(given[0])))
        try:
            one.covers(images[:200])
        finally:
            handle.remove()
        assert seen == [70, 70, 60]
