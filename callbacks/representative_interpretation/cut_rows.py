"""What each cut of a net says: a row each, and the table of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class CutRow:
    """One cut, and what interpretations at it say.

    Attributes:
        name: of the module whose output is ψ.
        shape: (K, H, W) of ψ; ``None`` where the net cannot be cut there.
        piecewise_linear: whether the head behind it is; ``None`` where not looked at.
        affine: whether the head is even affine: then a polytope is little more than the predicted class.
        coverage: mean share of the own predicted class that one interpretation covers; ``None`` where not measured.
        purity: mean share of own images among the covered ones.
        planes: mean number of boundaries that an interpretation needs.
        exact: mean share of the sampled boundaries that were certified exact.
        verdict: why it was taken or not.

    Example:
        >>> CutRow("3", (8, 7, 7), True, False, 0.8, 0.99, 6.5, 1.0, "chosen").verdict
        'chosen'
    """

    name: str
    shape: tuple[int, int, int] | None
    piecewise_linear: bool | None
    affine: bool | None
    coverage: float | None
    purity: float | None
    planes: float | None
    exact: float | None
    verdict: str


@dataclass(frozen=True)
class CutTable(Sequence[CutRow]):
    """The cuts of a net, first to last; prints as a table.

    Attributes:
        rows: one a cut.
        chosen: the name of the cut that ``cut="auto"`` takes.

    Example:
        >>> table = CutTable((CutRow("3", (8, 7, 7), True, False, 0.8, 0.99, 6.5, 1.0, "chosen"),), "3")
        >>> len(table), table[0].name
        (1, '3')
    """

    rows: tuple[CutRow, ...]
    chosen: str

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> CutRow: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[CutRow, ...]: ...

    def __getitem__(self, index: int | slice) -> CutRow | tuple[CutRow, ...]:
        return self.rows[index]

    def __str__(self) -> str:
        return table_of(self.rows)


def table_of(rows: Sequence[CutRow]) -> str:
    """The cuts as a table for people, first to last.

    Example:
        >>> print(table_of([CutRow("3", (8, 7, 7), True, False, 0.8, 0.99, 6.5, 1.0, "chosen")]))
        cut  shape  covers  purity  planes  exact   verdict
        3    8×7×7   80.0%   99.0%     6.5  100.0%  chosen
    """
    cells = [("cut", "shape", "covers", "purity", "planes", "exact", "verdict")]
    for row in rows:
        shape = "–" if row.shape is None else "×".join(map(str, row.shape))
        count = "–" if row.planes is None else f"{row.planes:.1f}"
        cells.append((row.name, shape, share(row.coverage), share(row.purity), count, share(row.exact), row.verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(7)]
    aligned = ["<", "<", ">", ">", ">", ">", "<"]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, aligned, widths, strict=True)).rstrip()
        for line in cells
    )


def share(value: float | None) -> str:
    """A share in per cent; a dash for one that is not known or not defined.

    Example:
        >>> share(0.125), share(float("nan")), share(None)
        ('12.5%', '–', '–')
    """
    return "–" if value is None or value != value else f"{value:.1%}"
