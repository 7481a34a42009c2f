from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.hosting import assign

situations = st.tuples(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6, unique=True),
    st.integers(0, 12),
).flatmap(
    lambda drawn: st.tuples(
        st.just(drawn[0]),
        st.just(drawn[1]),
        # Hosts may be dead: two numbers that are not among the living.
        st.dictionaries(
            st.integers(0, max(drawn[1] - 1, 0)), st.sampled_from([*drawn[0], -1, -2]), max_size=drawn[1]
        ).map(lambda hosts: {shard: host for shard, host in hosts.items() if shard < drawn[1]}),
    )
)


def moved(before: dict[int, int], after: dict[int, int]) -> int:
    return sum(after[shard] != host for shard, host in before.items())


@settings(deadline=None)
@given(situations, st.randoms())
def test_every_shard_has_one_live_host_and_loads_differ_by_one_at_most(situation, chance):
    peers, num_shards, hosts = situation
    given_ = assign(peers, hosts, num_shards)
    assert list(given_) == list(range(num_shards))
    loads = [list(given_.values()).count(peer) for peer in peers]
    assert sum(loads) == num_shards
    assert max(loads) - min(loads) <= 1
    shuffled = list(peers)
    chance.shuffle(shuffled)
    assert assign(shuffled, dict(sorted(hosts.items(), reverse=True)), num_shards) == given_


@settings(deadline=None)
@given(situations)
def test_what_is_assigned_stays_as_it_is(situation):
    peers, num_shards, hosts = situation
    given_ = assign(peers, hosts, num_shards)
    assert assign(peers, given_, num_shards) == given_


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(0, 5), st.data())
def test_no_balanced_choice_moves_fewer_shards(num_peers, num_shards, data):
    peers = list(range(num_peers))
    hosts = {shard: data.draw(st.sampled_from([*peers, 99])) for shard in range(num_shards) if data.draw(st.booleans())}
    least = min(
        moved(hosts, dict(enumerate(choice)))
        for choice in product(peers, repeat=num_shards)
        if max(choice.count(p) for p in peers) - min(choice.count(p) for p in peers) <= 1
    )
    assert moved(hosts, assign(peers, hosts, num_shards)) == least


@settings(deadline=None)
@given(situations, st.data())
def test_a_death_moves_only_the_orphans_where_the_others_are_balanced(situation, data):
    peers, num_shards, hosts = situation
    before = assign(peers, hosts, num_shards)
    dead = data.draw(st.sampled_from(peers))
    living = [peer for peer in peers if peer != dead]
    if not living:
        assert assign([], before, num_shards) == {}
        return
    after = assign(living, before, num_shards)
    assert all(after[shard] == host for shard, host in before.items() if host != dead)


def test_a_peer_with_shards_of_its_own_hosts_those_and_no_others():
    wanted = {1: {0, 1}, 2: {1}, 3: set()}
    assert assign([1, 2, 3], {1: 2}, 3, wanted=wanted) == {0: 1, 1: 2}
    assert assign([1, 3, 4], {}, 3, wanted=wanted) == {0: 1, 1: 1, 2: 4}
    assert assign([4, 5], {}, 3, wanted=wanted) == {0: 4, 1: 4, 2: 5}
    assert assign([3], {}, 3, wanted=wanted) == {}
    # Of two that claim a shard, the one that has it keeps it.
    assert assign([1, 2], {0: 2}, 1, wanted={1: {0}, 2: {0}}) == {0: 2}
