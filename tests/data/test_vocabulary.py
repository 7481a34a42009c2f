import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.vocabulary import SPECIALS, UNK, Vocabulary, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Enter a valid URL.", "Enter a valid URL ."),
        ("%(count)d of %s, 100% sure {name}", "%(count)d of %s , 100 % sure {name}"),
        ("<a href='x y'>go</a> it&apos;s 3 < 4", "<a href='x y'>|go|</a>|it|&apos;|s|3|<|4"),
        ("हिन्दी में", "हिन्दी में"),
        ("日本語です。", "日 本 語 で す 。"),
        ("ที่นี่", "ที่ นี่"),
        ("e\u0301te\u0301", "été"),
        ("don't, l\u2019été", "don ' t , l \u2019 été"),
    ],
)
def test_tokens_are_words_and_marks_of_any_script(text, tokens):
    assert tokenize(text) == tokens.split("|" if "|" in tokens else None)


@settings(deadline=None)
@given(text=st.text())
def test_nothing_but_space_is_lost(text):
    whole = unicodedata.normalize("NFC", text)
    assert "".join("".join(tokenize(text)).split()) == "".join(whole.split())


@settings(deadline=None)
@given(
    sentences=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), max_size=9),
    size=st.integers(6, 15),
    seed=st.randoms(use_true_random=False),
)
def test_the_most_frequent_words_are_kept_in_any_order_of_sentences(sentences, size, seed):
    words = Vocabulary.build(sentences, size=size, reserved=["<2fr>"])
    assert words.words[:5] == (*SPECIALS, "<2fr>")
    assert len(words) <= size
    flat = [token for sentence in sentences for token in sentence]
    kept = words.words[5:]
    left = set(flat) - set(kept)
    assert not left or len(words) == size
    assert not left or not kept or min(map(flat.count, kept)) >= max(map(flat.count, left))
    seed.shuffle(sentences)
    again = Vocabulary.build(sentences, size=size, reserved=["<2fr>"])
    assert again.words == words.words
    assert again.fingerprint() == words.fingerprint()
    encoded = words.encode(flat)
    assert words.decode(encoded) == [token if token in kept else SPECIALS[UNK] for token in flat]


def test_decoding_stops_at_the_end_mark_and_survives_foreign_ids():
    words = Vocabulary.build([["a"]], size=9)
    assert words.decode([1, 4, 99, -1, 2, 4]) == ["a", "<unk>", "<unk>"]


def test_a_size_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="size of 5; 5 ids are taken"):
        Vocabulary.build([["a"]], size=5, reserved=["<2fr>"])


def test_a_vocabulary_needs_its_special_words():
    with pytest.raises(ValueError, match="starts with <pad>"):
        Vocabulary(["a", "b"])
