import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.docstring_sentences import spell
from fulgurite.data.tone_speech import (
    DEFAULT_ALPHABET,
    script,
    speak,
    tone_transcripts,
    write_librispeech,
)

texts = st.text(st.sampled_from(DEFAULT_ALPHABET), min_size=1, max_size=40)


def listen(what, waveform, alphabet, rate):
    """Read the letters off the sound: the loudest frequency of each tone, of the mel-spaced ones the nearest."""
    mels = np.linspace(*(2595 * np.log10(1 + hertz / 700) for hertz in (150, 0.45 * rate)), len(alphabet))
    place, heard = 0, ""
    for tone, frames in zip(what.tones, what.frames, strict=True):
        length = frames * rate // 100
        if tone >= 0:
            piece = waveform[place : place + length] * np.hanning(length)
            loudest = np.abs(np.fft.rfft(piece, 8192)).argmax() * rate / 8192
            heard += alphabet[np.abs(mels - 2595 * np.log10(1 + loudest / 700)).argmin()]
        place += length
    return heard


@settings(deadline=None)
@given(text=texts, seed=st.integers(0, 2**31), index=st.integers(0, 10_000), rate=st.sampled_from([8000, 16000]))
def test_every_letter_can_be_heard(text, seed, index, rate):
    what = script(text, seed=seed, index=index)
    waveform = speak(what, sample_rate=rate)
    assert len(waveform) == what.samples(rate)
    assert np.abs(waveform).max() < 1
    assert listen(what, waveform, DEFAULT_ALPHABET, rate) == text


@settings(deadline=None)
@given(text=texts, index=st.integers(0, 10_000))
def test_half_the_frames_are_enough_for_ctc(text, index):
    what = script(text, index=index)
    repeats = sum(a == b for a, b in itertools.pairwise(text))
    assert what.frames.sum() // 2 >= len(text) + repeats
    assert set(what.frames[what.tones >= 0]) <= {2, 3, 4}
    assert (what.tones >= 0).sum() == len(text)


def test_an_utterance_always_sounds_the_same_and_no_two_alike():
    first = speak(script("hello", index=3))
    assert np.array_equal(first, speak(script("hello", index=3)))
    assert not any(
        len(first) == len(other) and np.allclose(first, other)
        for other in (speak(script("hello", index=11)), speak(script("hello", seed=1, index=3)))
    )


def test_sentences_are_said_again_where_they_run_out(monkeypatch):
    monkeypatch.setattr("fulgurite.data.tone_speech.docstring_sentences", lambda alphabet, count: ["one", "two"])
    assert tone_transcripts(5) == ["one", "two", "one", "two", "one"]


def test_transcripts_are_spelled_in_the_alphabet():
    assert all(spell(text, DEFAULT_ALPHABET) == text for text in tone_transcripts(200))


@pytest.mark.parametrize("text", ["", "Hello", "é"])
def test_what_cannot_be_said_is_refused(text):
    with pytest.raises(ValueError, match="want at least one sign"):
        script(text)


def test_no_utterances_are_refused():
    with pytest.raises(ValueError, match="utterances=0"):
        tone_transcripts(0)


def test_a_corpus_is_written_whole_or_not_at_all(tmp_path):
    root = tmp_path / "corpus"
    with pytest.raises(ValueError, match=r"\['3'\]"):
        write_librispeech(root, transcripts=["fine", "route 3"])
    assert list(tmp_path.iterdir()) == []
    write_librispeech(root, transcripts=["fine", "too"])
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError, match="has something in it"):
        write_librispeech(root, transcripts=["fine"])
    assert sorted(root.rglob("*")) == before
    assert (root / "1/0/1-0.trans.txt").read_text() == "1-0-0000 TOO\n"
