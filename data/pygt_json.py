"""JSON files of PyTorch Geometric Temporal's dynamic graphs, such as its Twitter tennis mention graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.data.number_table import read_bytes


@dataclass(frozen=True, eq=False)
class DynamicGraphJson:
    """Snapshots with features and targets on every vertex.

    Attributes:
        source: (E,) int64 vertex, sorted by step.
        target: (E,) int64 vertex.
        time: (E,) int64 step, 0 … T − 1.
        weight: (E,) float64.
        features: (T, N, F) float32.
        values: (T, N) float64: what is to be predicted, ``y``.
        names: (N,) of the vertices; empty where the file has none.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    time: NDArray[np.int64]
    weight: NDArray[np.float64]
    features: NDArray[np.float32]
    values: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def num_snapshots(self) -> int:
        """T."""
        return len(self.values)

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.values.shape[1]


def read_pygt_json(path: str | Path) -> DynamicGraphJson:
    r"""Read a file with the keys "0" … "T − 1", ``time_periods`` and ``node_ids``.

    Each step has ``edges`` [[source, target], …], ``weights`` aligned with them, features ``X`` (N × F) and values
    ``y`` (N). The format is that of B. Rozemberczki et al., "PyTorch Geometric Temporal" (https://arxiv.org/abs/2104.07788).

    Args:
        path: the file, plain or gzip.

    Raises:
        ValueError: a file that is missing, empty or no JSON (with line and column), a step that is missing or out of
            its place, fields that are missing or do not fit each other, vertices out of range, numbers that are
            not finite; with the step.

    Example:
        >>> import tempfile
        >>> step = {"index": 0, "edges": [[0, 1]], "weights": [2], "X": [[1, 0.5], [1, 0]], "y": [3, 0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "tiny.json")
        ...     _ = path.write_text(json.dumps({"0": step, "1": {**step, "index": 1}, "time_periods": 2}))
        ...     graph = read_pygt_json(path)
        >>> graph.num_snapshots, graph.num_nodes, graph.time.tolist(), graph.features.shape
        (2, 2, [0, 1], (2, 2, 2))
    """
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except ValueError as error:  # UnicodeDecodeError is one too
        place = f", line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}{place}: no JSON ({error}); is the file whole?") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: got a {type(content).__name__}; expected an object with the keys 0, 1, … of the steps"
        )
    steps = sorted((key for key in content if key.isdigit()), key=int)
    count = content.get("time_periods", len(steps))
    if not steps or steps != [str(number) for number in range(len(steps))] or count != len(steps):
        raise ValueError(
            f"{path}: got {len(steps)} steps from {steps[:1]} to {steps[-1:]} and time_periods {count!r}; "
            'expected the keys "0", "1", … without a gap, as many as time_periods'
        )
    read = [_Step(f"{path}, step {key}", content[key], int(key)) for key in steps]
    shape = read[0].features.shape
    for number, step in enumerate(read):
        if step.features.shape != shape:
            raise ValueError(
                f"{path}, step {number}: got X of shape {step.features.shape}; expected {shape}, as in step 0"
            )
    names = content.get("node_ids", {})
    if names and sorted(names.values()) != list(range(shape[0])):
        raise ValueError(f"{path}: got {len(names)} node_ids; expected the numbers 0 … {shape[0] - 1}, each once")
    return DynamicGraphJson(
        source=np.concatenate([step.edges[:, 0] for step in read]),
        target=np.concatenate([step.edges[:, 1] for step in read]),
        time=np.repeat(np.arange(len(read)), [len(step.edges) for step in read]),
        weight=np.concatenate([step.weights for step in read]),
        features=np.stack([step.features for step in read]).astype(np.float32),
        values=np.stack([step.values for step in read]),
        names=tuple(sorted(names, key=names.__getitem__)),
    )


class _Step:
    """One checked step."""

    def __init__(self, where: str, step: Any, number: int) -> None:
        if not isinstance(step, dict):
            raise ValueError(f"{where}: got a {type(step).__name__}; expected an object with edges, weights, X and y")
        missing = [key for key in ("edges", "weights", "X", "y") if key not in step]
        if missing:
            raise ValueError(f"{where}: no {' and no '.join(missing)}; expected edges, weights, X and y")
        if step.get("index", number) != number:
            raise ValueError(f"{where}: got index {step['index']!r}; expected {number}")
        edges = _numbers(where, "edges", step["edges"])
        edges = edges if edges.size else edges.reshape(0, 2)
        self.edges = edges.astype(np.int64)
        self.weights = _numbers(where, "weights", step["weights"])
        self.features = _numbers(where, "X", step["X"])
        self.values = _numbers(where, "y", step["y"])
        if self.edges.ndim != 2 or self.edges.shape[1] != 2 or (edges != self.edges).any():
            raise ValueError(f"{where}: got edges of shape {edges.shape}; expected pairs of whole numbers")
        if self.weights.shape != (len(self.edges),):
            raise ValueError(f"{where}: got {self.weights.size} weights for {len(self.edges)} edges; expected one each")
        if self.features.ndim != 2 or self.values.shape != (len(self.features),):
            raise ValueError(
                f"{where}: got X of shape {self.features.shape} and y of {self.values.shape}; expected (N, F) and (N,)"
            )
        wrong = self.edges[(self.edges < 0) | (self.edges >= len(self.values))]
        if len(wrong):
            raise ValueError(f"{where}: got vertex {wrong[0]} in edges; expected 0 … {len(self.values) - 1}")


def _numbers(where: str, field: str, values: Any) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: got {field} that are no table of numbers ({error})") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: got {field} that are not finite; expected numbers")
    return array
