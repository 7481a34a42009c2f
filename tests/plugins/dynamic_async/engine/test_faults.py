"""Faults come as often as was asked for, from the seed, and peers live with them."""

import subprocess
import sys

import numpy as np
import pytest
from dynamic_async_peers import Cluster, error

from fulgurite.plugins.dynamic_async.engine.faults import Faults, FaultyTransport, Striker
from fulgurite.plugins.dynamic_async.engine.in_process import Hub, InProcessTransport


class Inbox:
    """A transport that hands out what the test put in."""

    def __init__(self) -> None:
        self.address = "memory://inbox"
        self.coming: list[bytes] = []
        self.published: list[bytes] = []

    def collect(self) -> list[bytes]:
        coming, self.coming = self.coming, []
        return coming

    def publish(self, frame: bytes) -> None:
        self.published.append(frame)


def pass_through(faults: Faults, *, salt: int = 0, frames: int = 400) -> tuple[list[int], FaultyTransport]:
    """One frame a second; which came, in the order in which they did."""
    inbox, now = Inbox(), [0.0]
    faulty = FaultyTransport(inbox, faults, salt=salt, clock=lambda: now[0])
    came = []
    for k in range(frames):
        inbox.coming = [str(k).encode()]
        came += [int(frame) for frame in faulty.collect()]
        now[0] += 1.0
    for _ in range(20):
        came += [int(frame) for frame in faulty.collect()]
        now[0] += 1.0
    return came, faulty


def test_nothing_happens_unless_asked_for():
    came, faulty = pass_through(Faults())
    assert came == list(range(400))
    assert not any(faulty.counts.values())
    for _ in range(1000):
        Striker(Faults())()


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "delay"])
def test_each_fault_alone(kind):
    came, faulty = pass_through(Faults(seed=3, delay_s=5.0, **{kind: 0.3}))
    assert 80 <= faulty.counts[kind] <= 160
    assert sum(faulty.counts.values()) == faulty.counts[kind]
    if kind == "drop":
        assert len(came) == 400 - faulty.counts["drop"]
        assert came == sorted(came)
    elif kind == "duplicate":
        assert len(came) == 400 + faulty.counts["duplicate"]
        assert set(came) == set(range(400))
    else:
        assert sorted(came) == list(range(400))
        assert came != sorted(came)
        late = max(place - frame for place, frame in enumerate(came))
        assert late <= (1 if kind == "reorder" else 6)


def test_chances_are_the_seeds_and_each_peers_own():
    faults = Faults(seed=3, drop=0.5)
    assert pass_through(faults)[0] == pass_through(faults)[0]
    assert pass_through(faults)[0] != pass_through(faults, salt=1)[0]
    assert pass_through(faults)[0] != pass_through(Faults(seed=4, drop=0.5))[0]


def test_isolation_is_both_ways_and_ends():
    inbox, now = Inbox(), [0.0]
    faulty = FaultyTransport(inbox, Faults(partition=1.0, partition_s=2.0), clock=lambda: now[0])
    Striker(Faults(partition=1.0, partition_s=2.0), transport=faulty)()
    inbox.coming = [b"lost"]
    faulty.publish(b"lost")
    assert (faulty.collect(), inbox.published, faulty.counts["cut"]) == ([], [], 1)
    now[0] = 2.0
    inbox.coming = [b"heard"]
    faulty.publish(b"heard")
    assert (faulty.collect(), inbox.published) == ([b"heard"], [b"heard"])


def test_single_peers_are_cut_off_and_healed():
    inbox = Inbox()
    faulty = FaultyTransport(inbox, Faults(), sender=lambda frame: frame.decode()[:1])
    faulty.cut({"a"})
    inbox.coming = [b"a1", b"b1"]
    assert faulty.collect() == [b"b1"]
    faulty.heal()
    inbox.coming = [b"a2"]
    assert faulty.collect() == [b"a2"]
    with pytest.raises(ValueError, match="sender"):
        FaultyTransport(InProcessTransport(Hub()), Faults()).cut({"a"})


def test_peers_reach_the_answer_through_all_of_it():
    cluster = Cluster()
    faults = Faults(seed=1, drop=0.3, duplicate=0.2, reorder=0.2, delay=0.2, delay_s=3.0)
    for number in (1, 2, 3):
        inner = InProcessTransport(cluster.hub, f"memory://{number}")
        transport = FaultyTransport(inner, faults, salt=number, clock=lambda: cluster.now)
        cluster.add(number, transport=transport, expected_peers=3)
    answer = cluster.map.solve()
    cluster.until(cluster.settled, most=2000)
    cluster.until(lambda: all(error(peer, answer) < 1e-12 for peer in cluster.peers.values()), most=2000)
    assert cluster.peers[1].rejected["old"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.5}, "drop is a chance"),
        ({"kill": -0.1}, "kill is a chance"),
        ({"pause": float("nan")}, "pause is a chance"),
        ({"pause_s": -1.0}, "pause_s is a time"),
        ({"delay_s": float("nan")}, "delay_s is a time"),
    ],
)
def test_chances_and_times_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Faults(**options)


def struck(faults: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import time; from fulgurite.plugins.dynamic_async.engine.faults import Faults, Striker\n"
        f"strike = Striker(Faults({faults}))\n"
        "began = time.monotonic(); strike(); print(time.monotonic() - began)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_a_process_kills_itself_and_another_stops_and_is_woken():
    assert struck("kill=1.0").returncode == -9
    paused = struck("pause=1.0, pause_s=0.3")
    assert paused.returncode == 0, paused.stderr
    assert float(np.float64(paused.stdout)) >= 0.3
