"""Words and punctuation marks of any script, and the numbers that stand for them."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")

# Scripts written without spaces between words: each letter (with its marks) is a token of its own.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


def tokenize(text: str) -> list[str]:
    """Cut a text into words and punctuation marks.

    Placeholders (``%(count)d``, ``%s``, ``{name}``), HTML tags and entities stay whole. Letters keep their combining
    marks; scripts without spaces (Chinese, Japanese, Thai, …) are cut into letters. Case is kept.

    Example:
        >>> tokenize("Delete %(count)d <b>file</b>s, l’été?")
        ['Delete', '%(count)d', '<b>', 'file', '</b>', 's', ',', 'l', '’', 'été', '?']
    """
    return _pattern().findall(unicodedata.normalize("NFC", text))


@cache
def _pattern() -> re.Pattern[str]:
    # `re` counts no combining mark as a letter, which would cut words of Hindi, Tamil or Thai apart.
    codes = [*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)]  # no marks lie between; looking there costs 0.2 s
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M")
    placeholder = r"%\(\w+\)[a-zA-Z]|%[a-zA-Z](?![a-zA-Z])|\{\w*\}"
    html = r"</?[a-zA-Z][^<>]*>|&#?\w+;"
    return re.compile(rf"{placeholder}|{html}|[{_UNSPACED}][{marks}]*|(?:(?![{_UNSPACED}])[\w{marks}])+|[^\w\s]")


class Vocabulary:
    """The most frequent words of a text and their ids: 0 pad, 1 begin, 2 end, 3 unknown, then the words.

    Args:
        words: all words by id, the four special ones first.

    Example:
        >>> words = Vocabulary.build([["a", "b", "a"]], size=6)
        >>> words.encode(["b", "a", "z"])
        [5, 4, 3]
        >>> words.decode([1, 4, 5, 2, 0])
        ['a', 'b']
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._ids = {word: number for number, word in enumerate(self.words)}
        if self.words[: len(SPECIALS)] != SPECIALS or len(self._ids) != len(self.words):
            raise ValueError(
                f"a vocabulary starts with {', '.join(SPECIALS)} and has no word twice; got {self.words[:8]}…"
            )

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], *, size: int, reserved: Sequence[str] = ()) -> "Vocabulary":
        """Count words and keep the most frequent; equally frequent ones by the alphabet, so that it is always the same.

        Args:
            sentences: tokens of each sentence; only of the training part, or the test would be easier than it is.
            size: ids at most, special and reserved ones among them.
            reserved: words that are kept however rare they are, e.g. the tokens that name a language.

        Raises:
            ValueError: ``size`` leaves no room for a word.
        """
        fixed = [*SPECIALS, *reserved]
        if size <= len(fixed):
            raise ValueError(
                f"got a vocabulary size of {size}; {len(fixed)} ids are taken already: want more than that"
            )
        counts = Counter(word for sentence in sentences for word in sentence)
        for word in fixed:
            counts.pop(word, None)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([*fixed, *(word for word, _ in ranked[: size - len(fixed)])])

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of words; ``UNK`` for those that are not kept."""
        return [self._ids.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of ids up to the first end mark, without padding and begin marks."""
        words = []
        for number in ids:
            if number == EOS:
                break
            if number not in (PAD, BOS):
                words.append(self.words[number] if 0 <= number < len(self.words) else SPECIALS[UNK])
        return words

    def fingerprint(self) -> str:
        """A short hash of all words in order: equal for equal vocabularies."""
        return hashlib.blake2b("\n".join(self.words).encode(), digest_size=8).hexdigest()
