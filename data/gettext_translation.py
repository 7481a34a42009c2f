"""Translation between real sentences: an installed package's gettext catalogues, or parallel text files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from fulgurite.data.length_batches import Batching
from fulgurite.data.mo_catalogue import find_catalogues, read_language
from fulgurite.data.parallel_text import read_parallel
from fulgurite.data.splits import SPLITS, Split, split_by_hash
from fulgurite.data.variable_length import RaggedIds, VariableLengthData
from fulgurite.data.vocabulary import BOS, EOS, PAD, Vocabulary, tokenize

# Twelve languages of one script and many shared words: an epoch of 500 iterations, and 8,000 words cover 95 % of it.
DEFAULT_TARGETS = ("ca", "da", "de", "es", "fr", "gl", "it", "nb", "nl", "pt", "ro", "sv")


class TranslationPairs:
    """Pairs of id sequences; the targets begin and end with their marks.

    Args:
        sources: ids of each source sentence.
        targets: ids of each target sentence, without marks.

    Example:
        >>> pairs = TranslationPairs([[4, 5]], [[7]])
        >>> [ids.tolist() for ids in pairs[0]], pairs.lengths.tolist()
        ([[4, 5], [1, 7, 2]], [[2, 3]])
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        self._sources = RaggedIds(sources)
        self._targets = RaggedIds([[BOS, *target, EOS] for target in targets])
        self.lengths = np.column_stack([self._sources.lengths, self._targets.lengths])

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._sources[index], self._targets[index]


def collate_translation(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Pad pairs to a batch.

    Returns:
        ``source`` (B, S), ``source_lengths`` (B,), ``target`` (B, T), all long; padding is 0.

    Example:
        >>> batch = collate_translation([TranslationPairs([[4, 5]], [[7]])[0], TranslationPairs([[6]], [[8, 9]])[0]])
        >>> batch["source"].tolist(), batch["target"].tolist()
        ([[4, 5], [6, 0]], [[1, 7, 2, 0], [1, 8, 9, 2]])
    """
    sources, targets = zip(*pairs, strict=True)
    return {
        "source": pad_sequence(list(sources), batch_first=True, padding_value=PAD),
        "source_lengths": torch.tensor([len(source) for source in sources]),
        "target": pad_sequence(list(targets), batch_first=True, padding_value=PAD),
    }


class _Pair(NamedTuple):
    """A translated text; ``key`` is what must stay in one part of the data, ``mark`` what names the target language."""

    key: str
    source: str
    target: str
    mark: tuple[str, ...]


class _Row(NamedTuple):
    """A pair in tokens."""

    key: str
    source: list[str]
    target: list[str]
    mark: tuple[str, ...]

    @property
    def length(self) -> int:
        return max(len(self.source), len(self.target))


class GettextTranslation(VariableLengthData):
    """Real translated strings, which need no download: the catalogues of an installed package, or two text files.

    Every translated message of the package's ``.mo`` catalogues is one pair for each target language. Several target
    languages are mixed in one epoch; the first source token then names the wanted one (``<2fr>``), as in M. Johnson
    et al., "Google's Multilingual Neural Machine Translation System", https://arxiv.org/abs/1611.04558. A message is
    in one part (training, validation, test) in all languages. Tokens are words and punctuation marks; placeholders
    and HTML stay whole. Vocabularies hold the most frequent words of the training part.

    Batches are what :func:`collate_translation` gives: ids 0 pad, 1 begin, 2 end, 3 unknown.

    Args:
        package: an installed package with ``<language>/LC_MESSAGES/*.mo``; it is never imported. The default is in the
            extra ``fulgurite[data]``.
        source: language to translate from; ``en`` is the messages themselves, others are joined through them.
        targets: languages to translate into.
        source_file: a UTF-8 file with one sentence a line, instead of a package.
        target_file: its translation, line by line.
        source_vocab_size: ids of the source side at most; what the model's embedding has.
        target_vocab_size: ids of the target side at most.
        max_length: longest sentence in tokens, of either side; longer pairs are left out, counted in ``too_long``.
        batch_size: pairs in a batch.
        batching: ``shuffle``, ``bucket`` or ``sorted``, see :class:`~fulgurite.data.length_batches.LengthBatchSampler`.
        max_tokens: padded tokens of a batch, source or target, whichever are more, instead of ``batch_size``.
        val_share: share of the messages for validation.
        test_share: share of the messages for testing.
        num_workers: worker processes of each loader; the default costs less than a step's launch.

    Raises:
        ValueError: options that contradict each other at once; a missing package, an unknown language or a faulty file
            when the data is set up. Messages name the file, the line and the nearest right name.

    Example:
        >>> data = GettextTranslation(targets=["fr"], batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.val_dataloader()))
        >>> {name: values.dim() for name, values in batch.items()}
        {'source': 2, 'source_lengths': 1, 'target': 2}
        >>> data.batch_shapes().shape[1]  # batch, source, target
        3
    """

    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    too_long: int  #: pairs left out by ``max_length``

    def __init__(
        self,
        *,
        package: str = "django",
        source: str = "en",
        targets: Sequence[str] = DEFAULT_TARGETS,
        source_file: str | None = None,
        target_file: str | None = None,
        source_vocab_size: int = 8000,
        target_vocab_size: int = 8000,
        max_length: int = 100,
        batch_size: int = 16,
        batching: Batching = "shuffle",
        max_tokens: int | None = None,
        val_share: float = 0.04,
        test_share: float = 0.04,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            collate=collate_translation,
            batch_size=batch_size,
            batching=batching,
            max_tokens=max_tokens,
            num_workers=num_workers,
        )
        if (source_file is None) != (target_file is None):
            raise ValueError(
                f"got source_file={source_file!r}, target_file={target_file!r}; give both, or neither for {package!r}"
            )
        targets = (targets,) if isinstance(targets, str) else tuple(targets)
        if not targets or source in targets or len(set(targets)) < len(targets):
            raise ValueError(
                f"got source={source!r} and targets={targets!r}; want one target or more, each once, none the source"
            )
        if max_length < 1:
            raise ValueError(f"got max_length={max_length}; want at least 1 token")
        self.package = package
        self.source = source
        self.targets = targets
        self.source_file = source_file
        self.target_file = target_file
        self.source_vocab_size = source_vocab_size
        self.target_vocab_size = target_vocab_size
        self.max_length = max_length
        self.val_share = val_share
        self.test_share = test_share

    @override
    def load(self) -> Mapping[Split, TranslationPairs]:
        """Read, tokenise, split, count words and number them."""
        pairs, reserved, name = self._read()
        rows = [_Row(pair.key, tokenize(pair.source), tokenize(pair.target), pair.mark) for pair in pairs]
        kept = [row for row in rows if row.source and row.target and row.length <= self.max_length]
        self.too_long = len(rows) - len(kept)
        if not kept:
            raise ValueError(
                f"none of the {len(rows)} pairs of {name} has {self.max_length} tokens or fewer; raise max_length"
            )
        parts = split_by_hash((row.key for row in kept), val_share=self.val_share, test_share=self.test_share)
        train = [row for row in kept if parts[row.key] == "train"]
        self.source_vocabulary = Vocabulary.build(
            (row.source for row in train), size=self.source_vocab_size, reserved=reserved
        )
        self.target_vocabulary = Vocabulary.build((row.target for row in train), size=self.target_vocab_size)
        splits: dict[Split, TranslationPairs] = {}
        for split in SPLITS:
            part = [row for row in kept if parts[row.key] == split]
            if part:
                splits[split] = TranslationPairs(
                    [self.source_vocabulary.encode([*row.mark, *row.source]) for row in part],
                    [self.target_vocabulary.encode(row.target) for row in part],
                )
        sizes = ", ".join(f"{len(part)} {split}" for split, part in splits.items())
        left_out = f"; {self.too_long} left out as longer than {self.max_length} tokens" if self.too_long else ""
        rank_zero_info(f"GettextTranslation: {len(kept)} pairs of {name}: {sizes}{left_out}")
        return splits

    def _read(self) -> tuple[list["_Pair"], list[str], str]:
        """Give all pairs, the marks that name languages, and a name of the data for messages."""
        if self.source_file is not None and self.target_file is not None:
            lines = read_parallel(self.source_file, self.target_file)
            name = f"{Path(self.source_file).name} → {Path(self.target_file).name}"
            return [_Pair(source, source, target, ()) for source, target in lines], [], name
        catalogues = find_catalogues(self.package)
        # The messages are English: to and from English they translate themselves.
        sources = None if self.source == "en" else read_language(catalogues, self.source)
        pairs = []
        for target in self.targets:
            mark = (f"<2{target}>",) if len(self.targets) > 1 else ()
            texts = {key: key for key in sources or {}} if target == "en" else read_language(catalogues, target)
            for key, text in texts.items():
                source = key if sources is None else sources.get(key)
                if source is not None:
                    pairs.append(_Pair(key, source, text, mark))
        name = f"{self.package} {self.source} → {', '.join(self.targets)}"
        if not pairs:
            raise ValueError(f"no translated messages in {name}; choose other languages")
        return pairs, [f"<2{target}>" for target in self.targets] if len(self.targets) > 1 else [], name

    @override
    def state_dict(self) -> dict[str, Any]:
        """Hashes of the vocabularies, so that a checkpoint is not used with other words behind its ids."""
        return self._fingerprints()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on other vocabularies."""
        self.setup()
        differing = [side for side, print_ in self._fingerprints().items() if state_dict.get(side, print_) != print_]
        if differing:
            raise ValueError(
                f"the checkpoint was trained with another {' and '.join(differing)} vocabulary; "
                "use the same data options and the same version of the package"
            )

    def _fingerprints(self) -> dict[str, str]:
        self.setup()
        return {"source": self.source_vocabulary.fingerprint(), "target": self.target_vocabulary.fingerprint()}
