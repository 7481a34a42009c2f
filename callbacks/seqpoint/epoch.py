"""What select() is given, checked, with the cost proxy fitted to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.callbacks.seqpoint.cost import CostModel, fit_cost, work_model
from fulgurite.callbacks.seqpoint.plan import DEFAULT_COLUMNS, PlanError, as_shapes


@dataclass(frozen=True)
class Epoch:
    """One epoch's shapes and times.

    Args:
        shapes: (M, C).
        seconds: (M,) positive, or ``None`` where only shapes are known.
        warm: (M,) false for steps whose times are not to be trusted.
        columns: names of the C columns.
        length: the column used as length.
        model: the cost proxy.
        explained: R² of the proxy; ``nan`` without times or where shape does not vary.

    Example:
        >>> epoch = Epoch.of([[8, 5], [8, 9]], None)
        >>> epoch.columns, epoch.varies
        (('batch', 'source'), True)
    """

    shapes: NDArray[np.int64]
    seconds: NDArray[np.float64] | None
    warm: NDArray[np.bool_]
    columns: tuple[str, ...]
    length: int
    model: CostModel
    explained: float

    @classmethod
    def of(
        cls,
        shapes: ArrayLike,
        seconds: ArrayLike | None,
        *,
        columns: Sequence[str] | None = None,
        length: int = 1,
        cold: ArrayLike | None = None,
    ) -> "Epoch":
        """Check everything and fit the cost proxy; arguments as for :func:`fulgurite.callbacks.seqpoint.select`.

        Raises:
            PlanError: what was given cannot be an epoch.
        """
        x = as_shapes(shapes)
        names = _names(columns, x.shape[1])
        if not 0 <= length < len(names):
            raise PlanError(
                f"got length={length}, but there are {len(names)} columns ({', '.join(names)}); "
                f"expected 0 to {len(names) - 1}: the number of the column that holds the length"
            )
        warm = ~_mask(cold, len(x))
        if seconds is None:
            return cls(x, None, warm, names, length, work_model(x, names), np.nan)
        times = _times(seconds, len(x))
        model, explained = fit_cost(x, times, names, keep=warm)
        return cls(x, times, warm, names, length, model, explained)

    @property
    def varies(self) -> bool:
        """Whether there are two different shapes."""
        return bool((self.shapes != self.shapes[0]).any())

    @property
    def spread(self) -> float:
        """Coefficient of variation of the times, with the outer half per cent on each side drawn in."""
        if self.seconds is None:
            return 0.0
        drawn_in = np.clip(self.seconds, *np.quantile(self.seconds, [0.005, 0.995]))
        return float(drawn_in.std() / drawn_in.mean())


def _names(columns: Sequence[str] | None, width: int) -> tuple[str, ...]:
    if columns is None:
        if width > len(DEFAULT_COLUMNS):
            raise PlanError(
                f"got {width} columns, and names for {len(DEFAULT_COLUMNS)} at most are known "
                f"({', '.join(DEFAULT_COLUMNS)}): pass columns=(...) to name them"
            )
        # A single column is a length: a batch size alone would not be worth a plan.
        return DEFAULT_COLUMNS[:width] if width > 1 else DEFAULT_COLUMNS[1:2]
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if len(names) != width or len(set(names)) != width or not all(isinstance(n, str) and n for n in names):
        raise PlanError(f"got columns={names!r} for {width} columns; expected as many different names")
    return names


def _mask(cold: ArrayLike | None, count: int) -> NDArray[np.bool_]:
    if cold is None:
        return np.zeros(count, dtype=bool)
    mask = np.asarray(cold)
    if mask.shape != (count,) or mask.dtype != np.bool_:
        raise PlanError(
            f"got cold of type {mask.dtype} and dimensions {mask.shape}; "
            f"expected one bool for each of {count} iterations"
        )
    return mask


def _times(seconds: ArrayLike, count: int) -> NDArray[np.float64]:
    try:
        times = np.asarray(seconds, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PlanError(f"seconds are no numbers: {error}") from None
    if times.shape != (count,):
        raise PlanError(f"got seconds of dimensions {times.shape}; expected ({count},), one for each row of shapes")
    bad = np.flatnonzero(~(np.isfinite(times) & (times > 0)))
    if bad.size:
        raise PlanError(
            f"iteration {bad[0]} has a time of {times[bad[0]]} s ({bad.size} of {count} are like that); "
            "expected finite times above zero: leave such iterations out"
        )
    return times
