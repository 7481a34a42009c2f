"""The key that peers share, and the nonce of a run."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fulgurite.plugins.dynamic_async.engine.addresses import is_local
from fulgurite.plugins.dynamic_async.engine.transport import TransportError

VARIABLE = "FULGURITE_ASYNC_KEY"
LEAST_CHARACTERS = 32
_LONGEST = 4096


@dataclass(frozen=True)
class SharedKey:
    """A secret text, kept out of ``repr``.

    Args:
        text: what is handed to other peers, by a file or the variable ``FULGURITE_ASYNC_KEY``, never on a command line.
        source: where it is from.
    """

    text: str = field(repr=False)
    source: Literal["option", "file", "environment", "made"]

    @property
    def material(self) -> bytes:
        """32 bytes for a ``Codec``."""
        return hashlib.blake2b(self.text.encode(), digest_size=32, person=b"fulgurite.key").digest()


def shared_key(address: str, *, key: str | None = None, file: str | os.PathLike[str] | None = None) -> SharedKey:
    """The key from an option, else a file, else the variable ``FULGURITE_ASYNC_KEY``; else one is made for local peers.

    Args:
        address: where this peer listens; a key is only made up where nobody else can reach it.
        key: the key itself, 32 characters or more; other users of the machine may see it in the list of processes.
        file: a file that holds nothing else and that not everybody may read.

    Raises:
        TransportError: no key beyond this machine, one that is too short, both an option and a file, a file that
            cannot be read or that everybody can.

    Example:
        >>> shared_key("tcp://127.0.0.1:0", key="a" * 32)
        SharedKey(source='option')
        >>> shared_key("tcp://10.0.0.1:5000", key="too short")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fulgurite.plugins.dynamic_async.engine.transport.TransportError: the key has 9 characters, ...
    """
    if key is not None and file is not None:
        raise TransportError("both a key and a file with a key; give one of them")
    if key is not None:
        return SharedKey(_checked(key, "the key"), "option")
    if file is not None:
        return SharedKey(_checked(_read(Path(file)), f"the key in {file}"), "file")
    if os.environ.get(VARIABLE):
        return SharedKey(_checked(os.environ[VARIABLE], f"${VARIABLE}"), "environment")
    if not is_local(address):
        raise TransportError(
            f"{address} can be reached from other machines and there is no key; make one with "
            f"`openssl rand -hex 32` and set ${VARIABLE} (or a file) to it on all of them"
        )
    return SharedKey(secrets.token_hex(32), "made")


def new_run() -> str:
    """A fresh name for a run: 32 random hexadecimal digits, to be handed to every peer of it."""
    return secrets.token_hex(16)


def run_nonce(run: str) -> bytes:
    """The 16-byte nonce of a run's name: who records the frames of one run cannot play them to another.

    Example:
        >>> run_nonce("monday").hex()[:8], len(run_nonce(new_run()))
        ('6a418e8f', 16)
    """
    return hashlib.blake2b(run.encode(), digest_size=16, person=b"fulgurite.run").digest()


def _checked(text: str, what: str) -> str:
    stripped = text.strip()
    if not LEAST_CHARACTERS <= len(stripped) <= _LONGEST:
        raise TransportError(
            f"{what} has {len(stripped)} characters, {LEAST_CHARACTERS} to {_LONGEST} are taken; "
            "make one with `openssl rand -hex 32`"
        )
    return stripped


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o007:
                raise TransportError(f"everybody can read or write the key in {path}; run `chmod 600 {path}`")
            return opened.read(_LONGEST + 2)
    except (OSError, UnicodeDecodeError) as error:
        raise TransportError(f"no key can be read from {path}: {error}") from error
