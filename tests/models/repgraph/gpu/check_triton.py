"""Checks of the Triton kernels, run by test_operator.py in a process of their own: in the interpreter, or on a device.

Whether kernels are interpreted is settled when they are imported, so the process that runs other tests cannot do it.
"""

import gc
import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fulgurite.models.repgraph.bag import attend_by_bag
from fulgurite.models.repgraph.gpu import attend_by_triton, supported
from fulgurite.models.repgraph.gpu import launch as triton_launch
from fulgurite.models.repgraph.grid_sample import attend_by_grid_sample
from fulgurite.models.repgraph.layer import RepGraph2d

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="needs TRITON_INTERPRET=1 or a CUDA device")
on_device = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


class Case(NamedTuple):
    batch: int = 1
    size: tuple[int, int] = (3, 4)
    groups: int = 1
    depth: int = 5
    nodes: int = 3
    far: int = 0
    tied: bool = True
    far_tied: bool = True
    whole: bool = False  # positions on pixels
    seed: int = 0


class Inputs(NamedTuple):
    query: Tensor
    key: Tensor
    value: Tensor
    positions: Tensor
    global_key: Tensor | None
    global_value: Tensor | None

    def leaves(self, dtype):
        """Leaves of a type; what was one tensor stays one."""
        made = {}
        for tensor in self:
            if tensor is not None and id(tensor) not in made:
                kind = torch.promote_types(dtype, torch.float32) if tensor is self.positions else dtype
                made[id(tensor)] = tensor.detach().to(kind, copy=True).requires_grad_()
        return Inputs(*(None if tensor is None else made[id(tensor)] for tensor in self)), list(made.values())


def make(case, dtype=torch.float32):
    generator = torch.Generator().manual_seed(case.seed)
    pixels, rows = case.size[0] * case.size[1], (case.groups, case.depth)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    query, key = (random(case.batch, pixels, *rows) for _ in range(2))
    value = key if case.tied else random(case.batch, pixels, *rows)
    far_key = random(case.batch, case.far, *rows) if case.far else None
    far_value = far_key if case.far_tied or not case.far else random(case.batch, case.far, *rows)
    positions = torch.rand(case.batch, pixels, case.groups, case.nodes, 2, generator=generator)
    positions = positions * torch.tensor([case.size[0] - 1, case.size[1] - 1])
    return Inputs(query, key, value, (positions.round() if case.whole else positions).to(DEVICE), far_key, far_value)


def run(function, inputs, size, dtype, **options):
    """The answer, then gradients of all that is differentiable."""
    (query, key, value, positions, *far), leaves = inputs.leaves(dtype)
    y = function(query, key, value, positions, size, *far, **options)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    return [y.detach(), *torch.autograd.grad(y, leaves, weight.to(y.dtype))]


def check(case, *, deterministic, dtype=torch.float32, forward=1e-5, backward=1e-4):
    inputs = make(case, dtype)
    mine = run(attend_by_triton, inputs, case.size, dtype, deterministic=deterministic)
    theirs = run(attend_by_bag, inputs, case.size, torch.float64)
    for number, (got, expected) in enumerate(zip(mine, theirs, strict=True)):
        assert got.shape == expected.shape
        if not got.numel():
            continue
        bound = backward * (1 + expected.abs().max().item()) if number else forward
        error = (got.double() - expected).abs().max().item()
        assert error <= bound, f"result {number} of {case} is off by {error:.1e}, more than {bound:.1e}"


cases = st.builds(
    Case,
    batch=st.integers(0, 2),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    groups=st.integers(1, 3),
    depth=st.integers(1, 9),
    nodes=st.integers(1, 5),
    far=st.integers(0, 3),
    tied=st.booleans(),
    far_tied=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


@settings(deadline=None, max_examples=25)
@example(case=Case(size=(1, 5)), deterministic=False)
@example(case=Case(size=(5, 1), whole=True), deterministic=True)
@example(case=Case(batch=0, far=2, tied=False, far_tied=False), deterministic=True)
@given(case=cases, deterministic=st.booleans())
def test_equals_the_bag_in_double(case, deterministic):
    check(case, deterministic=deterministic)


# The first has several programs of queries, the second wide rows, the third spans of global nodes.
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        Case(batch=2, size=(9, 8), groups=2, depth=6, nodes=2, far=2, tied=False, far_tied=False),
        Case(size=(2, 3), depth=513, nodes=2, far=1),
        Case(size=(17, 16), depth=3, nodes=1, far=2),
    ],
)
def test_larger_cases(case, deterministic):
    check(case, deterministic=deterministic)


@pytest.mark.parametrize("far", [0, 2])
def test_equals_grid_sample(far):
    case = Case(batch=2, size=(5, 6), groups=2, depth=12, nodes=9, far=far, tied=False)
    query, key, value, positions, *rest = make(case)
    theirs = attend_by_grid_sample(query, key, value, positions, case.size, *rest)
    mine = attend_by_triton(query, key, value, positions, case.size, *rest)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_half_precision(dtype, tolerance, deterministic):
    case = Case(size=(4, 6), depth=24, nodes=4, far=2)
    check(case, deterministic=deterministic, dtype=dtype, forward=tolerance, backward=tolerance)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy, of infinity in the interpreter
def test_the_border_is_read_outside_and_nan_is_not_followed():
    rows = torch.arange(6.0, device=DEVICE).view(1, 6, 1, 1)
    places = torch.tensor([[-3.0, -1e30], [1e30, 9.0], [-0.5, 2.5], [5.0, -0.5], [-torch.inf, 0.0], [torch.nan, 1.0]])
    positions = places.view(1, 6, 1, 1, 2).to(DEVICE).requires_grad_()
    for deterministic in (False, True):
        y = attend_by_triton(rows, rows, rows, positions, (2, 3), deterministic=deterministic)
        assert y.flatten()[:4].tolist() == [0.0, 5.0, 2.0, 3.0]
        assert y.flatten()[5].isnan()
        (slope,) = torch.autograd.grad(y.sum(), positions)
        assert not slope.view(6, 2)[:4].any()


def test_in_order_repeats_bit_by_bit_and_agrees_with_atomics():
    # All queries look at a corner: its taps fill several spans.
    case = Case(size=(10, 11), depth=4, nodes=4, far=2, tied=False, far_tied=False)
    inputs = make(case)
    inputs.positions[0].clamp_(max=1.2)
    first, second = (run(attend_by_triton, inputs, case.size, torch.float32, deterministic=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.use_deterministic_algorithms(True)
    try:
        switched = run(attend_by_triton, inputs, case.size, torch.float32, deterministic=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, switched, strict=True))
    loose = run(attend_by_triton, inputs, case.size, torch.float32)
    for one, other in zip(first, loose, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    check(case, deterministic=True)


def test_a_whole_span_in_one_row_is_summed_once():
    case = Case(size=(16, 17), depth=2, nodes=1, whole=True)
    inputs = make(case)
    inputs.positions.zero_()  # 272 taps on the first row: two spans and a rest
    mine = run(attend_by_triton, inputs, case.size, torch.float32, deterministic=True)
    theirs = run(attend_by_bag, inputs, case.size, torch.float64)
    for got, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_it_keeps_no_samples():
    case = Case(size=(8, 9), depth=16, nodes=9)
    query, key, _, positions, *_ = make(case).leaves(torch.float32)[0]
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = attend_by_triton(query, key, key, positions, case.size)
    # Query, keys, answer, positions, and one number a query.
    pixels = 8 * 9
    assert sum(kept.values()) == 4 * (3 * pixels * 16 + pixels * 9 * 2 + pixels)
    y.sum().backward()


def test_the_denominator_is_differentiable():
    case = Case(depth=4)
    inputs, leaves = make(case).leaves(torch.float32)
    operator = torch.ops.fulgurite.repgraph_attention
    arguments = (inputs.query, inputs.key, None, inputs.positions, *case.size, None, None, False)
    _, lse = operator(*arguments)
    mine = torch.autograd.grad(lse.sum(), leaves)
    wide, sources = inputs.leaves(torch.float64)
    # By finite differences along a direction: no other function gives it.
    for leaf, slope in zip(sources, mine, strict=True):
        direction = torch.randn_like(leaf)
        step = 1e-3
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                moved = [x if x is None else (x + sign * step * direction if x is leaf else x).float() for x in wide]
                values.append(operator(moved[0], moved[1], None, moved[3], *case.size, None, None, False)[1].sum())
        found = (values[0] - values[1]).double() / (2 * step)
        torch.testing.assert_close((slope.double() * direction).sum(), found, rtol=2e-2, atol=2e-2)


def test_it_cannot_be_differentiated_twice():
    query, key, value, positions, *_ = make(Case()).leaves(torch.float32)[0]
    y = attend_by_triton(query, key, value, positions, (3, 4))
    (slope,) = torch.autograd.grad(y.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="repgraph_attention_backward"):
        slope.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # by opcheck itself
@pytest.mark.parametrize("case", [Case(size=(2, 2)), Case(size=(2, 2), far=2, tied=False, far_tied=False)])
def test_the_operators_are_sound(case):
    operators = torch.ops.fulgurite
    leaves, _ = make(case).leaves(torch.float32)
    value, far_value = (None if case.tied else leaves.value), (None if case.far_tied else leaves.global_value)
    arguments = (leaves.query, leaves.key, value, leaves.positions, *case.size, leaves.global_key, far_value, True)
    torch.library.opcheck(operators.repgraph_attention.default, arguments)
    with torch.no_grad():
        y, lse = operators.repgraph_attention(*arguments)
        plain = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
        torch.library.opcheck(
            operators.repgraph_attention_backward.default, (torch.ones_like(y), torch.zeros_like(lse), y, lse, *plain)
        )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_layer_compiles_whole_and_agrees(memory_format):
    torch.manual_seed(0)
    layer = RepGraph2d(8, groups=2, num_nodes=3, global_nodes=1).to(DEVICE)
    query = layer.embed(torch.rand(1, 8, 4, 5, device=DEVICE)).detach().to(memory_format=memory_format)
    positions = layer.positions(query).detach()

    def attend(rows, positions):
        return attend_by_triton(rows, rows, rows, positions, (4, 5))

    rows = query.permute(0, 2, 3, 1).reshape(1, 20, 2, -1)
    compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
    results = []
    for function in (attend, compiled):
        leaves = rows.clone().requires_grad_(), positions.clone().requires_grad_()
        y = function(*leaves)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), leaves)))
    torch.testing.assert_close(*results)


def test_rows_need_not_be_contiguous():
    case = Case(batch=2, size=(3, 5), groups=2, depth=4)
    inputs = make(case)
    loose = inputs.key.transpose(1, 3).contiguous().transpose(1, 3)
    assert not loose.is_contiguous()
    mine = attend_by_triton(loose, loose, loose, inputs.positions, case.size)
    theirs = attend_by_bag(loose, loose, loose, inputs.positions, case.size)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_what_it_refuses():
    query, key, value, positions, *_ = make(Case())
    assert supported(query, key, value, positions, (3, 4)) is None
    assert supported(query.double()) == "rows are float64, and it computes in float32"
    assert supported(query.long()) == "rows are int64, and it takes float32, float16 or bfloat16"
    assert supported(query, key.half()) == "query is float32 and key float16, and it takes rows of one type"
    assert supported(query.new_zeros(1, 1, 1, 1025)) == "rows have 1025 channels, and it takes 1 to 1024"
    with pytest.raises(ValueError, match="rows are float64, and it computes in float32; use backend='bag'"):
        attend_by_triton(query.double(), key.double(), value.double(), positions, (3, 4))
    with pytest.raises(ValueError, match=r"got key of shape \(1, 12, 1, 5\); want \(1, 15, 1, 5\)"):
        attend_by_triton(query, key, value, positions, (3, 5))
    with pytest.raises(ValueError, match="got positions of shape"):
        attend_by_triton(query, key, value, positions[:, 1:], (3, 4))
    with pytest.raises(ValueError, match="want both or neither"):
        attend_by_triton(query, key, value, positions, (3, 4), key[:, :2])
    with pytest.raises(ValueError, match="global nodes of shapes"):
        attend_by_triton(query, key, value, positions, (3, 4), key[:, :2], key[:, :3])
    with pytest.raises(ValueError, match="neither sampled nor global nodes"):
        attend_by_triton(query, key, value, positions[..., :0, :], (3, 4))


@on_device
class TestDevice:
    """What only a device shows: races, real block shapes, memory."""

    @pytest.mark.parametrize("deterministic", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("side", [33, 97])
    def test_real_sizes(self, side, dtype, deterministic):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        case = Case(batch=2, size=(side, side), depth=256, nodes=9, far=9)
        check(case, deterministic=deterministic, dtype=dtype, forward=tolerance, backward=10 * tolerance)

    @pytest.mark.parametrize("depth", [1, 20, 512, 1024])
    def test_depths(self, depth):
        for tied in (False, True):
            check(Case(size=(20, 31), depth=depth, nodes=4, tied=tied), deterministic=False)

    def test_large_maps_repeat_bit_by_bit(self):
        case = Case(batch=2, size=(97, 97), depth=256, nodes=9, far=4)
        inputs = make(case, torch.bfloat16)
        inputs.positions[0].clamp_(max=5.5)
        runs = [run(attend_by_triton, inputs, case.size, torch.bfloat16, deterministic=True) for _ in range(3)]
        for other in runs[1:]:
            assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))

    def test_peak_memory_is_not_above_scaled_dot_product_attentions(self):
        side, depth, nodes = 97, 256, 9
        rows = torch.randn(1, side * side, 1, depth, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        positions = torch.rand(1, side * side, 1, nodes, 2, device=DEVICE) * (side - 1)
        positions.requires_grad_()

        def fused():
            return attend_by_triton(rows, rows, rows, positions, (side, side))

        def dense():
            heads = rows.transpose(1, 2)
            return functional.scaled_dot_product_attention(heads, heads, heads)

        peaks = []
        for function in (fused, dense):
            for _ in range(2):  # the first compiles
                gc.collect()
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                function().sum().backward()
                rows.grad = positions.grad = None
                peak = torch.cuda.max_memory_allocated() - before
            peaks.append(peak)
        assert peaks[0] <= peaks[1], f"fused {peaks[0] / 2**20:.1f} MiB, dense {peaks[1] / 2**20:.1f} MiB"

    def test_another_device_than_the_current_one(self):
        if torch.cuda.device_count() < 2:
            pytest.skip("needs two CUDA devices")
        given = [x.to("cuda:1") if isinstance(x, Tensor) else x for x in make(Case())]
        assert attend_by_triton(*given[:4], (3, 4)).device.index == 1


def test_blocks_by_size():
    if INTERPRETED:
        assert triton_launch.rows_of_program(7, 8, 2048) == 128
    else:
        assert triton_launch.rows_of_program(128 * 256, 256, 2048) == 8
