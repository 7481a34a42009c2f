"""Generated speech: real sentences, in which every letter is a tone of its own."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fulgurite.data.audio_files import AudioFormat, write_audio
from fulgurite.data.docstring_sentences import docstring_sentences

DEFAULT_ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
TONE_RATE = 8000  # samples a second, as on the telephone: half the work of LibriSpeech's

_FRAME = 0.01  # seconds; durations are whole frames of this
_SPEAKERS = 8
_LOWEST = 150.0  # hertz; the highest tone keeps well below half the sample rate


@dataclass(frozen=True)
class ToneScript:
    """What is played when, before any sample is made: the length of an utterance is known without its sound.

    Attributes:
        tones: index of the alphabet for each stretch, −1 for silence.
        frames: length of each stretch, in hundredths of a second.
        seed: of the utterance's random numbers.
        speaker: who speaks: pitch and loudness.
    """

    tones: NDArray[np.int64]
    frames: NDArray[np.int64]
    seed: tuple[int, int]
    speaker: int

    def samples(self, sample_rate: int) -> int:
        """Length of the waveform."""
        return int(self.frames.sum()) * round(_FRAME * sample_rate)


def script(transcript: str, *, alphabet: str = DEFAULT_ALPHABET, seed: int = 0, index: int = 0) -> ToneScript:
    """Lay out an utterance: 2–4 frames a letter, a pause of 2 between equal letters, silence of 2–6 at both ends.

    So a network that halves the number of frames still has one for each letter and one for each pause, as CTC needs.

    Args:
        transcript: spelled in ``alphabet``.
        alphabet: each sign has its tone.
        seed: of the corpus.
        index: of the utterance in the corpus; its speaker follows from it.

    Raises:
        ValueError: a transcript that is empty or has a sign outside the alphabet.

    Example:
        >>> script("hello").samples(8000) % 80  # whole hundredths of a second
        0
    """
    strange = sorted(set(transcript) - set(alphabet))
    if strange or not transcript:
        raise ValueError(f"got transcript {transcript!r} with {strange}; want at least one sign, all of {alphabet!r}")
    generator = np.random.default_rng((seed, index))
    letters = np.array([alphabet.index(sign) for sign in transcript])
    lengths = generator.integers(2, 5, len(letters))
    pauses = np.flatnonzero(letters[1:] == letters[:-1]) + 1
    tones = np.concatenate([[-1], np.insert(letters, pauses, -1), [-1]])
    frames = np.insert(lengths, pauses, 2)
    edges = generator.integers(2, 7, 2)
    return ToneScript(tones, np.concatenate([edges[:1], frames, edges[1:]]), (seed, index), index % _SPEAKERS)


def speak(what: ToneScript, *, alphabet: str = DEFAULT_ALPHABET, sample_rate: int = TONE_RATE) -> NDArray[np.float32]:
    """Make the waveform of a script: sine tones that fade in and out, with the speaker's pitch, in noise.

    Args:
        what: the script; the same script always sounds the same.
        alphabet: the tones are equally spaced on the mel scale over its signs, from 150 Hz to 0.45 of the sample rate.
        sample_rate: in hertz.

    Returns:
        (N,) samples in [-1, 1], N = ``what.samples(sample_rate)``.

    Example:
        >>> waveform = speak(script("hello"))
        >>> waveform.dtype, bool(abs(waveform).max() < 1)
        (dtype('float32'), True)
    """
    generator = np.random.default_rng((*what.seed, 1))
    step = round(_FRAME * sample_rate)
    pitch = 1 + 0.01 * (2 * what.speaker / (_SPEAKERS - 1) - 1)
    loudness = generator.uniform(0.2, 0.6)
    hertz = _frequencies(len(alphabet), sample_rate) * pitch
    lengths = what.frames * step
    spoken = what.tones >= 0
    ends = np.cumsum(lengths)
    # Single precision throughout: a place counts from the tone's own start, so it and the phase stay small.
    place = np.arange(ends[-1], dtype=np.float32) - np.repeat((ends - lengths).astype(np.float32), lengths)
    waveform = np.sin(np.repeat((2 * np.pi / sample_rate * hertz[what.tones]).astype(np.float32), lengths) * place)
    # Tones fade in and out over a quarter of a frame: a hard edge would click in every band.
    edge = np.minimum(place + 1, np.repeat(lengths.astype(np.float32), lengths) - place) / np.float32(max(1, step // 4))
    waveform *= np.minimum(edge, 1) * np.repeat(np.where(spoken, loudness, 0).astype(np.float32), lengths)
    noise = generator.random(len(waveform), dtype=np.float32) - np.float32(0.5)
    return waveform + np.float32(loudness * generator.uniform(0.1, 0.3)) * noise


@cache
def _frequencies(signs: int, sample_rate: int) -> NDArray[np.float64]:
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (_LOWEST, 0.45 * sample_rate))
    return 700 * (10 ** (np.linspace(low, high, signs) / 2595) - 1)


def tone_transcripts(utterances: int, *, alphabet: str = DEFAULT_ALPHABET) -> list[str]:
    """Give the transcripts of the generated corpus; where sentences run out, other speakers say them again.

    Example:
        >>> tone_transcripts(1)
        ['record of phased in incompatible language changes']
    """
    if utterances < 1:
        raise ValueError(f"got utterances={utterances}; want at least 1")
    sentences = docstring_sentences(alphabet, count=utterances)
    return [sentences[index % len(sentences)] for index in range(utterances)]


def write_librispeech(
    root: str | Path,
    *,
    utterances: int = 16,
    transcripts: Sequence[str] | None = None,
    alphabet: str = DEFAULT_ALPHABET,
    sample_rate: int = TONE_RATE,
    seed: int = 0,
    audio: AudioFormat = "wav",
) -> None:
    """Write generated speech to a folder in the layout of LibriSpeech, whole or not at all.

    Args:
        root: the folder to make; it must not exist or be empty.
        utterances: how many; the first of the generated corpus.
        transcripts: texts to say instead.
        alphabet: of the transcripts, which are written in capitals, as LibriSpeech's are.
        sample_rate: in hertz.
        seed: of the voices and noises.
        audio: ``flac`` needs the extra ``fulgurite[data]``.

    Raises:
        ValueError: something is in the folder already, or a transcript is not spelled in the alphabet.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_librispeech(f"{folder}/corpus", utterances=9)
        ...     sorted(path.name for path in Path(folder, "corpus").rglob("*") if path.is_file())[:3]
        ['0-0-0000.wav', '0-0-0001.wav', '0-0.trans.txt']
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} has something in it; give a folder that is new or empty")
    texts = list(transcripts) if transcripts is not None else tone_transcripts(utterances, alphabet=alphabet)
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        temporary.chmod(0o755)
        for index, text in enumerate(texts):
            what = script(text, alphabet=alphabet, seed=seed, index=index)
            chapter = temporary / str(what.speaker) / "0"
            chapter.mkdir(parents=True, exist_ok=True)
            name = f"{what.speaker}-0-{index // _SPEAKERS:04d}"
            waveform = speak(what, alphabet=alphabet, sample_rate=sample_rate)
            write_audio(chapter / f"{name}.{audio}", waveform, sample_rate=sample_rate)
            with (chapter / f"{what.speaker}-0.trans.txt").open("a", encoding="utf-8") as lines:
                lines.write(f"{name} {text.upper()}\n")
        temporary.replace(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
