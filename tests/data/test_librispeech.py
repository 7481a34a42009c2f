import shutil

import pytest

from fulgurite.data.librispeech import read_librispeech
from fulgurite.data.tone_speech import DEFAULT_ALPHABET, write_librispeech

TEXTS = [f"sentence {word}" for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")]


@pytest.fixture
def corpus(tmp_path):
    write_librispeech(tmp_path / "corpus", transcripts=TEXTS)
    return tmp_path / "corpus"


def read(folder, **options):
    return read_librispeech(folder, **{"alphabet": DEFAULT_ALPHABET, "sample_rate": 8000, **options})


@pytest.mark.parametrize("audio", ["wav", "flac"])
def test_reads_what_is_in_the_folder(tmp_path, audio):
    write_librispeech(tmp_path / "corpus", transcripts=TEXTS, audio=audio)
    utterances = read(tmp_path / "corpus")
    assert sorted(utterance.transcript for utterance in utterances) == sorted(TEXTS)
    assert [utterance.name for utterance in utterances[:3]] == ["0-0-0000", "0-0-0001", "1-0-0000"]
    assert all(utterance.path.suffix == f".{audio}" and utterance.samples > 1000 for utterance in utterances)


def test_capitals_stay_where_the_alphabet_has_them(corpus):
    assert read(corpus, alphabet=" ABCDEFGHIJKLMNOPQRSTUVWXYZ")[0].transcript == "SENTENCE ONE"


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def damage_name(corpus):
    append(corpus / "0/0/0-0.trans.txt", "0-0-0007 HELLO\n")


def damage_line(corpus):
    append(corpus / "0/0/0-0.trans.txt", "0-0-0001\n")


def damage_twice(corpus):
    append(corpus / "0/0/0-0.trans.txt", "0-0-0000 HELLO\n")


def damage_both(corpus):
    shutil.copy(corpus / "0/0/0-0-0000.wav", corpus / "0/0/0-0-0000.flac")


def damage_extra(corpus):
    shutil.copy(corpus / "0/0/0-0-0000.wav", corpus / "0/0/0-0-0009.wav")


def damage_audio(corpus):
    (corpus / "0/0/0-0-0001.wav").write_bytes(b"RIFF?")


def damage_encoding(corpus):
    path = corpus / "0/0/0-0.trans.txt"
    path.write_bytes(path.read_bytes() + b"0-0-0001 CAF\xc9\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_name, r"0-0\.trans\.txt, line 3: 0-0-0007 has no audio; want 0-0-0007\.flac or 0-0-0007\.wav"),
        (damage_line, r"line 3: got '0-0-0001', want the utterance's name, a space and its text"),
        (damage_twice, r"line 3: 0-0-0000 has a transcript already in .*line 1"),
        (damage_both, r"line 1: 0-0-0000 has both 0-0-0000\.flac and 0-0-0000\.wav"),
        (damage_extra, r"0-0-0009\.wav: has no line in any \.trans\.txt file"),
        (damage_audio, r"0-0-0001\.wav: is not a PCM wav file"),
        (damage_encoding, r"0-0\.trans\.txt, line 3: not UTF-8"),
    ],
)
def test_says_which_file_and_line_is_wrong(corpus, damage, message):
    damage(corpus)
    with pytest.raises(ValueError, match=message):
        read(corpus)


def test_a_sign_outside_the_alphabet_is_named_with_its_line(corpus):
    append(corpus / "0/0/0-0.trans.txt", "0-0-0002 ROUTE 66\n")
    shutil.copy(corpus / "0/0/0-0-0000.wav", corpus / "0/0/0-0-0002.wav")
    with pytest.raises(ValueError, match=r"0-0\.trans\.txt, line 3: '6' is not in the alphabet"):
        read(corpus)


def test_another_sample_rate_names_the_file(corpus):
    with pytest.raises(ValueError, match=r"0-0-0000\.wav: is sampled at 8000 Hz, want 16000"):
        read(corpus, sample_rate=16000)


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="want speaker/chapter"):
        read(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        read(tmp_path / "nowhere")
