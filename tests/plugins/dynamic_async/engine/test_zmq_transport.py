"""The ZeroMQ transport against strangers, wrong addresses and a machine that lacks something."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.dynamic_async.engine.curve import CurvePair
from fulgurite.plugins.dynamic_async.engine.frames import MAX_HELLO_BYTES, Codec
from fulgurite.plugins.dynamic_async.engine.transport import TransportError
from fulgurite.plugins.dynamic_async.engine.zmq_transport import ZmqTransport

KEY, NONCE, MODEL = b"k" * 32, b"n" * 16, b"m" * 16
CODEC = Codec(KEY, NONCE, MODEL, max_bytes=1 << 16)
PATIENCE_S = 60.0


@pytest.fixture
def opened():
    transports = []

    def open_one(listen="tcp://127.0.0.1:0", **options):
        transports.append(ZmqTransport(listen, **{"codec": CODEC, "hello_s": 0.1, **options}))
        return transports[-1]

    yield open_one
    for transport in transports:
        transport.close()


@pytest.fixture
def stranger():
    """``stranger(kind, address)``: a plain socket that is connected to it, or bound if there is no address."""
    context, sockets = zmq.Context(), []

    def connect(kind, address=None):
        plain = context.socket(kind)
        sockets.append(plain)
        plain.linger = 0
        plain.connect(address) if address else plain.bind("tcp://127.0.0.1:*")
        return plain

    yield connect
    context.destroy(linger=0)


def greetings(transport) -> str:
    host, _, port = transport.address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def until(condition, *doing):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        for do in doing:
            do()


def hear(listener, speaker, frame):
    """Wait until the listener collects the frame; what else it collected meanwhile."""
    got = []
    until(
        lambda: frame in got,
        lambda: speaker.publish(frame),
        lambda: listener.wait(0.05),
        lambda: got.extend(listener.collect()),
    )
    return [other for other in got if other != frame]


def test_the_real_port_is_told(opened):
    transport = opened()
    assert int(transport.address.rpartition(":")[2]) > 0
    assert transport.address.startswith("tcp://127.0.0.1:")


@pytest.mark.parametrize("offset", [0, 1])
def test_a_port_in_use_by_somebody_else_is_named(opened, offset):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f":{port} is in use"):
            opened(f"tcp://127.0.0.1:{port - offset}")


@pytest.mark.parametrize(
    "listen", ["tcp://127.0.0.1", "127.0.0.1:0", "udp://127.0.0.1:0", "tcp://*:0", "ipc://relative"]
)
def test_what_is_no_address_to_listen_on(opened, listen):
    with pytest.raises(TransportError, match="is no address"):
        opened(listen)


@pytest.mark.parametrize(
    "listen", ["tcp://203.0.113.7:0", "tcp://no-such-host.invalid:0", "ipc:///no/such/folder/peer"]
)
def test_what_cannot_be_listened_on(opened, listen):
    with pytest.raises(TransportError, match="cannot listen on"):
        opened(listen)


def test_the_last_port_has_none_after_it(opened):
    with pytest.raises(TransportError, match="65536"):
        opened("tcp://127.0.0.1:65535")


def test_every_interface_needs_a_name_that_others_know(opened):
    with pytest.raises(TransportError, match="advertise"):
        opened("tcp://0.0.0.0:0")
    with pytest.raises(TransportError, match="listen there"):
        opened("tcp://0.0.0.0:0", advertise="localhost")
    with pytest.raises(TransportError, match="is no address"):
        opened("tcp://0.0.0.0:0", advertise="a;b")
    assert opened("tcp://0.0.0.0:0", advertise="10.0.0.7").address.startswith("tcp://10.0.0.7:")
    assert opened("tcp://[::]:0", advertise="fd00::7").address.startswith("tcp://[fd00::7]:")


def test_pyzmq_missing_or_old_is_said(opened, monkeypatch):
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 4))
    with pytest.raises(TransportError, match="or newer is needed"):
        opened()
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(TransportError, match=r"fulgurite\[async\]"):
        opened()


def test_after_a_fork_it_is_not_used(opened, monkeypatch):
    transport = opened()
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        for use in (
            transport.collect,
            lambda: transport.publish(b""),
            lambda: transport.wait(0),
            lambda: transport.connect(""),
        ):
            with pytest.raises(TransportError, match="fork"):
                use()


def test_greetings_are_only_taken_from_who_has_the_key(opened, stranger):
    transport, plain = opened(), None
    plain = stranger(zmq.PUSH, greetings(transport))
    somewhere = "tcp://127.0.0.1:9"
    hello = CODEC.encode_hello(somewhere)
    wrong = {
        "size": b"hello",
        "format": b"x" * 200,
        "key": Codec(b"K" * 32, NONCE, MODEL).encode_hello(somewhere),
        "run": Codec(KEY, b"N" * 16, MODEL).encode_hello(somewhere),
        "model": Codec(KEY, NONCE, b"M" * 16).encode_hello(somewhere),
        "forged": hello[:-1] + bytes([hello[-1] ^ 1]),
    }
    for frame in wrong.values():
        plain.send(frame)
    plain.send(CODEC.encode_hello("inproc://zeromq.zap.01"))
    plain.send(CODEC.encode_hello(transport.address))
    plain.send(hello)
    until(lambda: transport.connected, lambda: transport.wait(0.05))
    assert transport.connected == (somewhere,)
    assert transport.rejected == {**dict.fromkeys(wrong, 1), "address": 1}


@settings(deadline=None, max_examples=20)
@given(st.lists(st.binary(max_size=2 * MAX_HELLO_BYTES), max_size=20))
def test_garbage_at_every_door_changes_nothing(noise):
    context = zmq.Context()
    first, second = ZmqTransport(codec=CODEC), ZmqTransport(codec=CODEC)
    try:
        second.connect(first.address)
        strangers = [context.socket(kind) for kind in (zmq.PUSH, zmq.SUB)]
        for plain, kind, address in zip(strangers, (zmq.PUSH, zmq.SUB), (greetings(first), first.address), strict=True):
            plain.linger = 0
            plain.connect(address)
            for data in noise:
                plain.send(data) if kind == zmq.PUSH else plain.subscribe(data)
        host, _, port = first.address.removeprefix("tcp://").rpartition(":")
        for door in (int(port), int(port) + 1):
            with socket.create_connection((host, door)) as raw:
                raw.sendall(b"".join(noise))
        assert hear(second, first, b"from first") == []
        assert hear(first, second, b"from second") == []
        assert first.connected == (second.address,)
    finally:
        first.close()
        second.close()
        context.destroy(linger=0)


def test_strangers_cannot_put_a_frame_in(opened, stranger):
    """Frames come over connections that this side has made; the ports that are open take greetings and nothing else."""
    first, second = opened(), opened()
    second.connect(first.address)
    for address in (first.address, greetings(first)):
        for kind in (zmq.PUB, zmq.PUSH):
            stranger(kind, address).send(b"a frame", zmq.NOBLOCK) if kind == zmq.PUB else None
    stranger(zmq.PUSH, greetings(first)).send(b"a frame")
    assert hear(first, second, b"real") == []


def test_what_is_too_long_is_dropped_by_the_library(opened, stranger):
    """Libzmq drops the whole connection, and for good; it is made anew after a while."""
    transport = opened()
    speaker = stranger(zmq.PUB)
    transport.connect(speaker.getsockopt_string(zmq.LAST_ENDPOINT))
    got = []

    def until_heard(frame):
        until(
            lambda: frame in got,
            lambda: speaker.send(frame),
            lambda: transport.wait(0.05),
            lambda: got.extend(transport.collect()),
        )

    until_heard(b"before")
    while transport.wait(0.2):
        transport.collect()
    speaker.send(b"x" * (CODEC.max_bytes + 1))
    assert not transport.wait(0.5)
    until_heard(b"after")
    speaker.send(b"x" * CODEC.max_bytes)
    until_heard(b"x" * CODEC.max_bytes)
    assert {len(frame) for frame in got} == {6, 5, CODEC.max_bytes}


def test_messages_of_several_parts_do_not_abort_the_process(stranger):
    """Libzmq asserts (fq.cpp) where a CONFLATE socket is read again after the first part of a message."""
    large = Codec(KEY, NONCE, MODEL, max_bytes=1 << 24)
    transport = ZmqTransport(codec=large, hello_s=0.05)
    try:
        speaker = stranger(zmq.PUB)
        transport.connect(speaker.getsockopt_string(zmq.LAST_ENDPOINT))
        upstream = stranger(zmq.XSUB, transport.address)
        greeter = stranger(zmq.PUSH, greetings(transport))
        other = stranger(zmq.PUB)
        until(
            lambda: transport.rejected["parts"] > 2,
            lambda: speaker.send_multipart([b"first", b"x" * (1 << 22), b"last"]),
            lambda: upstream.send_multipart([b"first", b"\1last"]),
            lambda: greeter.send_multipart([b"first", b"last"]),
            lambda: transport.wait(0.02),
            transport.collect,
        )
        transport.connect(other.getsockopt_string(zmq.LAST_ENDPOINT))
        got = []
        until(
            lambda: b"whole" in got,
            lambda: other.send(b"whole"),
            lambda: transport.wait(0.02),
            lambda: got.extend(transport.collect()),
        )
    finally:
        transport.close()


def test_a_peer_is_heard_after_something_else_answered_at_its_address(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        transport = opened()
        transport.connect(f"tcp://127.0.0.1:{port}")
        server.settimeout(PATIENCE_S)
        connection, _ = server.accept()
        with connection:
            nonsense = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NONSENSE".ljust(52, b"\0")
            connection.sendall(nonsense)
            connection.settimeout(PATIENCE_S)
            while connection.recv(4096):
                pass
    returned = opened(f"tcp://127.0.0.1:{port}")
    hear(transport, returned, b"back")
    hear(returned, transport, b"heard")


def test_a_greeting_that_is_too_long_is_dropped_by_the_library(opened, stranger):
    transport = opened()
    stranger(zmq.PUSH, greetings(transport)).send(b"x" * (MAX_HELLO_BYTES + 1))
    other = opened()
    other.connect(transport.address)
    until(lambda: transport.connected, lambda: transport.wait(0.05))
    assert transport.rejected == {}


def test_the_number_of_peers_is_bounded(opened, stranger):
    transport = opened(max_peers=3)
    plain = stranger(zmq.PUSH, greetings(transport))
    for port in range(9000, 9008):
        plain.send(CODEC.encode_hello(f"tcp://127.0.0.1:{port}"))
    until(lambda: transport.rejected["peers"] == 5, lambda: transport.wait(0.05))
    assert len(transport.connected) == 3
    transport.disconnect("tcp://127.0.0.1:9000")
    transport.connect("tcp://127.0.0.1:9100")
    assert "tcp://127.0.0.1:9100" in transport.connected


def test_a_flood_of_greetings_does_not_keep_a_peer_from_its_work(opened, stranger):
    transport, other = opened(), opened()
    other.connect(transport.address)
    plain = stranger(zmq.PUSH, greetings(transport))
    plain.sndhwm = 0
    for _ in range(2000):
        plain.send(b"x" * 500)
    hear(transport, other, b"in between")


def test_curve_lets_nobody_in_without_the_pair(opened, stranger):
    """Neither in the clear, nor with a pair of his own, nor with the public half that he may have come by."""
    pair = CurvePair.derived(CODEC)
    transport, other = opened(curve=pair), opened(curve=pair)
    other.connect(transport.address)
    in_the_clear = stranger(zmq.SUB)
    strangers = [in_the_clear]
    for server in (pair.public, zmq.curve_keypair()[0]):
        plain = stranger(zmq.SUB)
        plain.curve_serverkey = server
        plain.curve_publickey, plain.curve_secretkey = zmq.curve_keypair()
        strangers.append(plain)
    for plain in strangers:
        plain.unbind(plain.getsockopt_string(zmq.LAST_ENDPOINT))
        plain.subscribe(b"")
        plain.connect(transport.address)
    until(lambda: transport._doorkeeper.refused > 0, lambda: transport.publish(b"secret"), lambda: transport.wait(0.02))
    for _ in range(5):
        hear(other, transport, b"secret")
        hear(transport, other, b"answer")
    for plain in strangers:
        with pytest.raises(zmq.Again):
            plain.recv(zmq.NOBLOCK)


def test_curve_is_chosen_by_the_address(opened):
    """An address beyond this machine is spoken to with CURVE and others are not, so that both sides think the same."""
    transport = opened("tcp://0.0.0.0:0", advertise="10.0.0.7")
    assert transport._publishes.curve_server == 1
    assert opened()._publishes.curve_server == 0
    assert opened("tcp://0.0.0.0:0", advertise="10.0.0.7", curve=None)._publishes.curve_server == 0
    transport.connect("tcp://127.0.0.1:9")
    transport.connect("tcp://10.0.0.8:9")
    mechanisms = {address: peer.hears.mechanism for address, peer in transport._peers.items()}
    assert mechanisms == {"tcp://127.0.0.1:9": zmq.NULL, "tcp://10.0.0.8:9": zmq.CURVE}


def test_peers_with_other_keys_do_not_meet_under_curve(opened):
    ours = opened(curve=CurvePair.derived(CODEC))
    theirs = opened(curve=CurvePair.derived(Codec(b"K" * 32, NONCE, MODEL)))
    also_ours = opened(curve=CurvePair.derived(CODEC))
    theirs.connect(ours.address)
    also_ours.connect(ours.address)
    ours.connect(theirs.address)
    got = []
    for _ in range(5):
        theirs.publish(b"theirs")
        got += hear(ours, also_ours, b"ours")
    assert got == []
    assert theirs.address not in {*also_ours.connected}


def test_who_only_publishes_hears_greetings_all_the_same(opened):
    """For its evaluation takes long, and a heartbeat thread is all that speaks meanwhile."""
    first, second = opened(), opened()
    second.connect(first.address)
    until(lambda: first.connected, lambda: first.publish(b"beat"), lambda: second.wait(0.02), second.collect)
    assert first.connected == (second.address,)


def test_what_is_never_read_costs_no_memory(opened):
    first, second = opened(), opened()
    second.connect(first.address)
    hear(second, first, b"x")
    before = int(Path("/proc/self/statm").read_text().split()[1])
    for number in range(50_000):
        first.publish(number.to_bytes(1000, "little"))
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096
    assert grown < 50_000_000 // 2
    hear(second, first, b"last")
