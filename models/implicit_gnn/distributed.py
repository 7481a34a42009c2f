"""The implicit layer solved by peers that host parts of the graph, come and go, and need nobody in charge."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from fulgurite.models.implicit_gnn.asynchronous import PartedIteration, adjoint_iteration, forward_iteration
from fulgurite.models.implicit_gnn.crew import Crew, ProcessCrew, ThreadCrew
from fulgurite.models.implicit_gnn.fixed_point import AdjointEquation, Equation, NotSolvedError
from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array

TransportName = Literal["in_process", "zmq"]
_ROUNDS_BETWEEN_LOOKS = 10


@dataclass(frozen=True)
class Distributed:
    """Solves by peers that each host some parts of the graph and tell each other their states; none waits for another.

    ``leaving`` of them are ended without a word once the iteration is under way, and as many newcomers take part;
    the answer and its bound are the same. See :mod:`fulgurite.plugins.dynamic_async.engine`.

    Args:
        peers: how many.
        parts: blocks of nodes that they share out.
        transport: ``in_process``: threads; ``zmq``: processes on this machine.
        tolerance: of ‖x − x⋆‖_w, against the greatest of 1 and ‖x‖_w; known by ‖F(x) − x‖_w/(1 − γ).
        leaving: below ``peers``.
        heartbeat_s: at least so often a peer speaks.
        silence_s: who is silent for longer is out, and its parts are taken up by others.
        timeout_s: after which it gives up.

    Raises:
        ValueError: an option out of range.
        NotSolvedError: γ ≥ 1, or not done within ``timeout_s``.
        TransportError: pyzmq is missing.

    Example:
        >>> import torch
        >>> from fulgurite.models.implicit_gnn import ImplicitGNN
        >>> network = ImplicitGNN(3, 2, hidden_channels=4, solver=Distributed(peers=2, parts=3))
        >>> features, edge_index = torch.ones(5, 3), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        >>> network.predict(features, edge_index).state_error < 1e-5
        True
    """

    peers: int = 4
    parts: int = 8
    transport: TransportName = "in_process"
    tolerance: float = 1e-6
    leaving: int = 0
    heartbeat_s: float = 0.1
    silence_s: float = 1.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.transport not in get_args(TransportName):
            raise ValueError(f"got transport={self.transport!r}; choose from {', '.join(get_args(TransportName))}")
        if not self.tolerance > 0:
            raise ValueError(f"got tolerance={self.tolerance}; expected more than 0")
        if self.peers < 1 or not 0 <= self.leaving < self.peers:
            raise ValueError(
                f"got peers={self.peers}, leaving={self.leaving}; expected 1 peer or more, and somebody who stays"
            )

    def solve(self, equation: Equation) -> Tensor:
        """X⋆."""
        return self._iterated(forward_iteration(equation, self.parts, self.tolerance))

    def solve_adjoint(self, equation: AdjointEquation) -> Tensor:
        """Y⋆."""
        return self._iterated(adjoint_iteration(equation, self.parts, self.tolerance))

    def crew(self, map: ImplicitGraphMap) -> Crew:
        """The peers, at work on a map, for whoever wants to have them leave and join."""
        kind = ThreadCrew if self.transport == "in_process" else ProcessCrew
        return kind(map, self.peers, heartbeat_s=self.heartbeat_s, silence_s=self.silence_s, timeout_s=self.timeout_s)

    def _iterated(self, iteration: PartedIteration) -> Tensor:
        with self.crew(iteration.map) as crew:
            try:
                if self.leaving:
                    crew.until(rounds=1)
                    for number in crew.live[: self.leaving]:
                        crew.kill(number)
                    crew.join(self.leaving)
                return iteration.answer(settled_state(crew, iteration.settled, timeout_s=self.timeout_s))
            except TimeoutError as error:
                raise NotSolvedError(
                    f"got no fixed point from {self.peers} peers: {error}; raise timeout_s or tolerance, or lower kappa"
                ) from error


def settled_state(crew: Crew, settled: Callable[[Sequence[Array]], bool], *, timeout_s: float = 60.0) -> list[Array]:
    """Everybody's state, once it has settled.

    Args:
        crew: at work.
        settled: looks at everybody's state.
        timeout_s: how long it may take.

    Raises:
        TimeoutError: it does not settle in time.
    """
    deadline, rounds = time.monotonic() + timeout_s, 0
    while time.monotonic() < deadline:
        rounds = crew.until(rounds + _ROUNDS_BETWEEN_LOOKS)
        states = crew.state()
        if settled(states):
            return states
    raise TimeoutError(f"{rounds} rounds within {timeout_s} s were not enough")
