"""Mono wav and flac files: their length from the header, their samples, and what is wrong with them."""

import wave
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AudioFormat = Literal["wav", "flac"]
AUDIO_SUFFIXES = (".flac", ".wav")

# What wave and soundfile raise for damaged files; soundfile's own errors are RuntimeErrors.
_BROKEN = (wave.Error, EOFError, OSError, RuntimeError, ValueError)


def audio_length(path: str | Path, *, sample_rate: int) -> int:
    """Count the samples of a file from its header, and check that it can be used.

    Args:
        path: a ``.wav`` file of 16-bit samples or a ``.flac`` file.
        sample_rate: the one that it must have; nothing is resampled.

    Raises:
        ValueError: another sample rate or more than one channel, no samples, a broken or truncated file, or flac
            without the ``soundfile`` package. Messages name the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(f"{folder}/a.wav", np.zeros(80, dtype=np.float32), sample_rate=8000)
        ...     audio_length(f"{folder}/a.wav", sample_rate=8000)
        80
    """
    path = Path(path)
    rate, channels, samples = _flac_header(path) if path.suffix == ".flac" else _wav_header(path)
    if rate != sample_rate:
        raise ValueError(
            f"{path}: is sampled at {rate} Hz, want {sample_rate}; resample it, or set sample_rate={rate} for all"
        )
    if channels != 1:
        raise ValueError(f"{path}: has {channels} channels, want 1; mix it down to mono")
    if samples < 1:
        raise ValueError(f"{path}: has no samples; remove it and its line of the transcript")
    return samples


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """Read the samples of a mono file that :func:`audio_length` has checked, scaled to [-1, 1].

    Raises:
        ValueError: a file that cannot be decoded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(f"{folder}/a.wav", np.array([0, 0.5, -1], dtype=np.float32), sample_rate=8000)
        ...     read_audio(f"{folder}/a.wav").round(3).tolist()
        [0.0, 0.5, -1.0]
    """
    path = Path(path)
    try:
        if path.suffix == ".flac":
            return _soundfile(path).read(path, dtype="float32")[0]
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
            if len(samples) != file.getnframes():
                raise ValueError(f"{len(samples)} samples where {file.getnframes()} were promised")
            return samples.astype(np.float32) / np.float32(32768)
    except (*_BROKEN, MemoryError) as error:  # MemoryError: a damaged flac header may promise any length
        raise ValueError(f"{path}: cannot be decoded: {error or type(error).__name__}") from error


def write_audio(path: str | Path, samples: NDArray[np.float32], *, sample_rate: int) -> None:
    """Write mono samples in [-1, 1] as 16-bit wav or flac, by the file's suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_audio(f"{folder}/a.wav", np.zeros(3, dtype=np.float32), sample_rate=8000)
        ...     Path(folder, "a.wav").stat().st_size  # a header of 44 bytes
        50
    """
    path = Path(path)
    whole = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    if path.suffix == ".flac":
        _soundfile(path).write(path, whole, sample_rate, subtype="PCM_16", format="FLAC")
    else:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(whole.astype("<i2").tobytes())


def _wav_header(path: Path) -> tuple[int, int, int]:
    try:
        with wave.open(str(path)) as file:
            width, samples = file.getsampwidth(), file.getnframes()
            rate, channels = file.getframerate(), file.getnchannels()
    except _BROKEN as error:
        raise ValueError(f"{path}: is not a PCM wav file: {error or 'its header is broken'}") from error
    if width != 2:
        raise ValueError(f"{path}: has {8 * width}-bit samples, want 16-bit; convert it")
    # The header promises what a cut copy or download does not hold.
    if path.stat().st_size < samples * channels * width + 44:  # bytes of the smallest header
        raise ValueError(
            f"{path}: its header promises {samples} samples, but the file has only {path.stat().st_size} bytes; "
            "it is cut short: copy it again"
        )
    return rate, channels, samples


def _flac_header(path: Path) -> tuple[int, int, int]:
    soundfile = _soundfile(path)
    try:
        info = soundfile.info(path)
    except _BROKEN as error:
        raise ValueError(f"{path}: is not a flac file: {error}") from error
    return info.samplerate, info.channels, info.frames


def _soundfile(path: Path) -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel is there, but not its libsndfile
        raise ValueError(
            f'{path}: flac needs the soundfile package ({error}); run: pip install "fulgurite[data]"'
        ) from error
    return soundfile
