import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.representative_interpretation import margin
from fulgurite.callbacks.representative_interpretation.planes import Planes


def make_planes(weight, bias, *, grade=None, positive=None, point=None, dtype=torch.float64):
    weight = torch.as_tensor(weight, dtype=dtype)
    count = len(weight)
    return Planes(
        weight=weight[:, :, None, None],
        bias=torch.as_tensor(bias, dtype=dtype),
        point=torch.ones(count, weight.shape[1], 1, 1, dtype=dtype) if point is None else point,
        rival=torch.arange(1, count + 1),
        grade=("exact",) * count if grade is None else tuple(grade),
        residual=torch.zeros(count, dtype=dtype),
        positive=torch.ones(count, dtype=torch.bool) if positive is None else torch.tensor(positive),
        label=0,
    )


def draw_planes(count, width, seed, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return make_planes(weight.to(dtype), torch.randn(count, generator=generator, dtype=torch.float64), dtype=dtype)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(0, 5), count=st.integers(0, 4))
@pytest.mark.parametrize("features_dtype", [torch.float16, torch.float32, torch.float64])
def test_values_are_sums_in_float64_whatever_the_features(features_dtype, seed, images, count):
    planes = draw_planes(count, 6, seed)
    features = torch.randn(images, 6, 1, 1, generator=torch.Generator().manual_seed(seed)).to(features_dtype)
    values = planes.value(features)
    assert values.dtype == torch.float64
    assert values.shape == (images, count)
    for image in range(images):
        for plane in range(count):
            wanted = float((planes.weight[plane] * features[image].double()).sum() + planes.bias[plane])
            assert float(values[image, plane]) == pytest.approx(wanted, abs=1e-12)
    assert torch.equal(planes.same_side(features), values >= 0)


def test_planes_in_float32_still_give_values_in_float64():
    planes = draw_planes(3, 6, 0, dtype=torch.float32)
    assert planes.value(torch.ones(2, 6, 1, 1)).dtype == torch.float64


def test_values_do_not_depend_on_how_many_images_come_at_a_time(monkeypatch):
    planes, features = draw_planes(3, 6, 0), torch.rand(11, 6, 1, 1)
    whole = planes.value(features)
    monkeypatch.setattr(margin, "_ELEMENTS", 13)
    torch.testing.assert_close(planes.value(features), whole, rtol=1e-15, atol=1e-15)


def test_sides_are_those_of_the_image_itself():
    planes = make_planes([[1.0, 0.0], [1.0, 0.0]], [0.0, 0.0], positive=[True, False])
    features = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]).reshape(3, 2, 1, 1)
    assert planes.same_side(features).tolist() == [[True, False], [False, True], [True, False]]


def test_features_of_another_cut_are_refused():
    with pytest.raises(ValueError, match=r"got features of shape \(3, 2, 2, 2\); expected \(B, 6, 1, 1\)"):
        draw_planes(3, 6, 0).value(torch.zeros(3, 2, 2, 2))


def test_columns_of_unequal_length_are_refused():
    planes = draw_planes(3, 6, 0)
    with pytest.raises(ValueError, match="as many of each"):
        Planes(**{**vars(planes), "bias": planes.bias[:2]})
    with pytest.raises(ValueError, match="'sure'; expected one of tangent, segment, exact"):
        Planes(**{**vars(planes), "grade": ("exact", "sure", "exact")})


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0]), [True, False, True], torch.tensor([1, 0, 1]) > 0])
def test_planes_are_selected_by_number_or_mask(index):
    planes = make_planes([[1.0], [2.0], [3.0]], [4.0, 5.0, 6.0], grade=["exact", "tangent", "segment"])
    wanted = [2, 0] if list(index) == [2, 0] else [0, 2]
    chosen = planes.select(index)
    assert chosen.weight.flatten().tolist() == [[1.0, 2.0, 3.0][number] for number in wanted]
    assert chosen.bias.tolist() == [[4.0, 5.0, 6.0][number] for number in wanted]
    assert chosen.rival.tolist() == [number + 1 for number in wanted]
    assert chosen.grade == tuple(planes.grade[number] for number in wanted)
    assert chosen.label == 0


def test_nothing_is_selected_by_an_empty_list():
    none = draw_planes(3, 6, 0).select([])
    assert len(none) == 0
    assert none.value(torch.zeros(4, 6, 1, 1)).shape == (4, 0)
    assert none.same_side(torch.zeros(4, 6, 1, 1)).all(dim=1).tolist() == [True] * 4
    assert none.share("exact") == 0.0
    assert len(none.unique()) == 0


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), copies=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_planes_equal_up_to_scale_are_kept_once(seed, copies):
    generator = torch.Generator().manual_seed(seed)
    distinct = draw_planes(4, 6, seed)
    scale = torch.rand(len(copies), generator=generator, dtype=torch.float64) * 10 + 0.1
    scale *= torch.where(torch.rand(len(copies), generator=generator) < 0.5, 1.0, -1.0)
    weight, bias = distinct.weight.flatten(1)[copies] * scale[:, None], distinct.bias[copies] * scale
    planes = make_planes(weight, bias, positive=(scale > 0).tolist())
    kept = planes.unique()
    firsts = [copies.index(number) for number in dict.fromkeys(copies)]
    assert kept.rival.tolist() == [first + 1 for first in firsts]
    features = torch.randn(20, 6, 1, 1, generator=generator)
    assert torch.equal(kept.same_side(features).all(dim=1), planes.same_side(features).all(dim=1))


def test_of_equal_planes_the_best_graded_is_kept():
    grades = ["tangent", "segment", "exact", "exact", "segment"]
    planes = make_planes([[1.0, 2.0]] * 4 + [[2.0, 1.0]], [1.0] * 5, grade=grades)
    kept = planes.unique()
    assert kept.rival.tolist() == [3, 5]
    assert kept.grade == ("exact", "segment")


def test_planes_that_differ_a_little_or_in_their_side_stay_two():
    planes = make_planes([[1.0, 0.0], [1.0, 1e-6], [1.0, 0.0]], [1.0, 1.0, 1.0], positive=[True, True, False])
    assert len(planes.unique()) == 3
    assert len(make_planes([[1.0, 0.0], [1.0, 0.0]], [1.0, 1.000001]).unique()) == 2


def test_shares_are_of_just_that_grade():
    planes = make_planes([[1.0]] * 4, [0.0] * 4, grade=["exact", "exact", "segment", "exact"])
    assert [planes.share(grade) for grade in ("exact", "segment", "tangent")] == [0.75, 0.25, 0.0]


def test_the_state_loads_as_plain_weights():
    planes = make_planes([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0], grade=["segment", "exact"], positive=[True, False])
    file = io.BytesIO()
    torch.save(planes.state_dict(), file)
    file.seek(0)
    loaded = Planes.from_state_dict(torch.load(file, weights_only=True))
    for name, value in vars(planes).items():
        other = getattr(loaded, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value
