"""Frames: whole there and back, and nothing taken that was not made with the key for this run and model."""

import dataclasses
import hashlib
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fulgurite.plugins.dynamic_async.engine import frames
from fulgurite.plugins.dynamic_async.engine.frames import Codec, FrameError
from fulgurite.plugins.dynamic_async.engine.messages import Block, Bulletin, Incarnation

KEY, NONCE, MODEL = b"k" * 32, b"n" * 16, b"m" * 16
CODEC = Codec(KEY, NONCE, MODEL)
DTYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", ">f8", ">i4")
MAC_BYTES = 32

words = st.integers(0, 2**64 - 1)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
blocks = st.builds(Block, words, st.builds(Incarnation, words, words), words, words, words, arrays, st.booleans())
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
notes = st.dictionaries(
    st.text(max_size=8),
    st.one_of(st.text(max_size=8), st.booleans(), st.floats(allow_nan=False), st.integers(-(2**62), 2**62)),
    max_size=4,
)
bulletins = st.builds(
    Bulletin,
    words,
    words,
    texts,
    st.lists(texts, max_size=4).map(tuple),
    st.booleans(),
    st.lists(blocks, max_size=4).map(tuple),
    notes,
)


def bulletin(**changes) -> Bulletin:
    block = Block(3, Incarnation(1, 7), 12, 99, 4, np.arange(6.0).reshape(2, 3))
    return dataclasses.replace(
        Bulletin(7, 1, "tcp://127.0.0.1:5000", ("ipc:///tmp/a",), False, (block,), {"loss": 0.25}), **changes
    )


def remade(frame: bytes) -> bytes:
    """The frame with a MAC that fits, as a member that has gone wrong could make it."""
    mac = hashlib.blake2b(key=CODEC._mac_key, digest_size=MAC_BYTES, person=b"fulgurite.frame")
    mac.update(frame[:-MAC_BYTES])
    return frame[:-MAC_BYTES] + mac.digest()


def reason(codec: Codec, frame: bytes) -> str:
    with pytest.raises(FrameError) as caught:
        codec.decode(frame)
    return caught.value.reason


@settings(deadline=None)
@given(bulletins)
def test_whole_there_and_back(said):
    heard = CODEC.decode(CODEC.encode(said))
    for name in ("peer", "sequence", "address", "addresses", "stop", "note"):
        assert getattr(heard, name) == getattr(said, name)
    assert len(heard.blocks) == len(said.blocks)
    for got, want in zip(heard.blocks, said.blocks, strict=True):
        for name in ("shard", "incarnation", "version", "fingerprint", "tag", "released"):
            assert getattr(got, name) == getattr(want, name)
        assert got.value.dtype == want.value.dtype.newbyteorder("=")
        assert got.value.shape == want.value.shape
        # Bit for bit, NaNs with their payloads too: a recorded run is replayed from these.
        assert got.value.tobytes() == want.value.astype(want.value.dtype.newbyteorder("=")).tobytes()
        assert got.value.flags.writeable
        assert got.value.flags.owndata or got.value.base.flags.owndata


@pytest.mark.parametrize(
    "value",
    [np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::2], np.arange(6.0)[::-2], np.broadcast_to(1.5, (3, 2))],
    ids=["transposed", "strided", "broadcast"],
)
def test_a_view_that_is_not_contiguous_is_sent_as_it_reads(value):
    block = Block(0, Incarnation(1, 1), 0, 0, 0, value)
    np.testing.assert_array_equal(CODEC.decode(CODEC.encode(bulletin(blocks=(block,)))).blocks[0].value, value)


def test_a_decoded_value_does_not_hold_on_to_its_frame():
    frame = bytearray(CODEC.encode(bulletin()))
    value = CODEC.decode(bytes(frame)).blocks[0].value
    heard = CODEC.decode(memoryview(frame)).blocks[0].value
    frame[:] = bytes(len(frame))
    np.testing.assert_array_equal(heard, value)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=600))
def test_garbage_is_not_taken(data):
    assert reason(CODEC, data) in {"size", "format", "protocol", "key"}


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=600))
def test_garbage_behind_the_right_header_is_not_taken(data):
    assert reason(CODEC, CODEC.encode(bulletin())[:100] + data) in {"size", "forged"}


def test_every_truncation_is_refused():
    frame = CODEC.encode(bulletin())
    for length in range(len(frame)):
        assert reason(CODEC, frame[:length]) in {"size", "forged"}
    assert reason(CODEC, frame + b"\0") == "forged"


def test_every_flipped_bit_is_noticed():
    frame = CODEC.encode(bulletin())
    for position in range(len(frame)):
        for bit in range(8):
            flipped = bytearray(frame)
            flipped[position] ^= 1 << bit
            assert reason(CODEC, bytes(flipped)) in {"format", "protocol", "key", "forged"}


def test_another_key_run_or_model_is_refused_by_name():
    frame = CODEC.encode(bulletin())
    assert reason(Codec(b"K" * 32, NONCE, MODEL), frame) == "key"
    assert reason(Codec(KEY, b"N" * 16, MODEL), frame) == "run"
    assert reason(Codec(KEY, NONCE, b"M" * 16), frame) == "model"
    with pytest.raises(FrameError, match="4d4d4d4d"):
        CODEC.decode(Codec(KEY, NONCE, b"M" * 16).encode(bulletin()))


def test_what_the_clear_part_claims_counts_for_nothing_without_the_key():
    """A forger has the key's id, the run and the model from any frame; he cannot make the MAC or choose the reason."""
    frame = CODEC.encode(bulletin())
    body = frame[:-MAC_BYTES]
    for forged in (
        body + bytes(MAC_BYTES),
        body + hashlib.blake2b(body, digest_size=MAC_BYTES).digest(),
        body + hashlib.blake2b(body, digest_size=MAC_BYTES, key=frame[8:16]).digest(),
        body.replace(MODEL, b"M" * 16) + frame[-MAC_BYTES:],
        body.replace(NONCE, b"N" * 16) + frame[-MAC_BYTES:],
    ):
        assert reason(CODEC, forged) == "forged"


def test_another_protocol_says_so():
    frame = bytearray(CODEC.encode(bulletin()))
    frame[4] = 2
    assert reason(CODEC, bytes(frame)) == "protocol"


def test_a_greeting_is_no_bulletin_and_a_bulletin_no_greeting():
    hello = CODEC.encode_hello("tcp://127.0.0.1:5000")
    assert CODEC.decode_hello(hello) == "tcp://127.0.0.1:5000"
    assert reason(CODEC, hello) == "content"
    with pytest.raises(FrameError, match="hold together"):
        CODEC.decode_hello(CODEC.encode(bulletin(blocks=())))
    with pytest.raises(FrameError, match="bytes"):
        CODEC.decode_hello(CODEC.encode(bulletin(blocks=(), note={"long": "x" * 1024})))
    with pytest.raises(FrameError, match="another run"):
        Codec(KEY, b"N" * 16, MODEL).decode_hello(hello)


def test_too_long_is_refused_before_anything_is_computed():
    small = Codec(KEY, NONCE, MODEL, max_bytes=4096)
    huge = CODEC.encode(bulletin(blocks=(Block(0, Incarnation(1, 1), 0, 0, 0, np.zeros(1 << 20)),)))
    small._mac = None  # it would fail if it were asked
    assert reason(small, huge) == "size"
    with pytest.raises(FrameError, match="a greater max_bytes"):
        Codec(KEY, NONCE, MODEL, max_bytes=4096).encode(
            bulletin(blocks=(Block(0, Incarnation(1, 1), 0, 0, 0, np.zeros(1000)),))
        )


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_an_authentic_frame_that_makes_no_sense_is_refused_cheaply(data):
    """A member that has gone wrong: any byte after the magic changed, and the MAC made to fit."""
    frame = bytearray(CODEC.encode(bulletin()))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(48, len(frame) - MAC_BYTES - 1))] = data.draw(st.integers(0, 255))
    try:
        heard = CODEC.decode(remade(bytes(frame)))
    except FrameError:
        return
    assert sum(block.value.nbytes for block in heard.blocks) <= len(frame)


@pytest.mark.parametrize("length", [0, 3, 5, 200, 257, 65535])
@pytest.mark.parametrize("greeting", [False, True])
def test_a_text_of_another_length_than_it_has_is_refused(length, greeting):
    frame = CODEC.encode_hello("abcd") if greeting else CODEC.encode(bulletin(address="abcd", blocks=(), note={}))
    changed = remade(frame.replace(b"\x04\x00abcd", struct.pack("<H", length) + b"abcd"))
    with pytest.raises(FrameError) as caught:
        CODEC.decode_hello(changed) if greeting else CODEC.decode(changed)
    assert caught.value.reason == "content"


@pytest.mark.parametrize("shape", [(2**63, 2), (2**40, 2**40), (2**62, 0), (2**27, 2**27, 2**27, 0)])
def test_a_shape_larger_than_the_frame_is_refused(shape):
    block = Block(0, Incarnation(5, 6), 0, 0, 0, np.zeros((1,) * len(shape)))
    frame = CODEC.encode(bulletin(blocks=(block,), note={}))
    packed = struct.pack(f"<{len(shape)}Q", *(1 for _ in shape))
    assert frame.count(packed) == 1
    assert reason(CODEC, remade(frame.replace(packed, struct.pack(f"<{len(shape)}Q", *shape)))) == "content"


@pytest.mark.parametrize(
    "note",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"a": [1]}',
        b'{"a": {"b": 1}}',
        b'{"a": null}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": 99999999999999999999}',
        b"[]",
        b"17",
        b"\xff\xfe",
        b'{"a": 1',
    ],
)
def test_a_note_that_is_none_is_refused(note, monkeypatch):
    monkeypatch.setattr(frames, "_note", lambda _: note)
    frame = CODEC.encode(bulletin())
    began = time.perf_counter()
    assert reason(CODEC, frame) == "content"
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peer": -1}, "64 bits"),
        ({"sequence": 2**64}, "64 bits"),
        ({"address": "x" * 257}, "257 bytes"),
        ({"addresses": ("a",) * 1025}, "1025 addresses"),
        ({"note": {"a": [1]}}, "flat"),
        ({"note": {"a": 2**63}}, "flat"),
        ({"note": {"a": None}}, "flat"),
        ({"note": {1: 1}}, "flat"),
        ({"note": {"a": "x" * 2**20}}, "note of 1048585 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(changes, match):
    with pytest.raises(FrameError, match=match):
        CODEC.encode(bulletin(**changes))


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (Block(0, Incarnation(1, 1), 0, 0, 0, np.array([object()])), "type object"),
        (Block(0, Incarnation(1, 1), 0, 0, 0, np.array(["text"])), "type <U4"),
        (Block(0, Incarnation(1, 1), 0, 0, 0, np.zeros((1,) * 9)), "9 dimensions"),
        (Block(-1, Incarnation(1, 1), 0, 0, 0, np.zeros(1)), "shard -1"),
        (Block(0, Incarnation(1, 1), 0, 2**64, 0, np.zeros(1)), "2\\^64"),
    ],
)
def test_a_block_that_cannot_be_sent_is_named(block, match):
    with pytest.raises(FrameError, match=match):
        CODEC.encode(bulletin(blocks=(block,)))


def test_too_many_blocks():
    block = Block(0, Incarnation(1, 1), 0, 0, 0, np.zeros(1))
    with pytest.raises(FrameError, match="65537 blocks"):
        CODEC.encode(bulletin(blocks=(block,) * 65537))


@pytest.mark.parametrize(
    ("key", "nonce", "model"), [(b"short", NONCE, MODEL), (KEY, b"n", MODEL), (KEY, NONCE, b"m" * 17)]
)
def test_a_codec_wants_whole_secrets(key, nonce, model):
    with pytest.raises(FrameError, match="must have"):
        Codec(key, nonce, model)


def test_a_bool_is_zero_or_one_whatever_the_byte_says():
    frame = bytearray(CODEC.encode(bulletin(blocks=(Block(0, Incarnation(1, 1), 0, 0, 0, np.array([True])),))))
    frame[-MAC_BYTES - 1] = 2
    value = CODEC.decode(remade(bytes(frame))).blocks[0].value
    assert value.view(np.uint8).tolist() == [1]


def test_secrets_differ_by_purpose_and_key():
    assert len({CODEC.secret(b"curve"), CODEC.secret(b"mac"), Codec(b"K" * 32, NONCE, MODEL).secret(b"curve")}) == 3
    assert KEY not in CODEC.encode(bulletin())
