"""The shards that a peer hosts: adopted from the dead, released to newcomers, given up to later lives."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from fulgurite.plugins.dynamic_async.engine.hosting import assign
from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes
from fulgurite.plugins.dynamic_async.engine.membership import Membership
from fulgurite.plugins.dynamic_async.engine.messages import Block, Incarnation
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap
from fulgurite.plugins.dynamic_async.model.errors import MapError

# A shard's silent host is awaited for twice as long each time that it turned out to live, up to 32 time-outs …
_MOST_DOUBLINGS = 5
# … and so many time-outs later that is forgotten.
_FORGIVEN = 64


class Holdings:
    """What one peer hosts, by the rules of incarnations.

    A shard comes to life anew, with a greater incarnation, whenever somebody begins to host it. Who hears of a later
    life of a shard that it hosts gives it up. A shard whose host has been silent for the time-out is an orphan, and
    whoever :func:`assign` names adopts it; if its host turns out to live, it is waited for longer next time. One that
    somebody has released stays in view, as it is, until it is adopted.

    Args:
        map: whose shards.
        members: who is there.
        mailboxes: what they said.
        number: of this peer.
        wanted: as ``shards_wanted`` of :class:`Peer`, like the rest.
        timeout_s: of silence.
        expected_peers: enough to begin with.
        patience_s: to begin after, in any case.
        recorder: writes down what joins.
        load: values to join with.
        now: seconds awake.

    Attributes:
        hosted: shard -> its value.
        released: shard -> its last value here, until somebody has adopted it.
        wanted: may be changed.
    """

    def __init__(
        self,
        map: DynamicMap,
        members: Membership,
        mailboxes: Mailboxes,
        *,
        number: int,
        wanted: Collection[int] | None,
        timeout_s: float,
        expected_peers: int | None,
        patience_s: float,
        recorder: Recorder | None,
        load: Callable[[int], Array | None] | None,
        now: Callable[[], float],
    ) -> None:
        self.hosted: dict[int, Block] = {}
        self.released: dict[int, Block] = {}
        self.wanted = None if wanted is None else frozenset(wanted)
        self._map, self._members, self._mailboxes, self._number = map, members, mailboxes, number
        self._timeout_s, self._expected, self._patience_s, self._now = timeout_s, expected_peers, patience_s, now
        self._recorder, self._load = recorder, load
        self._orphaned: dict[int, int] = {}
        self._mistakes: dict[int, tuple[int, float]] = {}
        self._settled = False
        self._kinds = [(bottom.shape, bottom.dtype) for bottom in map_bottoms(map)]

    def in_view(self) -> dict[int, Block]:
        """Shard -> value, of those hosted here or by a peer whose values came within the time-out."""
        live = {*self._members.hearsay.readable(), self._number}
        blocks = {}
        for i in range(self._map.num_participants):
            block = self.hosted.get(i) or self.released.get(i) or self._mailboxes.latest(i)
            # A value of a former life is no longer read once a later one is known of.
            if block and block.incarnation.host in live and block.incarnation >= self._members.lives[i]:
                blocks[i] = block
        return blocks

    def latest(self, i: int) -> Block | None:
        """The newest value of a shard that is known here, in view or not."""
        known = (self.hosted.get(i), self.released.get(i), self._mailboxes.latest(i))
        return max(
            (block for block in known if block), key=lambda block: (block.incarnation, block.version), default=None
        )

    def settle(self) -> bool:
        """Yield to later lives, adopt orphans, release what is too much; whether anything changed."""
        before = set(self.hosted), set(self.released)
        for held in (self.hosted, self.released):
            for i in [i for i, block in held.items() if self._members.lives[i] > block.incarnation]:
                del held[i]
                self._yielded(i)
        if not self._members.stopped:
            self._share()
        return before != (set(self.hosted), set(self.released))

    def fits(self, i: int, value: Array) -> bool:
        """Whether there is such a shard, and the value is of its shape and type."""
        return 0 <= i < len(self._kinds) and (value.shape, value.dtype) == self._kinds[i]

    def check(self, i: int, value: Array) -> None:
        """Refuse an evaluation's value that would spoil everybody's.

        Raises:
            MapError: another shape or type than ⊥'s, or not finite.
        """
        if not self.fits(i, value):
            shape, dtype = self._kinds[i]
            raise MapError(
                f"shard {i}: got {value.dtype} of shape {value.shape}, but its ⊥ is {dtype} of shape {shape}"
            )
        if value.dtype.kind in "fc" and not np.isfinite(value).all():
            raise MapError(f"shard {i}: got a value that is not finite; it is kept from the other peers")

    def relayed(self, hosts: Collection[int]) -> list[Block]:
        """Values in view of those hosts."""
        return [block for block in self.in_view().values() if block.incarnation.host in set(hosts) - {self._number}]

    def _share(self) -> None:
        present = self._members.hearsay.present()
        blocks = self.in_view()
        hosts = {i: block.incarnation.host for i, block in blocks.items() if not block.released}
        # Who lives by hearsay hosts what it did, although it is out of view.
        hosts |= {i: life.host for i, life in self._members.lives.items() if i not in blocks and life.host in present}
        wanted: dict[int, Collection[int]] = dict(self._members.hearsay.wanted())
        if self.wanted is not None:
            wanted[self._number] = self.wanted
        # Once all have been seen it stays so: whoever dies after that is not waited for.
        self._settled |= self._now() >= self._patience_s or len(present) + 1 >= (self._expected or float("inf"))
        given = assign([*present, self._number], hosts, self._map.num_participants, wanted=wanted)
        for i, peer in given.items():
            if peer == self._number and i not in hosts and (i in blocks or self._is_orphan(i)):
                self._adopt(i, orphan=i not in blocks)
        for i in [i for i in self.hosted if given.get(i) != self._number]:
            self.released[i] = replace(self.hosted.pop(i), released=True)

    def _is_orphan(self, i: int) -> bool:
        if i not in self._members.lives:
            return self._settled
        mistakes, at = self._mistakes.get(i, (0, 0.0))
        if self._now() - at > _FORGIVEN * self._timeout_s:
            mistakes = 0
        return self._members.silence(i) > self._timeout_s * 2 ** min(mistakes, _MOST_DOUBLINGS)

    def _yielded(self, i: int) -> None:
        """Whoever takes back what was adopted from it was not dead, only not heard: wait for longer next time."""
        if self._orphaned.pop(i, None) == self._members.lives[i].host:
            self._mistakes[i] = self._mistakes.get(i, (0, 0.0))[0] + 1, self._now()

    def _adopt(self, i: int, *, orphan: bool) -> None:
        value, initial = self._joining(i)
        former = self._members.lives.get(i)
        if former and orphan:
            self._orphaned[i] = former.host
        life = Incarnation(former.number + 1 if former else 1, self._number)
        if self._recorder:
            self._recorder.joined(i, life, value, initial=initial)
        self._members.learn(i, life)
        self.released.pop(i, None)
        self.hosted[i] = Block(i, life, 0, 0, 0, frozen(value))

    def _joining(self, i: int) -> tuple[Array, bool]:
        loaded = self._load(i) if self._load else None
        if loaded is not None:
            if not self._map.contains(i, loaded):
                raise MapError(
                    f"shard {i} cannot join with the value that was loaded for it: it is not of the shape and type of "
                    "⊥, not finite, or outside the map's domain X; start it from its initial value instead"
                )
            return loaded, False
        # From any value in X the answer is the same; where the dead left off it is nearer.
        block = self.latest(i)
        if block and self._map.contains(i, block.value):
            return block.value, False
        return self._map.initial(i), True


def map_bottoms(map: DynamicMap) -> list[Array]:
    """⊥ of every shard, read-only."""
    return [frozen(map.bottom(i)) for i in range(map.num_participants)]


def frozen(value: Array) -> Array:
    """A copy that cannot be written to."""
    copy = np.array(value)
    copy.flags.writeable = False
    return copy
