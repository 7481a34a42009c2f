"""Tables of numbers: what Python would read, and faults with their line and column."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data import number_table
from fulgurite.data.number_table import Delimiter, line_of_row, parse_columns, read_bytes

REALS = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(10**25), 10**25).map(float),
    st.floats(0, 1).map(lambda x: round(x, 3)),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-(10**17), 10**17), REALS), min_size=1, max_size=20),
    st.sampled_from([",", ";", "\t", " "]),
    st.sampled_from(["\n", "\r\n", "\n\n", "\n# noted\n"]),
    st.sampled_from(["{!r}", "{:.12g}", "{:+.3e}", "{:f}"]),
)
def test_numbers_are_those_that_python_reads(
    rows: list[tuple[int, float]], delimiter: Delimiter, ending: str, form: str
) -> None:
    text = ending.join(f"{whole}{delimiter}{form.format(real)}" for whole, real in rows)
    whole, real = parse_columns(text.encode(), ["whole", "real"], delimiter=delimiter)
    assert whole.tolist() == [row[0] for row in rows]
    assert real.tolist() == [float(form.format(row[1])) for row in rows]


def test_a_table_longer_than_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_table, "_ROWS_AT_ONCE", 64)
    count = 3 * 64 + 7
    data = b"".join(b"%d,0.1234567890123456789\n" % number for number in range(count))
    whole, real = parse_columns(data, ["whole", "real"], delimiter=",")
    assert np.array_equal(whole, np.arange(count))
    assert (real == 0.1234567890123456789).all()
    with pytest.raises(ValueError, match=f"line {count + 1}, column 2: got 'x'"):
        parse_columns(data + b"5,x\n", ["whole", "real"], delimiter=",")
    early = data.replace(b"\n%d,0.1" % (count - 4), b"\n%d,x\n5,0.1" % (count - 4))
    with pytest.raises(ValueError, match=f"line {count - 3}, column 2: got 'x'"):
        parse_columns(early, ["whole", "real"], delimiter=",")


def test_spaces_around_fields_and_skipped_columns() -> None:
    data = b"name, id ,x\n a b ,\t7 , 2.5\r\n,8,-1"
    whole, real = parse_columns(data, ["skip", "whole", "real"], delimiter=",", header=True)
    assert whole.tolist() == [7, 8]
    assert real.tolist() == [2.5, -1]
    mixed = parse_columns(b"% k\n 1\t 2  3\n\t4 5\t\t6 \n", ["whole"] * 3, delimiter=" ", comment="%")
    assert [column.tolist() for column in mixed] == [[1, 4], [2, 5], [3, 6]]


def test_what_is_not_finite_is_read_for_the_caller_to_judge() -> None:
    (real,) = parse_columns(b"nan\n-inf\n1e999\n", ["real"], delimiter=",")
    assert np.isnan(real[0])
    assert real[1:].tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1,2\n3\n", r"t, line 2: got 1 columns; expected 2, divided by ','"),
        (b"1,2\n\n# a\n3,4,5\n", r"t, line 4: got more columns; expected 2"),
        (b"1,2\nx,4\n", r"t, line 2, column 1: got 'x'; expected a whole number"),
        (b"1,2\n1.0,4\n", r"t, line 2, column 1: got '1.0'; expected a whole number"),
        (b"1,2\n99999999999999999999,4\n", r"t, line 2, column 1: got '9999"),
        (b"1,2\n,4\n", r"t, line 2, column 1: got ''"),
        (b"1,2\n3,\n", r"t, line 2, column 2: got ''; expected a number"),
        (b"1,2\n3,1_0\n", r"t, line 2, column 2: got '1_0'"),
        (b"1,2\n3,4\n5,2020-01-01\nx,y\n", r"t, line 3, column 2: got '2020-01-01'"),
        (b"1,2\n3,\xff\n", r"t, line 2, column 2: got '"),
    ],
)
def test_a_fault_has_its_line_and_column(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_columns(data, ["whole", "real"], delimiter=",", where="t")


def test_rows_know_their_lines() -> None:
    data = b"# a\nname\n\n1\n2\n\n#\n3\n"
    assert [line_of_row(data, row, header=True) for row in range(3)] == [4, 5, 8]


def test_files_plain_or_packed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf1,2\n")
    (tmp_path / "b").write_bytes(gzip.compress(b"1,2\n"))
    assert read_bytes(tmp_path / "a") == read_bytes(tmp_path / "b") == b"1,2\n"
    (tmp_path / "c").write_bytes(gzip.compress(b"1,2\n")[:-6])
    (tmp_path / "d").write_bytes(b"\n \n")
    for name, message in (("c", "cannot read"), ("d", "is empty"), ("e", "No such file"), (".", "directory")):
        with pytest.raises(ValueError, match=message):
            read_bytes(tmp_path / name)
