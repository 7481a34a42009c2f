"""Why a network runs on the backend that it runs on, as a table."""

import math
from dataclasses import dataclass

import torch

from fulgurite.models.sparse_network.choice.backends import BACKENDS
from fulgurite.models.sparse_network.choice.choice import Chooser, Decision, Trial
from fulgurite.models.sparse_network.structure import Topology

_PATIENCE = 2.0  # seconds: a backend that should take longer is not timed for the table's sake


@dataclass(frozen=True)
class Cost:
    """What one backend costs.

    Args:
        backend: its name.
        training: forward and backward rather than forward alone.
        estimated: seconds; infinity where it cannot run.
        timed: seconds, or None where it was not timed.
        note: why it does not come into question, or empty.
    """

    backend: str
    training: bool
    estimated: float
    timed: float | None
    note: str = ""


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a network is, what each backend costs at one batch size, and which is chosen; prints as a table.

    Args:
        batch_size: B.
        device: where the parameters are.
        dtype: their type.
        threads: of the CPU.
        setting: the network's ``backend``.
        num_inputs: F.
        num_outputs: O.
        num_nodes: of the compiled topology, inputs included.
        num_edges: of the compiled topology.
        widths: nodes of each level.
        density: share of the dense matrices, one a level, that edges fill.
        costs: of each backend, forward alone and forward with backward.
        inference: the backend chosen for forward alone.
        inference_reason: why.
        training: the backend chosen for forward and backward.
        training_reason: why.

    Example:
        >>> from fulgurite.models import SparseNetwork
        >>> explanation = SparseNetwork([(0, 1)], num_inputs=1, outputs=[1]).explain(8)
        >>> explanation.inference, explanation.density, explanation.widths
        ('cpu', 1.0, (1,))
        >>> print(str(explanation).splitlines()[0])
        SparseNetwork: 1 inputs, 1 outputs, 2 nodes, 1 edges in 1 levels, 1 to 1 wide; density 100 %
    """

    batch_size: int
    device: str
    dtype: str
    threads: int
    setting: str
    num_inputs: int
    num_outputs: int
    num_nodes: int
    num_edges: int
    widths: tuple[int, ...]
    density: float
    costs: tuple[Cost, ...]
    inference: str
    inference_reason: str
    training: str
    training_reason: str

    def __str__(self) -> str:
        narrow, wide = min(self.widths, default=0), max(self.widths, default=0)
        lines = [
            f"SparseNetwork: {self.num_inputs:,} inputs, {self.num_outputs:,} outputs, {self.num_nodes:,} nodes, "
            f"{self.num_edges:,} edges in {len(self.widths):,} levels, {narrow:,} to {wide:,} wide; "
            f"density {100 * self.density:.3g} %",
            f"batch of {self.batch_size:,} on {self.device}, {self.dtype}, {self.threads} thread(s), "
            f"backend={self.setting!r}",
            "",
            f"{'':10}{'forward':>25}{'forward and backward':>25}",
            f"{'backend':10}{'estimated':>14}{'timed':>11}{'estimated':>14}{'timed':>11}",
        ]
        for backend in BACKENDS[1:]:
            forward, both = (cost for cost in self.costs if cost.backend == backend)
            cells = [forward.estimated, forward.timed, both.estimated, both.timed]
            text = [_seconds(value).rjust(width) for value, width in zip(cells, (14, 11, 14, 11), strict=True)]
            lines.append(f"{backend:10}{''.join(text)}{'  ' + forward.note if forward.note else ''}")
        lines += [
            "",
            f"inference runs on {self.inference}: {self.inference_reason}",
            f"training runs on {self.training}: {self.training_reason}",
        ]
        return "\n".join(lines)

    __repr__ = __str__


def explain(
    topology: Topology,
    chooser: Chooser,
    *,
    setting: str,
    dtype: torch.dtype,
    batch_size: int,
    trials: dict[bool, Trial] | None,
) -> Explanation:
    """Gather an :class:`Explanation`.

    Args:
        topology: of the network.
        chooser: of the network; what it times here, it decides by from then on.
        setting: the network's ``backend``.
        dtype: of its parameters.
        batch_size: B.
        trials: for inference (False) and training (True), a function that makes functions to time; None: time nothing.
    """
    notes = {
        "cpu": "" if chooser.device.type == "cpu" else "the parameters are elsewhere",
        "triton": "" if chooser.sparse == "triton" else "for CUDA devices",
        "dense": chooser.refusal,
        "reference": "one node at a time, for checking",
    }
    costs, decisions = [], {}
    for training in (False, True):
        estimated = chooser.estimates(batch_size, training=training, backends=BACKENDS[1:])
        decision = _decision(chooser, batch_size, training, estimated, trials)
        decisions[training] = (
            decision if setting == "auto" else Decision(setting, {}, {}, f"pinned by backend={setting!r}")
        )
        costs += [
            Cost(name, training, seconds, decision.timed.get(name), notes[name]) for name, seconds in estimated.items()
        ]
    return Explanation(
        batch_size=batch_size,
        device=str(chooser.device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        setting=setting,
        num_inputs=topology.num_inputs,
        num_outputs=topology.num_outputs,
        num_nodes=topology.num_nodes,
        num_edges=topology.num_edges,
        widths=tuple(torch.diff(topology.level_ptr).tolist()),
        density=topology.density,
        costs=tuple(costs),
        inference=decisions[False].backend,
        inference_reason=decisions[False].reason,
        training=decisions[True].backend,
        training_reason=decisions[True].reason,
    )


def _decision(
    chooser: Chooser, batch: int, training: bool, estimated: dict[str, float], trials: dict[bool, Trial] | None
) -> Decision:
    if trials is None:
        return chooser.known(batch, training=training) or chooser.decide(batch, training=training)
    names = tuple(
        name
        for name, seconds in estimated.items()
        if name in chooser.candidates or (math.isfinite(seconds) and seconds < _PATIENCE)
    )
    return chooser.time(batch, training=training, trial=trials[training], backends=names)


def _seconds(value: float | None) -> str:
    """A time as a person reads it.

    >>> _seconds(0.00123), _seconds(12.0), _seconds(None)
    ('1.23 ms', '12 s', '–')
    """
    if value is None or math.isinf(value):
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"
