"""The threads that kernels run on: our own, since numba's and OpenMP's end a process that forks."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

# Edges times samples below which handing work to another thread costs more than it saves: about 100 µs.
INLINE_BELOW = 1_000_000

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_inside = threading.local()


def for_each(function: Callable[..., None], tasks: Sequence[tuple[object, ...]], *, work: float) -> None:
    """Call ``function(*task)`` for every task, on as many threads as torch is set to use.

    The calling thread takes tasks too, so that nothing waits for a pool that other threads keep busy. Threads help
    only where ``function`` leaves the interpreter's lock. What is computed must not depend on who computes it.

    Args:
        function: what to call; its result is dropped.
        tasks: the arguments of each call.
        work: all tasks' edges times samples; little work is done by the calling thread alone.

    Raises:
        Exception: the first one that a call raises, after all running calls have ended.

    Example:
        >>> results = [0, 0, 0]
        >>> def square(i):
        ...     results[i] = i * i
        >>> for_each(square, [(0,), (1,), (2,)], work=3)
        >>> results
        [0, 1, 4]
    """
    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1 or work < INLINE_BELOW or getattr(_inside, "helper", False):
        for task in tasks:
            function(*task)
        return
    # One counter hands out the tasks: its next() is a single step under the interpreter's lock.
    numbers = itertools.count()

    def take() -> None:
        while (number := next(numbers)) < len(tasks):
            function(*tasks[number])

    def help_out() -> None:
        _inside.helper = True
        take()

    futures = _submit(help_out, helpers)
    try:
        take()
    except BaseException:
        for _ in itertools.takewhile(lambda number: number < len(tasks), numbers):
            pass  # nobody begins another task
        _finish(futures)
        raise
    error = _finish(futures)
    if error is not None:
        raise error


def close() -> None:
    """End the threads; the next call that needs them makes new ones."""
    global _pool, _pool_size
    with _lock:
        pool, _pool, _pool_size = _pool, None, 0
    if pool is not None:
        pool.shutdown(wait=True)


def _submit(function: Callable[[], None], count: int) -> list[Future[None]]:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)  # what it was given, it still does
            _pool_size = count
            _pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="sparse-network")
        return [_pool.submit(function) for _ in range(count)]


def _finish(futures: Iterable[Future[None]]) -> BaseException | None:
    """Wait for helpers that have begun, tell the others not to; the first error of any."""
    error = None
    for future in futures:
        if not future.cancel():
            error = error or future.exception()
    return error


def _forget() -> None:
    """In a forked child: the parent's threads are not there, and its lock may be held by one of them."""
    global _lock, _pool, _pool_size, _inside
    _lock, _pool, _pool_size, _inside = threading.Lock(), None, 0, threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
