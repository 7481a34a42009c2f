"""Mailboxes: the newest stays, and only what is truly new is a sign of life."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.mailboxes import Mailboxes
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

CODEC = Codec(b"k" * 32, b"n" * 16, b"m" * 16)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def mailboxes(clock):
    return Mailboxes(CODEC, own=1, clock=clock)


def block(shard=0, number=1, host=7, version=0, value=0.0, released=False) -> Block:
    return Block(shard, Incarnation(number, host), version, 0, 0, np.array([value]), released)


def bulletin(*blocks, peer=7, sequence=1, **rest) -> Bulletin:
    said = {"address": "memory://a", "addresses": (), "stop": False, "note": {}, **rest}
    return Bulletin(peer=peer, sequence=sequence, blocks=blocks, **said)


def test_only_a_larger_sequence_is_a_sign_of_life(mailboxes, clock):
    frames = [CODEC.encode(bulletin(sequence=sequence)) for sequence in range(1, 4)]
    for frame in frames:
        assert mailboxes.feed(frame)
    clock.now = 10.0
    for frame in frames:
        assert mailboxes.feed(frame) is None
    assert mailboxes.rejected == {"old": 3}
    assert mailboxes.heard(7).at == 0.0
    assert mailboxes.live(9.9) == ()
    assert mailboxes.live(10.0) == (7,)
    assert mailboxes.feed(CODEC.encode(bulletin(sequence=4)))
    assert mailboxes.live(0.0) == (7,)


def test_a_forgotten_peer_is_not_brought_back_by_a_recording(mailboxes):
    frame = CODEC.encode(bulletin(sequence=5))
    mailboxes.feed(frame)
    mailboxes.forget(7)
    assert mailboxes.peers() == ()
    assert mailboxes.feed(frame) is None
    assert mailboxes.heard(7) is None
    assert mailboxes.feed(CODEC.encode(bulletin(sequence=6)))
    assert mailboxes.peers() == (7,)


def test_own_frames_sent_back_are_dropped(mailboxes):
    assert mailboxes.feed(CODEC.encode(bulletin(block(), peer=1))) is None
    assert mailboxes.rejected == {"own": 1}
    assert mailboxes.latest(0) is None


def test_frames_of_others_are_counted_by_what_is_wrong(mailboxes):
    said = bulletin(block())
    frame = CODEC.encode(said)
    for bad in (
        b"",
        b"x" * 500,
        Codec(b"K" * 32, b"n" * 16, b"m" * 16).encode(said),
        Codec(b"k" * 32, b"N" * 16, b"m" * 16).encode(said),
        Codec(b"k" * 32, b"n" * 16, b"M" * 16).encode(said),
        frame[:-1] + bytes([frame[-1] ^ 1]),
    ):
        assert mailboxes.feed(bad) is None
    assert mailboxes.rejected == {"size": 1, "format": 1, "key": 1, "run": 1, "model": 1, "forged": 1}
    assert (mailboxes.peers(), mailboxes.shards()) == ((), ())


def test_a_zombie_does_not_take_its_shard_back(mailboxes):
    mailboxes.post(bulletin(block(number=2, host=8, version=0, value=2.0), peer=8))
    mailboxes.post(bulletin(block(number=1, host=7, version=90, value=1.0), peer=7))
    assert mailboxes.latest(0).value == [2.0]
    # What the zombie says it hosts is still known, or nobody could tell it to stop.
    assert mailboxes.heard(7).hosted == {0: Incarnation(1, 7)}


def test_two_hosts_of_the_same_number_are_told_apart_by_the_host(mailboxes):
    for host in (9, 8):
        mailboxes.post(bulletin(block(number=3, host=host, version=5, value=host), peer=host))
    assert mailboxes.latest(0).value == [9.0]


def test_a_release_replaces_the_same_version(mailboxes):
    mailboxes.post(bulletin(block(version=3), block(shard=1), sequence=1))
    mailboxes.post(bulletin(block(version=3, released=True), block(shard=1), sequence=2))
    assert mailboxes.latest(0).released
    assert mailboxes.heard(7).hosted == {1: Incarnation(1, 7)}
    assert mailboxes.heard(7).released == {0: Incarnation(1, 7)}
    assert mailboxes.shards() == (0, 1)


@settings(deadline=None)
@given(st.permutations([(number, version) for number in range(3) for version in range(3)]), st.data())
def test_whatever_the_order_values_never_run_backwards(order, data):
    mailboxes = Mailboxes(CODEC, own=1, clock=lambda: 0.0)
    seen = []
    for sequence, (number, version) in enumerate(order):
        peer = data.draw(st.integers(2, 4))
        mailboxes.post(bulletin(block(number=number, host=7, version=version), peer=peer, sequence=sequence))
        kept = mailboxes.latest(0)
        seen.append((kept.incarnation.number, kept.version))
    assert seen == sorted(seen)
    assert seen[-1] == (2, 2)


def test_a_value_that_is_none_of_the_map_drops_the_whole_bulletin(clock):
    mailboxes = Mailboxes(CODEC, own=1, clock=clock, accept=lambda shard, value: shard < 2 and value.shape == (1,))
    assert not mailboxes.post(bulletin(block(0), block(2)))
    assert mailboxes.rejected == {"shard": 1}
    assert (mailboxes.peers(), mailboxes.shards()) == ((), ())
    assert mailboxes.post(bulletin(block(0), block(1)))


def test_the_memory_of_peers_is_bounded(clock):
    mailboxes = Mailboxes(CODEC, own=1, clock=clock, max_peers=3)
    for peer in range(2, 9):
        mailboxes.post(bulletin(peer=peer))
        mailboxes.forget(peer)
    assert mailboxes.rejected == {"peers": 4}
    assert mailboxes.post(bulletin(peer=3, sequence=2))


def test_a_word_is_kept_as_it_was_said(mailboxes, clock):
    clock.now = 2.5
    mailboxes.post(bulletin(address="memory://x", addresses=("memory://y",), stop=True, note={"loss": 1.0}))
    heard = mailboxes.heard(7)
    assert (heard.peer, heard.sequence, heard.at) == (7, 1, 2.5)
    assert (heard.address, heard.addresses, heard.stop, heard.note) == (
        "memory://x",
        ("memory://y",),
        True,
        {"loss": 1.0},
    )
