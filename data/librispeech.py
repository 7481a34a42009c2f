"""Speech in the layout of LibriSpeech: ``speaker/chapter/84-121123-0003.flac`` beside ``84-121123.trans.txt``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fulgurite.data.audio_files import AUDIO_SUFFIXES, audio_length
from fulgurite.data.parallel_text import read_lines


@dataclass(frozen=True)
class Utterance:
    """One recording and what is said in it.

    Attributes:
        name: e.g. ``84-121123-0003``.
        path: its audio file.
        transcript: spelled in the alphabet.
        samples: length of the recording.
    """

    name: str
    path: Path
    transcript: str
    samples: int


def read_librispeech(root: str | Path, *, alphabet: str, sample_rate: int) -> list[Utterance]:
    """Find all utterances below a folder, in the order of their paths, and check every transcript and audio header.

    The layout is that of V. Panayotov et al., "Librispeech: an ASR corpus based on public domain audio books",
    ICASSP 2015, https://www.openslr.org/12: a line of a transcript file is a name, a space and the text.

    Args:
        root: e.g. ``LibriSpeech/dev-clean``.
        alphabet: signs that transcripts may have; LibriSpeech's capitals are taken as small letters where only those
            are in it.
        sample_rate: of all files, in hertz; LibriSpeech's is 16,000.

    Raises:
        ValueError: an empty or missing folder, a transcript line without audio, audio without a transcript line, a sign
            outside the alphabet, a name that comes twice, a broken audio file. Messages name the file and line.

    Example:
        >>> import tempfile
        >>> from fulgurite.data.tone_speech import write_librispeech
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_librispeech(f"{folder}/corpus", utterances=2)
        ...     utterances = read_librispeech(
        ...         f"{folder}/corpus", alphabet=" 'abcdefghijklmnopqrstuvwxyz", sample_rate=8000
        ...     )
        >>> utterances[0].transcript
        'record of phased in incompatible language changes'
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; want one with speaker/chapter/*.trans.txt below it")
    utterances = []
    claimed: set[Path] = set()
    lines: dict[str, str] = {}
    for transcripts in sorted(root.rglob("*.trans.txt")):
        for where, name, text in _transcript_lines(transcripts):
            if name in lines:
                raise ValueError(f"{where}: {name} has a transcript already in {lines[name]}; remove one of them")
            lines[name] = where
            path = _audio_of(transcripts.parent, name, where)
            claimed.add(path)
            transcript = _spelled(text, alphabet, where)
            utterances.append(Utterance(name, path, transcript, audio_length(path, sample_rate=sample_rate)))
    for path in sorted(file for suffix in AUDIO_SUFFIXES for file in root.rglob(f"*{suffix}")):
        if path not in claimed:
            raise ValueError(f"{path}: has no line in any .trans.txt file of its folder; add one or remove the file")
    if not utterances:
        raise ValueError(f"{root} has no .trans.txt file with a line in it; want speaker/chapter/*.trans.txt below it")
    return utterances


def _transcript_lines(transcripts: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(read_lines(transcripts), start=1):
        name, _, text = line.strip().partition(" ")
        where = f"{transcripts}, line {number}"
        if not text.strip():
            raise ValueError(f"{where}: got {line!r}, want the utterance's name, a space and its text")
        yield where, name, " ".join(text.split())


def _audio_of(folder: Path, name: str, where: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for suffix in AUDIO_SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) == 1:
        return found[0]
    names = [path.name for path in candidates]
    if found:
        raise ValueError(f"{where}: {name} has both {' and '.join(names)} in {folder}; remove one of them")
    raise ValueError(f"{where}: {name} has no audio; want {' or '.join(names)} in {folder}")


def _spelled(text: str, alphabet: str, where: str) -> str:
    for sign in text:
        if sign not in alphabet and sign.lower() not in alphabet:
            raise ValueError(
                f"{where}: {sign!r} is not in the alphabet {alphabet!r}; spell it out, or add the sign to alphabet "
                "here and in the model"
            )
    return "".join(sign if sign in alphabet else sign.lower() for sign in text)
