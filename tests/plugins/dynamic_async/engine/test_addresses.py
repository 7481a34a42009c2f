"""Addresses: what is connected to, of all that others may say."""

import pytest

from fulgurite.plugins.dynamic_async.engine.addresses import check_address, is_address, split_tcp
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

SCHEMES = ("tcp", "ipc")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:5000", "tcp://[::1]:5000", "tcp://gpu-3.cluster:1", "ipc:///tmp/peer-1"]
)
def test_addresses(address):
    assert is_address(address, SCHEMES)
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:٣",
        "tcp://*:5000",
        "tcp://127.0.0.1:*",
        "tcp://[1:5000",
        "tcp://[zz]:5000",
        "tcp://[:::]:5000",
        "tcp://eth0;10.0.0.1:5000",
        "tcp://a b:5000",
        "tcp://127.0.0.1:5000\n",
        "tcp://127.0.0.1:5000/x",
        "tcp://" + "a" * 300 + ":5000",
        "ipc://relative",
        "ipc://*",
        "ipc:///tmp/a\0b",
        "ipc:///" + "a" * 96,
        "inproc://zeromq.zap.01",
        "pgm://eth0;239.192.1.1:5555",
        "udp://127.0.0.1:1",
        "vmci://1:1",
        "memory://a",
        "TCP://127.0.0.1:5000",
    ],
)
def test_none(address):
    assert not is_address(address, SCHEMES)
    with pytest.raises(TransportError, match="is no address"):
        check_address(address)


def test_a_host_and_a_port():
    assert split_tcp("tcp://[0:0::1]:80") == ("::1", 80)
    assert split_tcp("ipc:///tmp/a") is None
