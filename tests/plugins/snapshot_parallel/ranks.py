"""Runs a function on several gloo ranks: forked processes that meet in a file, a tenth of a second to start."""

import datetime
import multiprocessing
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

# torch imports this (and sympy: a second) at the first gradient that is given its weights; here once, not in each rank.
import torch.fx.experimental.symbolic_shapes


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 60,
    group_timeout: float | None = None,
    errors: Literal["raise", "return"] = "raise",
) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes with a gloo group, and give what each rank returned.

    The processes are forked, so the function may be a closure; ``dist.get_rank()`` tells it which rank it is. What it
    returns must pickle.

    Args:
        function: what every rank runs, on one thread.
        world_size: how many ranks.
        *args: handed to the function, the same on every rank.
        timeout: seconds after which all are killed and ``TimeoutError`` names the ranks that were still running.
        group_timeout: the process group's own timeout in seconds; as ``timeout`` where not given.
        errors: ``"raise"`` raises the error of the rank that failed first and ends the others; ``"return"`` waits for
            every rank and gives an error in the place of its result (``ChildProcessError`` for one that just died).
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        limit = datetime.timedelta(seconds=timeout if group_timeout is None else group_timeout)
        pipes, processes = {}, []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(function, args, rank, world_size, meeting, limit, sender))
            with warnings.catch_warnings():
                # Python 3.12 warns of a fork beside threads; these children use none of the parent's locks.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            sender.close()
            pipes[receiver] = rank
            processes.append(process)
        try:
            return _collect(pipes, processes, timeout, errors)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
            for receiver in pipes:
                receiver.close()


def _rank(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world_size: int,
    meeting: str,
    limit: datetime.timedelta,
    sender: Connection,
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=limit)
        # By plain pickle, by value: torch's own reductions would share memory with a process that ends.
        answer = pickle.dumps(("result", function(*args)))
    except BaseException as error:  # also pytest's own outcomes, which are no Exception
        answer = _described(error, rank)
    sender.send_bytes(answer)
    sender.close()
    if dist.is_initialized():
        dist.destroy_process_group()


def _described(error: BaseException, rank: int) -> bytes:
    text = f"on rank {rank}:\n{traceback.format_exc()}"
    try:
        answer = pickle.dumps(("error", error, text))
        pickle.loads(answer)
    except Exception:  # an error that does not pickle is told by its text
        answer = pickle.dumps(("error", RuntimeError(f"{type(error).__name__}: {error}"), text))
    return answer


def _collect(pipes: dict[Connection, int], processes: list[Any], timeout: float, errors: str) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    while len(results) < len(pipes):
        open_pipes = [pipe for pipe, rank in pipes.items() if rank not in results]
        ready = wait(open_pipes, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {[pipes[pipe] for pipe in open_pipes]} still running after {timeout} s")
        for pipe in ready:
            rank = pipes[pipe]
            try:
                kind, value, *text = pickle.loads(pipe.recv_bytes())
            except EOFError:
                processes[rank].join()
                kind, value = "error", ChildProcessError(f"rank {rank} died, exit code {processes[rank].exitcode}")
                text = []
            if kind == "error":
                value.add_note("".join(text))
                if errors == "raise":
                    raise value
            results[rank] = value
    return [results[rank] for rank in sorted(results)]
