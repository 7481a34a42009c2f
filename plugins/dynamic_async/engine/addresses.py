"""Which addresses a peer connects to: text from others, so it is held to a form before anything is done with it."""

from __future__ import annotations

import ipaddress
import re

from fulgurite.plugins.dynamic_async.engine.transport import TransportError

MAX_ADDRESS_CHARACTERS = 256
_TCP = re.compile(r"tcp://(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_IPC = re.compile(r"ipc://(?P<path>/[\x21-\x7e]{1,95})", re.ASCII)  # the system takes 107 bytes, ours ends in .hello
_RAY = re.compile(r"ray://(?P<name>[A-Za-z0-9._-]+)", re.ASCII)
_MEMORY = re.compile(r"memory://(?P<name>[A-Za-z0-9._-]+)", re.ASCII)
_FORMS = {"tcp": _TCP, "ipc": _IPC, "ray": _RAY, "memory": _MEMORY}
EXAMPLES = {
    "tcp": "tcp://127.0.0.1:5000 or tcp://[::1]:5000",
    "ipc": "ipc:///tmp/peer-1",
    "ray": "ray://peer-1",
    "memory": "memory://peer-1",
}


def split_tcp(address: str) -> tuple[str, int] | None:
    """Host (without brackets) and port; None if it is no such address.

    Example:
        >>> split_tcp("tcp://[::1]:5000"), split_tcp("tcp://*:5000")
        (('::1', 5000), None)
    """
    match = _TCP.fullmatch(address) if len(address) <= MAX_ADDRESS_CHARACTERS else None
    if match is None or int(match["port"]) > 65535:
        return None
    if match["v6"] is None:
        return match["host"], int(match["port"])
    try:
        return str(ipaddress.IPv6Address(match["v6"])), int(match["port"])
    except ValueError:
        return None


def is_address(address: str, schemes: tuple[str, ...]) -> bool:
    """Whether it has the form of an address of one of these kinds, short enough and with nothing else in it.

    Example:
        >>> is_address("tcp://10.0.0.7:5000", ("tcp", "ipc")), is_address("tcp://evil;tcp://x:1", ("tcp", "ipc"))
        (True, False)
    """
    scheme = address.partition("://")[0]
    if len(address) > MAX_ADDRESS_CHARACTERS or scheme not in schemes or scheme not in _FORMS:
        return False
    return split_tcp(address) is not None if scheme == "tcp" else _FORMS[scheme].fullmatch(address) is not None


def check_address(address: str, schemes: tuple[str, ...] = ("tcp", "ipc")) -> str:
    """The address, for those that a person has given.

    Raises:
        TransportError: it is none that a transport of these kinds connects to.

    Example:
        >>> check_address("localhost:5000")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fulgurite.plugins.dynamic_async.engine.transport.TransportError: 'localhost:5000' is no address; ...
    """
    if not is_address(address, schemes):
        forms = ", ".join(EXAMPLES[scheme] for scheme in schemes)
        raise TransportError(f"{address[:80]!r} is no address; write it like {forms}")
    return address


def is_local(address: str) -> bool:
    """Whether only this machine can reach it: loopback, a socket file, the memory of this process.

    Example:
        >>> is_local("tcp://127.0.0.1:0"), is_local("tcp://0.0.0.0:5000"), is_local("ipc:///tmp/peer-1")
        (True, False, True)
    """
    parts = split_tcp(address)
    if parts is None:
        return address.startswith(("ipc://", "memory://"))
    host = parts[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
