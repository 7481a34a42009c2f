"""Some links are cut while all peers live: nobody is taken for dead, and values come by way of the others."""

import pytest
from dynamic_async_peers import HEARTBEAT_S, TIMEOUT_S, Cluster, Linear, error

from fulgurite.plugins.dynamic_async.engine import hearsay
from fulgurite.plugins.dynamic_async.engine.hearsay import Hearsay


def cluster_of(count: int, shards: int = 6) -> Cluster:
    cluster = Cluster(Linear(shards))
    for number in range(1, count + 1):
        cluster.add(number, expected_peers=count)
    cluster.until(cluster.settled)
    return cluster


def lives(cluster: Cluster) -> set:
    return {(i, life) for peer in cluster.peers.values() for i, life in peer._members.lives.items()}


def assert_all_solve_it(cluster: Cluster) -> None:
    cluster.turn(4)
    before = {number: peer.rounds(whole=True) for number, peer in cluster.peers.items()}
    cluster.turn(30)
    assert all(peer.rounds(whole=True) > before[number] for number, peer in cluster.peers.items())
    cluster.until(lambda: all(error(p, cluster.map.solve()) < 1e-12 for p in cluster.peers.values()))


def test_one_cut_link_of_three_costs_nobody_a_shard():
    cluster = cluster_of(3)
    before = lives(cluster)
    cluster.cut(1, 3)
    for _ in range(120):
        cluster.turn()
        # The values are relayed before those that came directly are out of view.
        assert cluster.settled()
    assert lives(cluster) == before
    assert cluster.peers[1].peers() == (1, 2)
    assert_all_solve_it(cluster)


def test_a_line_of_peers_solves_it_end_to_end():
    cluster = cluster_of(5)
    before = lives(cluster)
    for one in range(1, 6):
        for other in range(one + 2, 6):
            cluster.cut(one, other)
    cluster.turn(120)
    assert lives(cluster) == before
    assert_all_solve_it(cluster)
    cluster.heal()
    cluster.turn(40)
    assert lives(cluster) == before
    assert not any(peer._members.hearsay.relays() for peer in cluster.peers.values())


@pytest.mark.parametrize("cut", [False, True])
def test_hearsay_keeps_nobody_alive_who_is_dead(cut):
    cluster = cluster_of(4)
    if cut:
        cluster.cut(1, 4)
        cluster.cut(2, 4)
    cluster.turn(40)
    cluster.kill(4)
    turns = 0
    while not cluster.settled():
        cluster.turn()
        turns += 1
        assert turns * HEARTBEAT_S / 2 <= TIMEOUT_S + 4 * HEARTBEAT_S
    assert_all_solve_it(cluster)


def test_who_is_only_heard_of_is_not_read(monkeypatch):
    monkeypatch.setattr(Hearsay, "relays", lambda self: {})
    cluster = cluster_of(3)
    before = cluster.hosts()
    cluster.cut(1, 3)
    cluster.turn(60)
    assert cluster.hosts() == before
    first = cluster.peers[1]
    assert [i for i in range(6) if not first.view()[i]] == before[3]
    assert all((first.begin(before[1][0]).inputs[i] == 0).all() for i in before[3])


def test_a_newcomer_gets_released_shards_through_a_relay():
    cluster = cluster_of(2)
    cluster.add(3, contacts=("memory://2",))
    cluster.cut(1, 3)
    cluster.until(lambda: cluster.settled() and [len(shards) for shards in cluster.hosts().values()] == [2, 2, 2])
    assert_all_solve_it(cluster)


def test_shards_that_somebody_wants_are_known_by_hearsay():
    cluster = Cluster(Linear(4))
    for number, shards in ((1, None), (2, None), (3, (3,))):
        cluster.add(number, expected_peers=3, shards_wanted=shards)
    cluster.until(cluster.settled)
    cluster.cut(1, 3)
    before = cluster.hosts()
    cluster.turn(60)
    assert cluster.hosts() == before
    # Its shard is nobody's when it dies; the rest is shared anew without it.
    cluster.kill(3)
    cluster.until(cluster.settled)


def test_who_takes_the_living_for_dead_takes_ever_longer_to_do_so_again(monkeypatch):
    # As if no peer told who lives: then time-outs alone decide.
    monkeypatch.setattr(hearsay, "read_reports", lambda text: {})
    cluster = cluster_of(3)
    cluster.cut(1, 3)
    cluster.turn(800)
    # 100 time-outs: 50 adoptions without a back-off.
    assert max(life.number for _, life in lives(cluster)) <= 15


def test_who_left_long_ago_is_orphaned_after_one_time_out_again(monkeypatch):
    with monkeypatch.context() as mute:
        mute.setattr(hearsay, "read_reports", lambda text: {})
        cluster = cluster_of(3)
        cluster.cut(1, 3)
        cluster.turn(100)
    cluster.heal()
    cluster.turn(int(70 * TIMEOUT_S / HEARTBEAT_S * 2))
    cluster.kill(3)
    cluster.turn(int(2 * TIMEOUT_S / HEARTBEAT_S) + 6)
    assert cluster.settled()
