"""Real processes over ZeroMQ: killed, stopped and woken, cut off and back, with the answer of a direct solve."""

import math
import signal

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.engine.merging import merge
from fulgurite.plugins.dynamic_async.engine.residuals import error_bound
from fulgurite.plugins.dynamic_async.engine.worker import Work
from fulgurite.plugins.dynamic_async.engine.workers import Workers
from fulgurite.plugins.dynamic_async.maps.block_affine import damped_walk
from fulgurite.plugins.dynamic_async.model.trace import Event, replay

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SHARDS = 4
OPTIONS = {"nodes": 200, "blocks": SHARDS, "damping": 0.7}
MAP = damped_walk(**OPTIONS)
EPS = 1e-9
# Anything in X is within twice its radius of the answer.
ROUNDS = math.ceil(math.log(2 * MAP.domain.radius[0] / EPS) / math.log(1 / MAP.gamma))


def work(**changes) -> Work:
    peer = {"heartbeat_s": 0.2, "timeout_s": 2.0} | changes.pop("peer", {})
    return Work(
        "fulgurite.plugins.dynamic_async.maps.block_affine:damped_walk", OPTIONS, peer=peer, cost_s=0.01, **changes
    )


def whole(workers: Workers, *numbers: int):
    """These workers host every shard once and see everything, each certified to EPS."""

    def reached() -> bool:
        statuses = [workers.status(k) for k in numbers]
        if not all(status and status["view"] == list(range(SHARDS)) for status in statuses):
            return False
        hosted = sorted(shard for status in statuses for shard in status["hosted"])
        return hosted == list(range(SHARDS)) and all(status["rounds"] >= ROUNDS for status in statuses)

    return reached


def check_answer(workers: Workers, *numbers: int) -> np.ndarray:
    answer = MAP.solution()
    for k in numbers:
        state = workers.state(k)
        error = max(np.abs(mine - right).max() for mine, right in zip(state, answer, strict=True))
        assert error <= EPS
        bound = error_bound(MAP, state, np.ones(SHARDS, dtype=bool), gamma=MAP.gamma)
        assert error <= bound + 1e-13
    return np.concatenate(state)


def check_replay(workers: Workers) -> None:
    """What the processes did is a legal schedule of the shards, and the simulator gives the same bits."""
    trace = merge(workers.logs)
    assert trace.num_copies == 1
    replay(trace, MAP)
    assert (trace.event == Event.EVALUATE).sum() > 100


@pytest.fixture(scope="module")
def answers() -> list[np.ndarray]:
    """What the churn histories below came to, so far."""
    return []


def remember(answers: list[np.ndarray], answer: np.ndarray) -> None:
    """Whatever happened on the way, histories agree within 2 eps."""
    for other in answers:
        assert np.abs(answer - other).max() <= 2 * EPS
    answers.append(answer)


def test_killed_adopted_and_rejoined(tmp_path, answers):
    with Workers(work(peer={"expected_peers": 3}), tmp_path, record=True) as workers:
        first, second, third = workers.start(3)
        workers.until(whole(workers, first, second, third))
        lives = workers.status(second)["lives"]
        orphans = workers.status(first)["hosted"]
        # The first one, through whom the others found each other.
        workers.kill(first)
        workers.until(whole(workers, second, third))
        after = workers.status(second)["lives"]
        assert all(after[str(i)] == lives[str(i)] + (i in orphans) for i in range(SHARDS))
        (fourth,) = workers.start(1)
        workers.until(lambda: len(workers.status(fourth).get("hosted", ())) > 0)
        workers.until(whole(workers, second, third, fourth))
        remember(answers, check_answer(workers, second, third, fourth))
        workers.stop(third)
        check_replay(workers)


def test_stopped_taken_for_dead_and_woken(tmp_path, answers):
    faults = {"seed": 7, "drop": 0.1, "duplicate": 0.1, "reorder": 0.1, "delay": 0.1, "delay_s": 0.1}
    with Workers(work(peer={"expected_peers": 3}, faults=faults), tmp_path, record=True) as workers:
        first, second, third = workers.start(3)
        workers.until(whole(workers, first, second, third))
        lost = workers.status(second)["hosted"]
        lives = workers.status(first)["lives"]
        workers.signal(second, signal.SIGSTOP)
        workers.until(lambda: len(workers.status(first)["peers"]) == 2)
        workers.until(whole(workers, first, third))
        adopted = workers.status(first)["lives"]
        assert all(adopted[str(i)] > lives[str(i)] for i in lost)
        workers.signal(second, signal.SIGCONT)
        # The zombie gives up its former lives, and is given something anew.
        workers.until(whole(workers, first, second, third))
        assert all(workers.status(second)["lives"][str(i)] >= adopted[str(i)] for i in lost)
        workers.until(lambda: len(workers.status(second)["hosted"]) > 0)
        workers.until(whole(workers, first, second, third))
        remember(answers, check_answer(workers, first, second, third))
        workers.stop(first)
        check_replay(workers)


def test_cut_in_two_and_healed(tmp_path, answers):
    with Workers(work(peer={"expected_peers": 2}), tmp_path, record=True) as workers:
        first, second = workers.start(2)
        workers.until(whole(workers, first, second))
        workers.send(first, f"cut {workers.address(second)}")
        workers.send(second, f"cut {workers.address(first)}")
        # Each side hosts everything, and both come to the same answer.
        workers.until(lambda: whole(workers, first)() and whole(workers, second)())
        apart = check_answer(workers, first), check_answer(workers, second)
        assert np.abs(apart[0] - apart[1]).max() <= 2 * EPS
        workers.send(first, "heal")
        workers.send(second, "heal")
        workers.until(whole(workers, first, second))
        remember(answers, check_answer(workers, first, second))
        workers.stop(second)
        # Both sides went on at once, so the schedule has copies of the shards; it is replayed all the same.
        trace = merge(workers.logs)
        assert trace.num_copies == 2
        replay(trace, MAP)


def test_one_link_of_three_is_cut(tmp_path, answers):
    with Workers(work(peer={"expected_peers": 3}), tmp_path, record=True) as workers:
        first, second, third = workers.start(3)
        workers.until(whole(workers, first, second, third))
        lives = workers.status(second)["lives"]
        workers.send(first, f"cut {workers.address(third)}")
        workers.send(third, f"cut {workers.address(first)}")
        workers.until(lambda: len(workers.status(first)["peers"]) == len(workers.status(third)["peers"]) == 2)
        rounds = [workers.status(number)["rounds"] for number in (first, second, third)]
        workers.until(
            lambda: all(
                workers.status(number)["rounds"] > before + ROUNDS
                for number, before in zip((first, second, third), rounds, strict=True)
            )
        )
        assert [workers.status(number)["lives"] for number in (first, second, third)] == [lives] * 3
        remember(answers, check_answer(workers, first, second, third))
        workers.stop(second)
        check_replay(workers)


def test_shards_that_nobody_adopts_leave_and_return(tmp_path):
    with Workers(work(), tmp_path) as workers:
        (first,) = workers.start(1, peer={"heartbeat_s": 0.2, "timeout_s": 1.5, "shards_wanted": [0, 1]})
        (second,) = workers.start(1, peer={"heartbeat_s": 0.2, "timeout_s": 1.5, "shards_wanted": [2, 3]})
        workers.until(whole(workers, first, second))
        workers.kill(second)
        workers.until(lambda: workers.status(first)["view"] == [0, 1] and workers.status(first)["rounds"] >= ROUNDS)
        present = np.array([True, True, False, False])
        for mine, right in zip(workers.state(first), MAP.solution(present), strict=True):
            assert np.abs(mine - right).max() <= EPS
        (third,) = workers.start(1, peer={"heartbeat_s": 0.2, "timeout_s": 1.5, "shards_wanted": [2, 3]})
        workers.until(whole(workers, first, third))
        check_answer(workers, first, third)


def test_a_worker_ends_when_its_input_does(tmp_path):
    workers = Workers(work(), tmp_path)
    with workers:
        (only,) = workers.start(1)
        workers._processes[only].stdin.close()
        assert workers._processes[only].wait(30) == 0
