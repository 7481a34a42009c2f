"""Every rule of section 5 of the design, with peers that take turns on a clock of the test's own."""

from dataclasses import replace
from threading import Thread, current_thread

import numpy as np
import pytest
from dynamic_async_peers import TIMEOUT_S, Cluster, Linear, error

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation
from fulgurite.plugins.dynamic_async.engine.peer import Peer
from fulgurite.plugins.dynamic_async.model.errors import MapError


def cluster_of(count: int, **options) -> Cluster:
    cluster = Cluster(**options)
    for number in range(1, count + 1):
        cluster.add(number, expected_peers=count)
    cluster.until(cluster.settled)
    return cluster


def test_peers_share_the_shards_and_reach_the_direct_solution():
    cluster = cluster_of(3)
    assert sorted(len(shards) for shards in cluster.hosts().values()) == [1, 1, 2]
    cluster.until(lambda: all(peer.rounds() >= 40 for peer in cluster.peers.values()))
    answer = cluster.map.solve()
    for peer in cluster.peers.values():
        assert error(peer, answer) < 1e-11


def test_tags_certify_every_value_in_every_turn():
    cluster = cluster_of(3)
    answer = cluster.map.solve()
    widest = 2 / (1 - cluster.map.gamma)
    for _ in range(60):
        cluster.turn()
        for peer in cluster.peers.values():
            for block in peer.blocks().values():
                assert np.abs(block.value - answer[block.shard]).max() <= cluster.map.gamma**block.tag * widest + 1e-14


def test_gossip_makes_peers_known_that_were_never_introduced():
    cluster = Cluster()
    for number in (1, 2, 3):
        cluster.add(number, contacts=(f"memory://{number - 1}",) if number > 1 else ())
    cluster.until(lambda: all(len(peer.peers()) == 3 for peer in cluster.peers.values()))


def test_any_live_peer_is_contact_enough_also_when_the_first_is_dead():
    cluster = cluster_of(2)
    cluster.kill(1)
    cluster.add(3, contacts=("memory://1", "memory://2"))
    cluster.until(lambda: cluster.settled() and len(cluster.peers[3].hosted) == 2)


def test_the_orphans_of_a_dead_peer_are_adopted_after_the_time_out_under_a_new_incarnation():
    cluster = cluster_of(2)
    before = {i: block.incarnation for i, block in cluster.peers[1].blocks().items()}
    orphans = cluster.peers[2].hosted
    cluster.kill(2)
    cluster.turn(6)
    assert not set(cluster.peers[1].hosted) & set(orphans)
    cluster.until(cluster.settled, most=6)
    for i in orphans:
        block = cluster.peers[1].blocks()[i]
        assert block.incarnation == Incarnation(before[i].number + 1, 1)
        assert block.incarnation > before[i]
    cluster.until(lambda: error(cluster.peers[1], cluster.map.solve()) < 1e-12)


def test_pinned_shards_of_the_dead_leave_and_are_read_as_bottom():
    cluster = Cluster()
    for number in (1, 2):
        cluster.add(number, shards_wanted=(2 * number - 2, 2 * number - 1))
    cluster.until(cluster.settled)
    cluster.kill(2)
    first = cluster.peers[1]
    cluster.until(lambda: not first.view().all())
    assert first.view().tolist() == [True, True, False, False]
    cluster.turn(80)
    assert first.hosted == (0, 1)
    assert (np.array(first.state())[2:] == 0).all()
    assert error(first, cluster.map.solve([0, 1])) < 1e-12
    cluster.add(3, shards_wanted=(2, 3))
    cluster.until(cluster.settled)
    cluster.until(lambda: error(cluster.peers[3], cluster.map.solve()) < 1e-12)


def test_a_newcomer_gets_its_share_from_where_the_former_host_left_off():
    cluster = cluster_of(1)
    cluster.until(lambda: cluster.peers[1].rounds() >= 40)
    cluster.add(2)
    answer = cluster.map.solve()
    for _ in range(40):
        cluster.turn()
        # Released shards stay in view until they are adopted, so nobody ever falls back to the bottom.
        assert cluster.peers[1].view().all()
        assert error(cluster.peers[1], answer) < 1e-11
    assert [len(shards) for shards in cluster.hosts().values()] == [2, 2]


def test_who_releases_everything_is_awaited_until_the_others_have_it():
    cluster = cluster_of(2)
    released = cluster.peers[2].hosted
    cluster.peers[2].release()
    assert cluster.peers[2].hosted == ()
    assert cluster.peers[2]._awaited()
    cluster.turn(3)
    assert set(released) <= set(cluster.peers[1].hosted)
    assert not cluster.peers[2]._awaited()


def test_the_last_peer_can_release_everything():
    cluster = cluster_of(1)
    cluster.peers[1].release()
    cluster.turn(20)
    assert cluster.peers[1].hosted == ()
    assert not cluster.peers[1]._awaited()


def test_a_zombie_gives_up_what_others_have_adopted_and_takes_nobody_for_dead():
    cluster = cluster_of(3)
    lost = cluster.peers[3].hosted
    cluster.asleep.add(3)
    zombie = cluster.peers.pop(3)
    cluster.until(cluster.settled)
    # It had begun an evaluation when it was stopped, and ends it before it hears anything.
    evaluation = zombie.begin(lost[0])
    assert evaluation is not None
    cluster.turn(20)
    cluster.peers[3] = zombie
    cluster.asleep.clear()
    lives = {i: cluster.peers[1].blocks()[i].incarnation for i in lost}
    assert zombie.commit(evaluation, np.full(2, 50.0))
    zombie.publish()
    cluster.peers[1].poll()
    assert all(cluster.peers[1].blocks()[i].incarnation == lives[i] for i in lost)
    cluster.until(cluster.settled)
    # It gets a share again, by release; nothing was taken from the living by force.
    cluster.until(lambda: len(zombie.hosted) >= 1)
    cluster.until(lambda: all(error(p, cluster.map.solve()) < 1e-12 for p in cluster.peers.values()))


def test_an_evaluation_that_was_overtaken_is_dropped():
    cluster = cluster_of(1)
    peer = cluster.peers[1]
    evaluation = peer.begin(0)
    assert evaluation is not None
    assert peer.commit(evaluation, np.ones(2))
    assert not peer.commit(evaluation, np.zeros(2))
    late = peer.begin(0)
    peer._members.learn(0, Incarnation(9, 9))
    peer.poll()
    assert not peer.commit(late, np.zeros(2))
    assert peer.begin(0) is None


def test_two_that_adopt_the_same_shard_end_with_the_greater_number():
    cluster = Cluster()
    for number in (1, 2):
        cluster.add(number, contacts=(), expected_peers=1)
    cluster.turn(3)
    assert cluster.hosts() == {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}
    cluster.peers[2]._transport.connect("memory://1")
    cluster.peers[2].publish()
    cluster.peers[1].poll()
    assert cluster.hosts() == {1: [], 2: [0, 1, 2, 3]}
    assert {block.incarnation for block in cluster.peers[1].blocks().values()} == {Incarnation(1, 2)}
    cluster.until(lambda: cluster.settled() and len(cluster.peers[1].hosted) == 2)
    cluster.until(lambda: error(cluster.peers[1], cluster.map.solve()) < 1e-12)


def test_a_partition_hosts_everything_twice_and_heals():
    cluster = cluster_of(2)
    cluster.cut(1, 2)
    cluster.until(lambda: cluster.hosts() == {1: [0, 1, 2, 3], 2: [0, 1, 2, 3]})
    cluster.turn(10)
    cluster.heal()
    cluster.until(cluster.settled)
    cluster.until(lambda: all(error(peer, cluster.map.solve()) < 1e-12 for peer in cluster.peers.values()))


def test_a_lost_message_is_made_good_by_the_heartbeat():
    cluster = cluster_of(2)
    first, second = cluster.peers.values()
    cluster.turn(40)
    first.publish()
    lost = second._transport.collect()
    assert lost
    sequence = second._mailboxes.heard(1).sequence
    cluster.turn(3, evaluate=False)
    assert second._mailboxes.heard(1).sequence > sequence
    for i in first.hosted:
        assert second.blocks()[i].version == first.blocks()[i].version


def test_a_frame_that_is_played_again_keeps_nobody_alive():
    cluster = cluster_of(2)
    cluster.peers[2].publish()
    frames = cluster.peers[1]._transport.collect()
    cluster.kill(2)
    replaying = InProcessTransport(cluster.hub, "memory://replaying")
    cluster.peers[1]._transport.connect(replaying.address)
    for _ in range(40):
        replaying.publish(frames[-1])
        cluster.turn()
    assert cluster.peers[1].peers() == (1,)
    assert cluster.peers[1].rejected["old"] > 30


def test_a_view_change_sets_the_rounds_back_and_agreement_is_needed_to_count():
    cluster = cluster_of(2)
    first = cluster.peers[1]
    cluster.until(lambda: first.rounds() >= 10)
    cluster.kill(2)
    cluster.until(lambda: cluster.hosts()[1] == [0, 1, 2, 3])
    assert first.rounds() <= 2


def test_everybody_goes_on_to_the_greatest_configuration():
    cluster = cluster_of(2)
    cluster.until(lambda: cluster.peers[2].rounds() >= 40)
    cluster.peers[1].configure(3)
    assert cluster.peers[1].rounds() == 0
    cluster.peers[2].configure(1)
    cluster.until(lambda: all(error(p, cluster.map.solve(epoch=3)) < 1e-12 for p in cluster.peers.values()))
    assert cluster.peers[2].configuration == 3


def test_a_stop_spreads_and_freezes_hosting():
    cluster = cluster_of(3)
    before = cluster.hosts()
    cluster.peers[3].stop()
    cluster.until(lambda: all(peer.stopped for peer in cluster.peers.values()))
    cluster.kill(3)
    cluster.turn(20)
    assert cluster.hosts() == {1: before[1], 2: before[2]}


def test_a_value_is_loaded_for_joining_and_refused_outside_x():
    cluster = Cluster()
    peer = cluster.add(1, expected_peers=1, load=lambda i: np.full(2, 7.0) if i < 2 else None)
    peer.poll()
    assert [float(value[0]) for value in peer.state()] == [7.0, 7.0, 0.0, 0.0]
    for wrong in (np.full(2, 101.0), np.full(2, np.nan), np.zeros(3), np.zeros(2, dtype=np.float32)):
        refused = Cluster().add(2, expected_peers=1, load=lambda i, wrong=wrong: wrong)
        with pytest.raises(MapError, match="shard 0 cannot join"):
            refused.poll()


def test_a_value_that_would_spoil_the_others_is_not_published():
    cluster = cluster_of(1)
    evaluation = cluster.peers[1].begin(0)
    for wrong in (np.zeros(3), np.zeros(2, dtype=np.float32), np.array([1.0, np.inf])):
        with pytest.raises(MapError, match="shard 0"):
            cluster.peers[1].commit(evaluation, wrong)


def test_notes_reach_the_others():
    cluster = cluster_of(2)
    cluster.peers[1].note["loss"] = 0.25
    cluster.peers[1].publish()
    cluster.turn()
    assert cluster.peers[2].notes() == {1: {"loss": 0.25}, 2: {}}


def test_nothing_is_evaluated_twice_with_the_same_inputs():
    class Ring(Linear):
        def neighbours(self, i):
            return np.array([(i + 1) % self.num_participants])

    cluster = Cluster(Ring(2))
    first, second = cluster.add(1, expected_peers=2), cluster.add(2, expected_peers=2)
    cluster.until(cluster.settled)
    cluster.turn(3)
    assert first.step() + first.step() <= 1
    assert first.step() == 0
    assert second.step() == 1
    assert first.step() == 1


def test_another_model_is_counted_by_name():
    cluster = cluster_of(1)
    other = Linear(seed=1)
    stranger = InProcessTransport(cluster.hub, "memory://stranger")
    stranger.connect(cluster.peers[1].address)
    codec = Codec(b"k" * 32, b"n" * 16, other.fingerprint())
    Peer(other, stranger, codec, number=9, expected_peers=1).poll()
    cluster.turn(2)
    assert cluster.peers[1].rejected["model"] >= 1
    assert cluster.peers[1].peers() == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heartbeat_s": 1.0, "timeout_s": 1.0}, "time-out of 1.0 s"),
        ({"shards_wanted": (4,)}, "shards 0 to 3"),
    ],
)
def test_options_that_cannot_be(options, message):
    cluster = Cluster()
    with pytest.raises(ValueError, match=message):
        Peer(cluster.map, InProcessTransport(Hub()), cluster.codec, **options)


def test_threads_iterate_and_stop_together():
    cluster = Cluster()
    peers = [
        Peer(
            cluster.map, InProcessTransport(cluster.hub), cluster.codec, contacts=("memory://1",), heartbeat_s=0.05,
            timeout_s=2.0, expected_peers=3,
        )
        for _ in range(3)
    ]  # fmt: skip
    enough = lambda peer: peer.view().all() and peer.rounds() >= 40  # noqa: E731
    threads = [Thread(target=peer.run, kwargs={"until": enough, "max_s": 60}, daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(peer.stopped for peer in peers)
    assert all(error(peer, cluster.map.solve()) < 1e-9 for peer in peers if peer.view().all())
    assert any(peer.view().all() for peer in peers)
    for peer in peers:
        peer.close()


def test_what_fails_in_the_heartbeat_is_raised_by_the_next_step():
    class Failing(InProcessTransport):
        def collect(self):
            if current_thread().name == "heartbeats":
                raise OSError("no sockets left")
            return super().collect()

    cluster = Cluster()
    peer = Peer(cluster.map, Failing(cluster.hub), cluster.codec, heartbeat_s=0.01, timeout_s=1.0)
    with pytest.raises(OSError, match="no sockets left"), peer.heartbeats():
        for _ in range(10000):
            peer.wait()
            peer.poll()


def test_who_slept_takes_nobody_for_dead_before_having_listened():
    cluster = cluster_of(2)
    before = cluster.hosts()
    sleeper = cluster.peers.pop(2)
    sleeper._transport.collect()
    cluster.now += 3 * TIMEOUT_S
    sleeper.poll()
    assert list(sleeper.hosted) == before[2]
    assert sleeper.peers() == (1, 2)
    # The dead are found out all the same, with time awake.
    cluster.kill(1)
    cluster.peers[2] = sleeper
    cluster.until(lambda: cluster.hosts() == {2: [0, 1, 2, 3]}, most=10)


def test_a_former_life_is_no_longer_read_once_a_later_one_is_known_of():
    cluster = cluster_of(3)
    first, second = cluster.peers[1], cluster.peers[2]
    shard = second.hosted[0]
    block = first.blocks()[shard]
    # By hearsay only: whoever has it now has not been heard yet.
    first._members.learn(shard, Incarnation(block.incarnation.number + 1, 3))
    assert shard not in first.blocks()
    assert not first.view()[shard]
    assert (first.begin(first.hosted[0]).inputs[shard] == 0).all()


def test_fingerprints_agree_where_views_do_and_change_with_every_life():
    cluster = cluster_of(2)
    cluster.turn(4)
    first, second = cluster.peers.values()
    before = first.begin(first.hosted[0]).fingerprint
    assert second.begin(second.hosted[0]).fingerprint == before
    cluster.peers[2].release()
    cluster.until(cluster.settled)
    assert first.view().all()
    assert first.begin(0).fingerprint != before


def test_a_sleeper_is_found_by_those_who_came_when_all_it_knew_are_dead():
    cluster = cluster_of(2)
    sleeper = cluster.peers.pop(2)
    cluster.until(cluster.settled)
    # Each newcomer knows only the one before it, and that one dies.
    for former, number in ((1, 3), (3, 4), (4, 5)):
        cluster.add(number, contacts=(f"memory://{former}",))
        cluster.until(cluster.settled)
        cluster.turn(20)
        cluster.kill(former)
        cluster.until(cluster.settled)
    assert list(cluster.peers) == [5]
    sleeper._transport.collect()
    cluster.peers[2] = sleeper
    cluster.until(lambda: cluster.settled() and len(cluster.peers[5].hosted) == 2)
    cluster.until(lambda: all(error(peer, cluster.map.solve()) < 1e-12 for peer in cluster.peers.values()))


def test_who_goes_on_for_the_dead_begins_with_the_newest_value_that_is_known():
    cluster = cluster_of(1)
    first = cluster.peers[1]
    cluster.add(2)
    cluster.until(lambda: cluster.settled() and len(cluster.peers[2].hosted) == 2)
    cluster.turn(2)
    shard = cluster.peers[2].hosted[0]
    heard = first._mailboxes.latest(shard)
    # What it once released itself is older than what has been heard since.
    first._holdings.released[shard] = replace(heard, incarnation=Incarnation(1, 1), value=np.full(2, 9.0))
    assert (first.last_heard(shard) == heard.value).all()
    value, initial = first._holdings._joining(shard)
    assert (value == heard.value).all()
    assert not initial
    assert (first.last_heard(first.hosted[0]) == first.blocks()[first.hosted[0]].value).all()


def test_rounds_of_the_whole_are_of_one_moment():
    cluster = Cluster()
    peer = cluster.add(1, shards_wanted=(0, 1), expected_peers=1)
    cluster.until(lambda: peer.rounds() >= 3)
    assert peer.rounds(whole=True) == 0
    cluster.add(2, shards_wanted=(2, 3))
    cluster.until(cluster.settled)
    cluster.until(lambda: peer.rounds(whole=True) >= 3)


def test_lives_that_cannot_be_are_neither_believed_nor_passed_on():
    cluster = cluster_of(2)
    cluster.peers[1].note["_lives"] = ""
    members = cluster.peers[2]._members
    before = dict(members.lives)
    for text in (f"{1 << 63}.1:0", "5.1:4", "5.1:99", f"5.{1 << 64:x}:0", "-1.1:0"):
        note = {"_lives": text}
        bulletin = Bulletin(7, cluster.peers[1]._sequence + 10**6 + len(note), "memory://7", (), False, (), note)
        members._take(bulletin)
        assert members.lives == before
    block = Block(0, Incarnation((1 << 64) - 1, 7), 0, 0, 0, np.zeros(2))
    assert not cluster.peers[2]._mailboxes.post(Bulletin(7, 10**7, "memory://7", (), False, (block,), {}))
    assert cluster.peers[2].rejected["life"] == 1


def test_what_was_dropped_is_counted_with_the_greetings_and_said_once(caplog):
    class Greeted(InProcessTransport):
        @property
        def rejected(self):
            return {"key": 2}

    cluster = Cluster()
    peer = cluster.add(1, transport=Greeted(cluster.hub, "memory://1"), expected_peers=1)
    stranger = InProcessTransport(cluster.hub, "memory://stranger")
    stranger.connect("memory://1")
    for _ in range(3):
        stranger.publish(Codec(b"K" * 32, b"n" * 16, cluster.map.fingerprint()).encode_hello("memory://stranger"))
        cluster.turn()
    assert peer.rejected == {"key": 5}
    assert [record.message.count("made with another key") for record in caplog.records] == [1]


def test_closing_again_waits_for_nobody():
    cluster = cluster_of(2)
    peer = cluster.peers[1]
    peer.close(linger_s=0.0)
    peer.release()
    assert peer._awaited()
    polls = []
    peer.poll = lambda: polls.append(1)
    peer.close(linger_s=1.0)
    assert polls == []


def test_patience_is_for_who_has_not_been_heard_yet_and_not_for_the_dead():
    cluster = Cluster()
    for number in (1, 2):
        cluster.add(number, expected_peers=2, patience_s=1e6)
    cluster.until(cluster.settled)
    cluster.kill(1)
    cluster.until(lambda: len(cluster.peers[2].hosted) == cluster.map.num_participants)
