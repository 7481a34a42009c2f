import threading

import pytest
import torch

from fulgurite.models.implicit_gnn.asynchronous import as_map
from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.crew import ProcessCrew, ThreadCrew
from fulgurite.models.implicit_gnn.distributed import settled_state
from fulgurite.models.implicit_gnn.fixed_point import Synchronous
from fulgurite.plugins.dynamic_async.model.certification import certify

QUICK = {"heartbeat_s": 0.05, "silence_s": 1.0, "timeout_s": 120.0}


def off_by(crew, states, equation):
    """How far off a state is; no further than its residual says."""
    state = torch.from_numpy(crew.map.assemble(states))
    off = equation.size(state - Synchronous(1e-15).solve(equation))
    assert off <= error_bound(equation, state) + 1e-13
    return off


def after_enough_rounds(crew, equation):
    needed = certify(crew.map).pseudocycles(1e-9)
    assert crew.until(rounds=needed) >= needed
    return off_by(crew, crew.state(), equation)


def once_settled(crew, equation):
    def settled(states):
        return error_bound(equation, torch.from_numpy(crew.map.assemble(states))) <= 1e-9

    return off_by(crew, settled_state(crew, settled, timeout_s=120.0), equation)


def test_threads_that_leave_die_and_return_keep_to_one_answer(make_equation):
    equation = make_equation(3, nodes=20, kappa=0.5)
    with ThreadCrew(as_map(equation, 6), 3, **QUICK) as crew:
        assert after_enough_rounds(crew, equation) <= 1e-9
        crew.leave(0)
        assert after_enough_rounds(crew, equation) <= 1e-9
        crew.kill(1)
        assert crew.live == (2,)
        assert after_enough_rounds(crew, equation) <= 1e-9
        assert crew.join(2) == [3, 4]
        assert after_enough_rounds(crew, equation) <= 1e-9
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("peer ")]


def test_the_failure_of_a_thread_is_told(make_equation):
    def broken(*_):
        raise RuntimeError("no more memory")

    map = as_map(make_equation(3), 3)
    map.evaluate = broken
    with ThreadCrew(map, 1, **QUICK) as crew, pytest.raises(RuntimeError, match="no more memory"):
        crew.until(rounds=1)


@pytest.mark.distributed
@pytest.mark.slow
def test_processes_that_leave_die_and_return_keep_to_one_answer(make_equation):
    pytest.importorskip("zmq")
    equation = make_equation(3, nodes=20, kappa=0.5)
    with ProcessCrew(as_map(equation, 6), 2, **QUICK) as crew:
        assert once_settled(crew, equation) <= 1e-9
        (newcomer,) = crew.join()
        crew.leave(0)
        assert once_settled(crew, equation) <= 1e-9
        crew.kill(1)
        assert crew.live == (newcomer,)
        assert once_settled(crew, equation) <= 1e-9
