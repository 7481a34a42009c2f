"""Load checkpoints that were written after a network became sparse into modules that still hold the dense one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fulgurite.models.sparse_network.definition import STATE_KEYS
from fulgurite.models.sparse_network.network import SparseNetwork


def room_for_sparse(parent: nn.Module, name: str) -> None:
    """Let ``parent.load_state_dict`` put a sparse network in the place of a dense one, if the state has one there.

    It goes to the device of the dense one's first parameter, or of the parent's where that has none.

    Args:
        parent: the module.
        name: its attribute that holds the network, or ``None`` for now.

    Example:
        >>> trained, fresh = nn.Module(), nn.Module()
        >>> trained.network = SparseNetwork([[0, 2], [1, 2]], num_inputs=2, outputs=[2])
        >>> fresh.network = nn.Linear(2, 1)
        >>> room_for_sparse(fresh, "network")
        >>> fresh.load_state_dict(trained.state_dict()), fresh.network.edges.tolist()
        (<All keys matched successfully>, [[0, 2], [1, 2]])
    """
    parent.register_load_state_dict_pre_hook(partial(_make_room, name))


def network_from_state(state: Mapping[str, Any]) -> SparseNetwork:
    """Build the network of which a state was taken, with its topology and parameters.

    Args:
        state: of ``network.state_dict()``.

    Raises:
        ValueError: the state is no sparse network's.

    Example:
        >>> network = SparseNetwork([[0, 2], [1, 2]], num_inputs=2, outputs=[2])
        >>> again = network_from_state(network.state_dict())
        >>> torch.equal(again.weight, network.weight)
        True
    """
    if not is_sparse(state):
        raise ValueError(f"got a state of {', '.join(state) or 'nothing'}; want that of a SparseNetwork")
    response = torch.ones(1) if state.get("response") is not None else None
    network = SparseNetwork(
        [[0, 1]],
        num_inputs=1,
        outputs=[1],
        bias=state.get("bias") is not None,
        response=response,
        dtype=state["weight"].dtype,
    )
    network.load_state_dict(state)
    return network


def is_sparse(state: Mapping[str, Any]) -> bool:
    """Whether a state is a sparse network's."""
    return {*STATE_KEYS, "weight"} <= set(state)


def _make_room(name: str, parent: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object) -> None:
    start = f"{prefix}{name}."
    state = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
    old = getattr(parent, name)
    if not is_sparse(state) or isinstance(old, SparseNetwork):
        return
    places = [*(() if old is None else old.parameters()), *parent.parameters()]
    new = network_from_state(state)
    setattr(parent, name, new.to(places[0].device) if places else new)
