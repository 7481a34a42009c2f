"""One epoch's steps as columns: shapes, times, padding, memory. NumPy only."""

import csv
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.files import replacing

_BEFORE_SHAPE = ("epoch", "step")  # the CSV's columns: these, the shape's, and one for each of _PER_STEP
_PER_STEP: dict[str, type[np.generic]] = {
    "seconds": np.float64,
    "waits": np.float64,
    "starts": np.float64,
    "cold": np.bool_,
    "traced": np.bool_,
    "real": np.int64,
    "padded": np.int64,
    "peak_bytes": np.float64,
    "outside": np.float64,
}


@dataclass(frozen=True, eq=False)
class EpochLog:
    """What was seen of every step of one epoch; M steps, C shape columns.

    Args:
        epoch: its number.
        columns: names of the shape's C columns, ``("batch", "source", "target", "optimizer_step")`` as far as known.
        shapes: (M, C) whole numbers.
        seconds: (M,) time of the step itself.
        waits: (M,) seconds of input wait before it.
        starts: (M,) seconds from start to start on the host's clock; with ``outside`` they add up to the epoch
        cold: (M,) the run had not seen this shape before: it may have paid for tuning, compiling or memory growth.
        traced: (M,) the step was profiled, which inflates its time.
        real: (M,) tokens, -1 unknown.
        padded: (M,) tokens with padding, -1 unknown.
        peak_bytes: (M,) the most device memory allocated during the step, nan unknown.
        outside: (M,) seconds of validation, checkpoints and tracing around the step; none by default.

    Raises:
        ValueError: the columns do not fit together.

    Example:
        >>> blank, no = np.zeros(2), np.zeros(2, dtype=bool)
        >>> unknown = np.full(2, -1)
        >>> log = EpochLog(
        ...     0, ("batch", "source"), np.array([[8, 20], [8, 31]]), np.array([0.02, 0.03]), blank, blank, no, no,
        ...     unknown, unknown, np.full(2, np.nan),
        ... )
        >>> len(log), log.padding
        (2, nan)
    """

    epoch: int
    columns: tuple[str, ...]
    shapes: NDArray[np.int64]
    seconds: NDArray[np.float64]
    waits: NDArray[np.float64]
    starts: NDArray[np.float64]
    cold: NDArray[np.bool_]
    traced: NDArray[np.bool_]
    real: NDArray[np.int64]
    padded: NDArray[np.int64]
    peak_bytes: NDArray[np.float64]
    outside: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if len(self.outside) == 0:
            object.__setattr__(self, "outside", np.zeros(len(self.seconds)))
        if np.shape(self.shapes) != (len(self), len(self.columns)):
            raise ValueError(
                f"got shapes of dimensions {np.shape(self.shapes)}; expected ({len(self)}, {len(self.columns)}), a row "
                f"for each step and a column for each of {', '.join(self.columns)}"
            )
        for name in _PER_STEP:
            if np.shape(getattr(self, name)) != (len(self),):
                raise ValueError(
                    f"got {name} of dimensions {np.shape(getattr(self, name))}; expected ({len(self)},), one a step"
                )

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def padding(self) -> float:
        """Share of the tokens that is padding, over the steps where it is known; nan where it never is."""
        known = self.padded > 0
        return 1.0 - float(self.real[known].sum() / self.padded[known].sum()) if known.any() else float("nan")

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row a step, whole or not at all. Numbers read back as they were.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        columns = [getattr(self, name).tolist() for name in _PER_STEP]
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_BEFORE_SHAPE, *self.columns, *_PER_STEP])
            for step, (shape, *row) in enumerate(zip(self.shapes.tolist(), *columns, strict=True)):
                writer.writerow([self.epoch, step, *shape, *(int(v) if isinstance(v, bool) else v for v in row)])

    @classmethod
    def load_csv(cls, path: str | os.PathLike[str]) -> "EpochLog":
        """Read what :meth:`save_csv` wrote.

        Raises:
            ValueError: not such a file, with the line that is wrong.
            OSError: it cannot be read.
        """
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        columns = tuple(header[len(_BEFORE_SHAPE) : -len(_PER_STEP)])
        if header != [*_BEFORE_SHAPE, *columns, *_PER_STEP] or not rows:
            raise ValueError(
                f"{os.fspath(path)} is no log of steps: expected a header {','.join(_BEFORE_SHAPE)},…,"
                f"{','.join(_PER_STEP)} and at least one row, got {','.join(header)[:80]!r} and {len(rows)} rows"
            )
        for line, row in enumerate(rows, start=2):
            if len(row) != len(header) or not all(_is_number(cell) for cell in row):
                raise ValueError(f"{os.fspath(path)}, line {line}: expected {len(header)} numbers, got {row}")
        by_name = dict(zip(header, zip(*rows, strict=True), strict=True))
        shapes = np.array([[int(cell) for cell in by_name[name]] for name in columns], dtype=np.int64)
        return cls(
            int(by_name["epoch"][0]),
            columns,
            shapes.reshape(len(columns), len(rows)).T,
            **{name: np.array(by_name[name], dtype=np.float64).astype(kind) for name, kind in _PER_STEP.items()},
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
