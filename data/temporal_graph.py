"""Dynamic graphs as batches for snapshot-parallel training: whole timelines, or windows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fulgurite.data.event_graph import (
    EventGraph,
    Form,
    PredictionTargets,
    Task,
    amounts,
    generated,
    make_targets,
    read_event_graph,
)
from fulgurite.data.splits import SPLITS, Split
from fulgurite.data.temporal_edges import EmptySteps, Unordered
from fulgurite.data.timeline import Timeline
from fulgurite.data.transaction_graph import TransactionGraph

Feature = Literal["degrees", "amounts", "given", "signature"]


class TemporalGraph(L.LightningDataModule):
    r"""A dynamic graph from timestamped edges, cut into snapshots; without a file, generated transactions.

    A batch is a :class:`~fulgurite.data.timeline.Timeline`: all snapshots of a part at once. Training sees the first
    steps; validation and test see everything up to their own last step, so that states warm up on the past, and
    score only their own targets. A target belongs to the part in which its answer becomes known: no part is trained
    on, or reads, a step after its last.

    Tasks:

    - ``link``: from the embeddings of step t, which pairs have an event at t + ``horizon``? The targets are those that
      do; whoever trains draws others.
    - ``edge``: which events of step t are of class 1, from the embeddings of t? For AMLSim and the generator: hops of a
      laundering cycle. AMLSim's files have no such column; here it is both ends in a cycle and the payer's
      ``fraudStep`` equal to the step.
    - ``node``: for AMLSim and the generator, which vertices with an event at step t have passed laundered money on by t
      (``fraudStep`` ≤ t)? AMLSim's ``isFraud`` has no time and is never a label: it would tell at step 1 what happens
      at 140. For JSON files, which values of step t + ``horizon`` are above ``threshold``?

    Args:
        root: file or folder; None generates.
        form: of the files, see :func:`~fulgurite.data.event_graph.read_event_graph`: ``header`` (CSV, TSV), ``snap``,
            ``konect``, ``amlsim``, ``pygt_json``, or ``auto``.
        file: of the folder, where it has several.
        columns: of a text file: ``source``, ``target``, ``time``, ``weight``, ``label``, or ``-`` for one passed over.
        generator: which graph to generate; None for the generator's defaults.
        task: what to predict.
        horizon: steps ahead, for links and for values.
        threshold: of values.
        steps: into how many steps of equal width time is cut.
        bin_width: width of a step, in the unit of the file's times, instead of ``steps``.
        empty_steps: steps without events are refused, kept or dropped.
        unordered: times out of order are refused, or sorted.
        until: the latest time that there can be; later ones are refused.
        num_nodes: N of a text file whose vertices are numbered 0 … N − 1; None numbers those that occur.
        edge_life: snapshots that an event lives in; 10 as in IBM's TM-GCN.
        symmetrise: make edges undirected, :math:`(A + A^T) / 2`.
        union: edges are there or not, however many events they have in a window.
        m_window: width of TM-GCN's M-product; 1 for none.
        weighted: edges weigh what the file says (a rating, an amount) instead of the number of events; ``absolute``
            takes away the sign of ratings, with which degrees could be 0 or below.
        features: of each vertex at each step: ``degrees`` (in and out, of distinct events, on the device), ``amounts``
            (sums sent and received), ``given`` (those of a JSON file), ``signature`` (eight fixed random numbers, by
            which neighbours can be told apart); side by side. With none, a 1.
        val_steps: share of the steps, below 1, or how many, after those for training.
        test_steps: likewise, the last ones.
        window_size: train on windows of so many snapshots, each a batch: backpropagation through time ends there,
            and several devices can share an epoch. None trains on the whole.
        seed: of the signatures.

    Raises:
        ValueError: an option out of range; when the data is set up, what the readers refuse, labels or features that
            the data does not have, parts without a target.

    Example:
        >>> data = TemporalGraph(generator=TransactionGraph(num_nodes=300, num_steps=40), task="node", val_steps=8)
        >>> train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
        >>> train.num_snapshots, val.num_snapshots, int(val.scored.sum()), train.num_features
        (24, 32, 8, 2)
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        form: Form = "auto",
        file: str | None = None,
        columns: Sequence[str] | None = None,
        generator: TransactionGraph | None = None,
        task: Task = "link",
        horizon: int = 1,
        threshold: float = 0.0,
        steps: int | None = None,
        bin_width: float | None = None,
        empty_steps: EmptySteps = "refuse",
        unordered: Unordered = "refuse",
        until: float | None = None,
        num_nodes: int | None = None,
        edge_life: int = 10,
        symmetrise: bool = False,
        union: bool = False,
        m_window: int = 1,
        weighted: bool | Literal["absolute"] = False,
        features: Sequence[Feature] = ("degrees",),
        val_steps: float = 0.2,
        test_steps: float = 0.2,
        window_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if root is not None and generator is not None:
            raise ValueError(f"got root={root!r} and a generator; expected one of the two")
        if root is None and (steps is not None or bin_width is not None):
            raise ValueError("got steps or bin_width without root; the generator has num_steps")
        for name, number in (("edge_life", edge_life), ("m_window", m_window), ("window_size", window_size or 1)):
            if number < 1:
                raise ValueError(f"got {name}={number}; expected 1 or more")
        if horizon < (task == "link"):
            raise ValueError(f"got horizon={horizon}; expected 1 or more, or 0 for values of the step itself")
        for name, share in (("val_steps", val_steps), ("test_steps", test_steps)):
            if not share >= 0 or (share > 1 and share != int(share)):
                raise ValueError(f"got {name}={share}; expected a share below 1, or a whole number of steps")
        unknown = [name for name in features if name not in ("degrees", "amounts", "given", "signature")]
        if unknown or len(set(features)) < len(features):
            raise ValueError(
                f"got features={list(features)}; expected of degrees, amounts, given, signature, none twice"
            )
        self.root = root
        self.form: Form = form
        self.file = file
        self.columns = columns
        self.generator = generator
        self.task: Task = task
        self.horizon = horizon
        self.threshold = threshold
        self.steps = steps
        self.bin_width = bin_width
        self.empty_steps: EmptySteps = empty_steps
        self.unordered: Unordered = unordered
        self.until = until
        self.num_nodes = num_nodes
        self.edge_life = edge_life
        self.symmetrise = symmetrise
        self.union = union
        self.m_window = m_window
        self.weighted = weighted
        self.features = tuple(features)
        self.val_steps = val_steps
        self.test_steps = test_steps
        self.window_size = window_size
        self.seed = seed
        self._parts: dict[Split, Timeline] = {}
        self._graph: EventGraph | None = None

    @override
    def setup(self, stage: str | None = None) -> None:
        """Read or generate the events and cut the parts, on the first call; further calls do nothing."""
        if self._parts:
            return
        graph = self._load()
        targets = make_targets(graph, self.task, horizon=self.horizon, threshold=self.threshold)
        ends = self._ends(graph.num_snapshots)
        whole = self._whole(graph)
        begin = 0
        parts: dict[Split, Timeline] = {}
        for split in SPLITS:
            end = ends[split]
            if end > begin:
                parts[split] = self._part(graph, whole, targets, begin, end, split)
            begin = end
        self._graph, self._parts = graph, parts
        rank_zero_info(self._described(graph))

    def part(self, split: Split) -> Timeline:
        """The timeline of a part: of training all its snapshots, also where batches are windows.

        Raises:
            ValueError: there is no such part.
        """
        self.setup()
        if split not in self._parts:
            raise ValueError(f"got no steps for {split!r}; give {split}_steps")
        return self._parts[split]

    @property
    def graph(self) -> EventGraph:
        """The events as they were read or generated."""
        self.setup()
        assert self._graph is not None
        return self._graph

    @override
    def train_dataloader(self) -> DataLoader[Timeline]:
        train = self.part("train")
        if self.window_size is None:
            return _loader([train])
        starts = range(0, train.num_snapshots, self.window_size)
        windows = [train.slice_time(at, min(at + self.window_size, train.num_snapshots)) for at in starts]
        return _loader([window for window in windows if window.num_targets], shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Timeline] | list[DataLoader[Timeline]]:
        return _loader([self.part("val")]) if self.val_steps else []

    @override
    def test_dataloader(self) -> DataLoader[Timeline] | list[DataLoader[Timeline]]:
        return _loader([self.part("test")]) if self.test_steps else []

    @override
    def predict_dataloader(self) -> DataLoader[Timeline] | list[DataLoader[Timeline]]:
        return self.test_dataloader()

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a timeline on the host: the model sends what the device lacks, not all in every step."""
        return batch if isinstance(batch, Timeline) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _load(self) -> EventGraph:
        if self.root is None:
            return generated(self.generator or TransactionGraph())
        return read_event_graph(
            self.root,
            form=self.form,
            file=self.file,
            columns=self.columns,
            steps=self.steps,
            bin_width=self.bin_width,
            empty_steps=self.empty_steps,
            unordered=self.unordered,
            until=self.until,
            num_nodes=self.num_nodes,
        )

    def _ends(self, num_snapshots: int) -> dict[Split, int]:
        """The step after the last one of each part."""
        sizes = [_size(share, num_snapshots) for share in (self.val_steps, self.test_steps)]
        train = num_snapshots - sum(sizes)
        if train < 1:
            raise ValueError(
                f"got {num_snapshots} steps, of which {sizes[0]} for val and {sizes[1]} for test; none are left "
                "to train on: give smaller val_steps and test_steps, or cut time into more steps"
            )
        return {"train": train, "val": train + sizes[0], "test": num_snapshots}

    def _whole(self, graph: EventGraph) -> Timeline:
        weight = None
        if self.weighted:
            if graph.weight is None:
                raise ValueError(
                    "got events without weights for weighted=True; give a column for them, or count events"
                )
            weight = np.abs(graph.weight) if self.weighted == "absolute" else graph.weight
            if (weight < 0).any():
                raise ValueError(
                    f"got weights from {weight.min():g} on for weighted=True; expected none below 0, which no degree "
                    "could be made of: give weighted: absolute"
                )
            weight = _exact(weight)
        name = (
            f"{graph.digest}:life={self.edge_life},union={self.union},symmetrise={self.symmetrise},m={self.m_window},"
            f"weighted={self.weighted},features={'+'.join(self.features)},seed={self.seed},"
            f"task={self.task},{self.horizon},{self.threshold}"
        )
        return Timeline.from_events(
            graph.source,
            graph.target,
            graph.step,
            num_nodes=graph.num_nodes,
            num_snapshots=graph.num_snapshots,
            weight=weight,
            features=self._features(graph),
            window=self.edge_life,
            union=self.union,
            symmetrise=self.symmetrise,
            m_window=self.m_window,
            degree_features="degrees" in self.features,
            name=name,
        )

    def _features(self, graph: EventGraph) -> Tensor | None:
        steady, moving = [], []
        if "amounts" in self.features:
            moving.append(torch.from_numpy(amounts(graph)))
        if "given" in self.features:
            if graph.features is None:
                raise ValueError("got no features with the data for the feature 'given'; only JSON files bring some")
            moving.append(torch.from_numpy(graph.features))
        if "signature" in self.features:
            random = torch.Generator().manual_seed(self.seed)
            steady.append(torch.randn(graph.num_nodes, _SIGNATURE, generator=random))
        if not self.features:
            steady.append(torch.ones(graph.num_nodes, 1))
        if not moving:
            return torch.cat(steady, dim=1) if steady else None
        steady = [table.expand(graph.num_snapshots, *table.shape) for table in steady]
        return torch.cat([*moving, *steady], dim=2)

    def _part(
        self, graph: EventGraph, whole: Timeline, targets: PredictionTargets, begin: int, end: int, split: Split
    ) -> Timeline:
        """Steps 0 … end − 1 of the whole, with the targets whose answer becomes known in begin … end − 1."""
        cut = whole.slice_time(0, end)
        chosen = (targets.known >= begin) & (targets.known < end)
        if not chosen.any():
            raise ValueError(
                f"got no target of task {self.task!r} in steps {begin} … {end - 1}, which are for {split}; "
                f"give {split} more steps"
            )
        step = targets.step[chosen]
        order = np.argsort(step, kind="stable")
        offsets = np.searchsorted(step[order], np.arange(end + 1)).astype(np.int64)
        return Timeline(
            **{
                **{name: getattr(cut, name) for name in _KEPT},
                "name": f"{whole.name}/{split}[{begin}:{end}]",
                "target_index": torch.from_numpy(targets.index[:, chosen][:, order]),
                "target_label": torch.from_numpy(targets.label[chosen][order]),
                "target_offsets": torch.from_numpy(offsets),
                "scored": torch.from_numpy(np.diff(offsets) > 0),
            }
        )

    def _described(self, graph: EventGraph) -> str:
        counts = []
        for split, timeline in self._parts.items():
            share = "" if self.task == "link" else f", {_shares(timeline.target_label)}"
            counts.append(f"{timeline.num_targets} {split} targets{share}")
        name = "generated transactions" if self.root is None else self.root
        return (
            f"TemporalGraph: {name}: {len(graph.step)} events of {graph.num_nodes} vertices in {graph.num_snapshots} "
            f"steps; {'; '.join([*counts, *graph.told])}"
        )


def _exact(weight: NDArray[np.float64]) -> NDArray[Any]:
    """Whole numbers as such where no sum of them overflows 32 bits, and where they do as float64; others as float32."""
    if not (weight == np.rint(weight)).all():
        return weight.astype(np.float32)
    # A symmetrised graph holds sums of both directions.
    return weight.astype(np.int64) if 2 * weight.sum() < 2**31 else weight


def _shares(label: Tensor) -> str:
    """What share of the targets is of class 1, or of each class where there are more than two."""
    counts = label.bincount(minlength=2).double() / len(label)
    classes = range(1, 2) if len(counts) == 2 else range(len(counts))
    return ", ".join(f"{float(counts[c]):.1%} of class {c}" for c in classes)


_SIGNATURE = 8
_KEPT = (
    *("num_snapshots", "num_nodes", "edge_index", "offsets", "edge_weight", "features", "first", "history", "window"),
    *("union", "symmetrise", "m_window", "degree_features"),
)


class _Batches(Dataset[Timeline]):
    """Timelines, each a batch."""

    def __init__(self, timelines: Sequence[Timeline]) -> None:
        self._timelines = timelines

    def __len__(self) -> int:
        return len(self._timelines)

    @override
    def __getitem__(self, index: int) -> Timeline:
        return self._timelines[index]


def _loader(timelines: Sequence[Timeline], *, shuffle: bool = False) -> DataLoader[Timeline]:
    return DataLoader(_Batches(timelines), batch_size=None, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(timeline: Any) -> Any:
    return timeline


def _size(share: float, num_snapshots: int) -> int:
    return int(share) if share >= 1 or not share else max(1, round(share * num_snapshots))
