import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.audio_files import audio_length, read_audio, write_audio


@pytest.fixture
def noise():
    return np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_samples_come_back_to_16_bits(tmp_path, noise, suffix):
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise, sample_rate=8000)
    assert audio_length(path, sample_rate=8000) == 1000
    back = read_audio(path)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, noise, atol=1 / 32768)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_another_sample_rate_is_refused_by_name(tmp_path, noise, suffix):
    path = tmp_path / f"a{suffix}"
    write_audio(path, noise, sample_rate=8000)
    with pytest.raises(ValueError, match=rf"a\{suffix}: is sampled at 8000 Hz, want 16000"):
        audio_length(path, sample_rate=16000)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, suffix):
    for data in (b"", b"RIFF", b"not audio at all" * 10):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\{suffix}: is not a"):
            audio_length(path, sample_rate=8000)


def test_a_wav_file_that_is_cut_short_is_refused(tmp_path, noise):
    path = tmp_path / "a.wav"
    write_audio(path, noise, sample_rate=8000)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"a\.wav: its header promises 1000 samples.*cut short"):
        audio_length(path, sample_rate=8000)


def test_a_flac_file_that_is_cut_short_is_refused_when_read(tmp_path, noise):
    path = tmp_path / "a.flac"
    write_audio(path, np.tile(noise, 20), sample_rate=8000)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ValueError, match=r"a\.flac: cannot be decoded"):
        read_audio(path)


@pytest.mark.parametrize(
    ("channels", "width", "frames", "message"),
    [(2, 2, 10, "has 2 channels, want 1"), (1, 1, 10, "has 8-bit samples, want 16-bit"), (1, 2, 0, "has no samples")],
)
def test_other_kinds_of_wav_are_refused_by_name(tmp_path, channels, width, frames, message):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(bytes(channels * width * frames))
    with pytest.raises(ValueError, match=rf"a\.wav: {message}"):
        audio_length(path, sample_rate=8000)


@settings(deadline=None, max_examples=200)
@given(
    suffix=st.sampled_from([".wav", ".flac"]),
    damage=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_header_gives_samples_or_a_clear_refusal(tmp_path_factory, suffix, damage):
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    write_audio(path, np.zeros(300, dtype=np.float32), sample_rate=8000)
    data = bytearray(path.read_bytes())
    for place, byte in damage:
        data[place] = byte
    path.write_bytes(data)
    try:
        audio_length(path, sample_rate=8000)
        outcome = f"a{suffix}: {len(read_audio(path))} samples"
    except ValueError as error:
        outcome = str(error)
    assert f"a{suffix}: " in outcome


def test_flac_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r'a\.flac: flac needs the soundfile package.*pip install "fulgurite\[data\]"'):
        audio_length(tmp_path / "a.flac", sample_rate=8000)
