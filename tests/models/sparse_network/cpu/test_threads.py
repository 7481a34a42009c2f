import os
import threading
import time

import pytest
import torch

from fulgurite.models.sparse_network.cpu import threads


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)
    threads.close()


def test_every_task_runs_once(four_threads):
    done = []
    threads.for_each(lambda i: done.append((i, threading.current_thread().name)), [(i,) for i in range(200)], work=1e9)
    assert sorted(i for i, _ in done) == list(range(200))


def test_tasks_run_side_by_side(four_threads):
    # Each waits for all others, so that fewer than four threads would never end.
    barrier = threading.Barrier(4, timeout=20)
    names = set()

    def meet():
        barrier.wait()
        names.add(threading.current_thread().name)

    threads.for_each(meet, [()] * 4, work=1e9)
    assert len(names) == 4
    assert threading.current_thread().name in names


def test_little_work_stays_with_the_caller(four_threads):
    names = []
    threads.for_each(lambda: names.append(threading.current_thread()), [()] * 8, work=threads.INLINE_BELOW - 1)
    assert set(names) == {threading.current_thread()}


def test_one_thread_makes_no_pool(four_threads):
    torch.set_num_threads(1)
    before = threading.active_count()
    threads.for_each(lambda: None, [()] * 8, work=1e9)
    assert threading.active_count() == before


def test_a_task_may_hand_out_tasks(four_threads):
    done = []

    def outer(i):
        threads.for_each(lambda j: done.append((i, j)), [(j,) for j in range(5)], work=1e9)

    threads.for_each(outer, [(i,) for i in range(20)], work=1e9)
    assert sorted(done) == [(i, j) for i in range(20) for j in range(5)]


def test_an_error_reaches_the_caller_after_the_others_have_ended(four_threads):
    running, ended = [], []

    def work(i):
        if i == 3:
            raise ValueError("task 3")
        running.append(i)
        time.sleep(0.01)
        ended.append(i)

    with pytest.raises(ValueError, match="task 3"):
        threads.for_each(work, [(i,) for i in range(100)], work=1e9)
    assert sorted(running) == sorted(ended)
    assert len(ended) < 100 or torch.get_num_threads() == 1


def test_several_callers_share_the_pool(four_threads):
    sums = [0] * 6

    def caller(k):
        done = []
        threads.for_each(lambda i: done.append(i), [(i,) for i in range(100)], work=1e9)
        sums[k] = sum(done)

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert sums == [4950] * 6


def test_the_pool_grows_with_torchs_setting(four_threads):
    torch.set_num_threads(2)
    threads.for_each(lambda: None, [()] * 8, work=1e9)
    torch.set_num_threads(4)
    barrier = threading.Barrier(4, timeout=20)
    threads.for_each(lambda: barrier.wait(), [()] * 4, work=1e9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_makes_threads_of_its_own(four_threads):
    threads.for_each(lambda: None, [()] * 8, work=1e9)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            barrier = threading.Barrier(4, timeout=20)
            threads.for_each(lambda: barrier.wait(), [()] * 4, work=1e9)
            os.write(writing, b"done")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 4) == b"done"
    os.close(reading)
    os.waitpid(child, 0)
