import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from fulgurite.plugins.snapshot_parallel.failure import RollCall, Verdict, exchange_broke

GROUP_TIMEOUT = 6


def share(value):
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def exchange_until(event, victim, *, steps=1000, at=5):
    """Every rank reduces; at a step something happens to one of them; what the others learn, and how long it took."""
    rank = dist.get_rank()
    roll = RollCall.open(rank=rank, world_size=dist.get_world_size(), host="127.0.0.1", share=share, grace=1.0)
    began = time.monotonic()
    try:
        for step in range(steps):
            if rank == victim and step == at:
                event()
            dist.all_reduce(torch.ones(3))
    except Exception as error:
        verdict = roll.explain(error)
        return (
            str(error),
            None if verdict is None else (verdict.state, verdict.ranks, str(verdict)),
            time.monotonic() - began,
        )
    return None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("the third file is empty")


def hang():
    time.sleep(GROUP_TIMEOUT)


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [3, 6])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_is_named_by_all_others_well_within_the_timeout(run_ranks, victim, world_size):
    results = run_ranks(exchange_until, world_size, die, victim, group_timeout=GROUP_TIMEOUT, errors="return")
    assert isinstance(results[victim], ChildProcessError)
    for rank, result in enumerate(results):
        if rank != victim:
            _, verdict, seconds = result
            assert verdict is not None, results
            assert verdict[:2] == ("dead", (victim,))
            assert verdict[2].startswith(f"rank {victim} died")
            assert seconds < GROUP_TIMEOUT


@pytest.mark.distributed
@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_fails_is_named_with_its_error_and_keeps_it(run_ranks, victim):
    results = run_ranks(exchange_until, 3, fail, victim, group_timeout=GROUP_TIMEOUT, errors="return")
    for rank, (error, verdict, _) in enumerate(results):
        if rank == victim:
            assert (error, verdict) == ("the third file is empty", None)
        else:
            assert verdict == ("failed", (victim,), f"rank {victim} failed with ValueError: the third file is empty")


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_that_hangs_is_named_when_the_exchange_times_out(run_ranks):
    results = run_ranks(exchange_until, 3, hang, 1, group_timeout=2, errors="return")
    for rank in (0, 2):
        assert results[rank][1][:2] == ("busy", (1,))
        assert results[rank][1][2].startswith("rank 1 took no part")


@pytest.mark.distributed
@pytest.mark.slow
def test_a_stopped_rank_is_told_from_a_busy_one(run_ranks):
    def stop():
        # Somebody else has to wake it, or the test would never end.
        if os.fork() == 0:
            time.sleep(12)  # the others time out after two seconds, and may be slow
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)

    results = run_ranks(exchange_until, 3, stop, 1, group_timeout=2, errors="return")
    for rank in (0, 2):
        assert results[rank][1][:2] == ("silent", (1,))


@pytest.mark.distributed
def test_a_rank_that_ends_by_itself_is_not_called_dead(run_ranks):
    def leave_early():
        rank = dist.get_rank()
        roll = RollCall.open(rank=rank, world_size=3, host="127.0.0.1", share=share, grace=0.5)
        dist.barrier()
        if rank == 1:
            roll.close()
            return None
        time.sleep(1)
        return roll.explain(RuntimeError("Connection closed by peer"))

    assert run_ranks(leave_early, 3) == [None, None, None]


def test_several_ranks_are_named_together():
    assert str(Verdict("dead", (1, 3))).startswith("ranks 1, 3 died")
    assert str(Verdict("failed", (0, 2), {0: "KeyError: 'a'", 2: "ValueError: b"})).count("failed with") == 2
    assert str(Verdict()) == ""


@pytest.mark.parametrize(
    ("error", "broke"),
    [
        (RuntimeError("[pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer"), True),
        (RuntimeError("[unbound_buffer.cc:90] Timed out waiting 2000ms for recv operation to complete"), True),
        (dist.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("gloo"), False),
    ],
)
def test_an_error_of_the_exchange_is_told_from_one_of_the_program(error, broke):
    assert exchange_broke(error) is broke
