"""The ways to evaluate a sparse network, which of them a device has, and how long each takes."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from fulgurite.models.sparse_network.choice.dense import DensePlan, evaluate_dense, plan_dense
from fulgurite.models.sparse_network.choice.reference import evaluate
from fulgurite.models.sparse_network.operator import sparse_network
from fulgurite.models.sparse_network.structure import Topology

Backend = Literal["auto", "cpu", "triton", "dense", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)
DTYPES = (torch.float32, torch.float64)

DENSE_BYTES = 512 * 2**20  # what dense matrices may take before auto leaves them alone
_EDGES_A_LEVEL = 64  # with fewer, the calls of a dense level alone take longer than its edges, up to batches of 6,000
_LEVELS = 4096
_ROUNDS, _SECONDS = 7, 1.0  # of timing: at most so many runs of each, and about so long in all
_APART = 1.5  # a lead that more runs will not turn


@dataclass(frozen=True)
class Dense:
    """Whether a network can be evaluated as dense matrices.

    Args:
        plan: how; None where it cannot, or should not.
        refusal: why not; empty where there is a plan.
    """

    plan: DensePlan | None
    refusal: str


def consider_dense(topology: Topology, itemsize: int) -> Dense:
    """Make a dense plan where it may be worth something.

    Args:
        topology: of the network.
        itemsize: bytes a number.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 1)], num_inputs=1, outputs=[1], activations=1, aggregations=4)
        >>> consider_dense(topology, 4).refusal
        'some nodes do not sum'
    """
    if len(topology.group_ptr) > 2:
        return Dense(None, "several networks at once")
    if bool((topology.agg_id != 0).any()):
        return Dense(None, "some nodes do not sum")
    if topology.num_edges < _EDGES_A_LEVEL * max(topology.depth, 1):
        return Dense(None, f"fewer than {_EDGES_A_LEVEL} edges a level")
    if topology.depth > _LEVELS:
        return Dense(None, f"more than {_LEVELS:,} levels")
    if topology.dense_size * itemsize > DENSE_BYTES:
        return Dense(None, f"its matrices would take {topology.dense_size * itemsize / 2**20:,.0f} MB")
    return Dense(plan_dense(topology), "")


def sparse_backend(device: torch.device) -> str | None:
    """The backend that computes sparsely on a device, if there is one.

    Example:
        >>> sparse_backend(torch.device("cpu"))
        'cpu'
    """
    if device.type == "cpu":
        return "cpu"
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else None


def evaluate_by(
    backend: str,
    topology: Topology,
    plan: DensePlan | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    response: Tensor | None,
) -> Tensor:
    """Evaluate a network by one of the backends.

    Autocast has no part in it: every backend computes in the type of the parameters, so that which one runs does not
    change what comes out by more than rounding.

    Args:
        backend: one of :data:`BACKENDS`, but not ``auto``.
        topology: of N nodes, F of them inputs, E edges and O outputs.
        plan: for ``dense``; None: it is made.
        x: (B, F).
        weight: (E,) in edge order.
        bias: (N − F,) in the topology's order of nodes.
        response: likewise; None: all 1.

    Returns:
        (B, O).

    Raises:
        ValueError: another backend.
    """
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if _autocasts(kind) else nullcontext():
        if backend in ("cpu", "triton"):
            return sparse_network(x, weight, bias, response, topology, backend=backend)
        if backend == "dense":
            return evaluate_dense(plan or plan_dense(topology), topology, x, weight, bias, response)
        if backend == "reference":
            return evaluate(topology, x, weight, bias, response)
    raise ValueError(f"no backend {backend!r} evaluates a network; there are {', '.join(BACKENDS[1:])}")


def matching(x: Tensor, weight: Tensor, backend: str) -> Tensor:
    """See that x and the parameters can be computed with; under autocast, give x the parameters' type.

    Raises:
        ValueError: types or devices that do not fit.

    Example:
        >>> matching(torch.zeros(1, 2, dtype=torch.float16), torch.zeros(2), "auto")
        Traceback (most recent call last):
        ValueError: x is torch.float16 and the parameters are torch.float32; pass x.to(torch.float32)
    """
    if weight.dtype not in DTYPES:
        raise ValueError(
            f"the parameters are {weight.dtype}; SparseNetwork computes in float32 and float64: call .float(), and "
            "for mixed precision use torch.autocast"
        )
    if x.device != weight.device:
        raise ValueError(f"x is on {x.device} and the parameters are on {weight.device}; move one to the other")
    if backend == "cpu" and x.device.type != "cpu":
        raise ValueError(f"backend='cpu' cannot run on {x.device}; set backend='auto', or move the network and x")
    if x.dtype == weight.dtype:
        return x
    if not x.is_floating_point() or not _autocasts(x.device.type):
        raise ValueError(f"x is {x.dtype} and the parameters are {weight.dtype}; pass x.to({weight.dtype})")
    return x.to(weight.dtype)


def _autocasts(kind: str) -> bool:
    # Of a kind that has no autocast, such as meta, torch cannot be asked whether it is on.
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def measure(
    runs: Mapping[str, Callable[[], object]], device: torch.device, *, warm: Iterable[Callable[[], object]] = ()
) -> dict[str, float]:
    """Time some functions in turn, and give the best seconds of each; infinity where memory did not suffice.

    They run in a thread of their own, which takes none of the caller's settings with it: hooks on saved tensors,
    autocast, grad mode and modes that watch operations would record the timing as if it were part of the program.

    Args:
        runs: name and function.
        device: to wait for after each.
        warm: functions to run before, untimed.

    Example:
        >>> seconds = measure({"sum": lambda: sum(range(10_000)), "nothing": lambda: None}, torch.device("cpu"))
        >>> seconds["nothing"] < seconds["sum"]
        True
    """
    best = dict.fromkeys(runs, float("inf"))
    failures: list[BaseException] = []

    def once(name: str) -> float:
        start = time.perf_counter()
        try:
            runs[name]()
            _wait_for(device)
        except torch.OutOfMemoryError:
            return float("inf")
        return time.perf_counter() - start

    def work() -> None:
        try:
            _wait_for(device)
            for run in warm:
                run()
            begin = time.perf_counter()
            for number in range(_ROUNDS):
                for name in runs:
                    best[name] = min(best[name], once(name))
                ranked = sorted(best.values())
                clear = len(ranked) > 1 and ranked[1] > _APART * ranked[0]
                if time.perf_counter() - begin > _SECONDS or (clear and number > 0):
                    break
        except BaseException as error:  # raised again below, where the caller is
            failures.append(error)

    thread = threading.Thread(target=work, name="fulgurite-timing", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
