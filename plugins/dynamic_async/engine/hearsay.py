"""Who lives by the word of others, and whose values come by way of others: for links that are cut while both ends live.

Every bulletin tells, of each peer that its sender takes for living, the greatest sequence number known. Numbers only
grow while their peer speaks, so a number that grows shows that it lives, however many peers the word went through; and
nobody's word can keep the dead alive, as only the dead could make it grow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fulgurite.plugins.dynamic_async.engine.gossip import (
    MOST_HOPS,
    Report,
    read_pairs,
    read_reports,
    read_shards,
    write_pairs,
    write_reports,
    write_shards,
)
from fulgurite.plugins.dynamic_async.engine.mailboxes import MAX_PEERS, Mailboxes
from fulgurite.plugins.dynamic_async.engine.messages import Bulletin

_ALIVE, _ASKS, _RELAYS, _WANTED = "_alive", "_asks", "_relays", "_wanted"


class Hearsay:
    """Signs of life at second hand, and who passes whose values on.

    A peer that lives by hearsay keeps its shards: they are no orphans, and :func:`assign` counts it. Its values are
    another matter. For as long as only its number is heard, it is out of view; so whoever misses it asks the nearest
    peer that hears it to put its blocks, too, into its own bulletins (``_asks``), which say of which bulletin they are
    (``_relays``). Only blocks of a later bulletin than before keep it in view. Nothing is relayed unless asked for.

    Args:
        mailboxes: what was heard directly.
        timeout_s: who has shown no sign of life for longer is gone.
        now: seconds awake.
        max_peers: numbers of peers that are remembered. They are for good: a number that is forgotten could be told
            back as news by those who still have it.
    """

    def __init__(
        self, mailboxes: Mailboxes, *, timeout_s: float, now: Callable[[], float], max_peers: int = MAX_PEERS
    ) -> None:
        self._mailboxes, self._timeout_s, self._now, self._max_peers = mailboxes, timeout_s, now, max_peers
        self._first: dict[int, float] = {}
        self._news: dict[int, tuple[int, float]] = {}
        self._wanted: dict[int, frozenset[int] | None] = {}
        self._relayed: dict[int, tuple[int, float]] = {}
        self._reports: dict[int, dict[int, Report]] = {}
        self._asked: dict[int, set[int]] = {}

    def take(self, bulletin: Bulletin) -> None:
        """Learn from a bulletin that the mailboxes have taken."""
        note = bulletin.note
        self._hear(bulletin.peer, bulletin.sequence, _wanted(note))
        reports = read_reports(note.get(_ALIVE, ""))
        self._reports[bulletin.peer] = reports
        for peer, report in reports.items():
            self._hear(peer, report.sequence, report.wanted)
        asks = read_pairs(note.get(_ASKS, ""))
        self._asked[bulletin.peer] = {peer for peer, by in asks.items() if by == self._mailboxes.own}
        for peer, sequence in read_pairs(note.get(_RELAYS, "")).items():
            direct = self._mailboxes.heard(peer)
            before = max(self._relayed.get(peer, (-1, 0.0))[0], direct.sequence if direct else -1)
            if sequence > before and peer in self._news:
                self._relayed[peer] = sequence, self._now()

    def at(self, peer: int) -> float:
        """When the last sign of life came, by whatever way; −∞: never."""
        return self._news[peer][1] if peer in self._news else float("-inf")

    def present(self) -> frozenset[int]:
        """Who is alive by any sign within the time-out; not this one."""
        now = self._now()
        by_word = (peer for peer, (_, at) in self._news.items() if now - at <= self._timeout_s)
        return frozenset((*by_word, *self._mailboxes.live(self._timeout_s)))

    def readable(self) -> frozenset[int]:
        """Whose values came within the time-out, directly or relayed."""
        now = self._now()
        relayed = (peer for peer, (_, at) in self._relayed.items() if now - at <= self._timeout_s)
        return frozenset((*relayed, *self._mailboxes.live(self._timeout_s)))

    def wanted(self) -> dict[int, frozenset[int]]:
        """Of those present, the shards of each that has named some."""
        named = ((peer, self._wanted.get(peer)) for peer in self.present())
        return {peer: shards for peer, shards in named if shards is not None}

    def relays(self) -> dict[int, int]:
        """Peers whose values this one passes on, with the sequence of the bulletin that they are of."""
        live = frozenset(self._mailboxes.live(self._timeout_s))
        asked = {peer for sender in live for peer in self._asked.get(sender, ())}
        sequences = {}
        for peer in sorted(asked & self.readable()):
            heard = self._mailboxes.heard(peer) if peer in live else None
            sequences[peer] = heard.sequence if heard else self._relayed[peer][0]
        return sequences

    def note(self, relays: Mapping[int, int], wanted: frozenset[int] | None) -> dict[str, str]:
        """What goes into the bulletin's note: who lives, whom this peer misses, and whose values are in it."""
        live = frozenset(self._mailboxes.live(self._timeout_s))
        reports = {
            peer: Report(self._news[peer][0], self._hops(peer, live), self._wanted.get(peer))
            for peer in sorted(self.present() & self._news.keys())
        }
        note = {
            _ALIVE: write_reports(reports),
            _ASKS: write_pairs(self._asks(live)),
            _RELAYS: write_pairs(relays),
        }
        note = {name: text for name, text in note.items() if text}
        return note if wanted is None else note | {_WANTED: write_shards(wanted)}

    def let_go(self) -> None:
        """Forget what those said who are silent."""
        live = frozenset(self._mailboxes.live(self._timeout_s))
        for said in (self._reports, self._asked):
            for sender in [sender for sender in said if sender not in live]:
                del said[sender]

    def _hear(self, peer: int, sequence: int, wanted: frozenset[int] | None) -> None:
        if peer == self._mailboxes.own or sequence <= self._news.get(peer, (-1, 0.0))[0]:
            return
        if peer not in self._news and len(self._news) >= self._max_peers:
            return
        self._first.setdefault(peer, self._now())
        self._news[peer] = sequence, self._now()
        self._wanted[peer] = wanted

    def _asks(self, live: frozenset[int]) -> dict[int, int]:
        """Peer -> who shall pass its values on, of those that others hear and this one has not, for some time."""
        asks = {}
        for peer in sorted(self.present() & self._news.keys()):
            heard = self._mailboxes.heard(peer)
            if heard and heard.sequence >= self._news[peer][0]:
                continue
            silent_s = self._now() - (heard.at if heard else self._first[peer])
            nearest = self._nearest(peer, live)
            # Half the time-out: the values shall go on coming before those that did are out of view.
            if silent_s > self._timeout_s / 2 and nearest is not None:
                asks[peer] = nearest[1]
        return asks

    def _nearest(self, peer: int, live: frozenset[int]) -> tuple[int, int] | None:
        """Hops and number of the live peer that is nearest to another."""
        known = ((self._reports[s][peer].hops, s) for s in live - {peer} if peer in self._reports.get(s, ()))
        return min(known, default=None)

    def _hops(self, peer: int, live: frozenset[int]) -> int:
        if peer in live:
            return 0
        nearest = self._nearest(peer, live)
        return nearest[0] + 1 if nearest else MOST_HOPS


def _wanted(note: Mapping[str, object]) -> frozenset[int] | None:
    """The shards that a peer has said it is there for; None: its share of all."""
    if _WANTED not in note:
        return None
    try:
        return frozenset(read_shards(str(note[_WANTED])))
    except ValueError:
        return None
