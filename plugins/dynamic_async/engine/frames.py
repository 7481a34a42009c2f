"""Bulletins as bytes: a fixed header, raw arrays and a keyed BLAKE2b at the end. Nothing is read before it is checked.

Layout, little-endian throughout::

    header   magic, protocol, kind, key id, nonce of the run, model, peer, sequence, lengths and counts
    texts    address, then each address (2-byte length, UTF-8), then the note (JSON)
    table    for every block: shard, incarnation, version, fingerprint, tag, dtype code, shape
    arrays   each from a multiple of 16 on
    MAC      32 bytes over everything before

The key decides who may speak, the nonce keeps recordings of other runs out, the sequence (checked by ``Mailboxes``)
recordings of this one, the kind keeps a greeting from passing for a bulletin.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

PROTOCOL = 1
KEY_BYTES = 16
NONCE_BYTES = 16
MODEL_BYTES = 16
MAX_FRAME_BYTES = 1 << 28
MAX_HELLO_BYTES = 1024
MAX_BLOCKS = 1 << 16
MAX_ADDRESSES = 1024
MAX_ADDRESS_BYTES = 256
MAX_NOTE_BYTES = 1 << 20
MAX_DIMENSIONS = 8

_MAGIC = b"FGAI"
_MAC_BYTES = 32
_ALIGNMENT = 16
_BULLETIN, _HELLO = 1, 2
# magic, protocol, kind, stop, key id, nonce, model, peer, sequence, frame bytes, blocks, addresses, note bytes
_HEADER = struct.Struct("<4sHBB8s16s16sQQQIII")
# shard, incarnation number and host, version, fingerprint, tag, dtype code, released, dimensions
_ROW = struct.Struct("<QQQQQQBBB")
_CODES: dict[int, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in enumerate(
        ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"), start=1
    )
}
_CODE_OF = {dtype: code for code, dtype in _CODES.items()}


class FrameError(ValueError):
    """A frame is not accepted, or a bulletin cannot be put into one.

    Attributes:
        reason: one word to count by: "size", "format", "protocol", "key", "forged", "run", "model", "content".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Codec:
    """Turns bulletins into authenticated frames and back, for one run of one model.

    Args:
        key: at least 16 bytes that all peers share (see ``keys.shared_key``).
        nonce: 16 bytes of this run, the same for all of its peers, never used for another (``keys.run_nonce``).
        model: 16 bytes that tell models apart which must not be mixed (``DynamicMap.fingerprint``).
        max_bytes: longest frame that is made or looked at, and that is received at all: what a stranger at the address
            of a dead peer can make this one store. A little more than all shards together is enough.

    Raises:
        FrameError: a key, nonce or fingerprint of the wrong length.

    Example:
        >>> codec = Codec(b"k" * 32, b"n" * 16, b"m" * 16)
        >>> block = Block(3, Incarnation(1, 7), 12, 99, 4, np.array([0.5, 1.5]))
        >>> frame = codec.encode(Bulletin(7, 1, "tcp://127.0.0.1:5000", (), False, (block,), {"loss": 0.25}))
        >>> codec.decode(frame).blocks[0].value
        array([0.5, 1.5])
        >>> Codec(b"another key, as long as it must be", b"n" * 16, b"m" * 16).decode(frame)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        fulgurite.plugins.dynamic_async.engine.frames.FrameError: a frame made with another key; give ...
    """

    def __init__(self, key: bytes, nonce: bytes, model: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        if len(key) < KEY_BYTES:
            raise FrameError(
                "key", f"a key of {len(key)} bytes; it must have {KEY_BYTES} or more, at best 32 random ones"
            )
        for name, value, length in (("nonce", nonce, NONCE_BYTES), ("model", model, MODEL_BYTES)):
            if len(value) != length:
                raise FrameError(name, f"{name} of {len(value)} bytes; it must have {length}")
        self.nonce = bytes(nonce)
        self.model = bytes(model)
        self.max_bytes = max_bytes
        self._root = hashlib.blake2b(key, digest_size=32, person=b"fulgurite.root").digest()
        self._mac_key = self.secret(b"mac")
        self._key_id = self.secret(b"id")[:8]

    def secret(self, purpose: bytes) -> bytes:
        """32 bytes that only who has the key can work out, others for every purpose."""
        return hashlib.blake2b(purpose, key=self._root, digest_size=32).digest()

    def encode(self, bulletin: Bulletin) -> bytes:
        """The frame of a bulletin; arrays are copied once, and must not change meanwhile.

        Raises:
            FrameError: a value of a type that is not sent (objects, text), too many or too large parts, a negative
                number or one past 64 bits, a note that is not a flat object of numbers and strings.
        """
        for what, items, most in (
            ("blocks", bulletin.blocks, MAX_BLOCKS),
            ("addresses", bulletin.addresses, MAX_ADDRESSES),
        ):
            if len(items) > most:
                raise FrameError("size", f"{len(items)} {what}; a bulletin carries at most {most}")
        note = _note(bulletin.note)
        parts: list[bytes | memoryview] = [_text(address) for address in (bulletin.address, *bulletin.addresses)]
        parts.append(note)
        arrays = []
        for block in bulletin.blocks:
            row, array = _row(block)
            parts.append(row)
            arrays.append(array)
        length = _HEADER.size + sum(len(part) for part in parts)
        for array in arrays:
            padding = -length % _ALIGNMENT
            parts += [bytes(padding), array.data]
            length += padding + array.nbytes
        return self._sealed(
            _BULLETIN, bulletin.stop, bulletin.peer, bulletin.sequence, length, len(bulletin.blocks),
            len(bulletin.addresses), len(note), parts,
        )  # fmt: skip

    def decode(self, frame: bytes | memoryview) -> Bulletin:
        """What a frame says; its arrays are fresh ones.

        Raises:
            FrameError: the frame is damaged, forged, or of another key, run or model; ``reason`` says which.
        """
        stop, peer, sequence, blocks, addresses, note_bytes, view = self._opened(_BULLETIN, frame, self.max_bytes)
        try:
            reader = _Reader(view)
            address, *others = [reader.text() for _ in range(addresses + 1)]
            note = _parsed_note(reader.take(note_bytes))
            rows = [reader.row() for _ in range(blocks)]
            read = tuple(reader.block(*row) for row in rows)
            reader.end()
            return Bulletin(peer, sequence, address, tuple(others), stop, read, note)
        except FrameError:
            raise
        except (struct.error, ValueError) as error:
            raise FrameError("content", f"an authentic frame of peer {peer:x} that does not hold together") from error

    def encode_hello(self, address: str) -> bytes:
        """A short frame that says where a joiner speaks, so that it is listened to.

        Raises:
            FrameError: the address is longer than 256 bytes or not text.
        """
        text = _text(address)
        return self._sealed(_HELLO, False, 0, 0, _HEADER.size + len(text), 0, 0, 0, [text])

    def decode_hello(self, frame: bytes | memoryview) -> str:
        """The address in a greeting.

        Raises:
            FrameError: as :meth:`decode`.
        """
        *_, view = self._opened(_HELLO, frame, MAX_HELLO_BYTES)
        try:
            reader = _Reader(view)
            address = reader.text()
            reader.end()
            return address
        except (struct.error, UnicodeDecodeError) as error:
            raise FrameError("content", "an authentic greeting without an address") from error

    def _sealed(
        self, kind: int, stop: bool, peer: int, sequence: int, length: int, blocks: int, addresses: int,
        note_bytes: int, parts: list[bytes | memoryview],
    ) -> bytes:  # fmt: skip
        total = length + _MAC_BYTES
        if total > self.max_bytes:
            raise FrameError(
                "size", f"a bulletin of {total} bytes; frames have at most {self.max_bytes}: give a greater max_bytes"
            )
        try:
            header = _HEADER.pack(
                _MAGIC, PROTOCOL, kind, stop, self._key_id, self.nonce, self.model, peer, sequence, total, blocks,
                addresses, note_bytes,
            )  # fmt: skip
        except struct.error as error:
            raise FrameError("content", f"peer {peer} or sequence {sequence} does not fit 64 bits unsigned") from error
        mac = self._mac()
        mac.update(header)
        for part in parts:
            mac.update(part)
        return b"".join([header, *parts, mac.digest()])

    def _opened(
        self, kind: int, frame: bytes | memoryview, max_bytes: int
    ) -> tuple[bool, int, int, int, int, int, memoryview]:
        """The checked header's numbers, and the frame without its MAC."""
        view = memoryview(frame)
        if not _HEADER.size + _MAC_BYTES <= len(view) <= max_bytes:
            raise FrameError(
                "size", f"a frame of {len(view)} bytes; {_HEADER.size + _MAC_BYTES} to {max_bytes} are taken"
            )
        magic, protocol, is_kind, stop, key_id, nonce, model, peer, sequence, total, blocks, addresses, note_bytes = (
            _HEADER.unpack_from(view)
        )
        if magic != _MAGIC:
            raise FrameError("format", "bytes that are no frame of ours; something else speaks at this address")
        if protocol != PROTOCOL:
            raise FrameError(
                "protocol", f"a frame of protocol {protocol}, this is {PROTOCOL}; install one version everywhere"
            )
        # The key id only says why the MAC would not fit; whoever copies it still has to make the MAC.
        if key_id != self._key_id:
            raise FrameError("key", "a frame made with another key; give all peers the same one")
        mac = self._mac()
        mac.update(view[:-_MAC_BYTES])
        if not hmac.compare_digest(mac.digest(), view[-_MAC_BYTES:]):
            raise FrameError("forged", "a frame that was damaged or forged: its code does not fit its content")
        if nonce != self.nonce:
            raise FrameError(
                "run", "a frame of another run with the same key: a recording, or a peer given the wrong run"
            )
        if model != self.model:
            raise FrameError(
                "model",
                f"peer {peer:x} computes model {model.hex()[:8]}, not {self.model.hex()[:8]}; start it on the same one",
            )
        if is_kind != kind or total != len(view) or blocks > MAX_BLOCKS or addresses > MAX_ADDRESSES or stop > 1:
            raise FrameError("content", f"an authentic frame of peer {peer:x} that does not hold together")
        return bool(stop), peer, sequence, blocks, addresses, note_bytes, view[:-_MAC_BYTES]

    def _mac(self) -> Any:
        return hashlib.blake2b(key=self._mac_key, digest_size=_MAC_BYTES, person=b"fulgurite.frame")


class _Reader:
    """Takes parts off an authenticated frame, each only if the frame is long enough."""

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.position = _HEADER.size

    def take(self, length: int) -> memoryview:
        end = self.position + length
        if end > len(self.view):
            raise struct.error
        part = self.view[self.position : end]
        self.position = end
        return part

    def end(self) -> None:
        if self.position != len(self.view):
            raise struct.error

    def text(self) -> str:
        (length,) = struct.unpack("<H", self.take(2))
        if length > MAX_ADDRESS_BYTES:
            raise struct.error
        return str(self.take(length), "utf-8")

    def row(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        row = _ROW.unpack(self.take(_ROW.size))
        if row[-1] > MAX_DIMENSIONS:
            raise struct.error
        return row, struct.unpack(f"<{row[-1]}Q", self.take(8 * row[-1]))

    def block(self, row: tuple[int, ...], shape: tuple[int, ...]) -> Block:
        shard, number, host, version, fingerprint, tag, code, released, _ = row
        dtype = _CODES.get(code)
        if dtype is None or released > 1:
            raise struct.error
        self.take(-self.position % _ALIGNMENT)
        raw = self.take(math.prod(shape) * dtype.itemsize)
        value: NDArray[Any]
        if not raw:
            value = np.empty(shape, dtype=dtype.newbyteorder("="))
        elif dtype == np.bool_:
            value = (np.frombuffer(raw, dtype=np.uint8) != 0).reshape(shape)  # other bytes than 0 and 1 are no bool
        else:
            value = np.frombuffer(raw, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))
        return Block(shard, Incarnation(number, host), version, fingerprint, tag, value, bool(released))


def _row(block: Block) -> tuple[bytes, NDArray[np.uint8]]:
    """A block's line in the table, and its bytes."""
    dtype = block.value.dtype.newbyteorder("<")
    code = _CODE_OF.get(dtype)
    if code is None or block.value.ndim > MAX_DIMENSIONS:
        raise FrameError(
            "content",
            f"shard {block.shard} is of type {block.value.dtype} with {block.value.ndim} dimensions; "
            f"numbers and bools with at most {MAX_DIMENSIONS} are sent",
        )
    array = np.asarray(block.value, dtype=dtype, order="C")
    try:
        row = _ROW.pack(
            block.shard,
            *block.incarnation,
            block.version,
            block.fingerprint,
            block.tag,
            code,
            block.released,
            array.ndim,
        )
    except struct.error as error:
        raise FrameError(
            "content",
            f"shard {block.shard}: its numbers ({block.incarnation}, version {block.version}, fingerprint "
            f"{block.fingerprint}, tag {block.tag}) must be integers from 0 to 2^64 - 1",
        ) from error
    return row + struct.pack(f"<{array.ndim}Q", *array.shape), array.reshape(-1).view(np.uint8)


def _text(address: str) -> bytes:
    encoded = address.encode(errors="replace")
    if len(encoded) > MAX_ADDRESS_BYTES:
        raise FrameError("size", f"an address of {len(encoded)} bytes; they have at most {MAX_ADDRESS_BYTES}")
    return struct.pack("<H", len(encoded)) + encoded


def _note(note: dict[str, Any]) -> bytes:
    if not _is_plain(note):
        raise FrameError("content", f"the note {note!r:.80} is no flat object of strings and numbers (of 64 bits)")
    encoded = json.dumps(note).encode() if note else b""
    if len(encoded) > MAX_NOTE_BYTES:
        raise FrameError("size", f"a note of {len(encoded)} bytes; it has at most {MAX_NOTE_BYTES}")
    return encoded


def _parsed_note(encoded: memoryview) -> dict[str, Any]:
    if len(encoded) > MAX_NOTE_BYTES:
        raise struct.error
    try:
        note = json.loads(bytes(encoded)) if encoded else {}
    except (ValueError, RecursionError) as error:
        raise FrameError("content", "an authentic frame whose note is no JSON") from error
    if not _is_plain(note):
        raise FrameError("content", "an authentic frame whose note is no flat object of numbers and strings")
    return dict(note)


def _is_plain(note: object) -> bool:
    return isinstance(note, dict) and all(
        isinstance(name, str) and (isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 63))
        for name, value in note.items()
    )
