"""Gradients summed over ranks in one flat reduction, whichever of several backward passes they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module, Parameter

from fulgurite.plugins.snapshot_parallel.exchange import Traffic


class SummedGradients:
    r"""Sums gradients over ranks after a backward pass: :math:`g = \frac{1}{D} \sum_p g_p`.

    Every rank's loss is its share of one global loss (its terms divided by the *global* number of terms), so gradients
    are summed, not averaged; only over the D replicas of a data axis are they averaged. One all-reduce per dtype
    carries all gradients and, for each parameter, whether any rank has one: a parameter that took part on some ranks
    only gets zeros elsewhere, one that took part nowhere keeps ``None``, as in a single process.

    What was summed must not be summed again. Before a backward pass all but one rank of each replica put their summed
    gradients away, so that the next sum counts them once; a blocked pass (accumulation) adds to the local gradients and
    leaves the sum to a later one.

    Args:
        module: whose parameters.
        group: the process group of all ranks; None for one process, where nothing is done.
        keeps: whether this rank keeps what was summed already; true on one rank of each replica.
        replicas: D, by which sums are divided.
        traffic: where the reduced bytes are counted, as ``gradients``.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> gradients = SummedGradients(layer)
        >>> with gradients.around_backward():
        ...     layer(torch.ones(1, 2)).sum().backward()
        >>> layer.weight.grad
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        module: Module,
        *,
        group: dist.ProcessGroup | None = None,
        keeps: bool = True,
        replicas: int = 1,
        traffic: Traffic | None = None,
    ) -> None:
        self._module = module
        self._group = group
        self._keeps = keeps
        self._replicas = replicas
        self._traffic = traffic
        self._blocked = 0
        # Parameters that may hold gradients of this rank alone; the same on every rank, for it asks only requires_grad.
        self._open: dict[Parameter, None] = {}

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Backward passes in here leave their gradients local, to be summed by the next one outside."""
        self._blocked += 1
        try:
            yield
        finally:
            self._blocked -= 1

    @contextmanager
    def around_backward(self) -> Iterator[None]:
        """:meth:`before_backward`, then :meth:`after_backward` unless the pass failed."""
        self.before_backward()
        yield
        self.after_backward()

    def before_backward(self) -> None:
        """Put away, on all but one rank, what was summed already."""
        if self._group is None:
            return
        for parameter in self._module.parameters():
            if parameter.requires_grad and parameter not in self._open:
                if not self._keeps:
                    parameter.grad = None
                self._open[parameter] = None

    def after_backward(self) -> None:
        """Sum, unless blocked.

        Raises:
            ValueError: a sparse gradient; a flat sum has no place for it.
        """
        if self._group is None or self._blocked:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Parameter]] = {}
        for parameter in self._open:
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                raise ValueError(
                    f"got a sparse gradient for {self._name(parameter)}; expected a dense one: set sparse=False"
                )
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for parameters in kinds.values():
            self._sum(parameters, self._group)
        self._open.clear()

    @torch.no_grad()
    def _sum(self, parameters: list[Parameter], group: dist.ProcessGroup) -> None:
        first = parameters[0]
        taking_part = [float(parameter.grad is not None) for parameter in parameters]
        flat = torch.cat([*(_flat_gradient(p) for p in parameters), first.new_tensor(taking_part)])
        dist.all_reduce(flat, group=group)
        if self._traffic is not None:
            self._traffic.add("gradients", flat.numel() * flat.element_size())
        sums, counts = flat[: -len(parameters)], flat[-len(parameters) :]
        if self._replicas > 1:
            sums /= self._replicas
        # Read back only where something is missing here: on a GPU it waits for the sum.
        anywhere = taking_part if all(taking_part) else counts.tolist()
        pieces = sums.split([parameter.numel() for parameter in parameters])
        for parameter, piece, count in zip(parameters, pieces, anywhere, strict=True):
            if parameter.grad is not None:
                parameter.grad.detach().copy_(piece.view_as(parameter))
            elif count:
                parameter.grad = piece.view_as(parameter).clone()

    def _name(self, parameter: Parameter) -> str:
        return next((name for name, other in self._module.named_parameters() if other is parameter), "a parameter")


def _flat_gradient(parameter: Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    return parameter.grad.detach().reshape(-1).to(parameter.dtype)
