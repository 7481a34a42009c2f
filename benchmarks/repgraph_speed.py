"""Seconds and peak memory of the layers, on the CPU and on a GPU: for repgraph.py."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from repgraph_cases import DIRECTIONS, METHODS, SIZES, VARIANTS, Case, Direction, affinity_bytes
from torch import Tensor, nn

STATUS = Path("/proc/self/status")
# The affinities, their softmax, a copy that multiplies, and both's gradients.
MATMUL_COPIES = {"forward": 3, "training": 4}
# Above this many seconds in the first round a layer is not called again, and above a tenth of it three times.
LONG = 30.0


class Skip(Exception):
    """A case that cannot be measured here, and why."""


def measure(quick: bool) -> dict[str, Any]:
    """Both devices."""
    found: dict[str, Any] = {"cpu": on_cpu(quick)}
    found["gpu"] = on_gpu(quick) if torch.cuda.is_available() else "no CUDA device here"
    return found


def on_cpu(quick: bool) -> list[dict[str, Any]]:
    """Each layer in a process of its own, all alive together and idle until it is their turn."""
    sizes = ((16, 16), (24, 32)) if quick else SIZES
    methods = [name for name in METHODS if name != "RepGraph, Triton"]
    tables = []
    for size in sizes:
        for variant in VARIANTS:
            rounds = 1 if quick else _rounds(size, variant)
            with _alive([Case(name, variant, size) for name in methods]) as workers:
                asks = {name: worker.ask for name, worker in zip(methods, workers, strict=True)}
                tables.append(_table(size, variant, asks, rounds))
    return tables


def _rounds(size: tuple[int, int], variant: str) -> int:
    pixels = size[0] * size[1]
    return (7 if pixels <= 64 * 64 else 5 if pixels <= 97 * 97 else 3) if variant == "tied bottleneck" else 2


def _table(
    size: tuple[int, int], variant: str, asks: dict[str, Callable[[Direction], tuple[float, int]]], rounds: int
) -> dict[str, Any]:
    """The first round gives the memory, and a time only of those who have no other."""
    rows: dict[str, dict[str, Any]] = {name: {} for name in asks}
    for direction in DIRECTIONS:
        for number in range(rounds + 1):
            for name, ask in asks.items():
                row = rows[name].setdefault(direction, {"first": None, "seconds": [], "bytes": 0})
                if "skipped" in row or (number and row["first"] > LONG):
                    continue
                try:
                    seconds, peak = ask(direction)
                except Skip as reason:
                    rows[name][direction] = {"skipped": str(reason)}
                    continue
                if number:
                    row["seconds"].append(seconds)
                else:
                    row |= {"first": seconds, "bytes": peak}
    for name, row in rows.items():
        print(f"speed {size} {variant}, {name}: {_brief(row)}", flush=True)
    return {"size": size, "variant": variant, "rounds": rounds, "rows": rows}


def _brief(row: dict[str, dict[str, Any]]) -> str:
    said = []
    for direction, found in row.items():
        if "skipped" in found:
            said.append(f"{direction} skipped: {found['skipped']}")
        else:
            seconds = sorted(found["seconds"]) or [found["first"]]
            said.append(f"{direction} {seconds[len(seconds) // 2]:.4f} s, {found['bytes'] / 2**20:,.0f} MiB")
    return "; ".join(said)


def _call(layer: nn.Module, x: Tensor, direction: Direction) -> None:
    if direction == "forward":
        with torch.no_grad():
            layer(x)
        return
    layer(x).backward(x.detach())
    x.grad = None
    layer.zero_grad()


class _Worker:
    """A process that holds one layer and calls it when asked."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, case: Case) -> None:
        self.case = case
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case, torch.get_num_threads()), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, direction: Direction) -> tuple[float, int]:
        """Seconds of a call, and by how many bytes the process's resident memory rose in it."""
        if METHODS[self.case.method][1] == "matmul":
            need = MATMUL_COPIES[direction] * affinity_bytes(self.case.size) + 2**30
            if need > (free := _available()):
                raise Skip(f"wants {need / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        self._ours.send(direction)
        try:
            answer = self._ours.recv()
        except EOFError:
            raise Skip("the process died, most likely of too little memory") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.case}: {answer}")
        return answer

    def stop(self) -> None:
        """End the process."""
        self._ours.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


@contextmanager
def _alive(cases: Sequence[Case]) -> Iterator[list[_Worker]]:
    # Forked from a process that has imported torch and started no thread: fresh, and there at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repgraph_speed"])
    workers = [_Worker(context, case) for case in cases]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def _serve(pipe: Connection, case: Case, threads: int) -> None:
    torch.set_num_threads(threads)
    layer, x = case.layer().train(), case.map().requires_grad_()
    _call(layer, torch.rand(1, case.channels, 8, 8, requires_grad=True), "training")
    while True:
        try:
            direction = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_watched(layer, x, direction))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _watched(layer: nn.Module, x: Tensor, direction: Direction) -> tuple[float, int]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    begun = time.perf_counter()
    _call(layer, x, direction)
    seconds = time.perf_counter() - begun
    return seconds, _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024


def on_gpu(quick: bool) -> list[dict[str, Any]]:
    """bf16 under autocast, channels-last, one process: the allocator says what each call takes."""
    sizes = ((16, 16), (24, 32)) if quick else SIZES
    tables = []
    for size in sizes:
        for variant in VARIANTS:
            asks = {name: _on_gpu(Case(name, variant, size)) for name in METHODS}
            tables.append(_table(size, variant, asks, 3 if quick else 20))
    return tables


def _on_gpu(case: Case) -> Callable[[Direction], tuple[float, int]]:
    layer = case.layer().cuda().to(memory_format=torch.channels_last).train()
    x = case.map().to("cuda", torch.bfloat16, memory_format=torch.channels_last).requires_grad_()

    def ask(direction: Direction, calls: int = 10) -> tuple[float, int]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        try:
            # Once by itself: what compiles does it here.
            _autocast(layer, x, direction)
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            begin.record()
            for _ in range(calls):
                _autocast(layer, x, direction)
            end.record()
            torch.cuda.synchronize()
        except torch.cuda.OutOfMemoryError as error:
            raise Skip(str(error).splitlines()[0]) from error
        return begin.elapsed_time(end) / 1e3 / calls, torch.cuda.max_memory_allocated() - before

    return ask


def _autocast(layer: nn.Module, x: Tensor, direction: Direction) -> None:
    with torch.autocast("cuda", torch.bfloat16) if x.is_cuda else nullcontext():
        _call(layer, x, direction)
