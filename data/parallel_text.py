"""Two plain text files, line by line translations of each other, read strictly."""

from itertools import zip_longest
from pathlib import Path


def read_parallel(source_file: str | Path, target_file: str | Path) -> list[tuple[str, str]]:
    r"""Read translated pairs from two UTF-8 files with one sentence a line, as IWSLT and WMT distribute them.

    Args:
        source_file: e.g. ``tst2012.en``.
        target_file: e.g. ``tst2012.vi``; its line *n* translates line *n* of the other.

    Raises:
        ValueError: a file that cannot be read, is empty or not UTF-8, a line without its translation, an empty line;
            the message names file and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     english, french = Path(folder, "a.en"), Path(folder, "a.fr")
        ...     _ = english.write_text("Yes.\nNo.\n"), french.write_text("Oui.\nNon.\n")
        ...     read_parallel(english, french)
        [('Yes.', 'Oui.'), ('No.', 'Non.')]
    """
    files = Path(source_file), Path(target_file)
    columns = [read_lines(file) for file in files]
    pairs = []
    for number, (source, target) in enumerate(zip_longest(*columns), start=1):
        if source is None or target is None:
            short, long = files if source is None else files[::-1]
            counts = sorted(len(column) for column in columns)
            raise ValueError(
                f"{short} ends after line {counts[0]}, but {long} has {counts[1]} lines: "
                f"line {number} of {long.name} has no translation; both files need the same number of lines"
            )
        for file, text in zip(files, (source, target), strict=True):
            if not text.strip():
                raise ValueError(f"{file}, line {number}: is empty; remove it and line {number} of the other file")
        pairs.append((source.strip(), target.strip()))
    return pairs


def read_lines(path: str | Path) -> list[str]:
    r"""Read the lines of a UTF-8 file, naming the line that is not.

    Raises:
        ValueError: a file that is missing, empty or not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_bytes(b"one\r\ntwo")
        ...     read_lines(Path(folder, "a.txt"))
        ['one', 'two']
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; want a UTF-8 text file with one sentence a line"
        ) from error
    if not data:
        raise ValueError(f"{path} is empty; want one sentence a line")
    lines = []
    # Only \n ends a line: str.splitlines would also cut at U+2028 and the like, and shift all lines that follow.
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1}); "
                "convert the file, e.g. with iconv"
            ) from error
        lines.append(text.removesuffix("\r"))
    return lines
