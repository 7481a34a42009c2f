from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.implicit_gnn.fixed_point import (
    AdjointEquation,
    Equation,
    NotSolvedError,
    Synchronous,
    contraction,
    equilibrium,
    slope,
)

EXACT = Synchronous(1e-13)
KINDS = [
    {"activation": activation, "normalisation": normalisation, "nemon": nemon}
    for activation in ("tanh", "relu")
    for normalisation in ("mean", "symmetric")
    for nemon in (False, True)
]


def leaves(equation):
    weight, injection = equation.weight.clone().requires_grad_(), equation.injection.clone().requires_grad_()
    return replace(equation, weight=weight, injection=injection)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(make_equation, kind):
    equation = make_equation(3, nodes=5, channels=3, **kind)

    def solved(weight, injection):
        return equilibrium(replace(equation, weight=weight, injection=injection), EXACT)

    given = leaves(equation)
    assert torch.autograd.gradcheck(solved, (given.weight, given.injection))


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradients_agree_with_differentiating_many_steps(make_equation, kind):
    target = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    one, other = (leaves(make_equation(7, **kind)) for _ in range(2))
    state = torch.zeros_like(target)
    for _ in range(600):
        state = other.evaluate(state)
    found = equilibrium(one, EXACT)
    torch.testing.assert_close(found, state, rtol=0, atol=1e-11)
    (found * target).sum().backward()
    (state * target).sum().backward()
    torch.testing.assert_close(one.weight.grad, other.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.injection.grad, other.injection.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nemon", [False, True])
def test_both_solves_agree_with_dense_linear_algebra(make_equation, nemon):
    equation = make_equation(11, nemon=nemon)
    state = equilibrium(equation, EXACT)
    slopes = slope("tanh", equation.inner(state))
    dense = np.kron(equation.graph.matrix.to_dense().numpy(), equation.weight.numpy())  # node by node, row-major
    jacobian = slopes.numpy().reshape(-1, 1) * dense
    gradient = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # X = D ∘ (KX) + …: the adjoint solves (I − (DK)ᵀ) y = g.
    expected = np.linalg.solve(np.eye(36) - jacobian.T, gradient.numpy().ravel()).reshape(9, 4)
    found = EXACT.solve_adjoint(AdjointEquation(equation, slopes, gradient))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)


def test_where_relu_lets_everything_through_the_fixed_point_is_that_of_a_linear_system(make_equation):
    equation = make_equation(2, activation="relu")
    positive = replace(equation, weight=equation.weight.abs(), injection=equation.injection.abs())
    dense = np.kron(positive.graph.matrix.to_dense().numpy(), positive.weight.numpy())
    expected = np.linalg.solve(np.eye(36) - dense, positive.injection.numpy().ravel())
    np.testing.assert_allclose(equilibrium(positive, EXACT).numpy().ravel(), expected, rtol=1e-10)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from(KINDS))
def test_no_two_states_come_together_slower_than_the_factor_says(make_equation, seed, kind):
    equation = make_equation(seed, **kind)
    random = torch.Generator().manual_seed(seed)
    x, y = (3 * torch.randn(9, 4, dtype=torch.float64, generator=random) for _ in range(2))
    gap = equation.size(equation.evaluate(x) - equation.evaluate(y))
    assert gap <= equation.factor * equation.size(x - y) * (1 + 1e-12)
    adjoint = AdjointEquation(equation, torch.rand(9, 4, dtype=torch.float64, generator=random), x)
    gap = adjoint.size(adjoint.evaluate(x) - adjoint.evaluate(y))
    assert gap <= adjoint.factor * adjoint.size(x - y) * (1 + 1e-12)


@pytest.mark.parametrize("nemon", [False, True])
@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
def test_the_factor_is_the_norm_of_the_dense_matrix_no_more(make_equation, normalisation, nemon):
    equation = make_equation(5, normalisation=normalisation, nemon=nemon)
    dense = np.kron(equation.graph.matrix.to_dense().numpy(), equation.weight.numpy())
    w = np.repeat(equation.graph.norm_weight.numpy(), 4)
    alpha = equation.damping
    damped = np.abs((1 - alpha) * np.eye(36) + alpha * dense) @ w / w
    assert equation.factor == pytest.approx(damped.max(), rel=1e-12)
    assert equation.factor >= damped.max()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
def test_the_error_is_below_the_tolerance(make_equation, tolerance):
    equation = make_equation(4, kappa=0.97)
    rough, exact = Synchronous(tolerance).solve(equation), EXACT.solve(equation)
    assert equation.size(rough - exact) <= tolerance * max(1.0, equation.size(rough)) * (1 + 1e-6) + 1e-12


def test_single_precision_ends_where_its_digits_do(make_equation):
    equation = make_equation(4, kappa=0.99)
    graph = equation.graph.to(dtype=torch.float32)
    single = Equation(graph, equation.weight.float(), equation.injection.float())
    found = Synchronous(1e-12).solve(single)
    torch.testing.assert_close(found.double(), EXACT.solve(equation), rtol=0, atol=1e-4)


def test_what_is_no_contraction_is_refused(make_equation):
    equation = make_equation(4)
    with pytest.raises(NotSolvedError, match="contraction factor"):
        equilibrium(replace(equation, weight=equation.weight * 3))


def test_too_few_iterations_are_said(make_equation):
    with pytest.raises(NotSolvedError, match="within 3 iterations"):
        equilibrium(make_equation(4), Synchronous(max_iterations=3))


def test_a_state_that_is_not_finite_is_said(make_equation):
    equation = make_equation(4, activation="relu")
    with pytest.raises(NotSolvedError, match="not finite"):
        equilibrium(replace(equation, injection=equation.injection + float("inf")))


def test_a_graph_loses_nodes_without_contracting_less(make_equation):
    equation = make_equation(6, normalisation="symmetric")
    dense = equation.graph.matrix.to_dense()
    dense[4], dense[:, 4] = 0, 0
    left = replace(equation.graph, matrix=dense.to_sparse().coalesce())
    assert contraction(left, equation.weight) <= equation.factor
