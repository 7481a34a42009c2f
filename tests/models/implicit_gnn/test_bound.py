from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.fixed_point import Synchronous
from fulgurite.models.implicit_gnn.graph import propagation


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.floats(1e-14, 10.0), st.booleans(), st.sampled_from(["mean", "symmetric"]))
def test_no_state_is_further_off_than_its_bound(make_equation, seed, spread, nemon, normalisation):
    equation = make_equation(seed, nemon=nemon, normalisation=normalisation, kappa=0.9)
    exact = Synchronous(1e-15).solve(equation)
    random = torch.Generator().manual_seed(seed)
    state = exact + spread * torch.randn(exact.shape, dtype=torch.float64, generator=random)
    bound = error_bound(equation, state)
    assert equation.size(state - exact) <= bound + 1e-13
    assert bound <= (1 + equation.factor) / (1 - equation.factor) * equation.size(state - exact) + 1e-11


def test_the_bound_is_met_where_errors_do_not_cancel():
    graph = propagation(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3, self_loops=False, dtype=torch.float64)
    from fulgurite.models.implicit_gnn.fixed_point import Equation

    equation = Equation(graph, torch.tensor([[0.5]]).double(), torch.ones(3, 1).double(), "relu")
    state = torch.full((3, 1), 2.5, dtype=torch.float64)  # the fixed point is 2
    assert error_bound(equation, state) == pytest.approx(0.5, rel=1e-12)
    assert error_bound(equation, state) >= 0.5


def test_without_a_contraction_or_a_finite_state_there_is_no_bound(make_equation):
    equation = make_equation(1)
    state = torch.zeros(9, 4, dtype=torch.float64)
    assert error_bound(replace(equation, weight=equation.weight * 3), state) == float("inf")
    assert error_bound(equation, state * float("nan")) == float("inf")


def test_a_state_in_single_precision_has_a_bound_of_its_own(make_equation):
    equation = make_equation(1, kappa=0.9)
    state = Synchronous(1e-14).solve(equation)
    assert error_bound(equation, state) < 1e-12
    rounded = error_bound(equation, state.float())
    assert equation.size(state.float().double() - state) <= rounded < 1e-5
