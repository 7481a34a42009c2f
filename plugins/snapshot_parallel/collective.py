"""Collectives that autograd sees: in the same order on every rank, forward and backward, and recorded where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fulgurite.plugins.snapshot_parallel.routes import Route


class Tape:
    """The outputs of a block's forward collectives in order, so that its re-run sends nothing again.

    Attributes:
        outputs: what the collectives gave.

    Example:
        >>> tape = Tape()
        >>> tape.record(torch.ones(2))
        >>> tape.replay()
        tensor([1., 1.])
    """

    def __init__(self, outputs: Sequence[Tensor] = ()) -> None:
        self.outputs = list(outputs)
        self._next = 0

    def record(self, output: Tensor) -> None:
        """Keep one more output."""
        self.outputs.append(output.detach())

    def replay(self) -> Tensor:
        """The next output, as an alias: what autograd notes on it does not stay on the tape."""
        if self._next == len(self.outputs):
            raise RuntimeError(
                f"the re-run asks for collective {self._next + 1}; the forward pass recorded {len(self.outputs)}; "
                "a network must run the same collectives whenever it sees a block"
            )
        self._next += 1
        return self.outputs[self._next - 1].detach()

    def close(self) -> None:
        """Check that every output was asked for."""
        if self._next != len(self.outputs):
            raise RuntimeError(
                f"the re-run asked for {self._next} collectives; the forward pass recorded {len(self.outputs)}; "
                "a network must run the same collectives whenever it sees a block"
            )


class Chain:
    """Ties collectives together so that their backward passes run in reverse order, every one, on every rank.

    Autograd runs what is ready, and leaves out what no loss term needs: two ranks whose losses differ would run
    different collectives and wait for each other for ever. Here each collective takes the token of the one before it
    and gives its own, so that a later one's backward always comes first; :meth:`tie` puts the last token under the
    result, so that whatever is computed from any part of it runs them all.

    Attributes:
        token: a tensor without elements that depends on the last collective; None before the first.
    """

    def __init__(self) -> None:
        self.token: Tensor | None = None

    def tie(self, x: Tensor) -> Tensor:
        """The same values; a backward pass through them runs every collective so far."""
        return x if self.token is None else cast("Tensor", _Join.apply(x, self.token))


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0]
        return gradient, gradient.new_zeros(0)


# Sends a tensor along a route, or a gradient the way back if told so, and gives what is made of what came.
Transfer = Callable[[Route, Tensor, bool], Tensor]


class Collective(torch.autograd.Function):
    """One all-to-all along a :class:`Route`; backward sends the gradients the way back.

    Inputs are the tensor, the chain's token (or None), what to send by, the route, and the tape to replay (or None).
    Missing gradients count as zeros, so that backward runs on every rank whatever its loss holds.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, token: Tensor | None, transfer: Transfer, route: Route, replayed: Tape | None
    ) -> tuple[Tensor, Tensor]:
        """The output and the next token."""
        ctx.transfer, ctx.route = transfer, route
        output = transfer(route, x, False) if replayed is None else replayed.replay()
        return output, x.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The input's gradient and the token's."""
        gradient, token = gradients
        received = ctx.transfer(ctx.route, gradient, True)
        return received, token if ctx.needs_input_grad[1] else None, None, None, None
