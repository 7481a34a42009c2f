"""What a peer has heard: the newest value of each shard and the newest word of each peer."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.engine.frames import Codec, FrameError
from fulgurite.plugins.dynamic_async.engine.gossip import MAX_LIFE
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

MAX_PEERS = 1 << 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """The newest word of a peer, without its values (those are in ``Mailboxes.latest``).

    Args:
        peer: its number.
        sequence: of its newest bulletin.
        at: when that came, on the mailboxes' clock, in seconds.
        address: where it is connected to.
        addresses: of those that it has heard of.
        stop: it has heard that the iteration is over.
        hosted: shard -> incarnation of every block of its own in it that is not released.
        released: shard -> incarnation of those that are.
        note: what else it said.
    """

    peer: int
    sequence: int
    at: float
    address: str
    addresses: tuple[str, ...]
    stop: bool
    hosted: Mapping[int, Incarnation]
    released: Mapping[int, Incarnation]
    note: Mapping[str, Any]


class Mailboxes:
    """Keeps one value a shard and one word a peer; what is older than what is kept is dropped.

    Rule 3 of the runtime: of two values of a shard the one with the greater (incarnation, version) stays, so that a
    link's read times never run backwards and a zombie is not heard. Only a bulletin with a greater sequence than all
    before from that peer counts as a sign of life: a recording that is played again keeps nobody alive. The greatest
    sequence is therefore remembered for good, after ``forget`` too.

    What the sequence cannot tell a newcomer: whether the first frame that it gets from a peer is a recording. Someone
    on the line who has recorded a peer of this very run can play the recording to it once; CURVE keeps them off.

    Args:
        codec: opens the frames.
        own: this peer's number; its own frames, sent back, are dropped.
        accept: whether a shard's value is one (its number, shape and type); a bulletin with another is dropped.
        clock: seconds that never run backwards.
        max_peers: numbers of peers that are remembered, so that a runaway member cannot fill the memory.

    Attributes:
        rejected: how many frames were dropped, by reason: those of ``FrameError``, and "own", "old" (not a greater
            sequence), "shard" (not accepted), "life" (past 2⁶²), "peers" (too many).

    Example:
        >>> import numpy as np
        >>> codec = Codec(b"k" * 32, b"n" * 16, b"m" * 16)
        >>> mailboxes = Mailboxes(codec, own=1, clock=lambda: 5.0)
        >>> block = Block(0, Incarnation(1, 7), 3, 99, 2, np.zeros(2))
        >>> frame = codec.encode(Bulletin(7, 1, "memory://seven", (), False, (block,), {}))
        >>> mailboxes.feed(frame).peer, mailboxes.feed(frame), mailboxes.rejected["old"]
        (7, None, 1)
        >>> mailboxes.latest(0).version, mailboxes.heard(7).at, mailboxes.live(timeout_s=1.0)
        (3, 5.0, (7,))
    """

    def __init__(
        self,
        codec: Codec,
        *,
        own: int,
        accept: Callable[[int, NDArray[Any]], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self.codec = codec
        self.own = own
        self.rejected: Counter[str] = Counter()
        self._accept = accept
        self._clock = clock
        self._max_peers = max_peers
        self._sequences: dict[int, int] = {}
        self._heard: dict[int, Heard] = {}
        self._blocks: dict[int, Block] = {}

    def feed(self, frame: bytes) -> Bulletin | None:
        """Open a frame and keep what is new in it; None, and a count in ``rejected``, if it is not accepted."""
        try:
            bulletin = self.codec.decode(frame)
        except FrameError as error:
            if not self.rejected[error.reason]:
                _log.warning("what a peer said was dropped, and so will others like it be: %s", error)
            self.rejected[error.reason] += 1
            return None
        return bulletin if self.post(bulletin) else None

    def post(self, bulletin: Bulletin) -> bool:
        """Keep what is new in a bulletin that is known to be authentic; whether it was taken."""
        reason = self._objection(bulletin)
        if reason:
            self.rejected[reason] += 1
            return False
        self._sequences[bulletin.peer] = bulletin.sequence
        hosted: dict[int, Incarnation] = {}
        released: dict[int, Incarnation] = {}
        for block in bulletin.blocks:
            # Another's is relayed.
            if block.incarnation.host == bulletin.peer:
                (released if block.released else hosted)[block.shard] = block.incarnation
            kept = self._blocks.get(block.shard)
            if kept is None or _age(block) >= _age(kept):
                self._blocks[block.shard] = block
        self._heard[bulletin.peer] = Heard(
            bulletin.peer,
            bulletin.sequence,
            self._clock(),
            bulletin.address,
            bulletin.addresses,
            bulletin.stop,
            hosted,
            released,
            bulletin.note,
        )
        return True

    def latest(self, shard: int) -> Block | None:
        """The newest value of a shard, from whoever hosted it then; None: none came yet."""
        return self._blocks.get(shard)

    def shards(self) -> tuple[int, ...]:
        """Shards of which a value is known, ascending."""
        return tuple(sorted(self._blocks))

    def heard(self, peer: int) -> Heard | None:
        """The newest word of a peer; None: none came, or it is forgotten."""
        return self._heard.get(peer)

    def peers(self) -> tuple[int, ...]:
        """Peers that were ever heard and are not forgotten, ascending."""
        return tuple(sorted(self._heard))

    def live(self, timeout_s: float) -> tuple[int, ...]:
        """Peers whose newest bulletin is at most this old, ascending."""
        now = self._clock()
        return tuple(sorted(peer for peer, heard in self._heard.items() if now - heard.at <= timeout_s))

    def forget(self, peer: int) -> None:
        """Drop a peer's word; it comes back by a bulletin newer than all before. Values of shards stay."""
        self._heard.pop(peer, None)

    def _objection(self, bulletin: Bulletin) -> str:
        if bulletin.peer == self.own:
            return "own"
        if bulletin.sequence <= self._sequences.get(bulletin.peer, -1):
            return "old"
        if bulletin.peer not in self._sequences and len(self._sequences) >= self._max_peers:
            return "peers"
        if self._accept and not all(self._accept(block.shard, block.value) for block in bulletin.blocks):
            return "shard"
        if any(block.incarnation.number > MAX_LIFE for block in bulletin.blocks):
            return "life"
        return ""


def _age(block: Block) -> tuple[Incarnation, int, bool]:
    # Once it is released it stays so: a relay may still tell how it was before.
    return block.incarnation, block.version, block.released
