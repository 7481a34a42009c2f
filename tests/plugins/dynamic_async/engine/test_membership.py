import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes
from fulgurite.plugins.dynamic_async.engine.membership import (
    KEPT_ADDRESSES,
    AwakeClock,
    Membership,
    read_lives,
    write_lives,
)
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

CODEC = Codec(b"k" * 32, b"n" * 16, b"m" * 16)
lives = st.dictionaries(
    st.integers(0, 5000), st.builds(Incarnation, st.integers(1, 2**40), st.integers(0, 2**64 - 1)), max_size=40
)


class Counting(InProcessTransport):
    """Says what it was asked to connect to."""

    def __init__(self, hub: Hub, address: str) -> None:
        super().__init__(hub, address)
        self.connected: set[str] = set()

    def connect(self, address: str) -> None:
        self.connected.add(address)
        super().connect(address)

    def disconnect(self, address: str) -> None:
        self.connected.discard(address)
        super().disconnect(address)


def member(contacts=("memory://contact",)):
    hub, now = Hub(), [0.0]
    transport = Counting(hub, "memory://own")
    mailboxes = Mailboxes(CODEC, own=1, clock=lambda: now[0])
    members = Membership(transport, mailboxes, contacts=contacts, timeout_s=4.0, now=lambda: now[0])
    return hub, now, transport, members


def say(hub, number, *, sequence=1, addresses=(), note=None, stop=False, blocks=()):
    speaker = InProcessTransport(hub, f"memory://{number}")
    speaker.connect("memory://own")
    speaker.publish(
        CODEC.encode(Bulletin(number, sequence, speaker.address, tuple(addresses), stop, tuple(blocks), note or {}))
    )
    speaker.close()


@settings(deadline=None)
@given(lives)
def test_lives_survive_being_written(known):
    assert read_lives(write_lives(known)) == known


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("0123456789.:;,-abcdef", max_size=60), st.integers(), st.none()))
def test_anything_else_is_no_life(text):
    for shard, life in read_lives(text).items():
        assert shard >= 0
        assert life.number >= 0


def test_a_huge_run_of_shards_is_not_unrolled():
    assert read_lives("1.a:0-99999999999") == {}


def test_contacts_and_hearsay_are_connected_to_and_the_oldest_dead_let_go():
    hub, now, transport, members = member()
    assert transport.connected == {"memory://contact"}
    say(hub, 7, addresses=("memory://own", "memory://8"))
    assert members.hear()
    assert transport.connected == {"memory://contact", "memory://7", "memory://8"}
    assert members.addresses() == ("memory://7",)
    now[0] = 1.0
    say(hub, 9, addresses=[f"memory://many-{k}" for k in range(KEPT_ADDRESSES)])
    members.hear()
    assert len(transport.connected) == KEPT_ADDRESSES + 4
    now[0] = 6.0
    assert not members.hear()
    assert len(transport.connected) == KEPT_ADDRESSES + 1
    assert "memory://contact" in transport.connected
    assert "memory://7" not in transport.connected
    assert members.live() == {}


def test_the_latest_life_configuration_and_stop_are_learned_whoever_tells():
    hub, now, _, members = member()
    block = Block(0, Incarnation(3, 7), 1, 0, 0, np.zeros(1))
    say(hub, 7, blocks=[block], note={"_lives": "9.8:1;2.9:0", "_configuration": 4})
    members.hear()
    assert members.lives == {0: Incarnation(3, 7), 1: Incarnation(9, 8)}
    assert (members.configuration, members.stopped) == (4, False)
    now[0] = 3.0
    say(hub, 8, note={"_lives": "9.7:1", "_configuration": "none"}, stop=True)
    members.hear()
    say(hub, 9, note={"_configuration": 2})
    members.hear()
    assert members.lives[1] == Incarnation(9, 8)
    assert (members.configuration, members.stopped) == (4, True)
    # Silent since 7 was heard; since 8 spoke again.
    now[0] = 5.0
    assert (members.silence(0), members.silence(1), members.silence(2)) == (5.0, 2.0, 5.0)


def test_a_nap_counts_little_and_time_awake_in_full():
    times = iter([0.0, 0.4, 0.9, 100.0, 100.5])
    clock = AwakeClock(lambda: next(times), nap_s=2.0, counted_s=0.1)
    assert [round(clock.tick(), 6) for _ in range(4)] == [0.4, 0.9, 1.0, 1.5]
