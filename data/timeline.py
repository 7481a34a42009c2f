"""A dynamic graph in discrete time: raw events, how they become snapshots, and what is to be predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# What is read to cut a timeline stays on the host: on a device every cut would wait for it.
_CONTENT = ("edge_index", "edge_weight", "features", "target_index", "target_label")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Timeline:
    r"""T snapshots of a graph of N vertices, kept as raw events; one batch.

    Snapshot t's adjacency is the windowed sum of the events of each step,
    :math:`A_t = \sum_{k=0}^{w-1} E_{t-k}` with :math:`E_s[i, j]` the number (or the weight) of events i → j of step s,
    truncated at the timeline's first step. A slice brings the steps before it that its windows reach, as ``history``.
    Nothing windowed is held here: whoever multiplies by :math:`A_t` builds it from the events.

    Args:
        num_snapshots: T, of this slice.
        num_nodes: N, the same at every step.
        edge_index: (2, E) int32, source and target; distinct within a step, sorted by (step, source, target).
        offsets: (H + T + 1,) int64; the events of step s lie at ``offsets[s] : offsets[s + 1]``, s counted from the
            first step of the history.
        target_index: (k, M) int64: k = 1 vertices, k = 2 pairs of vertices.
        target_label: (M,) int64 classes, or floats to regress.
        target_offsets: (T + 1,) int64; the targets of snapshot t lie at ``target_offsets[t] : target_offsets[t + 1]``.
        scored: (T,) bool; whether a snapshot's targets count.
        edge_weight: (E,) int32 counts or float weights; None where all are 1.
        features: (N, F) the same at every step, or (H + T, N, F), floats; None for none.
        first: the number of snapshot 0 on the whole timeline.
        history: H, how many steps before ``first`` come along in events and in features that change.
        window: w ≥ 1, how many snapshots an event lives in ("edge life").
        union: a repeated event in a window counts once instead of being summed.
        symmetrise: :math:`(A + A^T) / 2` in the place of A.
        m_window: width of TM-GCN's M-product; 1 is none.
        degree_features: log(1 + in-degree), log(1 + out-degree) of a step's distinct events before ``features``.
        name: equal names mean equal content; None: unknown.

    Raises:
        ValueError: shapes, types or options that do not fit each other; contents are looked at by :meth:`check`.

    Example:
        >>> timeline = Timeline.from_events([0, 1, 0], [1, 2, 1], [0, 1, 1], num_nodes=3, window=2)
        >>> timeline
        Timeline(T=2, N=3, events=3, window=2)
        >>> timeline.slice_time(1, 2).history, timeline.slice_time(1, 2).edge_index.tolist()
        (1, [[0, 0, 1], [1, 1, 2]])
    """

    num_snapshots: int
    num_nodes: int
    edge_index: Tensor
    offsets: Tensor
    target_index: Tensor
    target_label: Tensor
    target_offsets: Tensor
    scored: Tensor
    edge_weight: Tensor | None = None
    features: Tensor | None = None
    first: int = 0
    history: int = 0
    window: int = 1
    union: bool = False
    symmetrise: bool = False
    m_window: int = 1
    degree_features: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        steps, events = self.history + self.num_snapshots, self.edge_index.shape[-1]
        for option, least in (("num_snapshots", 0), ("num_nodes", 1), ("history", 0), ("window", 1), ("m_window", 1)):
            if getattr(self, option) < least:
                raise ValueError(f"got {option}={getattr(self, option)}; expected {least} or more")
        if self.first < self.history:
            raise ValueError(f"got first={self.first} with a history of {self.history} steps; it holds {self.first}")
        self._expect("edge_index", (2, events), torch.int32)
        self._expect("offsets", (steps + 1,), torch.int64)
        self._expect("target_index", (self.target_index.shape[0], self.num_targets), torch.int64)
        self._expect("target_offsets", (self.num_snapshots + 1,), torch.int64)
        self._expect("scored", (self.num_snapshots,), torch.bool)
        if self.target_index.shape[0] not in (1, 2):
            raise ValueError(f"got target_index of shape {tuple(self.target_index.shape)}; expected (1 or 2, M)")
        if self.edge_weight is not None:
            self._expect("edge_weight", (events,), None)
        if self.features is not None:
            size = (self.num_nodes, self.features.shape[-1])
            self._expect("features", size if self.features.dim() == 2 else (steps, *size), None)
            if not self.features.is_floating_point():
                raise ValueError(f"got features of {self.features.dtype}; expected a floating type")
        for name, count in (("offsets", events), ("target_offsets", self.num_targets)):
            bounds = getattr(self, name)
            if int(bounds[0]) != 0 or int(bounds[-1]) != count or bool((bounds.diff() < 0).any()):
                raise ValueError(f"got {name} from {int(bounds[0])} to {int(bounds[-1])}; expected 0 rising to {count}")

    @classmethod
    def from_events(
        cls,
        source: ArrayLike,
        target: ArrayLike,
        time: ArrayLike,
        *,
        num_nodes: int | None = None,
        num_snapshots: int | None = None,
        weight: ArrayLike | None = None,
        features: Tensor | None = None,
        target_index: ArrayLike | None = None,
        target_label: ArrayLike | None = None,
        target_time: ArrayLike | None = None,
        scored: ArrayLike | None = None,
        **options: Any,
    ) -> Self:
        """Make a timeline from events and targets in any order; events that repeat within a step are summed.

        Args:
            source: (E,) vertices, 0 … N − 1.
            target: (E,) vertices.
            time: (E,) steps, 0 … T − 1.
            num_nodes: N; None takes the largest vertex + 1.
            num_snapshots: T; None takes the latest step + 1.
            weight: (E,) weights, whole ones kept as int32 counts while they fit; None counts events.
            features: see :class:`Timeline`.
            target_index: (k, M) or (M,) vertices; None for no targets.
            target_label: (M,) classes.
            target_time: (M,) steps.
            scored: (T,) bool; None scores every step.
            options: ``window``, ``union``, ``symmetrise``, ``m_window``, ``degree_features``, ``name``, ``first``.

        Raises:
            ValueError: a vertex or a step out of range, a weight that is not finite, lengths that differ, no events
                where they have to tell N or T.

        Example:
            >>> timeline = Timeline.from_events([1, 0, 0], [0, 1, 1], [1, 0, 0])
            >>> timeline.edge_index.tolist(), timeline.edge_weight.tolist(), timeline.offsets.tolist()
            ([[0, 1], [1, 0]], [2, 1], [0, 1, 2])
        """
        sources, targets, steps = (
            _whole_numbers(a, n) for a, n in ((source, "source"), (target, "target"), (time, "time"))
        )
        if not len(sources) == len(targets) == len(steps):
            raise ValueError(
                f"got {len(sources)} sources, {len(targets)} targets, {len(steps)} times; expected as many of each"
            )
        if num_nodes is None or num_snapshots is None:
            if not len(steps):
                raise ValueError("got no events; give num_nodes and num_snapshots, which they would tell")
            num_nodes = int(max(sources.max(), targets.max())) + 1 if num_nodes is None else num_nodes
            num_snapshots = int(steps.max()) + 1 if num_snapshots is None else num_snapshots
        _expect_range(sources, num_nodes, "source", "num_nodes")
        _expect_range(targets, num_nodes, "target", "num_nodes")
        _expect_range(steps, num_snapshots, "time", "num_snapshots")
        weights = None if weight is None else _finite(weight, len(steps))
        edge_index, edge_weight, offsets = _distinct_events(sources, targets, steps, weights, num_nodes, num_snapshots)
        index, label, target_offsets = _sorted_targets(
            target_index, target_label, target_time, num_nodes, num_snapshots
        )
        return cls(
            num_snapshots=num_snapshots,
            num_nodes=num_nodes,
            edge_index=edge_index,
            edge_weight=edge_weight,
            offsets=offsets,
            features=features,
            target_index=index,
            target_label=label,
            target_offsets=target_offsets,
            scored=torch.ones(num_snapshots, dtype=torch.bool)
            if scored is None
            else torch.as_tensor(scored, dtype=torch.bool),
            **options,
        )

    @property
    def num_targets(self) -> int:
        """M, over all snapshots."""
        return len(self.target_label)

    @property
    def num_features(self) -> int:
        """F as the network sees it, degrees included."""
        return 2 * self.degree_features + (0 if self.features is None else self.features.shape[-1])

    def slice_time(self, start: int, stop: int) -> Self:
        """Snapshots [start, stop) of this slice with the history that windows and M-products need; events not copied.

        Raises:
            ValueError: not 0 ≤ start ≤ stop ≤ T.

        Example:
            >>> timeline = Timeline.from_events([0, 1, 2], [1, 2, 0], [0, 1, 2], window=2)
            >>> late = timeline.slice_time(2, 3)
            >>> late.first, late.history, late.offsets.tolist(), late.slice_time(0, 1).first
            (2, 1, [0, 1, 2], 2)
        """
        if not 0 <= start <= stop <= self.num_snapshots:
            raise ValueError(f"got slice_time({start}, {stop}); expected 0 ≤ start ≤ stop ≤ {self.num_snapshots}")
        if (start, stop) == (0, self.num_snapshots):
            return self
        reach = self.window - 1 + self.m_window - 1 if start < stop else 0
        history = min(self.history + start, reach)
        begin, end = self.history + start - history, self.history + stop
        low, high = int(self.offsets[begin]), int(self.offsets[end])
        target_low, target_high = int(self.target_offsets[start]), int(self.target_offsets[stop])
        features = self.features
        return self.replace(
            num_snapshots=stop - start,
            first=self.first + start,
            history=history,
            name=None if self.name is None else f"{self.name}[{self.first + start}:{self.first + stop}]",
            edge_index=self.edge_index[:, low:high],
            edge_weight=None if self.edge_weight is None else self.edge_weight[low:high],
            offsets=self.offsets[begin : end + 1] - low,
            features=features if features is None or features.dim() == 2 else features[begin:end],
            target_index=self.target_index[:, target_low:target_high],
            target_label=self.target_label[target_low:target_high],
            target_offsets=self.target_offsets[start : stop + 1] - target_low,
            scored=self.scored[start:stop],
        )

    def replace(self, **changes: Any) -> Self:
        """The same timeline but for some attributes; a change of content asks for another ``name``, or None.

        Example:
            >>> timeline = Timeline.from_events([0, 1], [1, 2], [0, 1])
            >>> timeline.replace(window=2)
            Timeline(T=2, N=3, events=2, window=2)
        """
        return type(self)(**{**vars(self), **changes})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Move events, features and targets to a device; offsets and ``scored``, by which slices are cut, stay."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Put events, features and targets into page-locked memory, from where a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def check(self) -> None:
        """Look at every event and target.

        Raises:
            ValueError: a vertex out of range, events of a step out of order or twice, a weight or feature not finite.

        Example:
            >>> timeline = Timeline.from_events([0, 1], [1, 0], [0, 0])
            >>> timeline.check()
            >>> timeline.replace(num_nodes=1).check()
            Traceback (most recent call last):
            ValueError: got vertex 1 in edge_index; expected 0 … 0, num_nodes is 1
        """
        for name, index in (("edge_index", self.edge_index), ("target_index", self.target_index)):
            wrong = index[(index < 0) | (index >= self.num_nodes)]
            if len(wrong):
                raise ValueError(
                    f"got vertex {int(wrong[0])} in {name}; expected 0 … {self.num_nodes - 1}, "
                    f"num_nodes is {self.num_nodes}"
                )
        source, target = self.edge_index.long()
        step = torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.offsets.diff()).to(source.device)
        same_step, same_source = step[1:] == step[:-1], source[1:] == source[:-1]
        rising = (source[1:] > source[:-1]) | (same_source & (target[1:] > target[:-1]))
        if bool((same_step & ~rising).any()):
            place = int((same_step & ~rising).nonzero()[0, 0]) + 1
            raise ValueError(
                f"got event {place} of edge_index out of order, or twice in its step; "
                "expected each once, by source and target"
            )
        for name, values in (("edge_weight", self.edge_weight), ("features", self.features)):
            if values is not None and not bool(torch.isfinite(values).all()):
                raise ValueError(f"got {name} that are not finite; expected numbers, remove NaN and infinity")

    def __repr__(self) -> str:
        parts = [f"T={self.num_snapshots}", f"N={self.num_nodes}", f"events={self.edge_index.shape[1]}"]
        parts += [f"targets={self.num_targets}"] if self.num_targets else []
        parts += [f"first={self.first}"] if self.first else []
        for option, usual in (("window", 1), ("m_window", 1)):
            parts += [f"{option}={getattr(self, option)}"] if getattr(self, option) != usual else []
        return f"Timeline({', '.join(parts)})"

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        moved: dict[str, Any] = {
            name: function(value) for name in _CONTENT if (value := getattr(self, name)) is not None
        }
        return self.replace(**moved)

    def _expect(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
        tensor = getattr(self, name)
        if tuple(tensor.shape) != shape or (dtype is not None and tensor.dtype != dtype):
            kind = "" if dtype is None else f" of {dtype}"
            raise ValueError(f"got {name} of shape {tuple(tensor.shape)} and {tensor.dtype}; expected {shape}{kind}")


# Lightning's 64-true, 16-true and bf16-true take dataclasses apart, refuse frozen ones, and would round the weights of
# edges before they are summed. To them a timeline is one thing, whose features get the network's type on the device.
del Timeline.__dataclass_fields__


def _distinct_events(
    source: NDArray[np.int64],
    target: NDArray[np.int64],
    step: NDArray[np.int64],
    weight: NDArray[Any] | None,
    num_nodes: int,
    num_snapshots: int,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Sort by (step, source, target) and sum what repeats."""
    if num_snapshots * num_nodes**2 < 2**63:
        key = (step * num_nodes + source) * num_nodes + target
        # Keys alone sort several times faster than their order is found, and counting needs no more.
        order = None if weight is None else np.argsort(key, kind="stable")
        key = np.sort(key) if order is None else key[order]
        fresh = np.flatnonzero(np.diff(key, prepend=-1))
        pair, step = key[fresh] % num_nodes**2, key[fresh] // num_nodes**2
        source, target = pair // num_nodes, pair % num_nodes
    else:
        order = np.lexsort((target, source, step))
        rows = np.stack([step[order], source[order], target[order]])
        fresh = np.flatnonzero(np.diff(rows, prepend=-1, axis=1).any(axis=0))
        step, source, target = rows[:, fresh]
    events = torch.from_numpy(np.stack([source, target]).astype(np.int32))
    offsets = torch.from_numpy(np.searchsorted(step, np.arange(num_snapshots + 1)).astype(np.int64))
    count = np.diff(fresh, append=len(order if order is not None else key))
    if weight is not None:
        assert order is not None
        return events, torch.from_numpy(_summed(weight[order], fresh)), offsets
    return events, None if bool((count == 1).all()) else torch.from_numpy(count.astype(np.int32)), offsets


def _summed(weight: NDArray[Any], fresh: NDArray[np.int64]) -> NDArray[Any]:
    sums = np.add.reduceat(weight, fresh) if len(fresh) else weight
    if sums.dtype.kind == "f":
        return sums
    fits = not len(sums) or -(2**31) <= sums.min() <= sums.max() < 2**31
    return sums.astype(np.int32 if fits else np.float64)


def _sorted_targets(
    index: ArrayLike | None, label: ArrayLike | None, time: ArrayLike | None, num_nodes: int, num_snapshots: int
) -> tuple[Tensor, Tensor, Tensor]:
    if index is None and label is None and time is None:
        empty = torch.zeros(0, dtype=torch.int64)
        return torch.zeros(2, 0, dtype=torch.int64), empty, torch.zeros(num_snapshots + 1, dtype=torch.int64)
    if index is None or label is None or time is None:
        raise ValueError("got some of target_index, target_label and target_time; give all three, or none")
    vertices = np.atleast_2d(np.asarray(index))
    labels, steps = np.asarray(label), _whole_numbers(time, "target_time")
    if labels.shape != steps.shape or vertices.shape[1] != len(steps):
        raise ValueError(
            f"got target_index {vertices.shape}, target_label {labels.shape}, target_time {steps.shape}; "
            "expected (k, M), (M,), (M,)"
        )
    _expect_range(_whole_numbers(vertices.ravel(), "target_index"), num_nodes, "target_index", "num_nodes")
    _expect_range(steps, num_snapshots, "target_time", "num_snapshots")
    order = np.argsort(steps, kind="stable")
    labels = labels[order] if labels.dtype.kind == "f" else labels[order].astype(np.int64)
    offsets = np.searchsorted(steps[order], np.arange(num_snapshots + 1)).astype(np.int64)
    return torch.from_numpy(vertices[:, order].astype(np.int64)), torch.from_numpy(labels), torch.from_numpy(offsets)


def _whole_numbers(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"got {name} of {array.dtype}; expected whole numbers")
    if array.ndim != 1:
        raise ValueError(f"got {name} of shape {array.shape}; expected one dimension")
    return array.astype(np.int64)


def _expect_range(values: NDArray[np.int64], limit: int, name: str, bound: str) -> None:
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= limit):
        place = int(np.flatnonzero((values < 0) | (values >= limit))[0])
        raise ValueError(f"got {name}[{place}] = {values[place]}; expected 0 … {limit - 1}, {bound} is {limit}")


def _finite(weight: ArrayLike, count: int) -> NDArray[Any]:
    weights = np.asarray(weight)
    weights = weights if weights.dtype.kind == "f" else weights.astype(np.int64)
    if weights.shape != (count,):
        raise ValueError(f"got weight of shape {weights.shape}; expected ({count},), one an event")
    if not np.isfinite(weights).all():
        place = int(np.flatnonzero(~np.isfinite(weights))[0])
        raise ValueError(f"got weight[{place}] = {weights[place]}; expected a finite number")
    return weights
