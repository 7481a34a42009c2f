from dataclasses import replace

import pytest
import torch

from fulgurite.models.implicit_gnn.asynchronous import Asynchronous, as_adjoint_map, as_map
from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.fixed_point import AdjointEquation, NotSolvedError, Synchronous, equilibrium, slope
from fulgurite.plugins.dynamic_async.model.certification import certify
from fulgurite.plugins.dynamic_async.model.generators import adversarial_schedule
from fulgurite.plugins.dynamic_async.model.simulation import simulate

SCHEDULES = [
    {},
    {"parts": 1},
    {"activation": 0.2, "max_delay": 9, "loss": 0.5},
    {"churn": 0.2, "seed": 5},
]


@pytest.mark.parametrize("nemon", [False, True])
@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_leads_to_the_synchronous_answer_within_the_bound(make_equation, nemon, normalisation, schedule):
    equation = make_equation(3, nodes=20, nemon=nemon, normalisation=normalisation)
    found = Asynchronous(**({"parts": 5} | schedule)).solve(equation)
    exact = Synchronous(1e-14).solve(equation)
    bound = error_bound(equation, found)
    assert equation.size(found - exact) <= bound + 1e-13
    assert bound <= 1e-6 * max(1.0, equation.size(found))


@pytest.mark.parametrize("nemon", [False, True])
@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
def test_the_adjoint_too_is_a_certified_map_with_the_synchronous_answer(make_equation, nemon, normalisation):
    equation = make_equation(2, nodes=20, nemon=nemon, normalisation=normalisation)
    state = Synchronous(1e-14).solve(equation)
    gradient = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    adjoint = AdjointEquation(equation, slope("tanh", equation.inner(state)), gradient)
    found = Asynchronous(parts=5, tolerance=1e-10, churn=0.1).solve_adjoint(adjoint)
    torch.testing.assert_close(found, Synchronous(1e-14).solve_adjoint(adjoint), rtol=0, atol=1e-8)
    assert certify(as_adjoint_map(adjoint, 5)).verdict == "certified"


def test_gradients_are_those_of_the_synchronous_solver(make_equation):
    found = []
    for solver in (Synchronous(1e-13), Asynchronous(parts=4, tolerance=1e-11, loss=0.3)):
        equation = make_equation(9, nodes=16)
        weight, injection = equation.weight.requires_grad_(), equation.injection.requires_grad_()
        equilibrium(replace(equation, weight=weight, injection=injection), solver).square().sum().backward()
        found.append((weight.grad, injection.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def test_an_adversary_cannot_break_the_forward_bound(make_equation):
    equation = make_equation(1, nodes=18, kappa=0.7)
    map = as_map(equation, 6)
    certificate = certify(map)
    exact = Synchronous(1e-15).solve(equation)
    run = simulate(map, adversarial_schedule(6, 300, seed=2, churn=False), record=("pseudocycles", "history"))
    checked = 0
    for k, pseudocycle in enumerate(run.pseudocycles, start=1):
        state = torch.from_numpy(map.assemble(run.history[pseudocycle.end]))
        assert equation.size(state - exact) <= certificate.bound(k)
        checked += 1
    assert checked > 10


def test_parts_are_blocks_of_consecutive_nodes_and_no_more_than_nodes(make_equation):
    equation = make_equation(0, nodes=7)
    assert [part.tolist() for part in as_map(equation, 3).parts] == [[0, 1, 2], [3, 4], [5, 6]]
    assert as_map(equation, 50).num_participants == 7
    with pytest.raises(ValueError, match="parts=0"):
        as_map(equation, 0)


def test_what_is_no_contraction_is_refused(make_equation):
    equation = make_equation(0)
    with pytest.raises(NotSolvedError, match="contraction factor"):
        Asynchronous(parts=3).solve(replace(equation, weight=4 * equation.weight))


def test_too_few_ticks_are_said(make_equation):
    with pytest.raises(NotSolvedError, match="within 10 ticks"):
        Asynchronous(parts=3, ticks=5, max_ticks=10, tolerance=1e-12).solve(make_equation(0))
