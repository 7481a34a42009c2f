"""Who is there: peers heard within the time-out, where to find them, and which life of each shard is the latest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fulgurite.plugins.dynamic_async.engine.gossip import read_ages, read_lives, write_ages, write_lives
from fulgurite.plugins.dynamic_async.engine.hearsay import Hearsay
from fulgurite.plugins.dynamic_async.engine.mailboxes import Heard, Mailboxes
from fulgurite.plugins.dynamic_async.engine.messages import Bulletin, Incarnation
from fulgurite.plugins.dynamic_async.engine.transport import Transport

# Of the dead, so many addresses stay connected, for the case that they return or a partition heals.
KEPT_ADDRESSES = 128
# So many of them are passed on, so that newcomers, too, listen for those who return.
ABSENT_TOLD = 32
_MOST_GOSSIPED = 1024
_LIVES, _CONFIGURATION, _ABSENT = "_lives", "_configuration", "_absent"


class AwakeClock:
    """Seconds that this process was awake: a nap (SIGSTOP, a suspended laptop) does not count.

    A process that was stopped has heard nobody for long, but that says nothing about them. On this clock they have as
    much time left as before the nap. Who reads the clock more rarely than every ``nap_s``, because its machine is
    overloaded, takes all of its time for naps, and finds out about the dead that much later.

    Args:
        clock: seconds that never run backwards.
        nap_s: two readings further apart than this were a nap.
        counted_s: of a nap, this much counts.

    Example:
        >>> times = iter([0.0, 1.0, 60.0, 61.0])
        >>> clock = AwakeClock(lambda: next(times), nap_s=5.0, counted_s=0.5)
        >>> [clock.tick() for _ in range(3)]
        [1.0, 1.5, 2.5]
    """

    def __init__(self, clock: Callable[[], float], *, nap_s: float, counted_s: float) -> None:
        self._clock, self._nap_s, self._counted_s = clock, nap_s, counted_s
        self._read = clock()
        self.now = 0.0

    def tick(self) -> float:
        """Read the clock."""
        read = self._clock()
        passed = read - self._read
        self._read = read
        self.now += passed if passed <= self._nap_s else self._counted_s
        return self.now


class Membership:
    """What a peer knows of the others, by hearsay only: there is no coordinator, list or vote.

    Whoever reads a value also learns, in the same bulletin, the latest life of every shard that its sender knew of. So
    nobody who still hosts a shard's former life ever uses a value that came of its next one: that is what makes every
    run a legal schedule, zombies included. That holds for values that are relayed, too (see :class:`Hearsay`).

    Who is silent stays connected, and its address is passed on: a sleeper that wakes after all whom it knew have died
    is found by those who came later, if at every moment somebody lived who knew its address from those before. What
    remains: it is alone for good if they all died before the first of the others came, if more than
    ``KEPT_ADDRESSES`` have gone silent since, or if it comes back at another address; only its contacts help then.

    Args:
        transport: how they are heard.
        mailboxes: what they said last, on the clock ``now``.
        contacts: addresses to begin with; any live peer will do.
        timeout_s: who was silent for longer is gone.
        now: seconds awake.
        num_shards: lives of shards past these are not believed; None: of any.

    Attributes:
        hearsay: who lives by the word of others.
        lives: shard -> the latest incarnation that anybody has told of.
        configuration: the greatest that anybody has told of.
        stopped: somebody has said that the iteration is over.
    """

    def __init__(
        self,
        transport: Transport,
        mailboxes: Mailboxes,
        *,
        contacts: Iterable[str],
        timeout_s: float,
        now: Callable[[], float],
        num_shards: int | None = None,
    ) -> None:
        self._transport, self._mailboxes, self._timeout_s, self._now = transport, mailboxes, timeout_s, now
        self._num_shards = float("inf") if num_shards is None else num_shards
        self.hearsay = Hearsay(mailboxes, timeout_s=timeout_s, now=now)
        self.lives: dict[int, Incarnation] = {}
        self.configuration = 0
        self.stopped = False
        self._learned: dict[int, float] = {}
        self._told: dict[int, object] = {}
        self._contacts = set(contacts) - {transport.address}
        # When each was last heard of; of contacts, perhaps never.
        self._connected = dict.fromkeys(sorted(self._contacts), float("-inf"))
        self._connect_at = now() + timeout_s
        for address in self._connected:
            transport.connect(address)

    def hear(self) -> bool:
        """Take in what came; whether any of it was news."""
        bulletins = [self._mailboxes.feed(frame) for frame in self._transport.collect()]
        for bulletin in bulletins:
            if bulletin is not None:
                self._take(bulletin)
        self._let_go()
        return any(bulletin is not None for bulletin in bulletins)

    def learn(self, shard: int, life: Incarnation) -> None:
        """Know of a life of a shard."""
        if shard not in self.lives or life > self.lives[shard]:
            self.lives[shard] = life
            self._learned[shard] = self._now()

    def live(self) -> dict[int, Heard]:
        """Peers heard directly within the time-out; not this one."""
        heard = ((peer, self._mailboxes.heard(peer)) for peer in self._mailboxes.live(self._timeout_s))
        return {peer: said for peer, said in heard if said is not None}

    def silence(self, shard: int) -> float:
        """Seconds awake since the host of the shard's latest life was heard or heard of, or that life learned of."""
        since = self._learned.get(shard, 0.0)
        if shard in self.lives:
            host = self.lives[shard].host
            said = self._mailboxes.heard(host)
            since = max(since, self.hearsay.at(host), said.at if said else since)
        return self._now() - since

    def addresses(self) -> tuple[str, ...]:
        """Of the live peers, for gossip."""
        return tuple(sorted(said.address for said in self.live().values()))[:_MOST_GOSSIPED]

    def note(self, wanted: Iterable[int] | None, relays: Mapping[int, int]) -> dict[str, str | int]:
        """What goes into the bulletin's note beside what others put there."""
        note: dict[str, str | int] = {_LIVES: write_lives(self.lives), _CONFIGURATION: self.configuration}
        note |= self.hearsay.note(relays, None if wanted is None else frozenset(wanted))
        if absent := write_ages(self._absent()):
            note[_ABSENT] = absent
        return note

    def _absent(self) -> dict[str, float]:
        """Addresses where nobody has spoken within the time-out, the latest first, with the seconds since."""
        now = self._now()
        silent = sorted((now - at, address) for address, at in self._connected.items() if now - at > self._timeout_s)
        return {address: age for age, address in silent[:ABSENT_TOLD] if age < float("inf")}

    def _take(self, bulletin: Bulletin) -> None:
        self.hearsay.take(bulletin)
        for block in bulletin.blocks:
            self.learn(block.shard, block.incarnation)
        lives = bulletin.note.get(_LIVES, "")
        # Most often what was said before: reading it again would take longer than all the rest.
        if self._told.get(bulletin.peer) != lives:
            self._told[bulletin.peer] = lives
            for shard, life in read_lives(lives).items():
                if shard < self._num_shards:
                    self.learn(shard, life)
        configuration = bulletin.note.get(_CONFIGURATION, 0)
        if isinstance(configuration, int):
            self.configuration = max(self.configuration, configuration)
        self.stopped |= bulletin.stop
        now = self._now()
        ages = read_ages(bulletin.note.get(_ABSENT, "")) | dict.fromkeys((bulletin.address, *bulletin.addresses), 0.0)
        for address, age in ages.items():
            if address == self._transport.address:
                continue
            if address not in self._connected:
                self._transport.connect(address)
            self._connected[address] = max(self._connected.get(address, float("-inf")), now - age)

    def _let_go(self) -> None:
        silent = sorted((at, address) for address, at in self._connected.items() if address not in self._contacts)
        while len(silent) > KEPT_ADDRESSES and self._now() - silent[0][0] > self._timeout_s:
            address = silent.pop(0)[1]
            del self._connected[address]
            self._transport.disconnect(address)
        self.hearsay.let_go()
        for peer in self._told.keys() - self._mailboxes.live(self._timeout_s):
            del self._told[peer]
        if self._now() >= self._connect_at:
            # A transport with no room left takes no new address, and does not come back to it by itself.
            self._connect_at = self._now() + self._timeout_s
            for address in self._connected:
                self._transport.connect(address)


def user_note(said: Heard) -> dict[str, float | int | str]:
    """A peer's note without what membership put there."""
    return {key: value for key, value in said.note.items() if not key.startswith("_")}
