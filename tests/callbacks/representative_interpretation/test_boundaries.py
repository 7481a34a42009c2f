import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.callbacks.representative_interpretation import margin
from fulgurite.callbacks.representative_interpretation.boundaries import find_planes


def linear(weight, bias):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.load_state_dict({"weight": weight, "bias": torch.as_tensor(bias, dtype=torch.float64)})
    return layer


def diamond():
    """z = (1 − |x| − |y|, 0): class 0 within the diamond of four known planes ±x ± y = 1."""
    corners = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0] * 4)
    return nn.Sequential(nn.Flatten(), corners, nn.ReLU(), linear([[-1.0] * 4, [0.0] * 4], [1.0, 0.0]))


def spread(rows):
    return torch.as_tensor(rows, dtype=torch.float64).reshape(-1, 2, 1, 1)


def scaled(planes):
    """Unit normals with their offsets, (Q, d + 1), oriented so that x is on the positive side."""
    rows = torch.cat([planes.weight.flatten(1), planes.bias[:, None]], dim=1)
    rows = rows / planes.weight.flatten(1).norm(dim=1, keepdim=True)
    return torch.where(planes.positive[:, None], rows, -rows)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_planes_of_the_diamond_are_its_edges(seed):
    rng = np.random.default_rng(seed)
    start = spread(rng.uniform(-0.4, 0.4, 2))[0]
    angle, far = rng.uniform(0, 2 * np.pi, 20), rng.uniform(1.1, 50.0, (20, 1))
    ends = spread(far * np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.sqrt(2))
    planes = find_planes(diamond(), start, ends, label=0, probes=spread(rng.normal(size=(9, 2))), seed=0)
    assert len(planes) == 20
    sign = planes.point.flatten(1).sign()
    edges = torch.cat([-sign, torch.ones(20, 1)], dim=1) / 2**0.5
    torch.testing.assert_close(scaled(planes), edges, rtol=0, atol=1e-12)
    assert set(planes.grade) == {"exact"}
    assert bool(planes.positive.all())
    assert float((planes.point.flatten(1).abs().sum(dim=1) - 1).abs().max()) < 1e-12, "the crossing is on the edge"
    across = torch.linalg.cross(
        torch.nn.functional.pad((planes.point - start).flatten(1), (0, 1)),
        torch.nn.functional.pad((ends - start).flatten(1), (0, 1)),
    )
    assert float(across.abs().max()) < 1e-10, "and on the segment"


def affine_of(head, point):
    """The affine function that a Linear–ReLU–Linear–ReLU–Linear net is around a point, by its active units alone."""
    weight, bias = np.eye(len(point)), np.zeros(len(point))
    for layer in head:
        if isinstance(layer, nn.Linear):
            inner = layer.weight.detach().numpy()
            weight, bias = inner @ weight, inner @ bias + layer.bias.detach().numpy()
        elif isinstance(layer, nn.ReLU):
            active = weight @ point + bias > 0
            weight, bias = weight * active[:, None], bias * active
    return weight, bias


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), coarse=st.sampled_from([torch.float32, torch.float64]))
def test_planes_of_random_polytopes_are_those_of_their_active_units(seed, coarse):
    generator = torch.Generator().manual_seed(seed)
    sizes = [2, 16, 12, 3]
    layers = [
        linear(torch.randn(b, a, generator=generator), torch.randn(b, generator=generator))
        for a, b in itertools.pairwise(sizes)
    ]
    head = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    features = spread(4 * torch.randn(60, 2, generator=generator, dtype=torch.float64)).to(coarse)
    single = nn.Sequential(*[nn.Linear(a.in_features, a.out_features) for a in layers])
    single.load_state_dict({f"{n}.{k}": v for n, a in enumerate(layers) for k, v in a.state_dict().items()})
    native = nn.Sequential(nn.Flatten(), single[0], nn.ReLU(), single[1], nn.ReLU(), single[2])

    def both(points):
        return head(points) if points.dtype == torch.float64 else native(points)

    predicted = both(features).argmax(dim=1)
    label = int(predicted[0])
    planes = find_planes(both, features[0], features[1:], label=label, probes=features, seed=seed)
    assert len(planes) == int((predicted != label).sum())
    assert planes.weight.dtype == torch.float64
    for number in range(len(planes)):
        weight, bias = affine_of(head, planes.point[number].flatten().numpy())
        rival = int(planes.rival[number])
        scale = np.linalg.norm(weight[label] - weight[rival])
        wanted = np.append(weight[label] - weight[rival], bias[label] - bias[rival]) / scale
        got = np.append(planes.weight[number].flatten().numpy(), planes.bias[number]) / scale
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
        logits = weight @ planes.point[number].flatten().numpy() + bias
        assert abs(logits[label] - logits[rival]) <= 1e-12 * max(1.0, np.abs(logits).max())
        assert logits.max() <= logits[label] + 1e-9, "the two are the highest"
    assert set(planes.grade) <= {"exact"}


def test_planes_behind_global_average_pooling_are_differences_of_weights():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(10, generator=generator, dtype=torch.float64)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(weight, bias))
    features = 3 * torch.randn(300, 6, 4, 5, generator=generator, dtype=torch.float64)
    label = int(head(features[:1]).argmax())
    planes = find_planes(head, features[0], features[1:], label=label, probes=features[:20], seed=0)
    assert set(planes.grade) == {"exact"}
    assert len(planes.unique()) == len(set(planes.rival.tolist())) <= 9
    for number in range(len(planes)):
        rival = int(planes.rival[number])
        wanted = (weight[label] - weight[rival]) / 20
        expected = wanted[:, None, None].expand(6, 4, 5)
        torch.testing.assert_close(planes.weight[number], expected, rtol=1e-12, atol=1e-14)
        assert float(planes.bias[number]) == pytest.approx(float(bias[label] - bias[rival]), abs=1e-12)


def random_head(*, seed=0, activation=nn.ReLU, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 40), activation(), nn.Linear(40, classes)).double()


def random_features(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, 2, 3, 3, generator=generator, dtype=torch.float64)


def found(head, features, **options):
    label = int(head(features[:1]).argmax())
    return find_planes(head, features[0], features[1:], label=label, probes=features, seed=0, **options)


def test_a_single_logit_beside_zero_has_one_rival():
    inner = random_head(classes=1)
    features = random_features(60)

    def head(points):
        logit = inner(points)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)

    planes = found(head, features)
    assert len(planes) > 5
    assert set(planes.rival.tolist()) == {1 - planes.label}
    assert set(planes.grade) == {"exact"}


def test_ends_that_are_not_of_another_class_give_no_plane():
    head, features = random_head(), random_features(60)
    predicted = head(features).argmax(dim=1)
    features[5] = features[0]
    wanted = int((predicted[[i for i in range(60) if i != 5]] != predicted[0]).sum())
    planes = found(head, features)
    assert len(planes) == wanted < 59
    own = features[predicted == predicted[0]]
    none = find_planes(head, features[0], own, label=int(predicted[0]), probes=features, seed=0)
    assert len(none) == 0
    assert none.weight.shape == (0, 2, 3, 3)
    assert none.grade == ()


@pytest.mark.parametrize("polish", [True, False])
def test_without_ends_there_are_no_planes(polish):
    head, features = random_head(), random_features(5)
    label = int(head(features[:1]).argmax())
    planes = find_planes(head, features[0], features[:0], label=label, probes=features, seed=0, polish=polish)
    assert len(planes) == 0
    assert planes.same_side(features).shape == (5, 0)


def test_equal_ends_give_equal_planes():
    head, features = random_head(), random_features(60)
    predicted = head(features).argmax(dim=1)
    end = features[predicted != predicted[0]][:1]
    planes = find_planes(head, features[0], end.repeat(7, 1, 1, 1), label=int(predicted[0]), probes=features, seed=0)
    assert len(planes) == 7
    assert len(planes.unique()) == 1


def test_another_label_than_the_head_gives_is_refused():
    head, features = random_head(), random_features(30)
    label = int(head(features[:1]).argmin())
    with pytest.raises(ValueError, match=f"got label={label}, but the head prefers another class at the start"):
        find_planes(head, features[0], features[1:], label=label, probes=features, seed=0)


def test_where_classes_tie_all_over_a_region_there_is_no_plane():
    """Logits that end in ReLU are 0 together on one side; elsewhere the boundary is met as ever."""
    generator = torch.Generator().manual_seed(0)
    rows, bias = torch.randn(3, 18, generator=generator), torch.tensor([-1.0, -1.0, -1.0])
    head = nn.Sequential(nn.Flatten(), linear(rows, bias), nn.ReLU())
    features = random_features(200)
    logits = head(features).detach()
    label = 0  # which argmax gives to ties, too
    start = features[(logits.argmax(dim=1) == label) & (logits.amax(dim=1) > 0)][0]
    others = features[logits.argmax(dim=1) != label]
    planes = find_planes(head, start, others, label=label, probes=features, seed=0)
    assert 0 < len(planes) < len(others), "some segments go through the region of ties"
    assert float(planes.weight.flatten(1).norm(dim=1).min()) > 0.1
    at = head(planes.point).detach()
    assert set(planes.grade) == {"exact"}
    assert float(at.amax(dim=1).min()) > 0, "no crossing in the region of ties"
    flat = nn.Sequential(*head, nn.Hardtanh(0.0, 1e-300))
    assert len(find_planes(flat, start, others, label=label, probes=features, seed=0)) == 0


def test_shapes_that_do_not_fit_are_refused():
    head, features = random_head(), random_features(30)
    with pytest.raises(ValueError, match=r"got start \(2, 3, 3\), ends \(2, 3, 3\)"):
        find_planes(head, features[0], features[1], label=0, probes=features, seed=0)


def test_an_image_just_beside_its_boundary_gets_the_plane_as_well():
    """What float32 takes for c may be another class in float64, by rounding."""
    head, native = diamond(), diamond().float()
    start = spread([[0.5, 0.5 - 1e-9]])[0].float()
    planes = find_planes(
        lambda points: head(points) if points.dtype == torch.float64 else native(points),
        start,
        spread([[1.0, 2.0], [5.0, 1.0]]).float(),
        label=0,
        probes=spread([[0.1, 0.3]]),
        seed=0,
    )
    torch.testing.assert_close(planes.weight.flatten(1), torch.full((2, 2), -1.0, dtype=torch.float64))
    assert planes.grade == ("exact", "exact")


def test_the_head_is_called_a_few_times_for_all_ends_together():
    head, features, calls = random_head(), random_features(80), []

    def watched(points):
        calls.append(len(points))
        return head(points)

    planes = found(watched, features)
    assert len(planes) >= 50
    assert len(calls) <= 18, "one for the label above, one to see how large its layers are"
    assert calls[1] == 1


def test_no_call_of_the_head_is_larger_than_its_layers_allow(monkeypatch):
    head, features, calls = random_head(), random_features(80), []

    def watched(points):
        calls.append(len(points))
        return head(points)

    whole = found(watched, features)
    assert max(calls[2:]) > 50
    monkeypatch.setattr(margin, "_ACTIVATIONS", 1000)
    calls.clear()
    parts = found(watched, features)
    assert calls[1:3] == [1, 6], "without a graph four times 40 hidden numbers"
    assert max(calls) == 11, "with one, 40 + 40 and the 4 logits"
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-12, atol=1e-12)
    assert parts.grade == whole.grade


def test_planes_do_not_depend_on_how_many_ends_go_at_a_time(monkeypatch):
    head, features = random_head(), random_features(60)
    whole = found(head, features)
    monkeypatch.setattr(margin, "_ELEMENTS", 100)
    parts = found(head, features)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.point, whole.point, rtol=1e-12, atol=1e-12)
    assert parts.grade == whole.grade


def test_the_net_and_what_was_handed_in_are_left_as_they_were():
    head = nn.Sequential(nn.ReLU(inplace=True), *random_head())
    features = random_features(60)
    kept, state = features.clone(), torch.get_rng_state()
    with torch.inference_mode():
        planes = found(head, features.clone())
        label = planes.label
        find_planes(head, features[0], features[1:], label=label, probes=features, seed=0, polish=False)
    assert torch.equal(features, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in head.parameters())
    assert not planes.weight.requires_grad
    assert not planes.bias.requires_grad
    assert not planes.weight.is_inference()


def test_features_that_still_hang_on_their_graph_are_taken_as_numbers():
    head, features = random_head(), random_features(60)
    hanging = features.clone().requires_grad_() * 1
    label = int(head(features[:1]).argmax())
    planes = find_planes(head, hanging[0], hanging[1:], label=label, probes=hanging, seed=0)
    torch.testing.assert_close(planes.weight, found(head, features).weight, rtol=0, atol=0)
    assert not any(tensor.requires_grad for tensor in vars(planes).values() if isinstance(tensor, torch.Tensor))


def test_a_smooth_head_is_met_where_its_classes_tie_and_graded_tangent():
    head, features = random_head(activation=nn.SiLU), random_features(60)
    planes = found(head, features, exact=False)
    assert set(planes.grade) == {"tangent"}
    assert float(planes.residual.max()) < 1e-13
    leaf = planes.point.clone().requires_grad_()
    logits = head(leaf)
    value = logits[:, planes.label] - logits[range(len(planes)), planes.rival]
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(planes.weight, gradient, rtol=1e-9, atol=1e-12)


def test_the_released_rule_stops_at_a_small_gap():
    head, features = random_head(), random_features(60)
    planes = found(head, features, polish=False)
    polished = found(head, features)
    assert 1e-9 < float(planes.residual.max()) < 10**-2.5
    assert float(polished.residual.max()) < 1e-13
    assert planes.grade.count("exact") < 5
    assert set(polished.grade) == {"exact"}
