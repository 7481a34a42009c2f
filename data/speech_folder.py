"""Speech recognition from a folder in the layout of LibriSpeech, or from generated tone speech that needs no file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from fulgurite.data.audio_files import read_audio
from fulgurite.data.length_batches import Batching
from fulgurite.data.librispeech import read_librispeech
from fulgurite.data.log_mel import LogMel
from fulgurite.data.splits import SPLITS, Split, split_by_hash
from fulgurite.data.tone_speech import DEFAULT_ALPHABET, TONE_RATE, ToneScript, script, speak, tone_transcripts
from fulgurite.data.variable_length import RaggedIds, VariableLengthData

LIBRISPEECH_RATE = 16_000


@dataclass(frozen=True)
class Recording:
    """What the data module needs to know of an utterance before it is heard.

    Attributes:
        transcript: spelled in the alphabet.
        samples: length of the waveform.
        waveform: gives the samples.
    """

    transcript: str
    samples: int
    waveform: Callable[[], NDArray[np.float32]]


class SpokenUtterances:
    """Pairs of features and letters.

    Args:
        recordings: the utterances.
        alphabet: letter number *i* has id *i* + 1; 0 is CTC's blank.
        log_mel: makes the features.
        keep: hold features in memory, in half precision, once they are made; for sound that is generated.

    Example:
        >>> hello = Recording("hello", 800, lambda: np.zeros(800, dtype=np.float32))
        >>> utterances = SpokenUtterances([hello], DEFAULT_ALPHABET, LogMel(8000), keep=True)
        >>> features, letters = utterances[0]
        >>> features.shape, letters.tolist(), utterances.lengths.tolist()
        (torch.Size([8, 40]), [10, 7, 14, 14, 17], [[8, 5]])
    """

    def __init__(self, recordings: Sequence[Recording], alphabet: str, log_mel: LogMel, *, keep: bool) -> None:
        ids = {sign: number for number, sign in enumerate(alphabet, start=1)}
        self._recordings = recordings
        self._letters = RaggedIds([[ids[sign] for sign in recording.transcript] for recording in recordings])
        self._log_mel = log_mel
        self._kept: list[Tensor | None] | None = [None] * len(recordings) if keep else None
        frames = [log_mel.frames(recording.samples) for recording in recordings]
        self.lengths = np.column_stack([np.array(frames, dtype=np.int64), self._letters.lengths])

    def __len__(self) -> int:
        return len(self._recordings)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self._kept is None:
            return self._features(index), self._letters[index]
        features = self._kept[index]
        if features is None:
            features = self._kept[index] = self._features(index).half()
        return features.float(), self._letters[index]

    def _features(self, index: int) -> Tensor:
        return self._log_mel(torch.from_numpy(self._recordings[index].waveform()))


def collate_speech(utterances: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Pad utterances to a batch.

    Returns:
        ``features`` (B, T, F) float, padded with 0, which is each utterance's mean; ``lengths`` (B,) in frames;
        ``targets`` (B, L) long, padded with 0, which is CTC's blank; ``target_lengths`` (B,).

    Example:
        >>> batch = collate_speech([(torch.ones(3, 2), torch.tensor([5])), (torch.ones(1, 2), torch.tensor([6, 7]))])
        >>> batch["features"].shape, batch["targets"].tolist(), batch["lengths"].tolist()
        (torch.Size([2, 3, 2]), [[5, 0], [6, 7]], [3, 1])
    """
    features, letters = zip(*utterances, strict=True)
    return {
        "features": pad_sequence(list(features), batch_first=True),
        "lengths": torch.tensor([len(frames) for frames in features]),
        "targets": pad_sequence(list(letters), batch_first=True),
        "target_lengths": torch.tensor([len(signs) for signs in letters]),
    }


class SpeechFolder(VariableLengthData):
    """Utterances with transcripts: log-mel features in, letters out, for CTC.

    Without a folder it generates tone speech: real sentences (the first ones of the Python library's docstrings), each
    letter a tone of 20–40 ms, eight speakers, noise. Lengths are those of real text, nothing is downloaded, and a small
    recurrent network learns to read it in minutes.

    Batches are what :func:`collate_speech` gives.

    Args:
        root: folder in LibriSpeech's layout, ``speaker/chapter/84-121123-0003.flac`` (or ``.wav``) beside
            ``84-121123.trans.txt``; ``None`` generates speech.
        val_root: folder for validation; ``None`` takes ``val_share`` of ``root``.
        test_root: folder for testing; ``None`` takes ``test_share`` of ``root``.
        alphabet: signs of the transcripts; the sign number *i* has id *i* + 1.
        num_features: mel filters, the features' last dimension.
        sample_rate: of every file, in hertz; ``None`` is 16,000 with a folder, 8,000 for generated speech.
        max_seconds: longest utterance; longer ones are left out, counted in ``too_long``.
        utterances: how many to generate; the default makes more than 500 iterations an epoch.
        seed: of the generated voices and noises.
        batch_size: utterances in a batch.
        batching: ``shuffle``, ``bucket`` or ``sorted``, see :class:`~fulgurite.data.length_batches.LengthBatchSampler`.
        max_tokens: frames of a batch with padding, instead of ``batch_size``.
        val_share: share of the different transcripts for validation.
        test_share: share of the different transcripts for testing.
        num_workers: worker processes of each loader. Generated features are kept in memory, which workers would not
            share; files are decoded anew each time, which workers speed up.

    Raises:
        ValueError: when the data is set up: a folder, transcript or audio file that is not as it should be (named, with
            the line), or options that leave no data.

    Example:
        >>> data = SpeechFolder(utterances=40, batch_size=4)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["features"].shape[0], batch["features"].shape[2]
        (4, 40)
        >>> data.batch_shapes().shape[1]  # batch, frames, letters
        3
    """

    too_long: int  #: utterances left out by ``max_seconds``

    def __init__(
        self,
        *,
        root: str | None = None,
        val_root: str | None = None,
        test_root: str | None = None,
        alphabet: str = DEFAULT_ALPHABET,
        num_features: int = 40,
        sample_rate: int | None = None,
        max_seconds: float = 20.0,
        utterances: int = 4700,
        seed: int = 0,
        batch_size: int = 8,
        batching: Batching = "shuffle",
        max_tokens: int | None = None,
        val_share: float = 0.04,
        test_share: float = 0.04,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            collate=collate_speech,
            batch_size=batch_size,
            batching=batching,
            max_tokens=max_tokens,
            num_workers=num_workers,
        )
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"got alphabet={alphabet!r}; want one sign or more, none twice")
        if root is None and (val_root is not None or test_root is not None):
            raise ValueError(
                f"got val_root={val_root!r}, test_root={test_root!r} without root; give root, the folder to train on"
            )
        if max_seconds <= 0:
            raise ValueError(f"got max_seconds={max_seconds}; want more than 0")
        self.root = root
        self.val_root = val_root
        self.test_root = test_root
        self.alphabet = alphabet
        self.num_features = num_features
        self.sample_rate = sample_rate or (TONE_RATE if root is None else LIBRISPEECH_RATE)
        self.max_seconds = max_seconds
        self.utterances = utterances
        self.seed = seed
        self.val_share = val_share
        self.test_share = test_share

    @override
    def load(self) -> Mapping[Split, SpokenUtterances]:
        """Find or lay out the utterances, split them and number their letters; no sound is made or read yet."""
        log_mel = LogMel(self.sample_rate, self.num_features)
        self.too_long = 0
        roots = {"val": self.val_root, "test": self.test_root}
        parts = self._split(
            self._short_enough(self._generated() if self.root is None else self._recorded(self.root)),
            val_share=self.val_share if self.val_root is None else 0,
            test_share=self.test_share if self.test_root is None else 0,
        )
        for split in SPLITS:
            if (folder := roots.get(split)) is not None:
                parts[split] = self._short_enough(self._recorded(folder))
        sizes = ", ".join(f"{len(parts[split])} {split}" for split in SPLITS if split in parts)
        left_out = f"; {self.too_long} left out as longer than {self.max_seconds} s" if self.too_long else ""
        name = "generated tone speech" if self.root is None else str(self.root)
        rank_zero_info(f"SpeechFolder: utterances of {name}: {sizes}{left_out}")
        return {
            split: SpokenUtterances(part, self.alphabet, log_mel, keep=self.root is None)
            for split, part in parts.items()
        }

    def _short_enough(self, recordings: list[Recording]) -> list[Recording]:
        kept = [recording for recording in recordings if recording.samples <= self.max_seconds * self.sample_rate]
        self.too_long += len(recordings) - len(kept)
        if not kept:
            raise ValueError(
                f"all {len(recordings)} utterances are longer than {self.max_seconds} s; raise max_seconds"
            )
        return kept

    def _split(
        self, recordings: list[Recording], *, val_share: float, test_share: float
    ) -> dict[Split, list[Recording]]:
        texts = (recording.transcript for recording in recordings)
        homes = split_by_hash(texts, val_share=val_share, test_share=test_share)
        parts: dict[Split, list[Recording]] = {}
        for recording in recordings:
            parts.setdefault(homes[recording.transcript], []).append(recording)
        return parts

    def _recorded(self, folder: str) -> list[Recording]:
        found = read_librispeech(folder, alphabet=self.alphabet, sample_rate=self.sample_rate)
        return [Recording(item.transcript, item.samples, _File(str(item.path))) for item in found]

    def _generated(self) -> list[Recording]:
        recordings = []
        for index, transcript in enumerate(tone_transcripts(self.utterances, alphabet=self.alphabet)):
            tones = script(transcript, alphabet=self.alphabet, seed=self.seed, index=index)
            sound = _Tones(tones, self.alphabet, self.sample_rate)
            recordings.append(Recording(transcript, tones.samples(self.sample_rate), sound))
        return recordings


@dataclass(frozen=True)
class _File:
    """The waveform of a file; a class, because workers cannot be sent a lambda."""

    path: str

    def __call__(self) -> NDArray[np.float32]:
        return read_audio(self.path)


@dataclass(frozen=True)
class _Tones:
    """The waveform of a generated utterance."""

    script: ToneScript
    alphabet: str
    sample_rate: int

    def __call__(self) -> NDArray[np.float32]:
        return speak(self.script, alphabet=self.alphabet, sample_rate=self.sample_rate)
