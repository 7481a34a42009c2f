"""Write a benchmark's tables into docs/benchmarks.md: each script owns the part between its two marks, no more."""

import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def machine() -> str:
    """What the figures were measured on, without naming the machine."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy"))
    threads = f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
    return f"{threads}, {device}; Python {platform.python_version()}, {packages}"


def write_section(name: str, text: str, *, keep_tables: bool = False) -> None:
    """Replace one benchmark's part of the page; the others stay as they are.

    Args:
        name: of the benchmark.
        text: its part, from ``## `` on.
        keep_tables: tables under a ``### `` heading that the text has not are kept, for runs of a part of them.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + "(.*?)" + re.escape(end), re.DOTALL)
    if keep_tables and (former := pattern.search(page)):
        text = _with_former_tables(text, former[1])
    block = f"{begin}\n{text.strip()}\n{end}"
    page = pattern.sub(lambda _: block, page) if pattern.search(page) else f"{page.rstrip()}\n\n{block}\n"
    PAGE.write_text(page, encoding="utf-8")


def _with_former_tables(text: str, former: str) -> str:
    parts, kept = (re.split(r"^(?=### )", whole.strip(), flags=re.MULTILINE) for whole in (text, former))
    new = {part.splitlines()[0]: part for part in parts[1:]}
    old = {part.splitlines()[0]: part for part in kept[1:]}
    return "\n\n".join(part.strip() for part in (parts[0], *(old | new).values()))
