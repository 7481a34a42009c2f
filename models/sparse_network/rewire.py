"""Drop and grow edges of a network in training: what changes, and what its optimizers remember of the edges."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from fulgurite.models.sparse_network.network import SparseNetwork
from fulgurite.models.sparse_network.places import Places

Method = Literal["rigl", "set"]


class RewireError(ValueError):
    """Edges cannot be changed as asked."""


@dataclass(frozen=True)
class Rewiring:
    """What a rewiring did.

    Attributes:
        dropped: (D, 2) user ids of the edges that went.
        added: (A, 2) user ids of the edges that came.
        origin: (E',) for each edge now, its number before; −1 for a new one.
    """

    dropped: Tensor
    added: Tensor
    origin: Tensor


@dataclass(frozen=True)
class Call:
    """One use of a network in a training step.

    Attributes:
        x: (…, F) what went in.
        grad: (…, O) gradient of the loss with respect to what came out.
    """

    x: Tensor
    grad: Tensor


def rewire(
    network: SparseNetwork,
    *,
    drop: Tensor,
    add: Tensor,
    weight: Tensor | None = None,
    optimizers: Iterable[Optimizer] = (),
) -> Rewiring:
    """Take edges out of a network and put others in, in place; its ``weight`` stays the same Parameter.

    Afterwards network and optimizers are as if built with the new edges: what an optimizer keeps for each weight
    (momentum, second moments) follows its edge, and starts at zero for a new edge.

    Args:
        network: to change.
        drop: (D,) numbers of edges, rows of ``network.edges``.
        add: (A, 2) user ids (source, target) of new edges.
        weight: (A,) weights of the new edges; ``None``: zero, so that the network's function only changes by what was
            dropped.
        optimizers: whose state is to follow.

    Raises:
        RewireError: an edge number out of range, an edge that exists already, or an optimizer whose state does not
            belong to single weights (LBFGS). Nothing is changed then, nor if the new edges would form a cycle
            (:class:`~fulgurite.models.sparse_network.TopologyError`).

    Example:
        >>> network = SparseNetwork([[0, 2], [1, 2]], num_inputs=2, outputs=[2])
        >>> change = rewire(network, drop=torch.tensor([1]), add=torch.tensor([[1, 3], [3, 2]])[:0])
        >>> network.edges.tolist(), change.dropped.tolist()
        ([[0, 2]], [[1, 2]])
    """
    edges, old = network.edges, network.num_edges
    device = edges.device
    drop, add = drop.to(device), add.to(device, edges.dtype).reshape(-1, 2)
    if len(drop) and not 0 <= int(drop.min()) <= int(drop.max()) < old:
        raise RewireError(f"got edge numbers from {int(drop.min())} to {int(drop.max())}; this network has {old} edges")
    keep = torch.ones(old, dtype=torch.bool, device=device)
    keep[drop] = False
    wanted = list(optimizers)
    for optimizer in wanted:
        check_optimizer(optimizer, network.weight)
    parameter = network.weight
    new = parameter.new_zeros(len(add)) if weight is None else weight.to(parameter)
    if len(new) != len(add):
        raise RewireError(f"got {len(new)} weights for {len(add)} new edges")
    _check_new(edges[keep], add)
    dropped = edges[~keep].clone()
    origin = network.replace_edges(torch.cat([edges[keep], add]), torch.cat([parameter.detach()[keep], new]))
    for optimizer in wanted:
        remap_state(optimizer, network.weight, origin, old)
    return Rewiring(dropped, add, origin)


def check_optimizer(optimizer: Optimizer, parameter: Tensor) -> None:
    """See that what an optimizer keeps, or will keep, can follow the entries of a flat parameter.

    Args:
        optimizer: one that does not know the parameter passes.
        parameter: (E,).

    Raises:
        RewireError: it keeps, or will keep, something that does not belong to single weights.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> check_optimizer(torch.optim.Adam([weight]), weight)
        >>> check_optimizer(torch.optim.LBFGS([weight]), weight)
        Traceback (most recent call last):
        fulgurite.models.sparse_network.rewire.RewireError: LBFGS keeps a history of all parameters together, which
        does not belong to single weights and cannot follow an edge; use SGD, Adam, AdamW or another optimizer that
        keeps its state for each weight
    """
    state: dict[str, Any] = optimizer.state.get(parameter) or {}
    foreign = [
        repr(name)
        for name, value in state.items()
        if (isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape)
        or (isinstance(value, list) and any(isinstance(item, Tensor) for item in value))
    ]
    # Its history is not there before the first step, and is kept with whatever parameter comes first.
    if isinstance(optimizer, torch.optim.LBFGS) and _holds(optimizer, parameter):
        foreign = ["a history of all parameters together"]
    if foreign:
        raise RewireError(
            f"{type(optimizer).__name__} keeps {foreign[0]}, which does not belong to single weights and cannot follow "
            "an edge; use SGD, Adam, AdamW or another optimizer that keeps its state for each weight"
        )


def remap_state(optimizer: Optimizer, parameter: Tensor, origin: Tensor, old: int) -> None:
    """Let what an optimizer keeps for each entry of a flat parameter follow the entries.

    Args:
        optimizer: one that does not know the parameter is left alone.
        parameter: (E',) after the change.
        origin: (E',) each entry's number before; −1: a new one, whose state is zero.
        old: E, how many entries there were.
    """
    state: dict[str, Any] = optimizer.state.get(parameter) or {}  # a defaultdict, to which get adds nothing
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == (old,):
            source = origin.to(value.device)
            moved = torch.where(source >= 0, value[source.clamp(min=0)], torch.zeros_like(value[:1]))
            if len(moved) == old:
                value.copy_(moved)  # in place: captured and compiled optimizers hold on to the tensor
            else:
                state[name] = moved


def candidate_gradients(network: SparseNetwork, candidates: Tensor, calls: Sequence[Call]) -> Tensor:
    """Gradient of the loss with respect to the weights of edges that are not there, at weight zero.

    A copy of the network with the candidates as edges of weight 0 runs forward and backward through the same kernels.

    Args:
        network: as it was in the calls.
        candidates: (M, 2) user ids (source, target), none of them an edge.
        calls: the uses of the network in the step; their gradients add up.

    Returns:
        (M,) gradients, on the network's device.

    Example:
        >>> network = SparseNetwork([[0, 2]], num_inputs=2, outputs=[2], activation="identity")
        >>> call = Call(torch.tensor([[5.0, 7.0]]), torch.tensor([[1.0]]))
        >>> candidate_gradients(network, torch.tensor([[1, 2]]), [call]).tolist()
        [7.0]
    """
    parameter = network.weight
    if not calls or len(candidates) == 0:
        return parameter.new_zeros(len(candidates))
    probe = copy.deepcopy(network)
    if probe.backend == "auto":  # such a dense copy, used once, is not worth timing
        probe.backend = "triton" if parameter.is_cuda else "cpu"
    added = candidates.to(network.edges)
    zeros = parameter.new_zeros(len(added))
    probe.replace_edges(torch.cat([network.edges, added]), torch.cat([parameter.detach(), zeros]))
    weight = probe.weight.requires_grad_(True)
    total = torch.zeros_like(weight)
    with torch.enable_grad(), torch.autocast(parameter.device.type, enabled=False):
        for call in calls:
            y = probe.forward(call.x.to(parameter))  # not a call: hooks were copied too, and are not meant
            (gradient,) = torch.autograd.grad(y, weight, call.grad.to(y))
            total += gradient
    return total[_find(probe.edges, added, network.num_nodes)]


def prune_and_grow(
    network: SparseNetwork,
    *,
    places: Sequence[Places],
    fraction: float,
    method: Method,
    calls: Sequence[Call] = (),
    reduce: Callable[[Tensor], Tensor] | None = None,
    optimizers: Iterable[Optimizer] = (),
    max_candidates: int = 1_000_000,
    seed: int = 0,
) -> Rewiring:
    r"""Replace the weakest edges of each set of places by as many new ones.

    Dropped are the edges of smallest |w|. They are replaced, at weight 0, by free places drawn at random
    (``set``: D. C. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity",
    `doi:10.1038/s41467-018-04316-3 <https://doi.org/10.1038/s41467-018-04316-3>`__) or by those of largest
    :math:`|∂L/∂w|` (``rigl``: U. Evci et al., "Rigging the Lottery",
    `arXiv:1911.11134 <https://arxiv.org/abs/1911.11134>`__). An edge that was just dropped is not grown at once.

    Every decision depends on weights, gradients and the seed alone, so that equal processes decide alike.

    Args:
        network: to change, in place.
        places: where edges may lie, of :func:`~fulgurite.models.sparse_network.places.find_places`. An edge in none of
            the sets stays.
        fraction: share of each set's edges to replace, in [0, 1].
        method: ``rigl`` or ``set``.
        calls: of the last training step, for ``rigl``; without any, places are drawn at random.
        reduce: mean of a tensor over processes.
        optimizers: whose state follows the edges.
        max_candidates: draw a random sample of so many free places, shared out by the sets' sizes, where there are
            more.
        seed: of this very update; another one at each.

    Returns:
        What changed; as many edges came as went.

    Example:
        >>> from fulgurite.models.sparse_network.places import find_places
        >>> edges = [[0, 3], [1, 3], [2, 4], [3, 5], [4, 5]]
        >>> network = SparseNetwork(edges, num_inputs=3, outputs=[5], weight=torch.tensor([0.1, 2, 3, 4, 5]))
        >>> change = prune_and_grow(network, places=find_places(network, "layers"), fraction=0.4, method="set")
        >>> change.dropped.tolist(), len(change.added), network.num_edges
        ([[0, 3]], 1, 5)
    """
    generator = torch.Generator().manual_seed(seed)
    edges = network.edges.cpu()
    size = network.weight.detach().abs().cpu()
    everywhere = max(1, sum(group.total for group in places))
    drops, counts, candidates = [], [], []
    for group in places:
        members = torch.nonzero(group.numbers(edges) >= 0).flatten()
        wanted = int(fraction * len(members))
        limit = max(wanted, round(max_candidates * group.total / everywhere))
        free = group.free(edges, limit=limit, generator=generator) if wanted else edges[:0]
        count = min(wanted, len(free))
        drops.append(members[size[members].argsort(stable=True)[:count]])
        counts.append(count)
        candidates.append(free)
    free = torch.cat([edges[:0], *candidates])
    scores = torch.zeros(len(free))
    if method == "rigl" and len(free):
        gradient = candidate_gradients(network, free, calls)
        # Every process takes part, with zeros where it has not used the network.
        gradient = gradient if reduce is None else reduce(gradient)
        scores = gradient.abs().nan_to_num(0.0, 0.0).float().cpu()
    added, start = [edges[:0]], 0
    for count, group_free in zip(counts, candidates, strict=True):
        # The free places come in random order, so that a stable sort breaks ties at random.
        best = scores[start : start + len(group_free)].argsort(descending=True, stable=True)[:count]
        added.append(group_free[best])
        start += len(group_free)
    drop = torch.cat([edges.new_zeros(0), *drops])
    return rewire(network, drop=drop, add=torch.cat(added), optimizers=optimizers)


def _find(edges: Tensor, wanted: Tensor, num_nodes: int) -> Tensor:
    """Rows of ``edges`` (E, 2) that hold the pairs ``wanted`` (M, 2), all of which are there."""
    keys, sought = (pairs[:, 0].long() * num_nodes + pairs[:, 1] for pairs in (edges, wanted))
    keys, rows = keys.sort()
    return rows[torch.searchsorted(keys, sought)]


def _check_new(kept: Tensor, add: Tensor) -> None:
    if len(add) == 0:
        return
    both = torch.cat([kept, add])
    pairs, count = both.unique(dim=0, return_counts=True)
    if len(pairs) < len(both):
        source, target = pairs[count > 1][0].tolist()
        raise RewireError(f"the new edge {source} → {target} is there already, or given twice; add each edge once")


def _holds(optimizer: Optimizer, parameter: Tensor) -> bool:
    return any(held is parameter for group in optimizer.param_groups for held in group["params"])
