"""The cost proxy: what a step of a given shape is predicted to cost, fitted once to an epoch's logged times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Terms = tuple[tuple[int, ...], ...]

_STEPS_PER_TERM = 5  # fewer logged steps than this for each coefficient, and the fit would follow the noise
_ROUNDS = 5
_HUBER = 1.345  # robust standard deviations; keeps 95 % of the efficiency of least squares under normal noise


@dataclass(frozen=True)
class CostModel:
    """A linear model of step time, ``p = β·φ(x)``, never below ``floor``.

    Args:
        columns: names of the shape's C columns.
        terms: φ: for each term the exponents of the C columns; ``(1, 1, 0)`` is batch × source.
        coefficients: β, one a term.
        floor: smallest prediction, positive, so that a ratio to it always exists.

    Example:
        >>> model = CostModel(("batch", "source"), ((0, 0), (1, 1)), (2.0, 0.5), 0.1)
        >>> model.predict(np.array([[2, 3], [4, 10]])).tolist()
        [5.0, 22.0]
        >>> str(model)
        '2 + 0.5·batch·source'
    """

    columns: tuple[str, ...]
    terms: Terms
    coefficients: tuple[float, ...]
    floor: float

    def predict(self, shapes: NDArray[np.int64]) -> NDArray[np.float64]:
        """The predicted cost of each shape.

        Args:
            shapes: whole numbers, (steps, C).

        Returns:
            (steps,), positive, in the unit of the times that the model was fitted to.
        """
        return np.maximum(features(shapes, self.terms) @ np.asarray(self.coefficients), self.floor)

    def __str__(self) -> str:
        parts = []
        for exponents, coefficient in zip(self.terms, self.coefficients, strict=True):
            names = [n + ("²" if e == 2 else "") for n, e in zip(self.columns, exponents, strict=True) if e]
            parts.append("·".join([f"{coefficient:.3g}", *names]))
        return " + ".join(parts)


def features(shapes: NDArray[np.int64], terms: Terms) -> NDArray[np.float64]:
    """φ of every shape: (steps, C) → (steps, len(terms)).

    Example:
        >>> features(np.array([[2, 3]]), ((0, 0), (1, 2))).tolist()
        [[1.0, 18.0]]
    """
    wide = np.asarray(shapes, dtype=np.float64)
    return np.stack([np.prod(wide ** np.asarray(term), axis=1) for term in terms], axis=1)


def candidate_terms(columns: Sequence[str]) -> Terms:
    """φ for these columns, the most telling term first.

    ``batch`` multiplies every other term, ``optimizer_step`` adds a cost of its own, and every other column counts as a
    length: φ = (1, B·S, B·T, O, B, B·S², B·T², B·S·T), as far as the columns are there.

    Example:
        >>> candidate_terms(("batch", "source"))
        ((0, 0), (1, 1), (1, 0), (1, 2))
    """
    unit = np.eye(len(columns), dtype=int)
    batch = sum((unit[i] for i, name in enumerate(columns) if name == "batch"), np.zeros(len(columns), dtype=int))
    lengths = [unit[i] for i, name in enumerate(columns) if name not in ("batch", "optimizer_step")]
    flags = [unit[i] for i, name in enumerate(columns) if name == "optimizer_step"]
    wanted = [
        np.zeros(len(columns), dtype=int),
        *(batch + length for length in lengths),
        *flags,
        batch,
        *(batch + 2 * length for length in lengths),
        *(batch + a + b for a, b in combinations(lengths, 2)),
    ]
    return tuple(dict.fromkeys(tuple(int(e) for e in term) for term in wanted))


def fit_cost(
    shapes: NDArray[np.int64],
    seconds: NDArray[np.float64],
    columns: Sequence[str],
    *,
    keep: NDArray[np.bool_] | None = None,
) -> tuple[CostModel, float]:
    """Fit the cost proxy by robust weighted least squares, min Σ ((tᵢ − pᵢ)/tᵢ)².

    Terms that do not vary over the epoch are dropped (but the constant), and so are the last ones where there are fewer
    than five steps for each (but the first two). Huber weights on the relative residuals keep hiccups of the machine
    from bending the fit.

    Args:
        shapes: (M, C) whole numbers.
        seconds: (M,) positive step times.
        columns: names of the C columns, see :func:`candidate_terms`.
        keep: (M,) the steps to fit, all by default. They are ignored (and all steps used) where they are too few or
            miss the long shapes, because a quadratic extrapolates worse than a few slow first steps disturb it.

    Returns:
        The model, and R² over the fitted steps: the share of the variance of step time that shape explains, with the
        largest 1 % of the relative residuals drawn in to the 99th percentile. ``nan`` where shape does not vary.

    Example:
        >>> shapes = np.array([[8, length] for length in range(10, 60)])
        >>> model, explained = fit_cost(shapes, 0.01 + 0.001 * shapes[:, 1], ("batch", "source"))
        >>> round(float(model.predict(np.array([[8, 100]]))[0]), 6), round(explained, 6)
        (0.11, 1.0)
    """
    rows = _usable(shapes, keep)
    x, t = shapes[rows], seconds[rows]
    varies = bool((shapes != shapes[0]).any())
    terms = _varying(x, candidate_terms(columns))[: max(2 if len(t) > 3 else 1, len(t) // _STEPS_PER_TERM)]
    phi = features(x, terms)
    scale = np.abs(phi).max(axis=0)
    phi = phi / scale / t[:, None]
    robust = np.ones(len(t))
    for _ in range(_ROUNDS):
        weight = np.sqrt(robust)
        beta = np.linalg.lstsq(phi * weight[:, None], weight, rcond=1e-10)[0]
        residual = np.abs(1.0 - phi @ beta)
        spread = 1.4826 * float(np.median(residual))
        if spread < 1e-12:
            break
        robust = np.minimum(1.0, _HUBER * spread / np.maximum(residual, 1e-300))
    model = CostModel(tuple(columns), terms, tuple((beta / scale).tolist()), float(t.min()) / 2)
    return model, _explained(t, model.predict(x)) if varies else math.nan


def work_model(
    shapes: NDArray[np.int64], columns: Sequence[str], *, seconds: NDArray[np.float64] | None = None
) -> CostModel:
    """The proxy where no time is known or none depends on shape: batch × (sum of lengths), the padded tokens of a step.

    Args:
        shapes: (M, C) whole numbers.
        columns: names of the C columns.
        seconds: (M,) times; where given, the model is scaled to add up to the same total.

    Example:
        >>> work_model(np.array([[2, 3, 4]]), ("batch", "source", "target")).predict(np.array([[2, 3, 4]])).tolist()
        [14.0]
    """
    candidates = candidate_terms(columns)
    lengths = sum(1 for name in columns if name not in ("batch", "optimizer_step"))
    terms = candidates[1 : 1 + lengths] or candidates[1:2] or candidates[:1]
    work = features(shapes, terms).sum(axis=1)
    scale = 1.0 if seconds is None or not work.any() else float(seconds.sum() / work.sum())
    floor = scale * max(float(work.mean()), 1.0) * 1e-3
    return CostModel(tuple(columns), terms, (scale,) * len(terms), floor)


def length_model(columns: Sequence[str], length: int) -> CostModel:
    """The proxy of a method that sees nothing but one length: the length itself.

    Args:
        columns: names of the C columns.
        length: which of them.

    Example:
        >>> length_model(("batch", "source"), 1).predict(np.array([[8, 3], [9, 5]])).tolist()
        [3.0, 5.0]
    """
    term = tuple(int(column == length) for column in range(len(columns)))
    return CostModel(tuple(columns), (term,), (1.0,), 0.5)


def _usable(shapes: NDArray[np.int64], keep: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    everything = np.ones(len(shapes), dtype=bool)
    if keep is None or keep.sum() < min(30, len(shapes)):
        return everything
    reach = shapes[keep].max(axis=0) >= 0.9 * shapes.max(axis=0)
    return keep if bool(reach.all()) else everything


def _varying(shapes: NDArray[np.int64], terms: Terms) -> Terms:
    constant, *others = terms
    spread = np.ptp(features(shapes, tuple(others)), axis=0) if others else np.zeros(0)
    return (constant, *(term for term, width in zip(others, spread, strict=True) if width > 0))


def _explained(seconds: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    relative = (seconds - predicted) / predicted
    limit = np.quantile(np.abs(relative), 0.99)
    residual = np.clip(relative, -limit, limit) * predicted
    seen = predicted + residual
    total = float(((seen - seen.mean()) ** 2).sum())
    left = float((residual**2).sum())
    # Equal times up to rounding: there is no variance that shape could fail to explain.
    return 1.0 if total <= 1e-18 * float((seen**2).sum()) else 1.0 - left / total
