"""Block checkpointing along the timeline: between blocks only the carry is kept, and backward re-runs each block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fulgurite.plugins.snapshot_parallel.collective import Tape

if TYPE_CHECKING:
    from fulgurite.plugins.snapshot_parallel.shard import Block

Carry = tuple[Tensor, ...]


@torch.compiler.disable
def checkpointed(
    network: nn.Module, block: Block, carry: Carry, *, collectives: Literal["save", "resend"]
) -> tuple[Tensor, Carry]:
    """Run a network over one block, keeping the carry alone; backward first runs the whole block again.

    The re-run is complete before the first gradient is computed, so that ranks whose losses need different parts of a
    block still run the same collectives in the same order (``torch.utils.checkpoint`` without reentry stops early).
    Gradients go to the parameters, to the carry and to features that ask for them; numbers drawn (dropout) and the
    autocast settings are those of the forward pass. Outside of grad mode the network just runs.

    Args:
        network: ``network(block, carry)`` gives (embeddings (t_p, N, F), carry). Every tensor that needs a gradient
            and is no parameter of it must be in the carry or be the block's features; buffers that it updates are
            updated twice.
        block: the block.
        carry: what the network handed on from the block before.
        collectives: ``"resend"`` runs the collectives again in the re-run (three passes in all); ``"save"`` keeps
            what they gave, so that nothing is sent again.

    Example:
        >>> from fulgurite.plugins.snapshot_parallel.exchange import Exchange
        >>> from fulgurite.plugins.snapshot_parallel.partitioning import partition
        >>> from fulgurite.plugins.snapshot_parallel.shard import Block
        >>> class Scale(nn.Linear):
        ...     def forward(self, block, carry):
        ...         return super().forward(block.features), carry
        >>> part = partition([1, 1], num_nodes=3, ranks=1)
        >>> block = Block(part, 0, Exchange(), features=torch.ones(2, 3, 4))
        >>> embeddings, carry = checkpointed(Scale(4, 5), block, (), collectives="save")
        >>> embeddings.sum().backward()
        >>> embeddings.shape
        torch.Size([2, 3, 5])
    """
    if not torch.is_grad_enabled():
        with block.held():
            return network(block, carry)
    named = dict(network.named_parameters())
    chain = block.exchange.chain
    run = _Run(network, block, tuple(named), len(carry), collectives == "save")
    given = block.given_features
    token = None if chain is None else chain.token
    embeddings, token, *out = _Checkpointed.apply(run, token, given, *carry, *named.values())
    if chain is not None and block.exchange.size > 1:
        chain.token = token
    return embeddings, tuple(out)


@dataclass
class _Run:
    """How to run a block, and how it was run first."""

    network: nn.Module
    block: Block
    names: tuple[str, ...]
    num_carry: int
    save: bool
    random: _RandomState = field(init=False)
    autocast: _Autocast = field(init=False)

    def __call__(
        self,
        features: Tensor | None,
        carry: Carry,
        parameters: tuple[Tensor, ...],
        collectives: AbstractContextManager[object],
    ) -> tuple[Tensor, Carry]:
        """Run it, its collectives recorded or replayed."""
        block = self.block if features is None else self.block.with_features(features)
        named = dict(zip(self.names, parameters, strict=True))
        # Parameters are swapped for aliases: hooks on the real ones see one gradient, that of the outer pass.
        with self.autocast.restored(), block.held(), collectives, block.exchange.chained() as chain:
            embeddings, out = torch.func.functional_call(self.network, named, (block, carry))
            return chain.tie(embeddings), out


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, token: Tensor | None, features: Tensor | None, *tensors: Tensor) -> Any:
        carry, parameters = tensors[: run.num_carry], tensors[run.num_carry :]
        run.random = _RandomState(tensors)
        run.autocast = _Autocast(tensors)
        exchange, tape = run.block.exchange, Tape()
        # With gradients enabled, though nothing of the graph is kept: which results need one is then known exactly,
        # the same on every rank, and no collective later carries back gradients that nobody asked for.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, _unpack):
            collectives = exchange.recording(tape) if run.save else nullcontext()
            embeddings, out = run(features, carry, parameters, collectives)
        results = [embeddings, *out]
        detached = [_compact(result.detach()) for result in results]
        ctx.mark_non_differentiable(*(new for new, old in zip(detached, results, strict=True) if not old.requires_grad))
        ctx.run, ctx.given, ctx.has_token = run, features is not None, token is not None
        kept = [] if features is None else [features]
        ctx.save_for_backward(*kept, *tensors, *tape.outputs)
        ctx.num_kept = len(kept) + len(tensors)
        return detached[0], embeddings.new_zeros(0), *detached[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        run: _Run = ctx.run
        gradient, _, *carry_gradients = gradients
        saved = ctx.saved_tensors
        # All that need a gradient, whichever are asked for now: the collectives of the re-run depend on it.
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in saved[: ctx.num_kept]]
        features, tensors = (inputs[0], inputs[1:]) if ctx.given else (None, inputs)
        carry, parameters = tuple(tensors[: run.num_carry]), tuple(tensors[run.num_carry :])
        exchange, tape = run.block.exchange, Tape(saved[ctx.num_kept :])
        with torch.enable_grad(), run.random.restored():
            collectives = exchange.replaying(tape) if run.save else nullcontext()
            embeddings, out = run(features, carry, parameters, collectives)
        pairs = zip([embeddings, *out], [gradient, *carry_gradients], strict=True)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        used = [pair for pair in pairs if pair[0].requires_grad]
        outputs, weights = [pair[0] for pair in used], [pair[1] for pair in used]
        found = iter(torch.autograd.grad(outputs, wanted, weights, allow_unused=True))
        each = [next(found) if tensor.requires_grad else None for tensor in inputs]
        token = gradient.new_zeros(0) if ctx.has_token else None
        return None, token, *(each if ctx.given else [None, *each])


def _unpack(_: None) -> Tensor:
    raise RuntimeError("the graph of a checkpointed block's forward pass keeps nothing; its re-run is differentiated")


def _compact(result: Tensor) -> Tensor:
    """A carry that is a slice of something larger must not keep the larger thing alive."""
    return result.clone() if result.untyped_storage().nbytes() > 2 * result.nbytes else result


class _RandomState:
    """The random number generators of the CPU and of the device that the tensors lie on."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.cpu = torch.get_rng_state()
        self.device = _accelerator(tensors)
        if self.device is not None:
            self.state = torch.get_device_module(self.device).get_rng_state(self.device)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, numbers are drawn as they were after this state; outside, as if nothing had been drawn."""
        kind, devices = ("cuda", []) if self.device is None else (self.device.type, [self.device])
        with torch.random.fork_rng(devices, device_type=kind):
            torch.set_rng_state(self.cpu)
            if self.device is not None:
                torch.get_device_module(self.device).set_rng_state(self.state, self.device)
            yield


class _Autocast:
    """Whether operations run in a lower precision; backward itself runs outside of it."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        accelerator = _accelerator(tensors)
        kinds = {"cpu"} | ({accelerator.type} if accelerator else set())
        self.settings = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, the settings that there were."""
        with ExitStack() as stack:
            for kind, dtype, enabled in self.settings:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield


def _accelerator(tensors: tuple[Tensor, ...]) -> torch.device | None:
    return next((tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")), None)
