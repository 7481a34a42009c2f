"""A dynamic graph before it is cut into batches: events in steps, what is known of vertices, what to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fulgurite.data.amlsim import read_amlsim
from fulgurite.data.pygt_json import read_pygt_json
from fulgurite.data.temporal_edges import (
    EmptySteps,
    Unordered,
    binned,
    read_temporal_edges,
)
from fulgurite.data.transaction_graph import TransactionGraph

Form = Literal["auto", "header", "snap", "konect", "amlsim", "pygt_json"]
Task = Literal["link", "edge", "node"]

_TEXT = (".csv", ".tsv", ".txt", ".edges", ".csv.gz", ".tsv.gz", ".txt.gz", ".edges.gz")
_JSON = (".json", ".json.gz")


@dataclass(frozen=True, eq=False, kw_only=True)
class EventGraph:
    """Events in T steps over N vertices.

    Attributes:
        source: (E,) int64 vertex.
        target: (E,) int64 vertex.
        step: (E,) int64, ascending.
        num_nodes: N.
        num_snapshots: T.
        weight: (E,) float64 amounts, ratings or weights; None where there are none.
        edge_label: (E,) int64 class of each event; None where unknown.
        features: (T, N, F) float32 that come with the data; None for none.
        guilty_from: (N,) int64: the step from which on a vertex is of class 1, T where it never is; None where the data
            has no such label. It is what classes of vertices are made of, and says when they are known.
        values: (T, N) float64 of vertices, to be predicted; None where there are none.
        vertices: (N,) int64, the data's own numbers of the vertices; None where they are 0 … N − 1.
        told: what a reader should know, one phrase each.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    step: NDArray[np.int64]
    num_nodes: int
    num_snapshots: int
    weight: NDArray[np.float64] | None = None
    edge_label: NDArray[np.int64] | None = None
    features: NDArray[np.float32] | None = None
    guilty_from: NDArray[np.int64] | None = None
    values: NDArray[np.float64] | None = None
    vertices: NDArray[np.int64] | None = None
    told: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Twelve letters that other contents do not have."""
        content = blake2b(digest_size=6)
        for field in fields(self):
            value = getattr(self, field.name)
            content.update(f"{field.name}:{getattr(value, 'shape', value)}".encode())
            if isinstance(value, np.ndarray):
                content.update(np.ascontiguousarray(value).data)
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class PredictionTargets:
    """What to predict, from the embeddings of which step.

    Attributes:
        index: (k, M) int64: one vertex, or a pair.
        label: (M,) int64 classes.
        step: (M,) int64: the snapshot whose embeddings are asked.
        known: (M,) int64: the step at which the answer is known. It says which part a target belongs to.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    step: NDArray[np.int64]
    known: NDArray[np.int64]


def generated(graph: TransactionGraph) -> EventGraph:
    """Make the events of the generator.

    An account is of class 1 from the step on at which it first sends laundered money that it had received.

    Example:
        >>> graph = generated(TransactionGraph(num_nodes=200, num_steps=12, events_per_step=40))
        >>> graph.num_snapshots, graph.guilty_from.shape
        (12, (200,))
    """
    events = graph.events()
    received = _first_step(events.target, events.time, events.laundering, graph.num_nodes, graph.num_steps)
    # The account that a cycle begins with has received nothing when it pays: nothing tells it from others yet.
    passed_on = events.laundering & (events.time > received[events.source])
    return EventGraph(
        source=events.source,
        target=events.target,
        step=events.time,
        num_nodes=graph.num_nodes,
        num_snapshots=graph.num_steps,
        weight=events.amount,
        edge_label=events.laundering.astype(np.int64),
        guilty_from=_first_step(events.source, events.time, passed_on, graph.num_nodes, graph.num_steps),
    )


def read_event_graph(
    root: str | Path,
    *,
    form: Form = "auto",
    file: str | None = None,
    columns: Sequence[str] | None = None,
    steps: int | None = None,
    bin_width: float | None = None,
    empty_steps: EmptySteps = "refuse",
    unordered: Unordered = "refuse",
    until: float | None = None,
    num_nodes: int | None = None,
) -> EventGraph:
    """Read a file, or the one data set of a folder, in any of the forms that are known.

    Args:
        root: file or folder.
        form: ``amlsim`` (a folder), ``pygt_json``, or a text layout of
            :func:`~fulgurite.data.temporal_edges.read_temporal_edges`; ``auto`` goes by the names of files.
        file: which file of the folder; None where there is only one that could be meant.
        columns: of a text file.
        steps: into how many steps the time of a text file or of AMLSim is cut.
        bin_width: width of a step instead, in the unit of the times; AMLSim's own steps where both are None.
        empty_steps: what to do with steps without events.
        unordered: what to do with times out of order.
        until: the latest time that there can be.
        num_nodes: N of a text file whose vertices are 0 … N − 1.

    Raises:
        ValueError: nothing, or more than one thing, to read; what the readers refuse.
    """
    found, form = _found(Path(root), file, form)
    if form == "pygt_json":
        if steps is not None or bin_width is not None:
            raise ValueError(f"got steps={steps} and bin_width={bin_width}; {found} has its own steps: give neither")
        return _from_json(found, empty_steps)
    if form == "amlsim":
        width = 1.0 if steps is None and bin_width is None else bin_width
        return _from_amlsim(found, steps=steps, width=width, empty=empty_steps, until=until)
    if steps is None and bin_width is None:
        raise ValueError(f"got neither steps nor bin_width; {found} has times, expected one of the two to cut them by")
    edges = read_temporal_edges(
        found, layout=form, columns=columns, unordered=unordered, until=until, num_nodes=num_nodes
    )
    cut = binned(edges.time, steps=steps, width=bin_width, empty=empty_steps)
    return EventGraph(
        source=edges.source,
        target=edges.target,
        step=cut.of_event,
        num_nodes=edges.num_nodes,
        num_snapshots=cut.count,
        weight=edges.weight,
        edge_label=edges.label,
        vertices=edges.vertices,
        told=_told_empty(cut.empty, empty_steps),
    )


def make_targets(graph: EventGraph, task: Task, *, horizon: int, threshold: float) -> PredictionTargets:
    """Say what is to be predicted.

    - ``link``: pairs that have an event ``horizon`` steps later, each once, of class 1.
    - ``edge``: pairs with an event in the step itself, of the largest class among their events.
    - ``node``: for laundering, the vertices with an event in the step, of class 1 where they are guilty by then; for
      values, all vertices, of class 1 where the value of ``horizon`` steps later is above ``threshold``.

    Raises:
        ValueError: the data has no such labels.

    Example:
        >>> graph = generated(TransactionGraph(num_nodes=200, num_steps=12, events_per_step=40))
        >>> targets = make_targets(graph, "link", horizon=1, threshold=0)
        >>> int(targets.step.min()), int(targets.known.max())
        (0, 11)
    """
    if task == "link":
        pair, step, _ = _pairs(graph, np.ones(len(graph.step), dtype=np.int64))
        later = step >= horizon
        return PredictionTargets(
            pair[:, later], np.ones(int(later.sum()), dtype=np.int64), step[later] - horizon, step[later]
        )
    if task == "edge":
        if graph.edge_label is None:
            raise ValueError("got events without labels for task 'edge'; give a column for them, or take task 'link'")
        pair, step, label = _pairs(graph, graph.edge_label)
        return PredictionTargets(pair, label, step, step)
    if graph.guilty_from is not None:
        place = np.unique(
            np.concatenate([graph.step, graph.step]) * graph.num_nodes + np.r_[graph.source, graph.target]
        )
        step, vertex = np.divmod(place, graph.num_nodes)
        return PredictionTargets(vertex[None], (step >= graph.guilty_from[vertex]).astype(np.int64), step, step)
    if graph.values is not None:
        known, vertex = (
            axis.ravel()
            for axis in np.meshgrid(np.arange(horizon, graph.num_snapshots), np.arange(graph.num_nodes), indexing="ij")
        )
        return PredictionTargets(
            vertex[None], (graph.values[horizon:].ravel() > threshold).astype(np.int64), known - horizon, known
        )
    raise ValueError("got vertices without labels for task 'node'; edge lists have none: take task 'link' or 'edge'")


def amounts(graph: EventGraph) -> NDArray[np.float32]:
    """(T, N, 2): log(1 + the sum of what a vertex sends in a step), and of what it gets.

    Raises:
        ValueError: events without weights, or with some below 0.

    Example:
        >>> graph = generated(TransactionGraph(num_nodes=200, num_steps=12, events_per_step=40))
        >>> amounts(graph).shape
        (12, 200, 2)
    """
    if graph.weight is None or (graph.weight < 0).any():
        raise ValueError(
            f"got events {'without weights' if graph.weight is None else 'of weights below 0'} for the feature "
            "'amounts'; expected amounts, 0 or more: take other features"
        )
    size = graph.num_snapshots * graph.num_nodes
    sums = [
        np.bincount(graph.step * graph.num_nodes + vertex, weights=graph.weight, minlength=size)
        for vertex in (graph.source, graph.target)
    ]
    return np.log1p(np.stack(sums, axis=1)).astype(np.float32).reshape(graph.num_snapshots, graph.num_nodes, 2)


def _pairs(
    graph: EventGraph, label: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs of each step with the largest of their labels."""
    classes = int(label.max(initial=0)) + 1
    if graph.num_snapshots * graph.num_nodes**2 * classes < 2**63:
        # One sort of numbers that hold everything; the last of a pair's has its largest label.
        key = np.sort(
            ((graph.step * graph.num_nodes + graph.source) * graph.num_nodes + graph.target) * classes + label
        )
        rest, label = np.divmod(key, classes)
        last = np.flatnonzero(np.diff(rest, append=-1))
        rest, target = np.divmod(rest[last], graph.num_nodes)
        step, source = np.divmod(rest, graph.num_nodes)
        return np.stack([source, target]), step, label[last]
    order = np.lexsort((label, graph.target, graph.source, graph.step))
    rows = np.stack([graph.step[order], graph.source[order], graph.target[order]])
    last = np.flatnonzero(np.diff(rows, append=-1, axis=1).any(axis=0))
    return rows[1:, last], rows[0, last], label[order][last]


def _first_step(
    vertex: NDArray[np.int64], step: NDArray[np.int64], chosen: NDArray[np.bool_], num_nodes: int, never: int
) -> NDArray[np.int64]:
    first = np.full(num_nodes, never)
    np.minimum.at(first, vertex[chosen], step[chosen])
    return first


def _from_json(path: Path, empty_steps: EmptySteps) -> EventGraph:
    graph = read_pygt_json(path)
    count = graph.num_snapshots
    if count < 2:
        raise ValueError(f"{path}: got {count} step; one snapshot is no timeline")
    empty = int((np.bincount(graph.time, minlength=count) == 0).sum())
    if empty and empty_steps != "keep":
        raise ValueError(
            f"{path}: got {empty} empty steps of {count}; expected events in each: keep them by empty_steps: keep "
            "(their features and values cannot be dropped)"
        )
    return EventGraph(
        source=graph.source,
        target=graph.target,
        step=graph.time,
        num_nodes=graph.num_nodes,
        num_snapshots=count,
        weight=graph.weight,
        features=graph.features,
        values=graph.values,
        told=_told_empty(empty, empty_steps),
    )


def _from_amlsim(
    folder: Path, *, steps: int | None, width: float | None, empty: EmptySteps, until: float | None
) -> EventGraph:
    data = read_amlsim(folder, num_steps=None if until is None else int(until))
    cut = binned(data.time.astype(np.float64), steps=steps, width=width, empty=empty)
    # fraudStep counts as the transfers' times do; the step at which the account sends. After the last transfer that the
    # file has it is not seen.
    sends = (data.fraud_step >= 0) & (data.fraud_step <= data.time.max()) & data.fraud
    guilty = np.full(data.num_nodes, cut.count)
    guilty[sends] = cut.of(data.fraud_step[sends])
    return EventGraph(
        source=data.source,
        target=data.target,
        step=cut.of_event,
        num_nodes=data.num_nodes,
        num_snapshots=cut.count,
        weight=data.amount,
        edge_label=data.laundering.astype(np.int64),
        guilty_from=guilty,
        told=_told_empty(cut.empty, empty),
    )


def _told_empty(count: int, what: EmptySteps) -> tuple[str, ...]:
    return (f"{count} steps without events {'dropped' if what == 'drop' else 'kept'}",) if count else ()


def _found(root: Path, file: str | None, form: Form) -> tuple[Path, Form]:
    """Which file or folder is to be read, and as what."""
    if not root.exists():
        raise ValueError(
            f"got root={str(root)!r}, which is not there; expected a file or a folder with a dynamic graph"
        )
    if root.is_dir():
        if file is not None:
            root = root / file
        elif form in ("auto", "amlsim") and (form == "amlsim" or (root / "transactions.csv").is_file()):
            return root, "amlsim"
        else:
            endings = _JSON if form == "pygt_json" else _TEXT if form != "auto" else (*_TEXT, *_JSON)
            names = sorted(path.name for path in root.iterdir() if path.is_file())
            matching = [name for name in names if name.startswith("out.") or name.lower().endswith(endings)]
            if len(matching) != 1:
                told = (
                    f"{len(matching)} files that could be meant ({', '.join(matching[:4])})" if matching else "no data"
                )
                raise ValueError(f"got {told} in {root}; give file, the name of one")
            root = root / matching[0]
    if form == "amlsim":
        raise ValueError(f"got {root} for form='amlsim'; expected the folder with transactions.csv and nodes.csv")
    if form == "auto":
        return root, "pygt_json" if root.name.lower().endswith(_JSON) else "auto"
    return root, form
