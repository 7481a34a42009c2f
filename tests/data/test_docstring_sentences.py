import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.docstring_sentences import docstring_sentences, spell
from fulgurite.data.tone_speech import DEFAULT_ALPHABET

SOURCE = '''"""First of the module. Second."""
class A:
    """A class's
    sentence, on two lines!

    More.
    """
    def f(self):
        """X."""
        def inner(): "Within a function"
    async def g(self): "-- 42 --"
def f(): "Within a function."
raise SystemExit("was imported")
'''


def test_takes_the_first_sentence_of_every_docstring_once(tmp_path):
    (tmp_path / "b.py").write_text(SOURCE)
    (tmp_path / "a.py").write_text("def broken(:")
    for skipped in ("site-packages", "test"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "c.py").write_text('"""Not this one."""')
    sentences = docstring_sentences(DEFAULT_ALPHABET, count=99, folder=tmp_path)
    assert sentences == ["first of the module", "a class's sentence on two lines", "within a function"]
    assert docstring_sentences(DEFAULT_ALPHABET, count=1, folder=tmp_path) == sentences[:1]
    assert docstring_sentences(DEFAULT_ALPHABET, count=99, longest=20, folder=tmp_path) == [sentences[0], sentences[2]]


def test_the_standard_library_has_real_and_varied_lengths():
    sentences = docstring_sentences(DEFAULT_ALPHABET, count=500)
    lengths = sorted(map(len, sentences))
    assert len(set(sentences)) == 500
    assert lengths[250] * 1.8 < lengths[475], "a long tail, as real text has"


def test_order_does_not_depend_on_the_process():
    code = (
        "from fulgurite.data.docstring_sentences import docstring_sentences as d; "
        "print('|'.join(d('abcdefghijklmnopqrstuvwxyz ', count=60)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip().split("|") == docstring_sentences("abcdefghijklmnopqrstuvwxyz ", count=60)


@settings(deadline=None)
@given(text=st.text(), alphabet=st.sampled_from([DEFAULT_ALPHABET, "ABC ", "abc", "äöü "]))
def test_spelling_keeps_to_the_alphabet(text, alphabet):
    spelled = spell(text, alphabet)
    assert set(spelled) <= set(alphabet)
    assert spell(spelled, alphabet) == spelled == spelled.strip()


def test_no_sources_no_sentences(tmp_path):
    with pytest.raises(ValueError, match="give a folder of speech instead"):
        docstring_sentences(DEFAULT_ALPHABET, count=3, folder=tmp_path)
