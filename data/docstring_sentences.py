"""Real sentences that every Python installation has: the first ones of the standard library's docstrings."""

import ast
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Tests and bundled tools are missing from many installations; site-packages is not the standard library.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"}


def docstring_sentences(
    alphabet: str, *, count: int, longest: int = 160, folder: str | Path | None = None
) -> list[str]:
    """Collect different sentences, spelled in ``alphabet``: folder by folder, files by name, docstrings from the top.

    Source files are parsed, never imported.

    Args:
        alphabet: the signs that a sentence may have; others become spaces.
        count: sentences wanted; there are about 6,900 in Python 3.11, so fewer may come.
        longest: longer sentences are left out, in signs.
        folder: where the ``.py`` files are; the standard library by default.

    Raises:
        ValueError: no sentence at all, as where Python is installed without its sources.

    Example:
        >>> for sentence in docstring_sentences("abcdefghijklmnopqrstuvwxyz ", count=2):
        ...     print(sentence)
        record of phased in incompatible language changes
        return first release in which this feature was recognized
    """
    root = Path(folder or sysconfig.get_path("stdlib"))
    sentences: dict[str, None] = {}
    for text in _first_sentences(root):
        sentence = spell(text, alphabet)
        if 3 <= len(sentence) <= longest:
            sentences.setdefault(sentence)
        if len(sentences) >= count:
            break
    if not sentences:
        raise ValueError(f"no docstring below {root} can be spelled in {alphabet!r}; give a folder of speech instead")
    return list(sentences)


def spell(text: str, alphabet: str) -> str:
    """Spell a text in an alphabet: other case where that helps, else a space; words without a letter are left out.

    Example:
        >>> spell("Don't use 'x' -- RFC 2822!", " 'abcdefghijklmnopqrstuvwxyz")
        "don't use 'x' rfc"
    """
    known = set(alphabet)
    signs = [next((form for form in (sign, sign.lower(), sign.upper()) if form in known), " ") for sign in text]
    words = [word for word in "".join(signs).split() if any(sign.isalpha() for sign in word)]
    return (" " if " " in known else "").join(words)


def _first_sentences(root: Path) -> Iterator[str]:
    for path in _sources(root):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # templates with a .py name; what is left is plenty
        for text in _docstrings(tree):
            yield re.split(r"(?<=[.!?:])\s|\n\s*\n", text, maxsplit=1)[0]


def _sources(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        # Pruned here: site-packages below the standard library may hold a hundred times as many files.
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    if text := ast.get_docstring(node):
        yield text
    # Bodies only: ast.walk would visit every expression, for a handful of definitions under `if` and `try`.
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)
