import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.models.dynamic_gnn import cpu_rows, recurrence
from fulgurite.models.dynamic_gnn.exponential import sigmoid, tanh
from fulgurite.models.dynamic_gnn.recurrence import lstm, reset_first_gru
from fulgurite.models.sparse_network.cpu import threads
from fulgurite.plugins.compiled import compiled


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def lstm_case(steps, vertices, inputs, size, *, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    module = nn.LSTM(inputs, size).to(dtype)
    x, h, c = (
        draw(*shape, seed=seed + number, dtype=dtype).requires_grad_()
        for number, shape in enumerate([(steps, vertices, inputs), (vertices, size), (vertices, size)])
    )
    return module, x, h, c


def losses(outputs, seed=5):
    return sum((out * draw(*out.shape, seed=seed + number).to(out)).sum() for number, out in enumerate(outputs))


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 5),
    vertices=st.integers(1, 140),
    inputs=st.integers(1, 9),
    size=st.integers(1, 9),
)
@settings(deadline=None, max_examples=40)
def test_lstm_is_torchs(seed, steps, vertices, inputs, size):
    module, x, h, c = lstm_case(steps, vertices, inputs, size, seed=seed)
    got = lstm(x, h, c, module)
    hidden, (last, cell) = module(x, (h[None], c[None]))
    expected = hidden, last[0], cell[0]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    inputs = [x, h, c, *module.parameters()]
    for one, other in zip(
        torch.autograd.grad(losses(got), inputs), torch.autograd.grad(losses(expected), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_lstm_in_single_precision():
    module, x, h, c = lstm_case(6, 80, 5, 6, dtype=torch.float32)
    torch.testing.assert_close(lstm(x, h, c, module)[0], module(x, (h[None], c[None]))[0], rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 4),
    vertices=st.integers(1, 90),
    inputs=st.integers(1, 40),
    size=st.integers(17, 40),
    rows=st.sampled_from([1, 30, 1000]),
    number=st.sampled_from([1, 3]),
)
@settings(deadline=None, max_examples=25)
def test_wide_kernels_are_torchs_and_a_loop(seed, steps, vertices, inputs, size, rows, number):
    module, x, h, c = lstm_case(steps, vertices, inputs, size, seed=seed)
    gates, weight = draw(steps, vertices, 3 * size, seed=seed).requires_grad_(), draw(3 * size, size) / size**0.5
    weight.requires_grad_()
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "_LSTM_STATES", 0)
        patch.setattr(cpu_rows, "_NUMBERS", 4 * size * rows)
        patch.setattr(threads, "INLINE_BELOW", 0)
        try:
            torch.set_num_threads(number)
            got = lstm(x, h, c, module)
            found = torch.autograd.grad(losses(got), [x, h, c, *module.parameters()])
            states = reset_first_gru(gates, h, weight)
            turned = torch.autograd.grad(losses(states), [gates, h, weight])
        finally:
            torch.set_num_threads(before)
            threads.close()
    hidden, (last, cell) = module(x, (h[None], c[None]))
    expected = hidden, last[0], cell[0]
    close(got, expected)
    close(found, torch.autograd.grad(losses(expected), [x, h, c, *module.parameters()]))
    expected = gru_by_loop(gates, h, weight)
    close(states, expected)
    close(turned, torch.autograd.grad(losses(expected), [gates, h, weight]))


def close(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def gru_by_loop(gates, state, weight):
    size, states = state.shape[1], []
    for step in gates:
        z, r = (step[:, : 2 * size] + state @ weight[: 2 * size].T).sigmoid().split(size, 1)
        state = z * state + (1 - z) * (step[:, 2 * size :] + (r * state) @ weight[2 * size :].T).tanh()
        states.append(state)
    return torch.stack(states), state


def test_a_wide_lstm_in_single_precision():
    module, x, h, c = lstm_case(3, 500, 20, 24, dtype=torch.float32)
    got, (expected, _) = lstm(x, h, c, module)[0], module(x, (h[None], c[None]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_alone_are_kept(dtype):
    module, x, h, c = lstm_case(4, 500, 20, 24, dtype=dtype)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        lstm(x, h, c, module)
    large = [tensor for tensor in kept if len(tensor) == 4]
    assert sum(tensor.numel() for tensor in large) == 4 * 500 * (20 + 24 + 24)


def test_a_large_lstm_of_few_vertices_is_torchs_own():
    module, x, h, c = lstm_case(2, 3, 20, 30)
    assert torch.equal(lstm(x, h, c, module)[0], module(x, (h[None], c[None]))[0])


@pytest.mark.parametrize("used", [0, 1, 2])
def test_gradients_of_one_result_alone(used):
    module, x, h, c = lstm_case(3, 5, 2, 3)
    hidden, (last, cell) = module(x, (h[None], c[None]))
    expected = (hidden, last[0], cell[0])[used]
    gradients = [torch.autograd.grad(out.square().sum(), [x, c]) for out in (lstm(x, h, c, module)[used], expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_lstm_gradcheck():
    module, x, h, c = lstm_case(3, 4, 2, 2)
    assert torch.autograd.gradcheck(lambda x, h, c: lstm(x, h, c, module), (x, h, c))


# opcheck itself looks at gradients of copies of its arguments.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck():
    _, x, h, c = lstm_case(3, 4, 2, 3)
    weight = draw(12, 6).requires_grad_()
    torch.library.opcheck(torch.ops.fulgurite.vertex_lstm, (x, h, c, weight))
    gates, weight = draw(3, 4, 9).requires_grad_(), draw(9, 3).requires_grad_()
    torch.library.opcheck(torch.ops.fulgurite.vertex_gru, (gates, h, weight))
    x, h, c, weight = (draw(*shape).requires_grad_() for shape in [(3, 4, 2), (4, 20), (4, 20), (80, 23)])
    torch.library.opcheck(torch.ops.fulgurite.vertex_lstm, (x, h, c, weight))
    gates, weight = draw(3, 4, 60).requires_grad_(), draw(60, 20).requires_grad_()
    torch.library.opcheck(torch.ops.fulgurite.vertex_gru, (gates, h, weight))


def test_second_derivatives():
    module, x, h, c = lstm_case(3, 4, 2, 2)
    assert torch.autograd.gradgradcheck(lambda x, h, c: lstm(x, h, c, module), (x, h, c))
    gates, state, weight = (draw(*shape).requires_grad_() for shape in [(3, 4, 6), (4, 2), (6, 2)])
    assert torch.autograd.gradgradcheck(reset_first_gru, (gates, state, weight))


def test_a_second_derivative_where_the_state_is_made_from_the_input():
    module, x, _, c = lstm_case(3, 4, 2, 2)
    found = []
    for run in (lambda x, h: lstm(x, h, c, module)[0], lambda x, h: module(x, (h[None], c[None]))[0]):
        (gradient,) = torch.autograd.grad(run(x, x[0].sin()).square().sum(), x, create_graph=True)
        found.append((gradient, *torch.autograd.grad(gradient.square().sum(), [x, *module.parameters()])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_threads_change_no_bit():
    module, x, h, c = lstm_case(20, 1500, 6, 6)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(torch.autograd.grad(losses(lstm(x, h, c, module)), [x, *module.parameters()]))
    finally:
        torch.set_num_threads(before)
        threads.close()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@given(
    seed=st.integers(0, 10_000), steps=st.integers(1, 5), vertices=st.integers(1, 140), size=st.sampled_from([1, 3, 30])
)
@settings(deadline=None, max_examples=25)
def test_reset_first_gru_is_a_loop(seed, steps, vertices, size):
    shapes = [(steps, vertices, 3 * size), (vertices, size), (3 * size, size)]
    gates, h, weight = (draw(*shape, seed=seed + k).requires_grad_() for k, shape in enumerate(shapes))
    got = reset_first_gru(gates, h, weight)
    expected = gru_by_loop(gates, h, weight)
    close(got, expected)
    close(*(torch.autograd.grad(losses(out), [gates, h, weight]) for out in (got, expected)))


@pytest.mark.parametrize(("steps", "vertices"), [(0, 3), (2, 0), (0, 0)])
def test_of_nothing_nothing_comes_that_can_be_differentiated(steps, vertices):
    module, x, h, c = lstm_case(steps, vertices, 2, 3)
    weight = draw(9, 3).requires_grad_()
    for results in (lstm(x, h, c, module), reset_first_gru(draw(steps, vertices, 9).requires_grad_(), h, weight)):
        assert results[0].shape == (steps, vertices, 3)
        assert all(result.requires_grad for result in results)
        sum(result.sum() for result in results).backward()
        assert torch.equal(results[1], h)


@compiled()
def curves(x, y, z):
    for i in range(len(x)):
        y[i] = sigmoid(x[i])
        z[i] = tanh(x[i])


@pytest.mark.parametrize(("dtype", "unit"), [(np.float32, 2.0**-23), (np.float64, 2.0**-52)])
def test_sigmoid_and_tanh(dtype, unit):
    ends = [0, 1e-5, -1e-9, 50, -50, 800, -800, math.inf, -math.inf, math.nan]
    x = np.concatenate([np.linspace(-12, 12, 20_001), ends]).astype(dtype)
    y, z = np.empty_like(x), np.empty_like(x)
    curves(x, y, z)
    exact = x.astype(np.longdouble)
    np.testing.assert_allclose(y, (1 + np.tanh(exact / 2)) / 2, rtol=0, atol=2 * unit)
    np.testing.assert_allclose(z, np.tanh(exact), rtol=4 * unit, atol=0)
