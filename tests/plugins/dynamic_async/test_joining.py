from contextlib import ExitStack

import numpy as np
import pytest

from fulgurite.plugins.dynamic_async.engine.frames import Codec
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation
from fulgurite.plugins.dynamic_async.joining import Joining, frame_bytes
from fulgurite.plugins.dynamic_async.training_map import TrainingMap


@pytest.mark.parametrize(("shards", "size"), [(1, 1), (5, 1000), (3, 24_000_000)])
def test_one_peer_can_say_all_shards_at_once(shards, size):
    # The last case is more than frames have by default.
    shared = TrainingMap(np.zeros(size, dtype=np.float32), shards=shards, coupling=0.5, topology="star")
    blocks = tuple(
        Block(i, Incarnation(2**63, 2**64 - 1), 1, 1, 1, shared.centre) for i in range(shared.num_participants)
    )
    codec = Codec(b"k" * 32, b"n" * 16, shared.fingerprint(), max_bytes=frame_bytes(shared))
    addresses = ("tcp://" + "a" * 250,) * 1024
    frame = codec.encode(Bulletin(1, 1, addresses[0], addresses, False, blocks, {"x": "y" * ((1 << 20) - 64)}))
    assert len(frame) <= frame_bytes(shared)


def test_its_peer_takes_frames_of_that_length():
    options = {"local_peers": 1, "listen": "tcp://127.0.0.1:0", "join": (), "run": None, "transport": "zmq"}
    times = {"heartbeat_s": 0.1, "timeout_s": 1.0, "wait_s": 1.0}
    nothing = dict.fromkeys(("key", "key_file", "record", "restart_s"))
    shared = TrainingMap(np.zeros(7), shards=3, coupling=0.5)
    with ExitStack() as stack:
        peer = Joining(**options, **times, **nothing, restarts=0).peer(
            shared, faults=None, load=lambda shard: None, stack=stack
        )
        with peer:
            assert peer._codec.max_bytes == frame_bytes(shared)
