"""Tables of numbers in text, read at compiled speed, with the line and the column of what is wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Kind = Literal["whole", "real", "skip"]
Delimiter = Literal[",", ";", "\t", " "]

_ROWS_AT_ONCE = 1 << 18
_DONE, _TOO_FEW, _TOO_MANY, _NOT_WHOLE = 0, 1, 2, 3
_TENS = 10.0 ** np.arange(23)
_LARGEST = 2**53
_NEWLINE, _RETURN, _SPACE, _TAB = 10, 13, 32, 9
_KINDS: dict[Kind, int] = {"whole": 0, "real": 1, "skip": 2}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def read_bytes(path: str | Path) -> bytes:
    """Read a file, unpacked where it is gzip's.

    Raises:
        ValueError: it cannot be read or unpacked, or is empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv.gz").write_bytes(gzip.compress(b"1,2,3"))
        ...     read_bytes(f"{folder}/a.csv.gz")
        b'1,2,3'
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}; expected a text file, plain or gzip") from error
    if not data.strip():
        raise ValueError(f"{path} is empty; expected one event a line")
    return data.removeprefix(b"\xef\xbb\xbf")


def parse_columns(
    data: bytes,
    kinds: Sequence[Kind],
    *,
    delimiter: Delimiter,
    comment: str = "#",
    header: bool = False,
    where: str = "text",
) -> list[NDArray[Any]]:
    r"""Parse a table; every line must have as many columns as there are ``kinds``.

    Numbers are those that Python reads, rounded likewise. NaN and infinity are read as they are.

    Args:
        data: the text. Lines that are blank or begin with ``comment`` are passed over.
        kinds: of each column: ``whole`` numbers of 64 bits, ``real`` ones, or ``skip``, whatever stands there.
        delimiter: " " is any run of spaces and tabs; around the others spaces and tabs do not count.
        comment: one character.
        header: pass over the first line that is no comment.
        where: begins the messages; the file's name.

    Returns:
        An int64 or float64 array (E,) for each column that is not skipped.

    Raises:
        ValueError: a line with too few or too many columns, or no number; the message has line and column.

    Example:
        >>> parse_columns(b"% made\n1 2\t.5\n3 4 1e3\n", ["whole", "whole", "real"], delimiter=" ", comment="%")
        [array([1, 3]), array([2, 4]), array([5.e-01, 1.e+03])]
        >>> parse_columns(b"1,2\n1,x\n", ["whole", "whole"], delimiter=",", where="a.csv")
        Traceback (most recent call last):
        ValueError: a.csv, line 2, column 2: got 'x'; expected a whole number
    """
    text = np.frombuffer(data, dtype=np.uint8)
    codes = np.array([_KINDS[kind] for kind in kinds], dtype=np.uint8)
    rows = int(np.count_nonzero(text == _NEWLINE)) + 1
    whole = np.empty((int((codes == 0).sum()), rows), dtype=np.int64)
    real = np.empty((int((codes == 1).sum()), rows), dtype=np.float64)
    place, row, line, skip_one = 0, 0, 0, header
    slow = np.empty((min(rows, _ROWS_AT_ONCE) * max(len(real), 1), 4), dtype=np.int64)
    while place < len(text):
        limit = min(rows, row + _ROWS_AT_ONCE)
        fault, place, row, line, skip_one, num_slow, column, begin, end = _parse(
            text, place, row, line, limit, codes, ord(delimiter), ord(comment), skip_one, whole, real, slow
        )
        for slow_row, slow_column, low, high in slow[:num_slow].tolist():
            real[_number_among(codes, slow_column, 1), slow_row] = _real(data[low:high])
        wrong = [item for item in slow[:num_slow].tolist() if not _is_real(data[item[2] : item[3]])]
        if wrong and (fault == _DONE or wrong[0][0] < row):
            bad_row, bad_column, low, high = wrong[0]
            bad_line = line_of_row(data, bad_row, comment=comment, header=header)
            raise ValueError(f"{where}, line {bad_line}, column {bad_column + 1}: {_got(data[low:high])} a number")
        if fault == _NOT_WHOLE:
            raise ValueError(f"{where}, line {line}, column {column + 1}: {_got(data[begin:end])} a whole number")
        if fault != _DONE:
            raise ValueError(
                f"{where}, line {line}: got {'more' if fault == _TOO_MANY else column} columns; "
                f"expected {len(kinds)}, divided by {_spelled(delimiter)}"
            )
    columns: list[NDArray[Any]] = []
    for number, kind in enumerate(kinds):
        if kind != "skip":
            source = whole if kind == "whole" else real
            columns.append(source[_number_among(codes, number, _KINDS[kind]), :row])
    return columns


def line_of_row(data: bytes, row: int, *, comment: str = "#", header: bool = False) -> int:
    r"""The number, from 1, of the line that a row of a parsed table was on.

    Example:
        >>> line_of_row(b"# made\n1 2\n\n3 4\n", 1)
        4
    """
    left = row + header
    for number, text in enumerate(data.split(b"\n"), start=1):
        stripped = text.strip()
        if stripped and not stripped.startswith(comment.encode()):
            if not left:
                return number
            left -= 1
    raise IndexError(f"got row {row}; the text has fewer")


def first_line(data: bytes, *, comment: str = "#") -> tuple[int, str]:
    r"""Number and text of the first line that is neither blank nor a comment; (0, "") where there is none.

    Example:
        >>> first_line(b"# made\na,b\n1,2\n")
        (2, 'a,b')
    """
    begin, number = 0, 0
    while begin < len(data):
        end = data.find(b"\n", begin)
        end = len(data) if end < 0 else end
        number += 1
        text = data[begin:end].decode("utf-8", "replace").removeprefix("\ufeff").strip()
        if text and not text.startswith(comment):
            return number, text
        begin = end + 1
    return 0, ""


def is_number(text: str) -> bool:
    """Whether a field is read as a number.

    Example:
        >>> is_number("1e3"), is_number("time")
        (True, False)
    """
    return _is_real(text.encode())


def _real(field: bytes) -> float:
    try:
        # Python would take the underscores of its own literals.
        return float("nan") if b"_" in field else float(field)
    except ValueError:
        return float("nan")


def _is_real(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return b"_" not in field


def _number_among(codes: NDArray[np.uint8], column: int, code: int) -> int:
    return int((codes[:column] == code).sum())


def _got(field: bytes) -> str:
    text = field.decode("utf-8", "replace")
    return f"got {text[:40]!r}; expected"


def _spelled(delimiter: Delimiter) -> str:
    return {" ": "spaces or tabs", "\t": "tabs"}.get(delimiter, repr(delimiter))


def _compiled(function: _Function) -> _Function:
    try:
        return cast(_Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba finds no folder to keep the code in
        return cast(_Function, numba.njit(nogil=True)(function))


@_compiled
def _parse(
    text: Any,
    place: int,
    row: int,
    line: int,
    limit: int,
    codes: Any,
    delimiter: int,
    comment: int,
    skip_one: bool,
    whole: Any,
    real: Any,
    slow: Any,
) -> Any:
    """Parse lines from ``place`` until ``limit`` rows; reals that need exact rounding are left to the caller.

    ``(fault, place, row, line, skip_one, slow reals, column, begin, end)``; the last three are of the faulty field.
    """
    size, num_slow = len(text), 0
    while place < size and row < limit:
        stop = place
        while stop < size and text[stop] != _NEWLINE:
            stop += 1
        line += 1
        begin, end = place, stop
        place = stop + 1
        while begin < end and (text[begin] == _SPACE or text[begin] == _TAB or text[begin] == _RETURN):
            begin += 1
        while end > begin and (text[end - 1] == _SPACE or text[end - 1] == _TAB or text[end - 1] == _RETURN):
            end -= 1
        if begin == end or text[begin] == comment:
            continue
        if skip_one:
            skip_one = False
            continue
        num_whole, num_real, column = 0, 0, 0
        while True:
            if column == len(codes):
                return _TOO_MANY, place, row, line, skip_one, num_slow, column, begin, end
            low = begin
            while low < end and (text[low] == _SPACE or text[low] == _TAB) and text[low] != delimiter:
                low += 1
            high = low
            while high < end and text[high] != delimiter and not (delimiter == _SPACE and text[high] == _TAB):
                high += 1
            after = high
            while high > low and (text[high - 1] == _SPACE or text[high - 1] == _TAB):
                high -= 1
            kind = codes[column]
            if kind < 2:
                at = low
                negative = at < high and text[at] == 45
                if at < high and (text[at] == 45 or text[at] == 43):
                    at += 1
                digits, mantissa, exponent = 0, 0, 0
                while at < high and 48 <= text[at] <= 57 and digits < 18:
                    mantissa = mantissa * 10 + (text[at] - 48)
                    digits += 1
                    at += 1
                if kind == 0:
                    if digits == 0 or at < high:
                        return _NOT_WHOLE, place, row, line, skip_one, num_slow, column, low, high
                    whole[num_whole, row] = -mantissa if negative else mantissa
                    num_whole += 1
                else:
                    if at < high and text[at] == 46:
                        at += 1
                        while at < high and 48 <= text[at] <= 57 and digits < 18:
                            mantissa = mantissa * 10 + (text[at] - 48)
                            digits += 1
                            exponent += 1
                            at += 1
                    if digits > 0 and at == high and mantissa <= _LARGEST:
                        # Both are exact in 64 bits, so that one division rounds as reading digit by digit does.
                        value = mantissa / _TENS[exponent]
                        real[num_real, row] = -value if negative else value
                    else:
                        slow[num_slow, 0], slow[num_slow, 1], slow[num_slow, 2], slow[num_slow, 3] = (
                            row,
                            column,
                            low,
                            high,
                        )
                        num_slow += 1
                    num_real += 1
            column += 1
            if after >= end:
                break
            begin = after + 1
            if delimiter == _SPACE:
                while begin < end and (text[begin] == _SPACE or text[begin] == _TAB):
                    begin += 1
            elif begin >= end:
                begin = end
        if column < len(codes):
            return _TOO_FEW, place, row, line, skip_one, num_slow, column, begin, end
        row += 1
    return _DONE, place, row, line, skip_one, num_slow, 0, 0, 0
