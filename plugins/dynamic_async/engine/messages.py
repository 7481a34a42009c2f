"""What peers tell each other: one bulletin a peer, the newest of which is all that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Incarnation(NamedTuple):
    """Which life of a shard a value is from: later lives compare greater, and no two hosts share one.

    Args:
        number: one more than the highest that the new host has heard of, on every join, return or adoption.
        host: the host's peer number, which settles who wins where two hosts come to the same number.
    """

    number: int
    host: int


@dataclass(frozen=True)
class Block:
    """A shard's value and what certifies it.

    Args:
        shard: participant i of the map.
        incarnation: of the shard.
        version: evaluations in this incarnation so far; 0 is the joining value.
        fingerprint: of the configuration and of who was in view, with their incarnations; tags count within one.
        tag: rounds that the value is certified for (1 + the least tag that it was computed from).
        value: the state.
        released: the host has stopped hosting the shard, and whoever it belongs to now may adopt it from here.
    """

    shard: int
    incarnation: Incarnation
    version: int
    fingerprint: int
    tag: int
    value: NDArray[Any]
    released: bool = False


@dataclass(frozen=True)
class Bulletin:
    """All that a peer says, whole each time; a newer one replaces it.

    Args:
        peer: 64-bit number that the process drew when it started; another one after every restart.
        sequence: strictly increases within the process's life; only a greater one shows that it is alive.
        address: where others connect to it.
        addresses: of every peer that it has heard of within the time-out, so that any live peer serves as contact.
        stop: it has heard that the iteration is over; never taken back.
        blocks: of the shards that it hosts (and those just released).
        note: a small JSON object of plain numbers and strings, for what is said beside the iteration (metrics, age).
    """

    peer: int
    sequence: int
    address: str
    addresses: tuple[str, ...]
    stop: bool
    blocks: tuple[Block, ...]
    note: dict[str, Any]
