from dataclasses import replace

import pytest
import torch

from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.distributed import Distributed
from fulgurite.models.implicit_gnn.fixed_point import NotSolvedError, Synchronous, equilibrium

QUICK = {"heartbeat_s": 0.05, "silence_s": 1.0}


@pytest.mark.parametrize("nemon", [False, True])
@pytest.mark.parametrize("leaving", [0, 2])
def test_peers_come_to_the_synchronous_answer_within_the_bound(make_equation, nemon, leaving):
    equation = make_equation(3, nodes=20, nemon=nemon)
    found = Distributed(peers=3, parts=6, leaving=leaving, **QUICK).solve(equation)
    exact = Synchronous(1e-14).solve(equation)
    bound = error_bound(equation, found)
    assert equation.size(found - exact) <= bound + 1e-13
    assert bound <= 1e-6 * max(1.0, equation.size(found))


def test_both_passes_may_be_theirs(make_equation):
    gradients = []
    for solver in (Synchronous(1e-13), Distributed(peers=2, parts=4, tolerance=1e-11, **QUICK)):
        equation = make_equation(9, nodes=16)
        weight = equation.weight.requires_grad_()
        equilibrium(replace(equation, weight=weight), solver).square().sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-8)


@pytest.mark.distributed
@pytest.mark.slow
def test_processes_that_are_killed_and_replaced_come_to_the_same_answer(make_equation):
    pytest.importorskip("zmq")
    equation = make_equation(5, nodes=24)
    found = Distributed(peers=2, parts=4, transport="zmq", leaving=1, timeout_s=120.0, **QUICK).solve(equation)
    exact = Synchronous(1e-14).solve(equation)
    bound = error_bound(equation, found)
    assert equation.size(found - exact) <= bound + 1e-13
    assert bound <= 1e-6 * max(1.0, equation.size(found))


def test_what_is_no_contraction_is_refused(make_equation):
    equation = make_equation(0)
    with pytest.raises(NotSolvedError, match="contraction factor"):
        Distributed().solve(replace(equation, weight=4 * equation.weight))


def test_no_answer_in_time_is_said(make_equation):
    solver = Distributed(peers=2, parts=3, tolerance=1e-30, timeout_s=0.5, heartbeat_s=0.05, silence_s=0.3)
    with pytest.raises(NotSolvedError, match="2 peers"):
        solver.solve(make_equation(0))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"transport": "pigeon"}, "'pigeon'"),
        ({"peers": 0}, "peers=0"),
        ({"peers": 2, "leaving": 2}, "leaving=2"),
        ({"tolerance": 0.0}, "tolerance=0"),
    ],
)
def test_options_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        Distributed(**options)
