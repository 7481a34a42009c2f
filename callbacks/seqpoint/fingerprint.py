"""A short text that stands for an epoch's shapes, so that a plan can tell when it is asked about other data."""

import hashlib

import numpy as np
from numpy.typing import NDArray

_QUANTILES = 16


def fingerprint(shapes: NDArray[np.int64]) -> str:
    """Describe the multiset of shapes: a hash, the number of steps, and 16 quantiles of every column.

    The hash recognises the very same batches in any order. The quantiles recognise the same data and batching policy
    when batches are drawn anew, where no hash can.

    Args:
        shapes: (M, C) whole numbers.

    Example:
        >>> fingerprint(np.array([[8, 5], [8, 9]])) == fingerprint(np.array([[8, 9], [8, 5]]))
        True
    """
    rows = np.ascontiguousarray(shapes[np.lexsort(shapes.T)], dtype="<i8")
    digest = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    grid = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    columns = (" ".join(f"{q:.6g}" for q in np.quantile(column, grid)) for column in shapes.T)
    return "/".join([digest, str(len(shapes)), *columns])


def difference(ours: str, theirs: str, columns: tuple[str, ...]) -> str | None:
    """Say in words how the shapes behind two fingerprints differ; ``None`` where both can be one data set.

    Two epochs of the same data, shuffled anew, pass. They differ when the number of steps is off by more than a tenth,
    or when a column's quantiles are further apart than 0.25 + 2/√M of its spread on average (the second term is about
    three times what chance does to an epoch of M steps).

    Args:
        ours: a :func:`fingerprint`.
        theirs: another.
        columns: the columns' names, for the message.

    Raises:
        ValueError: one of them is not a fingerprint, or they have different numbers of columns.

    Example:
        >>> short, long = (fingerprint(np.array([[8, k * n] for n in range(50)])) for k in (1, 3))
        >>> difference(short, short, ("batch", "source")) is None
        True
        >>> difference(short, long, ("batch", "source"))
        'source has a median of 24.5 in one and 73.5 in the other'
    """
    hash_a, steps_a, a = _parse(ours)
    hash_b, steps_b, b = _parse(theirs)
    if a.shape != b.shape or len(a) != len(columns):
        raise ValueError(
            f"expected fingerprints of {len(columns)} columns ({', '.join(columns)}), got {len(a)} and {len(b)}"
        )
    if hash_a == hash_b and steps_a == steps_b:
        return None
    if abs(steps_a - steps_b) > max(1.0, 0.1 * max(steps_a, steps_b)):
        return f"{steps_a} steps in one and {steps_b} in the other"
    # A column that hardly varies (batch size) is compared on a twentieth of its value instead of its own spread.
    scale = np.maximum(np.maximum(a.std(axis=1), b.std(axis=1)), 0.05 * np.maximum(a.mean(axis=1), b.mean(axis=1)))
    apart = np.abs(a - b).mean(axis=1) / np.maximum(scale, 1e-9)
    worst = int(apart.argmax())
    if apart[worst] <= 0.25 + 2.0 / np.sqrt(min(steps_a, steps_b)):
        return None
    medians = np.median(a[worst]), np.median(b[worst])
    return f"{columns[worst]} has a median of {medians[0]:.4g} in one and {medians[1]:.4g} in the other"


def _parse(text: str) -> tuple[str, int, NDArray[np.float64]]:
    try:
        digest, steps, *columns = text.split("/")
        quantiles = np.array([[float(q) for q in column.split()] for column in columns])
        if quantiles.ndim != 2 or quantiles.shape[1] != _QUANTILES or not np.isfinite(quantiles).all():
            raise ValueError
        return digest, int(steps), quantiles
    except ValueError:
        raise ValueError(f"expected a fingerprint of shapes, got {text[:60]!r}") from None
