"""A peer: hosts shards, evaluates them by what it has heard, and tells the others; nothing is waited for."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.holdings import Holdings, frozen, map_bottoms
from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes
from fulgurite.plugins.dynamic_async.engine.membership import AwakeClock, Membership, user_note
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder
from fulgurite.plugins.dynamic_async.engine.transport import Transport
from fulgurite.plugins.dynamic_async.model.dynamic_map import Array, DynamicMap, Participants

Read = tuple[int, Incarnation, int]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of a shard works with, as it stood when it began.

    Args:
        shard: whose Fᵢ.
        configuration: e.
        view: (n,) p, who is in view.
        inputs: a read-only state for each of the map's neighbours of the shard; ⊥ of those out of view.
        reads: shard, incarnation and version of the inputs in view.
        lives: shard -> incarnation of everybody in view.
        version: of the value that comes of it.
        fingerprint: of configuration and lives.
        tag: rounds that the value will be certified for.
        changed: anything differs from the shard's last evaluation; if not, evaluating again gives the same value.
    """

    shard: int
    configuration: int
    view: Participants
    inputs: Mapping[int, Array]
    reads: tuple[Read, ...]
    lives: Mapping[int, Incarnation]
    version: int
    fingerprint: int
    tag: int
    changed: bool


class Peer:
    """One process's part in an iteration whose participants are shards of a :class:`DynamicMap`.

    Model: Daggitt and Griffin, *Dynamic Asynchronous Iterations*, https://arxiv.org/abs/2012.01686. A step of a hosted
    shard i reads the newest value that was heard of each neighbour in view, ⊥ of the others, and publishes
    ``Fᵢ(configuration, view, values)`` with a tag, one more than the least tag that it read under the same
    configuration and view (else 0): a value of tag k is within γᵏ·r₀ of the answer. Views may differ between peers,
    hosts may clash, die, sleep and return. None of it needs agreement; the answer depends on the shards in view only.

    Any thread may call any method; ``begin`` and ``commit`` are apart so that the evaluation holds no lock.

    Args:
        map: F; the same for all peers.
        transport: belongs to this peer alone, from now on.
        codec: opens and seals frames.
        contacts: addresses of peers to begin with; one live one is enough, none if this is the first.
        shards_wanted: host exactly these (as long as nobody else does, and never anything else); None: a fair share
            of all that no peer names, with those of the dead.
        heartbeat_s: at least so often everything is said again.
        timeout_s: who is silent for longer is out of view, and what it hosted is adopted.
        expected_peers: hosting begins once so many peers, this one included, have been heard, at the latest after
            ``patience_s``; None: always after that.
        patience_s: how long to look who is there before hosting what nobody is heard to host; None: the time-out.
        recorder: writes down every value before it is published.
        load: shard -> the value to join with, such as a checkpoint's; where it is or gives None, a shard continues
            from what was heard of it last, if that lies in X, else from ``map.initial``.
        strike: called at the start of every step; where :class:`Faults` kill or pause the process.
        clock: seconds that never run backwards.
        number: of this peer; drawn where it is not given, which only tests should.

    Attributes:
        number: 64 bits; another one after every restart.
        note: numbers and strings to tell the others; see ``notes``.

    Raises:
        ValueError: times that are not 0 < heartbeat_s < timeout_s, or shards that the map has not.

    Example:
        >>> from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
        >>> class Halving(DynamicMap):
        ...     num_participants = 2
        ...     def bottom(self, i): return np.zeros(1)
        ...     def neighbours(self, i): return np.array([0, 1])
        ...     def evaluate(self, i, epoch, participants, inputs): return 1 + (inputs[0] + inputs[1]) / 4
        >>> codec = Codec(b"k" * 32, b"n" * 16, Halving().fingerprint())
        >>> with Peer(Halving(), InProcessTransport(Hub()), codec, expected_peers=1) as peer:
        ...     peer.run(until=lambda peer: peer.rounds() >= 60)
        ...     [float(value[0]) for value in peer.state()]
        [2.0, 2.0]
    """

    def __init__(
        self,
        map: DynamicMap,
        transport: Transport,
        codec: Codec,
        *,
        contacts: Iterable[str] = (),
        shards_wanted: Collection[int] | None = None,
        heartbeat_s: float = 0.2,
        timeout_s: float = 1.0,
        expected_peers: int | None = None,
        patience_s: float | None = None,
        recorder: Recorder | None = None,
        load: Callable[[int], Array | None] | None = None,
        strike: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        number: int | None = None,
    ) -> None:
        n = map.num_participants
        if not 0 < heartbeat_s < timeout_s:
            raise ValueError(
                f"a time-out of {timeout_s} s with a heartbeat of {heartbeat_s} s: take 3 heartbeats or more"
            )
        if shards_wanted is not None and not set(shards_wanted) <= set(range(n)):
            raise ValueError(f"the map has shards 0 to {n - 1}; got {sorted(shards_wanted)}")
        self.map, self.number = map, secrets.randbits(64) if number is None else number
        self.note: dict[str, Any] = {}
        self._transport, self._codec = transport, codec
        self._heartbeat_s, self._timeout_s = heartbeat_s, timeout_s
        self._recorder, self._strike = recorder, strike
        self._bottom = map_bottoms(map)
        self._neighbours = [map.neighbours(i).tolist() for i in range(n)]
        self._lock = threading.RLock()
        # Half the time-out: a nap must be noticed before anybody seems dead because of it.
        self._clock = AwakeClock(clock, nap_s=timeout_s / 2, counted_s=heartbeat_s / 2)
        self._mailboxes = Mailboxes(codec, own=self.number, accept=self._accepts, clock=lambda: self._clock.now)
        self._members = Membership(
            transport, self._mailboxes, contacts=contacts, timeout_s=timeout_s, num_shards=n,
            now=lambda: self._clock.now,
        )  # fmt: skip
        self._holdings = Holdings(
            map, self._members, self._mailboxes, number=self.number, wanted=shards_wanted, timeout_s=timeout_s,
            expected_peers=expected_peers, patience_s=timeout_s if patience_s is None else patience_s,
            recorder=recorder, load=load, now=lambda: self._clock.now,
        )  # fmt: skip
        self._evaluated: dict[int, object] = {}
        self._sequence, self._next_beat, self._unsaid = 0, 0.0, True
        self._failure: BaseException | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(linger_s=None if error is None else 0.0)

    @property
    def address(self) -> str:
        """Where others connect to this peer."""
        return self._transport.address

    @property
    def hosted(self) -> tuple[int, ...]:
        """Shards that this peer evaluates, ascending."""
        with self._lock:
            return tuple(sorted(self._holdings.hosted))

    @property
    def stopped(self) -> bool:
        """Somebody has said that the iteration is over."""
        return self._members.stopped

    @property
    def configuration(self) -> int:
        """The map's epoch that shards are evaluated by: the greatest that any peer has set."""
        return self._members.configuration

    @property
    def rejected(self) -> Mapping[str, int]:
        """How many frames and greetings were dropped, by reason; each reason is logged once, in full."""
        return self._mailboxes.rejected + Counter(getattr(self._transport, "rejected", {}))

    def configure(self, configuration: int) -> None:
        """Go on to another epoch of the map; the others follow. It never falls."""
        with self._lock:
            self._members.configuration = max(self._members.configuration, configuration)
            self._unsaid = True

    def stop(self) -> None:
        """Say that the iteration is over; everybody who hears it says so too."""
        self._transport.wake()
        with self._lock:
            self._members.stopped = self._unsaid = True

    def release(self) -> None:
        """Let go of every shard for good, so that others adopt them from here at once; stay until they have."""
        with self._lock:
            self._holdings.wanted = frozenset()
            self._holdings.settle()
            self._publish()

    def peers(self) -> tuple[int, ...]:
        """Numbers of the peers heard within the time-out and of this one, ascending."""
        with self._lock:
            return tuple(sorted({*self._members.live(), self.number}))

    def notes(self) -> dict[int, dict[str, Any]]:
        """Peer number -> its note, of this one and those in view."""
        with self._lock:
            heard = {peer: user_note(said) for peer, said in self._members.live().items()}
            return heard | {self.number: dict(self.note)}

    def blocks(self) -> dict[int, Block]:
        """Shard -> its newest value, of the shards in view: hosted here or by a peer heard within the time-out."""
        with self._lock:
            return self._holdings.in_view()

    def view(self) -> Participants:
        """(n,) the shards in view."""
        return self._mask(self.blocks())

    def rounds(self, *, whole: bool = False) -> int:
        """The least tag of what is in view: all of it is within γ^rounds · r₀ of this view's answer.

        Args:
            whole: 0 unless every shard is in view, at this same moment.
        """
        with self._lock:
            blocks = self.blocks()
            if whole and len(blocks) < self.map.num_participants:
                return 0
            fingerprint = _fingerprint(self.configuration, blocks)
            tags = [block.tag if block.fingerprint == fingerprint else 0 for block in blocks.values()]
            return min(tags, default=0)

    def state(self) -> list[Array]:
        """Every shard's newest value, ⊥ for those out of view."""
        blocks = self.blocks()
        return [blocks[i].value if i in blocks else self._bottom[i] for i in range(self.map.num_participants)]

    def last_heard(self, shard: int) -> Array | None:
        """A shard's newest value, hosted here or heard, whether or not it is in view; None: none is known."""
        with self._lock:
            block = self._holdings.latest(shard)
            return block.value if block else None

    def poll(self) -> bool:
        """Hear, take over or let go of shards, and say what has to be said; whether anything new came.

        Raises:
            MapError: a value to join with is outside X.
        """
        with self._lock:
            self._fail()
            self._clock.tick()
            news = self._members.hear()
            self._unsaid |= self._holdings.settle()
            if self._unsaid or self._clock.now >= self._next_beat:
                self._publish()
            return news

    def begin(self, shard: int) -> Evaluation | None:
        """What to evaluate a shard with; None: it is not hosted here (any more)."""
        with self._lock:
            own = self._holdings.hosted.get(shard)
            if own is None:
                return None
            blocks, configuration = self.blocks(), self.configuration
            fingerprint = _fingerprint(configuration, blocks)
            inputs, reads, tags = {}, [], []
            for j in self._neighbours[shard]:
                block = blocks.get(j)
                inputs[j] = block.value if block else self._bottom[j]
                if block:
                    reads.append((j, block.incarnation, block.version))
                    tags.append(block.tag if block.fingerprint == fingerprint else 0)
            tag = 1 + min(tags, default=own.tag if own.fingerprint == fingerprint else 0)
            lives = {j: block.incarnation for j, block in blocks.items()}
            # Without inputs the value never changes, but each evaluation certifies it for one more round.
            changed = not reads or self._evaluated.get(shard) != (fingerprint, reads)
            return Evaluation(
                shard, configuration, self._mask(blocks), inputs, tuple(reads), lives,
                own.version + 1, fingerprint, tag, changed,
            )  # fmt: skip

    def commit(self, evaluation: Evaluation, value: Array) -> bool:
        """Make a value the shard's; it is published with the next ``publish``, ``poll`` or ``step``.

        Returns:
            False: the shard has been taken over or evaluated otherwise since ``begin``, and the value is dropped.

        Raises:
            MapError: the value has another shape or type than ⊥, or is not finite; it would spoil everybody's.
        """
        i = evaluation.shard
        self._holdings.check(i, value)
        with self._lock:
            block = self._holdings.hosted.get(i)
            if block is None or (block.incarnation, block.version + 1) != (evaluation.lives[i], evaluation.version):
                return False
            self._holdings.hosted[i] = Block(
                i, block.incarnation, evaluation.version, evaluation.fingerprint, evaluation.tag, frozen(value)
            )
            self._evaluated[i] = (evaluation.fingerprint, list(evaluation.reads))
            self._unsaid = True
            if self._recorder:
                self._recorder.evaluated(
                    i, block.incarnation, evaluation.version, value, tag=evaluation.tag,
                    configuration=evaluation.configuration, view=evaluation.lives, reads=evaluation.reads,
                )  # fmt: skip
            return True

    def publish(self) -> None:
        """Say everything now."""
        with self._lock:
            self._publish()

    def step(self) -> int:
        """Poll, evaluate every hosted shard for which anything changed, and publish.

        Returns:
            how many evaluations there were; 0: nothing to do before something new is heard (``wait``).
        """
        if self._strike:
            self._strike()
        self.poll()
        done = 0
        for i in self.hosted:
            evaluation = self.begin(i)
            if evaluation is None or not evaluation.changed:
                continue
            value = self.map.evaluate(i, evaluation.configuration, evaluation.view, evaluation.inputs)
            done += self.commit(evaluation, value)
        if done:
            self.publish()
        return done

    def wait(self) -> None:
        """Sleep until something was heard, half a heartbeat at most; so long may other threads' calls take, too."""
        with self._lock:
            left = self._next_beat - self._clock.now
            self._transport.wait(min(max(left, 0.0), self._heartbeat_s / 2))

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Poll in another thread meanwhile, so that long evaluations let nobody think this peer dead.

        What fails there (a joining value outside X) is raised by the next ``poll`` or ``step``.
        """
        over = threading.Event()

        def beat() -> None:
            try:
                while not over.wait(self._heartbeat_s / 2):
                    with self._lock:
                        self.poll()
            except BaseException as error:
                self._failure = error

        thread = threading.Thread(target=beat, name="heartbeats", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def run(self, *, until: Callable[[Peer], bool] | None = None, max_s: float = float("inf")) -> None:
        """Iterate until somebody stops.

        Args:
            until: asked after every step; where it says so, this peer stops the iteration for all.
            max_s: return after this time in any case, without stopping the others.

        Example:
            ``peer.run(until=lambda peer: peer.view().all() and peer.rounds() >= certificate.pseudocycles(eps))``
        """
        began = time.monotonic()
        with self.heartbeats():
            while not self.stopped and time.monotonic() - began < max_s:
                done = self.step()
                if until and until(self):
                    self.stop()
                elif not done:
                    self.wait()
        self.publish()

    def close(self, *, linger_s: float | None = None) -> None:
        """Leave: after a stop, when all have heard of it; after ``release``, when the shards are adopted. Once only.

        Args:
            linger_s: wait so long for the others at most; None: the time-out.
        """
        if self._closed:
            return
        until = time.monotonic() + (self._timeout_s if linger_s is None else linger_s)
        while time.monotonic() < until and self._failure is None and self._awaited():
            self.poll()
            time.sleep(self._heartbeat_s / 4)
        with self._lock:
            self._closed = True
            self._transport.close()

    def _awaited(self) -> bool:
        with self._lock:
            live = self._members.live()
            return bool(live) and (
                not all(said.stop for said in live.values()) if self.stopped else bool(self._holdings.released)
            )

    def _publish(self) -> None:
        self._sequence += 1
        relays = self._members.hearsay.relays()
        blocks = [*self._holdings.hosted.values(), *self._holdings.released.values()]
        blocks += self._holdings.relayed(relays) if relays else []
        bulletin = Bulletin(
            self.number, self._sequence, self.address, self._members.addresses(), self.stopped, tuple(blocks),
            self.note | self._members.note(self._holdings.wanted, relays),
        )  # fmt: skip
        self._transport.publish(self._codec.encode(bulletin))
        self._next_beat = self._clock.now + self._heartbeat_s
        self._unsaid = False

    def _mask(self, shards: Iterable[int]) -> Participants:
        mask = np.zeros(self.map.num_participants, dtype=bool)
        mask[list(shards)] = True
        return mask

    def _accepts(self, shard: int, value: Array) -> bool:
        return self._holdings.fits(shard, value)

    def _fail(self) -> None:
        if self._failure is not None:
            raise self._failure


def _fingerprint(configuration: int, blocks: Mapping[int, Block]) -> int:
    """63 bits over the configuration and who is in view, with their incarnations."""
    members = [(i, *blocks[i].incarnation) for i in sorted(blocks)]
    digest = hashlib.blake2b(repr((configuration, members)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
