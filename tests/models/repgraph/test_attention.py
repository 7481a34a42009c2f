"""Three ways to attend to sampled nodes agree, at every size; what they are given is checked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.repgraph.attention import attend_to_nodes, choose_backend


def case(seed, batch, height, width, nodes, groups, tied, cells, kind, places="between", depth=3):
    draw = torch.Generator().manual_seed(seed)

    def rows(count):
        return torch.randn(batch, count, groups, depth, generator=draw, dtype=torch.double).to(kind).requires_grad_()

    query, key = rows(height * width), rows(height * width)
    value = key if tied else rows(height * width)
    share = torch.rand(batch, height * width, groups, nodes, 2, generator=draw, dtype=torch.double)
    span = torch.tensor([height, width], dtype=torch.double)
    if places == "between":  # inside, and never closer than 0.1 to a kink
        cell = (share * (span - 1).clamp(min=1)).floor()
        share = torch.rand(share.shape, generator=draw, dtype=torch.double)
        positions = torch.minimum(cell + 0.1 + 0.8 * share, (span - 1.1).clamp(min=0))
        positions = torch.where(span > 1, positions, torch.zeros_like(positions))
    elif places == "integer":
        positions = (share * span).floor()
    else:
        positions = (share * 3 - 1) * span
    far = [rows(cells), rows(cells)] if cells else [None, None]
    return query, key, value, positions.to(kind).requires_grad_(), (height, width), far


def gradients(backend, given, seed):
    query, key, value, positions, size, far = given
    out = attend_to_nodes(query, key, value, positions, size, global_key=far[0], global_value=far[1], backend=backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double).to(out.dtype)
    wanted = [x for x in (query, key, value, positions, *far) if x is not None]
    return out, torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True)


SHAPES = {
    "seed": st.integers(0, 2**31),
    "batch": st.integers(1, 2),
    "height": st.integers(1, 5),
    "width": st.integers(1, 5),
    "nodes": st.integers(1, 4),
    "groups": st.integers(1, 2),
    "tied": st.booleans(),
    "cells": st.sampled_from([0, 1, 4]),
}


@settings(deadline=None, max_examples=60)
@given(**SHAPES)
def test_values_and_gradients_agree_with_grid_sample(seed, **shape):
    given = case(seed, kind=torch.double, **shape)
    ours, our_gradients = gradients("bag", given, seed)
    reference, gradients_of_reference = gradients("grid_sample", given, seed)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    height, width = given[4]
    for i, (a, b) in enumerate(zip(our_gradients, gradients_of_reference, strict=True)):
        if i == 3 and min(height, width) == 1:  # on a border grid_sample has no gradient by definition
            continue
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(**SHAPES, places=st.sampled_from(["integer", "anywhere"]))
def test_integer_and_outside_positions_agree_with_grid_sample(seed, **shape):
    given = case(seed, kind=torch.double, **shape)
    ours, our_gradients = gradients("bag", given, seed)
    reference, gradients_of_reference = gradients("grid_sample", given, seed)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)
    for i, (a, b) in enumerate(zip(our_gradients, gradients_of_reference, strict=True)):
        if i != 3:  # positions on a kink have one derivative to each side
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(**SHAPES, places=st.sampled_from(["between", "integer", "anywhere"]))
def test_float32_agrees(seed, **shape):
    given = case(seed, kind=torch.float32, **shape)
    torch.testing.assert_close(
        gradients("bag", given, seed)[0], gradients("grid_sample", given, seed)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("tied", [True, False])
def test_gradcheck_twice(tied):
    query, key, value, positions, size, far = case(3, 1, 3, 2, 2, 1, tied, 1, torch.double, depth=2)

    def attend(query, key, positions, far_key, far_value, *rest):
        value = rest[0] if rest else key
        return attend_to_nodes(query, key, value, positions, size, global_key=far_key, global_value=far_value)

    inputs = (query, key, positions, *far, *([] if tied else [value]))
    assert torch.autograd.gradcheck(attend, inputs)
    assert torch.autograd.gradgradcheck(attend, inputs)


def test_one_node_on_the_query_gives_its_value():
    query, key, value, _, size, _ = case(0, 2, 4, 5, 1, 2, False, 0, torch.double)
    own = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0)).view(1, 20, 1, 1, 2).expand(2, 20, 2, 1, 2)
    for backend in ("bag", "grid_sample"):
        out = attend_to_nodes(query, key, value, own, size, backend=backend)
        torch.testing.assert_close(out, value, rtol=0, atol=1e-5 if backend == "grid_sample" else 0)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_nodes_on_every_pixel_are_full_attention(kind):
    query, key, value, _, size, _ = case(1, 2, 4, 3, 1, 2, False, 0, kind)
    every = torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0)).to(kind).expand(2, 12, 2, 12, 2)
    ours = attend_to_nodes(query, key, value, every, size)
    full = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
    torch.testing.assert_close(ours, full.transpose(1, 2), rtol=0, atol=1e-5 if kind == torch.float32 else 1e-6)


def test_a_nan_position_is_seen_in_the_answer_and_nowhere_else():
    query, key, value, positions, size, _ = case(2, 1, 3, 3, 2, 1, False, 0, torch.float32)
    positions = positions.detach().clone()
    positions[0, 4, 0, 1, 0] = torch.nan
    positions[0, 5, 0, 1, 1] = torch.inf
    out = attend_to_nodes(query, key, value, positions, size, backend="bag")
    assert out[0, 4].isnan().all()
    assert out[0, [0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all()


def test_empty_batch():
    query, key, value, positions, size, _ = case(2, 0, 3, 3, 2, 1, False, 0, torch.float32)
    for backend in ("bag", "grid_sample"):
        out = attend_to_nodes(query, key, value, positions, size, backend=backend)
        assert out.shape == (0, 9, 1, 3)
        out.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"size": (4, 3)}, "a row for each pixel"),
        (lambda a: a | {"value": a["value"][..., :2]}, "want the same shape"),
        (lambda a: a | {"query": a["query"][..., :2]}, "same batch, groups, depth"),
        (lambda a: a | {"positions": a["positions"][:, :4]}, "got positions"),
        (lambda a: a | {"positions": a["positions"].bfloat16()}, "want float32 or float64"),
        (lambda a: a | {"global_key": a["key"]}, "both or neither"),
        (lambda a: a | {"global_key": a["key"][..., :1], "global_value": a["key"]}, "got global_key"),
        (lambda a: a | {"key": a["key"][0]}, "want \\(B, N, G, D\\)"),
    ],
)
def test_shapes_are_checked(change, message):
    query, key, value, positions, size, _ = case(0, 1, 3, 3, 2, 1, False, 0, torch.float32)
    given = {"query": query, "key": key, "value": value, "positions": positions, "size": size}
    with pytest.raises(ValueError, match=message):
        attend_to_nodes(**change(given))


def test_auto_takes_the_bag_on_the_cpu_and_whatever_is_asked_for_otherwise():
    rows = torch.zeros(1, 4, 1, 8)
    assert choose_backend("auto", rows) == "bag"
    assert choose_backend("grid_sample", rows) == "grid_sample"
    assert choose_backend("triton", rows) == "triton"
