import copy
import math

import numpy as np
import pytest
import torch

from fulgurite.callbacks.representative_interpretation.drift import Snapshot
from fulgurite.callbacks.representative_interpretation.sampling import Sample
from fulgurite.callbacks.representative_interpretation.survey import class_name, survey
from fulgurite.callbacks.representative_interpretation.views import look


def test_numbers_are_those_of_the_groups(surveyed):
    values = surveyed.snapshot.values
    groups = list(surveyed.groups)
    assert values["groups"] == len(groups) == len(surveyed.views) == len(surveyed.held_out)
    assert values["planes"] == pytest.approx(np.mean([len(group.planes) for group in groups]))
    assert values["label_purity"] == min(group.label_purity for group in groups)
    assert values["coverage"] == surveyed.groups.coverage
    assert values["certificate"] == surveyed.groups.certificate
    assert values["alarms"] == len(surveyed.clues)
    assert surveyed.snapshot.groups == tuple((group.label, tuple(group.members.tolist())) for group in groups)
    assert surveyed.predicted == {
        label: (surveyed.groups.predicted == label).sum() for label in surveyed.groups.predicted.unique().tolist()
    }


def test_held_out_images_are_judged_as_each_group_judges_them(surveyed, shapes):
    _, rest = Sample(*shapes(260, seed=5, patched=2), 400).split(200, seed=0)
    labels = torch.tensor([found.label for found in surveyed.groups])
    inside = torch.stack([found.covers(rest.images) for found in surveyed.groups])
    for found, tested in zip(surveyed.groups, surveyed.held_out, strict=True):
        expected = found.evaluate(rest.images)
        assert tested.coverage == pytest.approx(expected.coverage, nan_ok=True)
        assert tested.purity == pytest.approx(expected.purity, nan_ok=True)
    predicted = surveyed.groups[0].split.logits(rest.images).argmax(1)
    together = [(inside[labels == label].any(0), predicted == label) for label in range(3)]
    both = sum(int((covered & own).sum()) for covered, own in together)
    assert surveyed.snapshot.values["held_out_purity"] == both / sum(int(covered.sum()) for covered, _ in together)
    assert surveyed.snapshot.values["held_out_coverage"] == both / len(rest)


def test_maps_are_those_of_the_interpretation(surveyed):
    view = surveyed.views[0]
    indices = [shown.index for shown in view.shown]
    expected = view.found.heatmap(surveyed.sample.images[indices])
    for shown, heat in zip(view.shown, expected, strict=True):
        np.testing.assert_allclose(shown.heat, heat.numpy(), atol=1e-6)
    assert view.mean_map.sum() == pytest.approx(1)


def test_images_are_shown_in_their_roles(surveyed):
    for view in surveyed.views:
        members = set(view.found.members.tolist())
        by_role = {}
        for shown in view.shown:
            by_role.setdefault(shown.role, []).append(shown)
            assert (shown.index in members) == (shown.role != "left out")
            assert shown.truth == surveyed.sample.labels[shown.index]
        assert [shown.index for shown in by_role["centre"]] == [view.found.reference_index]
        assert by_role["centre"][0].distance == pytest.approx(0, abs=1e-9)
        near = [shown.distance for shown in by_role["member"]]
        assert near == sorted(near)
        for shown in by_role.get("left out", []):
            assert shown.predicted == view.found.label
            assert math.isinf(shown.distance)
        common = max(view.found.label_mix, key=view.found.label_mix.get)
        assert all(shown.truth != common for shown in by_role.get("odd", []))


def test_pasting_the_spot_is_tried_on_other_predictions(fooled, surveyed, shapes):
    """Done by hand for the group with the patch: its spot makes squares of the others, other groups' spots do not."""
    spots = {(clue.label, clue.number): clue for clue in surveyed.clues if clue.kind == "spot"}
    assert len(spots) == 1
    ((label, number), clue) = spots.popitem()
    assert label == 2
    view = next(one for one in surveyed.views if (one.found.label, one.number) == (label, number))
    spot = view.spot
    assert spot.place == "the bottom right corner"
    assert view.mass > 1.5 * view.mass_elsewhere
    members = surveyed.sample.images[view.found.members]
    assert spot.alike == pytest.approx(float((members[:, 0, -3:, -3:].amin((1, 2)) == 1).double().mean()), abs=0.03)
    assert spot.alike_elsewhere == 0
    mask = torch.from_numpy(spot.where)
    giver = next(image for image in members if image[0, -3:, -3:].min() == 1)
    pasted = surveyed.sample.images[surveyed.groups.predicted != 2].clone()
    pasted[..., mask] = giver[..., mask]
    with torch.no_grad():
        turned = float((fooled(pasted).argmax(1) == 2).float().mean())
    assert clue.strength == spot.turned == pytest.approx(turned, abs=0.15)
    assert turned > 0.5
    assert "square, group" in clue.text
    assert len(view.pasted) == 4
    for shown in view.pasted:
        before = surveyed.sample.images[shown.index]
        assert surveyed.groups.predicted[shown.index] == shown.predicted != 2
        outside = torch.as_tensor(shown.pixels[..., 0])[~mask].float() / 255
        torch.testing.assert_close(outside, before[0][~mask] / surveyed.sample.images.max(), atol=0.01, rtol=0)


def test_average_drop_is_of_members(fooled, surveyed):
    for view in surveyed.views:
        assert 0 <= view.drop <= 1
        assert 0 <= view.increase <= 1


def test_the_same_seed_gives_the_same_pass_and_nothing_is_left_behind(fooled, surveyed, shapes):
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in fooled.state_dict().items()}
    first, rest = Sample(*shapes(260, seed=5, patched=2), 400).split(200, seed=0)
    again = survey(
        fooled, first, held_out=rest, boundaries=10, class_names=surveyed.class_names, epoch=3, step=77,
        before=surveyed.snapshot,
    )  # fmt: skip
    assert again.groups.to_dict() == surveyed.groups.to_dict()
    assert again.clues == surveyed.clues
    assert all(pair.jaccard == 1 for pair in again.pairs)
    assert again.snapshot.values["drift"] == 0
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in fooled.state_dict().items())
    assert not any(len(part._forward_hooks) for part in fooled.modules())


def test_a_light_pass_and_few_classes(fitted, shapes):
    sample = Sample(*shapes(150, seed=3), 150)
    found = survey(fitted, sample, full=False, boundaries=10, groups_per_class=1, max_classes=2)
    assert found.snapshot.kind == "light"
    assert len(found.groups) == 2
    assert len(found.predicted) == 3
    assert "2 of 3 predicted classes are interpreted" in " ".join(found.notes)
    assert found.held_out == ()
    assert "held_out_purity" not in found.snapshot.values


def test_another_cut_is_no_drift(fitted, shapes):
    sample = Sample(*shapes(150, seed=3), 150)
    before = Snapshot(0, 0, "light", "elsewhere", sample.fingerprint())
    found = survey(fitted, sample, boundaries=10, groups_per_class=1, before=before)
    assert found.pairs == ()
    assert "jaccard" not in found.snapshot.values
    assert "no drift is given: the pass before looked at another cut, elsewhere" in found.notes


def test_one_predicted_class_only(fitted, shapes):
    images, labels = shapes(150, seed=3)
    with torch.no_grad():
        chosen = fitted(images).argmax(1) == 1
    found = survey(fitted, Sample(images[chosen], labels[chosen], 50), boundaries=10)
    assert found.groups[0].coverage == 1
    assert any("predicted as class 1: there is no boundary to find" in note for note in found.notes)
    assert math.isnan(found.views[0].spot.turned)
    assert found.views[0].mean_rest is None
    assert found.clues == ()


def test_images_that_cannot_be_shown_are_refused(fitted):
    with pytest.raises(ValueError, match=r"got images \(20, 144\); expected \(N, C, H, W\)"):
        survey(fitted, Sample(torch.zeros(20, 144), None, 20))


def test_classes_without_a_name_have_a_number():
    assert [class_name(label, ["cat"]) for label in (0, 1, -1)] == ["cat", "class 1", "class -1"]


def test_a_pass_without_time_has_one_view_and_says_so(fitted, shapes):
    found = survey(fitted, Sample(*shapes(150, seed=3), 150), boundaries=6, time_budget=1e-6, cut="0")
    assert len(found.views) == 1
    assert len(found.groups) >= 1
    assert len(found.groups) == 1 or any("have no pictures" in note for note in found.notes)


def test_what_there_is_no_time_to_try_is_unknown(fitted, shapes, monkeypatch):
    """Time runs out between drawing the views and trying the first of them out."""
    calls = []

    def monotonic():
        calls.append(None)
        return float(len(calls) > 3)

    sample = Sample(*shapes(150, seed=3), 150)
    groups = survey(fitted, sample, boundaries=6, groups_per_class=1, cut="0").groups
    logits = groups[0].split.logits(sample.images)
    monkeypatch.setattr("fulgurite.callbacks.representative_interpretation.views.time.monotonic", monotonic)
    views = look(groups, sample, logits=logits, classify=groups[0].split.logits, deadline=0.5)
    assert len(views) == 3
    assert [math.isnan(view.drop) for view in views] == [math.isnan(view.spot.turned) for view in views]
    assert [math.isnan(view.drop) for view in views] == [False, False, True]


def test_half_precision_has_the_classes_of_the_groups(fitted, shapes):
    """Coarse logits may prefer another class than the head does; only the head's classes have boundaries."""
    half = copy.deepcopy(fitted).bfloat16()
    with torch.no_grad():  # logits far from 0 differ by less than bfloat16 can tell
        half[-1].bias += 2.0**12
    sample = Sample(shapes(150, seed=3)[0], None, 150)
    found = survey(half, sample, held_out=sample, boundaries=10, groups_per_class=1)
    assert found.predicted == found.groups.predicted_counts
    assert {group.label for group in found.groups} == set(found.predicted)
    assert sum(held.covered for held in found.held_out) >= sum(group.own for group in found.groups)


def test_the_reference_is_read_for_the_groups_alone(fitted, shapes):
    calls = []
    hook = fitted.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    try:
        sample = Sample(shapes(150, seed=3)[0], None, 150)
        survey(fitted, sample, cut="1", boundaries=10, groups_per_class=1)
    finally:
        hook.remove()
    assert sum(size == 150 for size in calls) <= 1
