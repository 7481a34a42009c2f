"""The answer that anchored training comes to, found by Newton's method on all shards at once, to compare with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from fulgurite.plugins.dynamic_async.flat_parameters import FlatParameters
from fulgurite.plugins.dynamic_async.model.dynamic_map import Participants
from fulgurite.plugins.dynamic_async.training_map import TrainingMap

Vector = NDArray[np.float64]
_LEAST_SHARE = 2.0**-30


@dataclass(frozen=True)
class DirectSolution:
    """The fixed point of anchored training for one set of participants.

    Args:
        states: participant -> its state in float64; of the server, where there is one, the mean.
        error: no state is further than this from the true one, in ‖·‖₂.
        steps: of Newton's method.
    """

    states: Mapping[int, Vector]
    error: float
    steps: int


class _Shard:
    """One shard's loss through a module of its own, in float64, with a graph for products with its Hessian."""

    def __init__(self, module: pl.LightningModule, batch: Any) -> None:
        self._module, self._batch = module, apply_to_collection(batch, Tensor, _doubled)
        self.flat = FlatParameters(module)
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._gradient: Tensor | None = None

    def gradient(self, state: Vector) -> Vector:
        """∇f(state); Hessian products are at this state from here on."""
        self.flat.write(state)
        output = self._module.training_step(self._batch, 0)
        loss = output["loss"] if isinstance(output, Mapping) else output
        assert isinstance(loss, Tensor)
        parts = torch.autograd.grad(loss, self._weights, create_graph=True)
        self._gradient = torch.cat([part.flatten() for part in parts])
        found: Vector = self._gradient.detach().numpy().copy()
        return found

    def curvature(self, direction: Vector) -> Vector:
        """∇²f · direction."""
        assert self._gradient is not None
        along = torch.from_numpy(np.ascontiguousarray(direction))
        parts = torch.autograd.grad(self._gradient, self._weights, along, retain_graph=True)
        return np.concatenate([part.flatten().numpy() for part in parts])


def solve_directly(
    module: pl.LightningModule,
    batches: Mapping[int, Any],
    map: TrainingMap,
    participants: Participants,
    *,
    mu: float,
    start: Mapping[int, NDArray[Any]] | None = None,
    tolerance: float = 1e-10,
    max_steps: int = 60,
) -> DirectSolution:
    r"""Minimise what the shards present minimise together, through the module's own ``training_step``, in float64.

    That is

    .. math:: \sum_i f_i(x_i) + \frac{\lambda}{2} \sum_{i<j} w_{ij} \|x_i - x_j\|^2
              \quad\text{or}\quad \sum_i f_i(x_i) + \frac{\lambda}{2} \sum_i \|x_i - \bar x\|^2

    (complete, star), whose only stationary point is the fixed point of :class:`TrainingMap`. The error follows from the
    length of the gradient that is left: ‖x − x*‖ ≤ ‖∇‖/μ. The module itself, what it logs and all random numbers stay
    as they are.

    Args:
        module: with ``training_step(batch, 0)``; works on copies of it.
        batches: shard -> all of its data as one batch, of each shard that is present.
        map: how the shards are coupled.
        participants: (n,) who is present, the server of a star too.
        mu: strong convexity of every shard's loss.
        start: participant -> where to begin; the map's centre by default.
        tolerance: error to stop at.
        max_steps: of Newton's method, at most.

    Raises:
        ValueError: no shard is present.

    Example:
        >>> import torch
        >>> from fulgurite.models.softmax_probe import SoftmaxProbe
        >>> probe = SoftmaxProbe(2, in_features=3, features=4, weight_decay=0.5)
        >>> batches = {i: (torch.eye(3), torch.tensor([0, 1, i])) for i in range(2)}
        >>> coupled = TrainingMap(FlatParameters(probe).read(), shards=2, coupling=1.0)
        >>> found = solve_directly(probe, batches, coupled, np.ones(2, bool), mu=0.5)
        >>> found.error <= 1e-10, found.states[0].shape
        (True, (10,))
    """
    present = [i for i in range(map.shards) if participants[i]]
    if not present:
        raise ValueError("no shard is present; there is nothing to solve")
    served = map.star and bool(participants[map.shards])
    own, shared = _coupling(map, len(present), served=served)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a module without a Trainer logs to nowhere
        shards = _shards(module, [batches[i] for i in present])
        state = np.stack([np.asarray((start or {}).get(i, map.centre), dtype=np.float64) for i in present])

        def pulled(states: Vector) -> Vector:
            found: Vector = own * states - shared * states.sum(axis=0)
            return found

        def slope(states: Vector) -> Vector:
            return np.stack([s.gradient(x) for s, x in zip(shards, states, strict=True)]) + pulled(states)

        def curvature(flat: Vector) -> Vector:
            ways = flat.reshape(state.shape)
            bent = np.stack([s.curvature(way) for s, way in zip(shards, ways, strict=True)])
            return (bent + pulled(ways)).reshape(-1)

        gradient = slope(state)
        length, steps = float(np.linalg.norm(gradient)), 0
        while length > tolerance * mu and steps < max_steps:
            operator = LinearOperator((state.size, state.size), matvec=curvature, dtype=np.float64)
            way, _ = cg(operator, -gradient.reshape(-1), rtol=min(0.1, length**0.5), maxiter=1000)
            way, share = way.reshape(state.shape), 1.0
            while share > _LEAST_SHARE:
                tried = state + share * way
                fresh = slope(tried)
                if (shorter := float(np.linalg.norm(fresh))) <= (1.0 - 1e-4 * share) * length:
                    break
                share *= 0.5
            else:
                break  # all that is left is rounding
            state, gradient, length, steps = tried, fresh, shorter, steps + 1
    states = {i: state[k] for k, i in enumerate(present)}
    if served:
        states[map.shards] = state.mean(axis=0)
    return DirectSolution(states, length / mu, steps)


def _coupling(map: TrainingMap, present: int, *, served: bool) -> tuple[float, float]:
    """(a, b): participant i is pulled by a·xᵢ − b·Σⱼ xⱼ."""
    if map.star:
        return (map.coupling, map.coupling / present) if served else (0.0, 0.0)
    weight = map.coupling / max(map.shards - 1, 1)
    return weight * present, weight


def _shards(module: pl.LightningModule, batches: list[Any]) -> list[_Shard]:
    first = copy.deepcopy(module).double().cpu()
    frozen = [weight for weight in first.parameters() if not weight.requires_grad]
    # A large frozen backbone is there once.
    shared = {id(tensor): tensor for tensor in (*frozen, *first.buffers())}
    return [_Shard(first if k == 0 else copy.deepcopy(first, dict(shared)), batch) for k, batch in enumerate(batches)]


def _doubled(tensor: Tensor) -> Tensor:
    moved: Tensor = move_data_to_device(tensor, torch.device("cpu"))
    return moved.double() if moved.is_floating_point() else moved
