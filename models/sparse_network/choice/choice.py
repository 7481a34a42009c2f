"""Which backend a network runs on: what each should cost, and where that is close, what it does cost."""

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fulgurite.models.sparse_network.choice.backends import Dense, consider_dense, measure, sparse_backend
from fulgurite.models.sparse_network.choice.cost import Machine, estimate, workload_of
from fulgurite.models.sparse_network.choice.dense import DensePlan
from fulgurite.models.sparse_network.structure import Topology

CLOSE = 4.0  # estimates nearer to each other than this are settled by timing
CLOSE_ON_GPU = 32.0  # where rates are data sheets', not measured
_ENOUGH = 1024  # samples to time at least, where there are so many: with fewer, dense products are not at their best
_LONG = 0.3  # seconds that one timed run of more than those may last
_WARM = 64  # samples to begin with, which compiles what is compiled on a first call
_LIMITS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)  # batches at which compiled programs change their mind

# One timing at a time: two at once would time each other.
_deciding = threading.Lock()


def _forget_lock() -> None:
    global _deciding
    _deciding = threading.Lock()


if hasattr(os, "register_at_fork"):  # a child that was forked while another thread was timing would wait for ever
    os.register_at_fork(after_in_child=_forget_lock)

Trial = Callable[[str, int], Callable[[], object]]


def can_time(x: Tensor) -> bool:
    """Whether x is numbers that can be computed with now, rather than something that records what is done to it."""
    return (
        type(x) is Tensor
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


@dataclass(frozen=True)
class Decision:
    """A backend, and why.

    Args:
        backend: the chosen one.
        estimated: seconds by backend.
        timed: seconds by backend, for the whole batch; empty where estimates settled it.
        reason: in words.
    """

    backend: str
    estimated: dict[str, float]
    timed: dict[str, float]
    reason: str


class Chooser:
    """Decides, and remembers its decisions, for one network on one device.

    A decision holds for batches between two powers of two, in training or not, at one number of threads. Copies share
    decisions; what is read from a file decides anew, perhaps on another machine.

    Args:
        topology: of the network, on its device.
        dtype: of its parameters.
        plan: of a network that is to be dense, whether that is worth considering or not.

    Example:
        >>> from fulgurite.models.sparse_network.topology import compile_topology
        >>> topology, _ = compile_topology([(0, 1)], num_inputs=1, outputs=[1], activations=1, aggregations=0)
        >>> decision = Chooser(topology, torch.float32).decide(8, training=False)
        >>> decision.backend, decision.reason
        ('cpu', 'no dense: fewer than 64 edges a level')
    """

    def __init__(self, topology: Topology, dtype: torch.dtype, plan: DensePlan | None = None) -> None:
        self.device = topology.device
        self.sparse = sparse_backend(self.device)
        dense = consider_dense(topology, dtype.itemsize) if plan is None else Dense(plan, "")
        self.plan: DensePlan | None = dense.plan
        self.refusal = dense.refusal
        self._itemsize = dtype.itemsize
        self.work = workload_of(topology, dense.plan)
        self._decisions: dict[tuple[int, bool, int, bool], Decision] = {}
        # What a program compiled by torch follows: it can neither time nor look at a cache that changes.
        self.untimed = {training: self._table(training) for training in (False, True)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decisions": {}}  # what was timed here says nothing of where it is read

    def __deepcopy__(self, memo: dict[int, object]) -> "Chooser":
        return self  # what is decided for a topology holds for its copies

    def follow(self, before: "Chooser") -> None:
        """Take over what was decided for a network that is much the same: one whose edges have been moved."""
        mine, its = (self.device, self._itemsize, self.work.edges, self.candidates), before
        if mine == (its.device, its._itemsize, its.work.edges, its.candidates) and self.work.depth == its.work.depth:
            self._decisions = its._decisions

    @property
    def candidates(self) -> tuple[str, ...]:
        """What ``auto`` may choose from."""
        found = [self.sparse] if self.sparse is not None else []
        return (*found, "dense") if self.plan is not None else tuple(found or ["reference"])

    def machine(self) -> Machine:
        """Where the network runs, as things are set now."""
        return Machine(self.device.type, self._itemsize, torch.get_num_threads(), self._rounds())

    def estimates(self, batch: int, *, training: bool, backends: tuple[str, ...] | None = None) -> dict[str, float]:
        """Seconds by backend."""
        machine = self.machine()
        names = self.candidates if backends is None else backends
        return {name: estimate(self.work, machine, name, batch, training=training) for name in names}

    def known(self, batch: int, *, training: bool) -> Decision | None:
        """What was decided for such a batch, if anything was."""
        return self._decisions.get(self._key(batch, training))

    def decide(self, batch: int, *, training: bool, trial: Trial | None = None) -> Decision:
        """Choose a backend for a batch.

        Args:
            batch: B.
            training: forward and backward rather than forward alone.
            trial: gives, for a backend and a number of samples, a function that runs them; None: there can be no
                timing now, estimates decide, and the next call may think again.
        """
        key = self._key(batch, training)
        decision = self._decisions.get(key)
        if decision is not None:
            return decision
        estimated = self.estimates(batch, training=training)
        ranked = sorted(estimated.values())
        close = CLOSE if self.device.type == "cpu" else CLOSE_ON_GPU
        if trial is None or len(ranked) < 2 or ranked[1] > close * ranked[0] or batch == 0:
            decision = self._settle(estimated, {})
        else:
            with _deciding:
                decision = self._decisions.get(key)  # another thread may have timed meanwhile
                if decision is None:
                    decision = self._settle(estimated, self._time(estimated, batch, trial))
                    self._decisions[key] = decision
        if trial is not None and batch > 0:
            self._decisions[key] = decision
        return decision

    def time(self, batch: int, *, training: bool, trial: Trial, backends: tuple[str, ...]) -> Decision:
        """Time all of some backends, whatever the estimates, and decide by that."""
        estimated = self.estimates(batch, training=training, backends=backends)
        with _deciding:
            timed = self._time(estimated, batch, trial)
        chosen = {name: seconds for name, seconds in timed.items() if name in self.candidates}
        decision = self._settle(self.estimates(batch, training=training), chosen)
        self._decisions[self._key(batch, training)] = decision
        return Decision(decision.backend, estimated, timed, decision.reason)

    def _time(self, estimated: dict[str, float], batch: int, trial: Trial) -> dict[str, float]:
        share = min(1.0, _LONG / max(estimated.values()))
        samples = min(batch, max(_ENOUGH, int(batch * share)))
        warm = [trial(name, min(_WARM, samples)) for name in estimated]
        seconds = measure({name: trial(name, samples) for name in estimated}, self.device, warm=warm)
        return {name: value * batch / samples for name, value in seconds.items()}

    def _settle(self, estimated: dict[str, float], timed: dict[str, float]) -> Decision:
        costs = timed or estimated
        backend = min(costs, key=costs.__getitem__)
        others = [name for name in costs if name != backend]
        if not others:
            why = f"no dense: {self.refusal}" if self.refusal else "there is no other on this device"
        else:
            ratio = f"{costs[others[0]] / costs[backend]:.3g}× as long"
            what = "timed" if timed else "estimated"
            long = ratio if math.isfinite(costs[others[0]]) else "more memory than there is"
            why = f"{what}, {others[0]} would take {long}"
        return Decision(backend, estimated, timed, why)

    def _key(self, batch: int, training: bool) -> tuple[int, bool, int, bool]:
        return max(batch - 1, 0).bit_length(), training, torch.get_num_threads(), self._rounds()

    def _rounds(self) -> bool:
        """Whether float32 products may be rounded to TF32."""
        return self.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"

    def _table(self, training: bool) -> tuple[tuple[int, str], ...]:
        """(largest batch, backend) of ever larger batches; what comes last holds for all beyond, too."""
        if len(self.candidates) == 1:
            return ((_LIMITS[-1], self.candidates[0]),)
        table: list[tuple[int, str]] = []
        for limit in _LIMITS:
            costs = self.estimates(limit, training=training)
            backend = min(costs, key=costs.__getitem__)
            if table and table[-1][1] == backend:
                table.pop()
            table.append((limit, backend))
        return tuple(table)
