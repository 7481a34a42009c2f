"""Who is there: peers heard within the time-out, where to find them, and which life of each shard is the latest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from fulgurite.plugins.dynamic_async.engine.mailboxes import Heard, Mailboxes
from fulgurite.plugins.dynamic_async.engine.messages import Bulletin, Incarnation
from fulgurite.plugins.dynamic_async.engine.transport import Transport

# Of the dead, so many addresses stay connected, for the case that they return or a partition heals.
KEPT_ADDRESSES = 128
_MOST_GOSSIPED = 1024
_LIVES, _CONFIGURATION, _WANTED = "_lives", "_configuration", "_wanted"


class AwakeClock:
    """Seconds that this process was awake: a nap (SIGSTOP, a suspended laptop) does not count.

    A process that was stopped has heard nobody for long, but that says nothing about them. On this clock they have as
    much time left as before the nap.

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
    run a legal schedule, zombies included.

    Args:
        transport: how they are heard.
        mailboxes: what they said last, on the clock ``now``.
        contacts: addresses to begin with; any live peer will do.
        timeout_s: who was silent for longer is gone.
        now: seconds awake.

    Attributes:
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
    ) -> None:
        self._transport, self._mailboxes, self._timeout_s, self._now = transport, mailboxes, timeout_s, now
        self.lives: dict[int, Incarnation] = {}
        self.configuration = 0
        self.stopped = False
        self._learned: dict[int, float] = {}
        self._contacts = set(contacts) - {transport.address}
        self._connected = dict.fromkeys(self._contacts, 0.0)
        for address in sorted(self._contacts):
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
        """Peers heard within the time-out; not this one."""
        heard = ((peer, self._mailboxes.heard(peer)) for peer in self._mailboxes.live(self._timeout_s))
        return {peer: said for peer, said in heard if said is not None}

    def silence(self, shard: int) -> float:
        """Seconds awake since the host of the shard's latest life was heard, or since that life was learned of."""
        since = self._learned.get(shard, 0.0)
        if shard in self.lives and (said := self._mailboxes.heard(self.lives[shard].host)):
            since = max(since, said.at)
        return self._now() - since

    def addresses(self) -> tuple[str, ...]:
        """Of the live peers, for gossip."""
        return tuple(sorted(said.address for said in self.live().values()))[:_MOST_GOSSIPED]

    def note(self, wanted: Iterable[int] | None) -> dict[str, str | int]:
        """What goes into the bulletin's note beside what others put there."""
        note: dict[str, str | int] = {_LIVES: write_lives(self.lives), _CONFIGURATION: self.configuration}
        return note if wanted is None else note | {_WANTED: _write_shards(wanted)}

    def _take(self, bulletin: Bulletin) -> None:
        for block in bulletin.blocks:
            self.learn(block.shard, block.incarnation)
        for shard, life in read_lives(bulletin.note.get(_LIVES, "")).items():
            self.learn(shard, life)
        configuration = bulletin.note.get(_CONFIGURATION, 0)
        if isinstance(configuration, int):
            self.configuration = max(self.configuration, configuration)
        self.stopped |= bulletin.stop
        now = self._now()
        for address in (bulletin.address, *bulletin.addresses):
            if address == self._transport.address:
                continue
            if address not in self._connected:
                self._transport.connect(address)
            self._connected[address] = now

    def _let_go(self) -> None:
        silent = sorted((at, address) for address, at in self._connected.items() if address not in self._contacts)
        while len(silent) > KEPT_ADDRESSES and self._now() - silent[0][0] > self._timeout_s:
            address = silent.pop(0)[1]
            del self._connected[address]
            self._transport.disconnect(address)


def wanted_by(said: Heard) -> frozenset[int] | None:
    """The shards that a peer has said it is there for; None: its share of all."""
    if _WANTED not in said.note:
        return None
    try:
        return frozenset(_read_shards(str(said.note[_WANTED])))
    except ValueError:
        return None


def user_note(said: Heard) -> dict[str, float | int | str]:
    """A peer's note without what membership put there."""
    return {key: value for key, value in said.note.items() if not key.startswith("_")}


def write_lives(lives: Mapping[int, Incarnation]) -> str:
    """Lives as text, those with the same number and host together.

    Example:
        >>> write_lives({0: Incarnation(1, 255), 1: Incarnation(1, 255), 2: Incarnation(4, 16)})
        '1.ff:0-1;4.10:2'
    """
    ordered = sorted(lives, key=lambda shard: (lives[shard], shard))
    groups = ((life, _write_shards(shards)) for life, shards in groupby(ordered, key=lives.__getitem__))
    return ";".join(f"{life.number}.{life.host:x}:{shards}" for life, shards in groups)


def read_lives(text: object) -> dict[int, Incarnation]:
    """What :func:`write_lives` wrote; nothing of anything else.

    Example:
        >>> read_lives("1.ff:0-1")
        {0: Incarnation(number=1, host=255), 1: Incarnation(number=1, host=255)}
        >>> read_lives("1.ff:0-1;what?")
        {}
    """
    lives = {}
    try:
        for group in filter(None, str(text).split(";")):
            life, shards = group.split(":")
            number, host = life.split(".")
            lives.update(dict.fromkeys(_read_shards(shards), Incarnation(int(number), int(host, 16))))
    except ValueError:
        return {}
    return lives


def _write_shards(shards: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][1] + 1:
            runs[-1][1] = shard
        else:
            runs.append([shard, shard])
    return ",".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)


def _read_shards(text: str) -> list[int]:
    shards: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        if int(last or first) - int(first) > 1 << 20:
            raise ValueError(f"a run of shards from {first} to {last}")
        shards += range(int(first), int(last or first) + 1)
    return shards
