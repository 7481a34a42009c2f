"""The implicit layer solved under a schedule: old values, lost messages, parts of the graph that leave and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fulgurite.models.implicit_gnn.bound import error_bound
from fulgurite.models.implicit_gnn.fixed_point import AdjointEquation, Equation, NotSolvedError
from fulgurite.plugins.dynamic_async.maps.implicit_graph import ImplicitGraphMap
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap
from fulgurite.plugins.dynamic_async.model.generators import RandomSchedule
from fulgurite.plugins.dynamic_async.model.simulation import simulate


def as_map(equation: Equation, parts: int) -> ImplicitGraphMap:
    """An equation as a dynamic map over parts of the nodes, in double precision, with the certificate's weights.

    Args:
        equation: what is to be solved.
        parts: blocks of consecutive nodes, at most one a node.

    Raises:
        ValueError: fewer than 1.
    """
    if parts < 1:
        raise ValueError(f"got parts={parts}; expected 1 or more")
    nodes = equation.graph.num_nodes
    return ImplicitGraphMap(
        equation.graph.numpy(),
        equation.weight.detach().cpu().double().numpy(),
        equation.injection.detach().cpu().double().numpy(),
        [np.asarray(part) for part in np.array_split(np.arange(nodes), min(parts, nodes))],
        activation=equation.activation,
        iteration="ignn" if equation.damping == 1 else "nemon",
        scale=equation.graph.norm_weight.cpu().numpy()[:, None],
    )


def as_adjoint_map(problem: AdjointEquation, parts: int) -> ImplicitGraphMap:
    r"""The adjoint as such a map, of :math:`V = D \circ (G + A^T V W)`, over the same parts."""
    equation = problem.equation
    nodes = equation.graph.num_nodes
    return ImplicitGraphMap(
        equation.graph.numpy().T,
        equation.weight.detach().cpu().double().numpy().T,
        problem.gradient.detach().cpu().double().numpy(),
        [np.asarray(part) for part in np.array_split(np.arange(nodes), min(parts, nodes))],
        activation="identity",
        iteration="ignn" if equation.damping == 1 else "nemon",
        gain=problem.slope.detach().cpu().double().numpy(),
    )


@dataclass(frozen=True, eq=False)
class PartedIteration:
    """One of the two solves, as whoever iterates it needs it.

    Args:
        map: over parts of the nodes.
        settled: whether everybody's state is certainly within the tolerance.
        answer: the solution (N, d) that everybody's state stands for, in the equation's type and place.
    """

    map: ImplicitGraphMap
    settled: Callable[[Sequence[Array]], bool]
    answer: Callable[[Sequence[Array]], Tensor]


def forward_iteration(equation: Equation, parts: int, tolerance: float) -> PartedIteration:
    """The forward solve; ‖x − x⋆‖_w is held against the greatest of 1 and ‖x‖_w.

    Raises:
        NotSolvedError: γ ≥ 1.
    """
    _check(equation.factor)
    map = as_map(equation, parts)

    def as_state(states: Sequence[Array]) -> Tensor:
        return torch.from_numpy(map.assemble(states)).to(equation.weight.device)

    def settled(states: Sequence[Array]) -> bool:
        state = as_state(states)
        return error_bound(equation, state) <= tolerance * max(1.0, equation.size(state))

    return PartedIteration(map, settled, lambda states: as_state(states).to(equation.injection))


def adjoint_iteration(problem: AdjointEquation, parts: int, tolerance: float) -> PartedIteration:
    """The adjoint solve; the error in the dual norm is held against that of the solution.

    Raises:
        NotSolvedError: γ ≥ 1.
    """
    _check(problem.factor)
    map, exact = as_adjoint_map(problem, parts), problem.double()
    graph, weight = exact.equation.graph, exact.equation.weight

    def as_state(states: Sequence[Array]) -> Tensor:
        by_inner = torch.from_numpy(map.assemble(states)).to(weight.device)
        return exact.gradient + torch.sparse.mm(graph.transposed, by_inner @ weight)

    def settled(states: Sequence[Array]) -> bool:
        state = as_state(states)
        step = exact.size(exact.evaluate(state) - state)
        return step <= (1 - exact.factor) * tolerance * exact.size(state)

    return PartedIteration(map, settled, lambda states: as_state(states).to(problem.gradient))


@dataclass(frozen=True)
class Asynchronous:
    """Solves by simulating workers that each own a part, under a random schedule; the answer is that of all at once.

    First ``ticks`` with churn, if there is any: parts leave, are read as 0, and return with nothing. Then everybody
    stays, and the iteration goes on, no less asynchronously, until the error is certainly below the tolerance.

    Args:
        parts: blocks of nodes, each a participant.
        tolerance: of ‖x − x⋆‖_w, against the greatest of 1 and ‖x‖_w; known by ‖F(x) − x‖_w/(1 − γ).
        activation: chance that a part evaluates at a tick.
        max_delay: how old, in ticks, what it reads may be.
        loss: chance that a message is lost.
        churn: chance that somebody leaves or returns at a tick, in the first ``ticks``.
        ticks: see above; also how many there are between two looks at the error.
        max_ticks: after which it gives up.
        seed: of the schedule.

    Raises:
        NotSolvedError: γ ≥ 1, or not done within ``max_ticks``.
        ScheduleError: a number that is no chance, or no delay.

    Example:
        >>> from fulgurite.models.implicit_gnn import ImplicitGNN
        >>> network = ImplicitGNN(3, 2, hidden_channels=4, solver=Asynchronous(parts=3, churn=0.1))
        >>> features, edge_index = torch.ones(5, 3), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        >>> network.predict(features, edge_index).state_error < 1e-5
        True
    """

    parts: int = 8
    tolerance: float = 1e-6
    activation: float = 0.5
    max_delay: int = 4
    loss: float = 0.1
    churn: float = 0.0
    ticks: int = 100
    max_ticks: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"got tolerance={self.tolerance}; expected more than 0")

    def solve(self, equation: Equation) -> Tensor:
        """X⋆."""
        iteration = forward_iteration(equation, self.parts, self.tolerance)
        return iteration.answer(self.run(iteration.map, iteration.settled))

    def solve_adjoint(self, equation: AdjointEquation) -> Tensor:
        """Y⋆."""
        iteration = adjoint_iteration(equation, self.parts, self.tolerance)
        return iteration.answer(self.run(iteration.map, iteration.settled))

    def run(self, map: DynamicMap, settled: Callable[[Sequence[Array]], bool]) -> list[Array]:
        """Iterate any map under these schedules, until it has settled.

        Args:
            map: of as many participants as there are parts.
            settled: looks at everybody's state.
        """
        states = [map.initial(i) for i in range(map.num_participants)]
        done = 0
        if self.churn:
            states = list(simulate(map, self.schedule(map.num_participants, 0), initial=states).states)
            done = self.ticks
        number = 1
        while not settled(states):
            if done >= self.max_ticks:
                raise NotSolvedError(
                    f"got no fixed point within {done} ticks of the schedule; raise max_ticks or tolerance, or lower "
                    "kappa"
                )
            states = list(simulate(map, self.schedule(map.num_participants, number), initial=states).states)
            done, number = done + self.ticks, number + 1
        return states

    def schedule(self, participants: int, number: int) -> RandomSchedule:
        """The schedule of the first ticks (0), with churn, and of those that follow, without."""
        return RandomSchedule(
            participants,
            self.ticks,
            seed=self.seed * 1_000_003 + number,
            activation=self.activation,
            max_delay=self.max_delay,
            loss=self.loss,
            churn=0.0 if number else self.churn,
        )


def _check(factor: float) -> None:
    if not factor < 1:
        raise NotSolvedError(
            f"got a layer of contraction factor {factor:.6g}; expected below 1: project its weight, or give it a "
            "constraint"
        )
