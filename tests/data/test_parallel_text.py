import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.parallel_text import read_lines, read_parallel

sentences = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\ufeff"), min_size=1), min_size=1)


def files(folder, source, target):
    paths = folder / "a.en", folder / "a.vi"
    for path, data in zip(paths, (source, target), strict=True):
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return paths


@settings(deadline=None)
@given(lines=sentences, end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), mark=st.booleans())
def test_lines_come_back_as_they_were_written(tmp_path_factory, lines, end, last, mark):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes((("\ufeff" if mark else "") + end.join(lines) + (end if last else "")).encode())
    assert read_lines(path) == lines


def test_reads_iwslt(shared_data):
    folder = shared_data / "iwslt15_en_vi"
    pairs = read_parallel(folder / "tst2012.en", folder / "tst2012.vi")
    assert len(pairs) == 1553
    assert pairs[1] == ("This is not a finished story .", "Câu chuyện này chưa kết thúc .")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            "a\nb\nc\n",
            "x\ny\n",
            r"a\.vi ends after line 2, but .*a\.en has 3 lines: line 3 of a\.en has no translation",
        ),
        ("a\n", "x\ny\n", r"a\.en ends after line 1, but .*a\.vi has 2 lines: line 2 of a\.vi has no translation"),
        ("a\n\nc\n", "x\ny\nz\n", r"a\.en, line 2: is empty; remove it and line 2 of the other"),
        ("a\nb", "x\n  ", r"a\.vi, line 2: is empty"),
        ("a\nb\n", b"x\ny\xe9\n", r"a\.vi, line 2: not UTF-8 \(byte 0xe9 at column 2\)"),
        ("", "x\n", r"a\.en is empty; want one sentence a line"),
    ],
)
def test_says_which_line_of_which_file_is_wrong(tmp_path, source, target, message):
    with pytest.raises(ValueError, match=message):
        read_parallel(*files(tmp_path, source, target))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*b\.en: No such file"):
        read_parallel(tmp_path / "b.en", tmp_path / "b.vi")
