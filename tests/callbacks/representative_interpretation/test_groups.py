"""Groups of every predicted class, and the shortcut that they lay bare."""

import json
import time

import numpy as np
import pytest
import torch
from torch import nn

from fulgurite.callbacks.representative_interpretation import DegenerateCutWarning, Groups, interpret, interpret_classes
from fulgurite.callbacks.representative_interpretation.groups import Interpretation
from fulgurite.callbacks.representative_interpretation.reference import Reference

pytestmark = pytest.mark.filterwarnings(
    "ignore::fulgurite.callbacks.representative_interpretation.DegenerateCutWarning"
)


@pytest.fixture(scope="module")
def reference(shapes):
    return shapes(300, seed=1)


@pytest.fixture(scope="module")
def groups(fitted, reference):
    images, labels = reference
    return interpret_classes(fitted, images, labels=labels, cut="0.2", boundaries=10, groups_per_class=3, smallest=5)


def test_groups_are_peeled_off(groups, fitted, reference):
    images, _ = reference
    with torch.no_grad():
        predicted = fitted(images).argmax(1)
    assert isinstance(groups, Groups)
    assert len(groups) == len(list(groups)) > 3
    assert all(isinstance(one, Interpretation) for one in groups)
    assert groups[:2] == (groups[0], groups[1])
    assert sorted(groups.by_class) == [0, 1, 2]
    assert [one.label for one in groups] == sorted(one.label for one in groups)
    for label, of_class in groups.by_class.items():
        own = [set(one.members[predicted[one.members] == label].tolist()) for one in of_class]
        assert sum(map(len, own)) == len(set().union(*own)) == sum(one.own for one in of_class)
        assert [one.own for one in of_class] == [len(members) for members in own]
        assert all(one.reference_index in one.members.tolist() for one in of_class)
        assert {one.class_size for one in of_class} == {int((predicted == label).sum())}
        assert 1 <= len(of_class) <= 3
        left = of_class[0].class_size - sum(one.own for one in of_class)
        assert len(of_class) == 3 or left < 5


def test_the_numbers_of_all(groups, fitted, reference):
    images, labels = reference
    with torch.no_grad():
        predicted = fitted(images).argmax(1)
    covered = torch.cat([one.members[predicted[one.members] == one.label] for one in groups]).unique()
    assert groups.coverage == pytest.approx(len(covered) / 300)
    purity = [
        sum(one.own for one in of_class) / sum(len(one.members) for one in of_class)
        for of_class in groups.by_class.values()
    ]
    sizes = [of_class[0].class_size for of_class in groups.by_class.values()]
    assert groups.purity == pytest.approx(np.average(purity, weights=sizes))
    assert 0 <= groups.certificate <= 1
    assert groups.predicted_counts == dict(enumerate(predicted.bincount().tolist()))
    assert groups.label_counts == {0: 100, 1: 100, 2: 100}
    assert groups.num_images == 300
    assert torch.equal(groups.labels, labels)
    assert (groups.cut, groups.cuts) == ("0.2", ())
    assert f"{len(groups)} groups of 3 classes" in str(groups)
    assert len(str(groups).splitlines()) == 2 + len(groups)
    assert "Groups(" in repr(groups)


def test_the_first_group_is_the_medoid_interpreted(groups, fitted, reference):
    images, labels = reference
    first = groups.by_class[1][0]
    alone = interpret(fitted, images[first.reference_index], images, labels=labels, cut="0.2", boundaries=10)
    ours, theirs = first.to_dict(), alone.to_dict()
    for one in (ours, theirs):
        del one["reference_index"], one["notes"]
    assert ours == theirs


def test_a_shortcut_shows_in_the_maps_and_in_the_ranking(fooled, shapes):
    """Half of the squares in training had a patch in the corner, which says "square" to the net.

    With the patch or without, a square is on the same side of every boundary to another class, so that both are in one
    group. Where its maps lie, and how far its members are from one with the patch, tells them apart.
    """
    images, labels = shapes(600, seed=3, patched=2)
    patched = (images[:, 0, -3:, -3:] == 1).flatten(1).all(1)
    groups = interpret_classes(fooled, images, cut="0.2", boundaries=60)
    found = groups.by_class[2][0]

    def in_the_corner(wanted):
        heat = found.heatmap(images[wanted], maps="elementwise")
        return float((heat[:, -4:, -4:].sum((1, 2)) / heat.sum((1, 2))).mean())

    assert in_the_corner(patched) > 3 * 16 / 144
    assert in_the_corner(~patched & (labels == 2)) < 16 / 144
    assert in_the_corner(labels != 2) < 16 / 144
    x = int(patched.nonzero()[0])
    near = interpret(fooled, images[x], images, cut="0.2", boundaries=60).rank(images)
    assert patched[near[: int(patched.sum()) // 2]].all()


def test_the_same_seed_gives_the_same_bytes(groups, fitted, reference, tmp_path):
    images, labels = reference
    options = {"cut": "0.2", "boundaries": 10, "smallest": 5}
    streamed = Reference(images, labels=labels, most_bytes=0)
    again = interpret_classes(fitted, streamed, **options)
    other = interpret_classes(fitted, streamed, seed=1, **options)
    texts = [json.dumps(one.to_dict(), sort_keys=True, allow_nan=False) for one in (groups, again, other)]
    assert texts[0] == texts[1] != texts[2]
    groups.save(tmp_path / "groups.json")
    assert json.loads((tmp_path / "groups.json").read_text()) == json.loads(texts[0])


def test_progress_and_a_few_classes(fitted, reference):
    images, _ = reference
    seen = []
    groups = interpret_classes(
        fitted,
        images,
        classes=[2, 0, 2],
        groups_per_class=np.int64(2),
        cut="1",
        boundaries=5,
        smallest=300,
        progress=lambda done, most: seen.append((done, most)),
    )
    assert [one.label for one in groups] == [0, 2]
    assert seen == [(1, 4), (2, 4)]


@pytest.mark.parametrize("streams", [False, True])
def test_time_that_is_over_leaves_one_group_and_a_note(fitted, reference, streams):
    images = Reference(reference[0], most_bytes=0 if streams else 10**9)
    groups = interpret_classes(fitted, images, cut="1", boundaries=5, deadline=time.monotonic() - 1)
    assert len(groups) == (3 if streams else 1)  # where the reference is streamed, all classes go in one pass
    assert streams or groups.notes == ("time was over before 2 of 3 classes had a group: 1, 2",)
    assert groups.coverage > 0


def test_time_that_is_over_while_the_cut_is_chosen(fitted, reference):
    groups = interpret_classes(fitted, reference[0], boundaries=5, deadline=time.monotonic() - 1)
    assert groups.cut == "1.3"
    assert groups.cuts[0].verdict == "not measured"


def test_one_predicted_class(fitted, reference):
    images, labels = reference
    with pytest.warns(UserWarning, match="are predicted as class 1"):
        groups = interpret_classes(fitted, images[labels == 1], cut="1")
    assert len(groups) == 1
    assert (groups.coverage, groups.purity) == (1, 1)
    assert np.isnan(groups.certificate)
    assert "certified exact –" in str(groups)
    assert "nan" not in str(groups)
    assert json.loads(json.dumps(groups.to_dict(), allow_nan=False))["certificate"] is None


@pytest.mark.filterwarnings("error")
def test_a_cut_that_says_nothing_is_named(rnet, faces):
    with pytest.warns(DegenerateCutWarning, match=r"at the cut 'prelu3' .* covers 100\.0% .* try the cut 'pool2'"):
        groups = interpret_classes(rnet, faces[0], labels=faces[1], cut="prelu3")
    assert groups.certificate == 1
    assert [one.label_mix for one in groups] == [{0: 100}, {1: 100}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups_per_class": 0}, "groups_per_class=0"),
        ({"smallest": 0}, "smallest=0"),
        ({"smallest": 2.0}, r"smallest=2\.0"),
        ({"classes": [7]}, r"got class 7, but no reference image is predicted as it; there are 0, 1, 2"),
        ({"boundaries": 0}, "boundaries=0"),
        ({"cut": "nowhere"}, "there is no cut 'nowhere'"),
    ],
)
def test_bad_input(fitted, reference, options, said):
    with pytest.raises(ValueError, match=said):
        interpret_classes(fitted, reference[0], **({"cut": "1"} | options))


def test_no_classes_are_asked_for(fitted, reference):
    groups = interpret_classes(fitted, reference[0], cut="1", classes=[])
    assert len(groups) == 0
    assert np.isnan(groups.coverage)
    assert "0 groups" in str(groups)
    assert "nan" not in str(groups)


def test_the_model_stays_as_it_was(make_network, reference):
    with torch.random.fork_rng():
        model = make_network()
    with torch.no_grad():
        model[5].bias -= model.eval()(reference[0]).mean(0)
    model.append(nn.Dropout()).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    interpret_classes(model, reference[0], cut="1", boundaries=5, groups_per_class=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
