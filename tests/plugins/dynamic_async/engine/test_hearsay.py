import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.gossip import (
    Report,
    read_ages,
    read_lives,
    read_pairs,
    read_reports,
    write_ages,
    write_pairs,
    write_reports,
)
from fulgurite.plugins.dynamic_async.engine.hearsay import Hearsay
from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

TIMEOUT_S = 4.0
numbers = st.integers(0, 2**64 - 1)


class Listener:
    """Peer 1, which hears what the test says."""

    def __init__(self, **options) -> None:
        self.now = 0.0
        self.mailboxes = Mailboxes(Codec(b"k" * 32, b"n" * 16, b"m" * 16), own=1, clock=lambda: self.now)
        self.hearsay = Hearsay(self.mailboxes, timeout_s=TIMEOUT_S, now=lambda: self.now, **options)

    def hear(self, peer, sequence, *, alive=None, asks=None, relays=None, at=None, blocks=()):
        self.now = self.now if at is None else at
        note = {
            "_alive": write_reports({p: Report(s, hops, None) for p, (s, hops) in (alive or {}).items()}),
            "_asks": write_pairs(asks or {}),
            "_relays": write_pairs(relays or {}),
        }
        bulletin = Bulletin(peer, sequence, f"memory://{peer}", (), False, tuple(blocks), note)
        assert self.mailboxes.post(bulletin)
        self.hearsay.take(bulletin)


def test_only_a_number_that_grows_is_a_sign_of_life():
    listener = Listener()
    listener.hear(2, 1, alive={9: (50, 0)})
    assert listener.hearsay.present() == {2, 9}
    for turn in range(1, 6):
        listener.hear(2, 1 + turn, alive={9: (50, 0)}, at=float(turn))
        listener.hear(3, 1 + turn, alive={9: (49, 1)})
    assert listener.hearsay.present() == {2, 3}
    assert listener.hearsay.at(9) == 0.0
    assert listener.hearsay.at(77) == float("-inf")
    # Neither does it come back by a number that was known, by whomever.
    listener.hear(4, 1, alive={9: (50, 0)})
    assert 9 not in listener.hearsay.present()
    listener.hear(4, 2, alive={9: (51, 0)})
    assert 9 in listener.hearsay.present()


def test_what_was_heard_directly_is_no_news_by_hearsay():
    listener = Listener()
    listener.hear(9, 50)
    listener.hear(2, 1, alive={9: (50, 0)}, at=3.0)
    listener.hear(2, 2, at=5.0)
    assert listener.hearsay.present() == {2}


def test_this_peer_does_not_live_by_what_others_say_of_it():
    listener = Listener()
    listener.hear(2, 1, alive={1: (1000, 0)})
    assert listener.hearsay.present() == {2}
    assert "1.0" not in listener.hearsay.note({}, None)["_alive"]


def test_only_values_of_a_later_bulletin_keep_somebody_readable():
    listener = Listener()
    listener.hear(9, 50)
    listener.hear(2, 1, alive={9: (60, 0)}, at=3.0)
    assert listener.hearsay.readable() == {2, 9}
    listener.hear(2, 2, alive={9: (61, 0)}, relays={9: 50}, at=5.0)
    assert (listener.hearsay.present(), listener.hearsay.readable()) == ({2, 9}, {2})
    listener.hear(2, 3, alive={9: (62, 0)}, relays={9: 61})
    assert listener.hearsay.readable() == {2, 9}
    listener.hear(2, 4, alive={9: (99, 0)}, relays={9: 61}, at=9.5)
    assert listener.hearsay.readable() == {2}


def test_who_is_missed_is_asked_for_where_it_is_nearest_and_only_then():
    listener = Listener()
    listener.hear(9, 50)
    listener.hear(2, 1, alive={9: (51, 1)}, at=1.0)
    listener.hear(3, 1, alive={9: (51, 0)})
    assert "_asks" not in listener.hearsay.note({}, None)
    listener.hear(3, 2, alive={9: (52, 0)}, at=2.5)
    note = listener.hearsay.note({}, None)
    assert read_pairs(note["_asks"]) == {9: 3}
    assert read_reports(note["_alive"])[9] == Report(52, 0, None)
    listener.hear(2, 3, at=5.0)
    assert read_reports(listener.hearsay.note({}, None)["_alive"])[9] == Report(52, 1, None)
    listener.hear(9, 53)
    assert "_asks" not in listener.hearsay.note({}, None)


def test_it_relays_what_it_is_asked_for_and_has():
    listener = Listener()
    block = Block(0, Incarnation(1, 9), 4, 0, 0, np.zeros(1))
    listener.hear(9, 50, blocks=[block])
    listener.hear(2, 1, asks={9: 1, 8: 1})
    listener.hear(3, 1, asks={2: 4})
    assert listener.hearsay.relays() == {9: 50}
    listener.hear(3, 2, at=4.5)
    listener.hear(9, 51)
    listener.hearsay.let_go()
    assert listener.hearsay.relays() == {}  # who asked is silent


def test_the_memory_of_peers_is_bounded():
    listener = Listener(max_peers=3)
    listener.hear(2, 1, alive={peer: (5, 0) for peer in range(10, 20)})
    assert len(listener.hearsay.present()) == 3
    assert len(read_reports(listener.hearsay.note({}, None)["_alive"])) == 3


def test_a_relayed_value_is_not_taken_for_the_relays_own():
    listener = Listener()
    listener.hear(2, 1, blocks=[Block(0, Incarnation(1, 9), 4, 0, 0, np.zeros(1))])
    assert listener.mailboxes.heard(2).hosted == {}
    assert listener.mailboxes.latest(0).incarnation.host == 9
    # What was released is not taken back by a relay that has not heard of it.
    listener.hear(9, 7, blocks=[Block(0, Incarnation(1, 9), 4, 0, 0, np.zeros(1), released=True)])
    listener.hear(2, 2, blocks=[Block(0, Incarnation(1, 9), 4, 0, 0, np.zeros(1))])
    assert listener.mailboxes.latest(0).released


@settings(deadline=None)
@given(
    st.dictionaries(
        numbers,
        st.builds(Report, numbers, st.integers(0, 255), st.none() | st.frozensets(st.integers(0, 300), max_size=9)),
    ),
    st.dictionaries(numbers, numbers),
    st.dictionaries(st.from_regex(r"tcp://[a-z.]{1,9}:[0-9]{1,4}", fullmatch=True), st.integers(0, 10**6)),
)
def test_what_is_written_is_read(reports, pairs, ages):
    assert read_reports(write_reports(reports)) == reports
    assert read_pairs(write_pairs(pairs)) == pairs
    assert read_ages(write_ages(ages)) == ages


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("0123456789.:;,-=abcdef ", max_size=60), st.integers(), st.none()))
def test_anything_else_says_nothing_that_is_out_of_bounds(text):
    for peer, report in read_reports(text).items():
        assert 0 <= peer < 2**64
        assert 0 <= report.sequence < 2**64
    assert all(0 <= number < 2**64 for pair in read_pairs(text).items() for number in pair)
    assert all(age >= 0 for age in read_ages(text).values())
    assert all(0 <= life.number <= 2**62 for life in read_lives(text).values())


@pytest.mark.parametrize("text", ["7.0:5=0-99999999999", "7.0:5=a", "7.-1:5", "-7.0:5", "7.0:-5", "7.0", "7.0:5:6"])
def test_reports_that_are_none(text):
    assert read_reports(text) == {}
