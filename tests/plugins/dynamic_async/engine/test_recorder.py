"""What several peers wrote down is one legal schedule, and the simulator makes the same bits of it."""

import errno
import json
import os

import numpy as np
import pytest
from dynamic_async_peers import Cluster, Linear, error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.holdings import Holdings
from fulgurite.plugins.dynamic_async.engine.merging import merge
from fulgurite.plugins.dynamic_async.engine.messages import Incarnation
from fulgurite.plugins.dynamic_async.engine.recorder import Recorder, read_log
from fulgurite.plugins.dynamic_async.model.errors import TraceError
from fulgurite.plugins.dynamic_async.model.simulation import simulate
from fulgurite.plugins.dynamic_async.model.trace import Event, ViewedMap, replay


def churned(folder, seed: int, turns: int = 60, *, cuts: bool = True) -> Cluster:
    """Peers that join, die, sleep, wake and (with cuts) lose touch with each other, as chance has it."""
    chance = np.random.default_rng(seed)
    cluster = Cluster(Linear(5, seed=seed), folder)
    cluster.add(1, expected_peers=2)
    asleep = {}
    for turn in range(turns):
        living = list(cluster.peers)
        match chance.integers(0, 12):
            case 0 if len(living) < 5:
                # A newcomer that has never heard of a sleeper would be cut off from it once those between are dead.
                known = [*cluster.peers.values(), *([] if cuts else asleep.values())]
                cluster.add(100 + turn, contacts=tuple(peer.address for peer in known))
            case 1 if len(living) > 1:
                cluster.kill(int(chance.choice(living)))
            case 2 if len(living) > 1:
                number = int(chance.choice(living))
                asleep[number] = cluster.peers.pop(number)
            case 3 | 4 if asleep:
                cluster.peers |= dict([asleep.popitem()])
            case 5 if cuts and len(living) > 1:
                one, other = (cluster.peers[int(number)] for number in chance.choice(living, 2, replace=False))
                one._transport.disconnect(other.address)
            case 6 if len(living) > 1:
                one, other = (cluster.peers[int(number)] for number in chance.choice(living, 2, replace=False))
                one._transport.connect(other.address)
            case 7:
                cluster.peers[living[0]].configure(int(chance.integers(0, 4)))
        cluster.turn()
    return cluster


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), cuts=st.booleans())
def test_any_history_is_a_legal_schedule_and_replays_to_the_bit(tmp_path_factory, seed, cuts):
    cluster = churned(tmp_path_factory.mktemp("logs"), seed, cuts=cuts)
    trace = cluster.trace()
    state = replay(trace, cluster.map)
    assert (trace.event == Event.EVALUATE).sum() > 50
    assert len(state) == 5


@pytest.mark.parametrize("seed", range(12))
def test_without_partitions_it_is_a_schedule_of_the_shards_themselves(tmp_path, seed):
    """Sleepers, deaths and adoptions alone never make two lives of a shard overlap."""
    assert churned(tmp_path, seed, cuts=False).trace().num_copies == 1


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), cuts=st.booleans())
def test_whatever_happens_tags_certify_every_value(tmp_path_factory, seed, cuts):
    """|x - x*| <= gamma^tag r0 for the answer x* of the view and configuration that the value was computed by."""
    check_tags(churned(tmp_path_factory.mktemp("logs"), seed, cuts=cuts))


def test_tags_grow(tmp_path):
    """What the property above says of tags is of some that promise much: gamma^tag is not 1."""
    assert check_tags(churned(tmp_path, 0)) > 3


def check_tags(cluster):
    """Hold every value of a run against its tag; give the largest tag."""
    map, trace = cluster.map, cluster.trace()
    history = simulate(ViewedMap(map, trace), trace.schedule(), joins=trace.joins(), record=("history",)).history
    answers, widest, most = {}, 2 * (1 + 3) / (1 - map.gamma), 0
    for tick in np.flatnonzero(trace.event == Event.EVALUATE) + 1:
        place, epoch = trace.participant[tick - 1], trace.epochs[tick]
        view, configuration = trace.seen[trace.views[epoch, place]] >= 0, int(trace.configurations[epoch, place])
        key = (view.tobytes(), configuration)
        if key not in answers:
            answers[key] = map.solve(np.flatnonzero(view), configuration)
        tag, shard = int(trace.tags[tick - 1]), place % trace.num_shards
        error = np.abs(history[tick][place] - answers[key][shard]).max()
        assert error <= map.gamma**tag * widest + 1e-13
        most = max(most, tag)
    return most


def test_the_end_of_the_replay_is_the_end_of_the_run(tmp_path):
    cluster = churned(tmp_path, 3)
    for peer in cluster.peers.values():
        for other in cluster.peers.values():
            peer._transport.connect(other.address)
    cluster.until(cluster.settled)
    cluster.turn(3)
    last = max(cluster.peers.values(), key=lambda peer: peer.peers())
    for peer in cluster.peers.values():
        peer.poll()
    state = replay(cluster.trace(), cluster.map)
    for i, block in last.blocks().items():
        assert any(
            i in peer.hosted and np.array_equal(peer.blocks()[i].value, state[i]) for peer in cluster.peers.values()
        ), block


def test_clocks_may_be_wrong(tmp_path):
    cluster = churned(tmp_path, 11)
    chance = np.random.default_rng(0)
    for path in tmp_path.glob("*.jsonl"):
        header, *lines = path.read_text().splitlines()
        events = [json.loads(line) | {"time": chance.random()} for line in lines]
        path.write_text("\n".join([header, *map(json.dumps, events), ""]))
    replay(cluster.trace(), cluster.map)


def zombie_run(folder) -> Cluster:
    """Peer 2 sleeps, peer 1 adopts its shards; 3 hears of that only by 2, and 2 wakes up beside it."""
    cluster = Cluster(Linear(3), folder)
    cluster.add(1, expected_peers=3)
    cluster.add(2, expected_peers=3)
    cluster.add(3, expected_peers=3)
    cluster.until(cluster.settled)
    cluster.turn(4)
    zombie = cluster.peers.pop(2)
    cluster.until(cluster.settled)
    cluster.turn(4)
    cluster.peers[2] = zombie
    # The zombie hears peer 3, which has used the new values, and not peer 1, which made them.
    zombie._transport.collect()
    zombie._transport.cut.add("memory://1")
    cluster.turn(8)
    return cluster


def test_a_zombie_that_hears_only_of_the_consequences_still_gives_up(tmp_path):
    cluster = zombie_run(tmp_path)
    trace = cluster.trace()
    assert trace.num_copies == 1
    replay(trace, cluster.map)


def test_without_the_filter_of_incarnations_it_is_no_schedule_of_the_shards(tmp_path, monkeypatch):
    def keeping(self):
        self._share()
        return True

    def everything(self):
        live = {*self._members.live(), self._number}
        blocks = {i: self.hosted.get(i) or self._mailboxes.latest(i) for i in range(self._map.num_participants)}
        return {i: block for i, block in blocks.items() if block and block.incarnation.host in live}

    monkeypatch.setattr(Holdings, "settle", keeping)
    monkeypatch.setattr(Holdings, "in_view", everything)
    assert zombie_run(tmp_path).trace().num_copies > 1


def test_joining_without_a_reset_is_caught_by_the_replay(tmp_path, monkeypatch):
    def keep(self, i):
        block = self._mailboxes.latest(i)
        return (block.value, True) if block else (self._map.initial(i), True)

    monkeypatch.setattr(Holdings, "_joining", keep)
    cluster = zombie_run(tmp_path)
    with pytest.raises(TraceError, match="join gives another value"):
        replay(cluster.trace(), cluster.map)


def test_a_log_is_written_as_it_happens_and_a_torn_line_is_left_out(tmp_path):
    map = Linear(2)
    path = tmp_path / "logs" / "one.jsonl"
    recorder = Recorder(path, map)
    life = Incarnation(2**63, 2**64 - 1)
    recorder.joined(0, life, np.array([1.0, -0.0]), initial=False)
    recorder.evaluated(
        0, life, 1, np.ones(2), tag=4, configuration=2, view={0: life}, reads=[(0, life, 0)]
    )  # fmt: skip
    fingerprint, n, events = read_log(path)
    assert (fingerprint, n, len(events)) == (map.fingerprint(), 2, 2)
    assert events[0].joined.tobytes() == np.array([1.0, -0.0]).tobytes()
    assert (events[1].tag, events[1].configuration, events[1].view, events[1].reads) == (
        4,
        2,
        {0: life},
        ((0, life, 0),),
    )
    path.write_bytes(path.read_bytes() + b'{"time": 1.0, "sha')
    assert len(read_log(path)[2]) == 2
    with pytest.raises(FileExistsError):
        Recorder(path, map)
    recorder.close()
    recorder.close()


def test_a_full_disk_ends_the_log_and_not_the_peer(tmp_path, monkeypatch, caplog):
    cluster = Cluster(folder=tmp_path)
    for number in (1, 2):
        cluster.add(number, expected_peers=2)
    cluster.until(cluster.settled)
    full = cluster.peers[2]._recorder
    write = os.write

    def disk(file, line):
        if file == full._file:
            raise OSError(errno.ENOSPC, "no space left")
        return write(file, line)

    with monkeypatch.context() as filled:
        filled.setattr("os.write", disk)
        cluster.turn(20)
    cluster.until(lambda: all(error(peer, cluster.map.solve()) < 1e-12 for peer in cluster.peers.values()))
    assert (cluster.peers[1]._recorder.complete, full.complete) == (True, False)
    assert [record.message.count("disk full") for record in caplog.records] == [1]
    with pytest.raises(TraceError, match="no log says that it was made"):
        cluster.trace()


@pytest.mark.parametrize("written", [3, None])
def test_a_log_that_cannot_be_begun_is_named(tmp_path, monkeypatch, written):
    def disk(file, line):
        if written is None:
            raise OSError(errno.ENOSPC, "no space left")
        return written

    with monkeypatch.context() as filled:
        filled.setattr("os.write", disk)
        with pytest.raises(OSError, match="is the disk full"):
            Recorder(tmp_path / "one.jsonl", Linear(2))


def test_logs_that_do_not_belong_together_are_refused(tmp_path):
    cluster = churned(tmp_path, 5, turns=30)
    paths = sorted(tmp_path.glob("*.jsonl"))
    Recorder(tmp_path / "other", Linear(3)).close()
    with pytest.raises(TraceError, match="of 2 maps"):
        merge([*paths, tmp_path / "other"])
    with pytest.raises(TraceError, match="claim the same value"):
        merge([*paths, paths[0]])
    with pytest.raises(TraceError, match="no log says that it was made"):
        merge(paths[1:])
    (tmp_path / "no log").write_text("what?\n")
    with pytest.raises(TraceError, match="no log of a peer"):
        merge([*paths, tmp_path / "no log"])
    lines = paths[0].read_bytes().split(b"\n")
    event = json.loads(lines[1]) | {"life": [1]}
    (tmp_path / "bad").write_bytes(b"\n".join([lines[0], json.dumps(event).encode(), b""]))
    with pytest.raises(TraceError, match="damaged"):
        merge([tmp_path / "bad"])
    assert cluster.peers
