"""What is measured on a dynamic graph, by torchmetrics: equal on every rank, and equal for every number of ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    multiclass_f1_score,
)
from typing_extensions import override

from fulgurite.plugins.snapshot_parallel.events import widest_float


def class_scores(logits: Tensor) -> Tensor:
    r"""Give each class's log-odds, :math:`z_c - \log \sum_{k \ne c} e^{z_k}`, (M, C); of two classes only 1's, (M, 1).

    They rank rows as the softmax does, but do not run into 1 where the softmax does, which would make ties of unequal
    rows. As float32: what differs in the last bits of float64 only, as sums in another order do, stays a tie.

    Example:
        >>> class_scores(torch.tensor([[0.0, 60.0], [0.0, 70.0]])).tolist()
        [[60.0], [70.0]]
    """
    logits = logits.detach()
    if logits.shape[1] == 2:
        return (logits[:, 1:] - logits[:, :1]).float()
    rest = torch.stack([_without(logits, c).logsumexp(dim=1) for c in range(logits.shape[1])], dim=1)
    return (logits - rest).float()


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Give the area under precision over recall of scores (M,) in any range; NaN without a positive.

    Example:
        >>> average_precision(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, False, False, True])).item()
        0.75
    """
    if not bool(positive.any()):
        return scores.new_tensor(torch.nan)
    return binary_average_precision(_into_unit(scores), positive.long(), validate_args=False)


def area_under_roc(scores: Tensor, positive: Tensor) -> Tensor:
    """Give the chance that a positive scores above a negative, ties a half; NaN without one of the two.

    Example:
        >>> area_under_roc(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([True, True, False])).item()
        0.75
    """
    if not bool(positive.any()) or bool(positive.all()):
        return scores.new_tensor(torch.nan)
    return binary_auroc(_into_unit(scores), positive.long(), validate_args=False)


def reciprocal_ranks(scores: Tensor, positive: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    r"""Give 1/rank of the best positive of each query that has one.

    Of p positives and n negatives of a query that share the best positive's score the first positive comes, in an order
    drawn at random, n / (p + 1) places late on average, so

    .. math:: \mathrm{rank} = 1 + |\{\text{negatives above}\}| + n / (p + 1).

    A scorer that gives all pairs the same score so gets no more than chance (other implementations take the order in
    which the pairs happen to lie, which favours positives that lie first).

    Args:
        scores: (M,).
        positive: (M,) bool.
        query: (M,) int64, which query a row belongs to.

    Returns:
        The queries that have a positive, ascending, and their 1/rank as float64 (float32 on a device without).

    Example:
        >>> scores = torch.tensor([0.5, 0.9, 0.1, 0.7, 0.7])
        >>> positive = torch.tensor([True, False, False, True, False])
        >>> query, value = reciprocal_ranks(scores, positive, torch.tensor([4, 4, 4, 8, 8]))
        >>> query.tolist(), [round(v, 3) for v in value.tolist()]
        ([4, 8], [0.5, 0.667])
    """
    queries, group = query[positive].unique(return_inverse=True)
    if not len(queries):
        return queries, torch.zeros(0, dtype=widest_float(scores.device), device=scores.device)
    best = scores.new_full((len(queries),), -torch.inf).scatter_reduce_(0, group, scores[positive], "amax")
    place = torch.searchsorted(queries, query).clamp_(max=len(queries) - 1)
    asked = queries[place] == query
    place, scores, positive = place[asked], scores[asked], positive[asked]

    def count(which: Tensor) -> Tensor:
        return torch.bincount(place[which], minlength=len(queries)).to(widest_float(scores.device))

    tied = scores == best[place]
    above = count(~positive & (scores > best[place]))
    late = count(tied & ~positive) / (count(tied & positive) + 1)
    return queries, 1 / (1 + above + late)


class WideMetric(Metric):
    """A metric whose sums are float64, float32 on devices that have no wider type (Apple's MPS)."""

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        try:
            return super()._apply(fn, exclude_state)
        except TypeError:  # as such a device refuses float64
            for name, default in self._defaults.items():
                if isinstance(default, Tensor):
                    self._defaults[name] = default.float()
                    setattr(self, name, getattr(self, name).float())
            return super()._apply(fn, exclude_state)


class ClassMetrics(WideMetric):
    """Loss, average precision, AUROC and F1 of everything seen since the last reset, on all ranks together.

    Average precision and AUROC need every score: they are kept as float32 and gathered once. Of two classes they and F1
    are class 1's; of more they are means over the classes that occur (one against the rest). What is not defined, for
    nothing was seen or one class only, is NaN.

    Args:
        num_classes: C.

    Example:
        >>> metrics = ClassMetrics(2)
        >>> metrics.update(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([1, 0]), loss=0.6, weight=2)
        >>> {name: round(value.item(), 3) for name, value in metrics.compute().items()}
        {'loss': 0.3, 'ap': 1.0, 'auroc': 1.0, 'f1': 1.0}
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]
    loss: Tensor
    weight: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")
        self.add_state("loss", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | float, weight: Tensor | float) -> None:
        """Take rows of this rank, maybe none.

        Args:
            logits: (M, C).
            labels: (M,) int64.
            loss: this rank's sum of weighted losses.
            weight: this rank's sum of weights.
        """
        self.scores.append(class_scores(logits))
        self.labels.append(labels.to(self._label_type))
        self.loss += loss
        self.weight += weight

    @override
    def compute(self) -> dict[str, Tensor]:
        """Give ``loss``, ``ap``, ``auroc`` and ``f1`` of all ranks."""
        values = {"loss": self.loss / self.weight}  # 0/0 is the NaN that says: nothing seen
        scores = self.scores if isinstance(self.scores, Tensor) else torch.cat([*self.scores, self._no_scores])
        labels = self.labels if isinstance(self.labels, Tensor) else torch.cat([*self.labels, self._no_labels])
        labels = labels.long()
        classes = [1] if self.num_classes == 2 else range(self.num_classes)
        columns = [(scores[:, place], labels == c) for place, c in enumerate(classes)]
        for name, measure in (("ap", average_precision), ("auroc", area_under_roc)):
            values[name] = torch.stack([measure(*column) for column in columns]).nanmean()
        return values | {"f1": self._f1(scores, labels)}

    @override
    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the states, of a rank that saw nothing as well.

        For a rank without any update torchmetrics gathers a flat float tensor, whatever the others hold; ranks would
        then disagree about what comes.
        """
        if isinstance(self.scores, list) and not self.scores:
            self.scores, self.labels = [self._no_scores], [self._no_labels]
        super().sync(*args, **options)

    def _f1(self, scores: Tensor, labels: Tensor) -> Tensor:
        if not len(labels):
            return scores.new_tensor(torch.nan)
        if self.num_classes == 2:
            return binary_f1_score((scores[:, 0] > 0).long(), labels, validate_args=False)
        each = multiclass_f1_score(
            scores.argmax(dim=1), labels, num_classes=self.num_classes, average="none", validate_args=False
        )
        return each[labels.unique()].mean()

    @property
    def _label_type(self) -> torch.dtype:
        return torch.uint8 if self.num_classes <= 256 else torch.int64

    @property
    def _no_scores(self) -> Tensor:
        columns = 1 if self.num_classes == 2 else self.num_classes
        return torch.zeros(0, columns, dtype=torch.float32, device=self.device)

    @property
    def _no_labels(self) -> Tensor:
        return torch.zeros(0, dtype=self._label_type, device=self.device)


class RankingMetrics(WideMetric):
    r"""Average precision and reciprocal rank of each snapshot, averaged over snapshots by their number of edges.

    .. math:: \mathrm{MAP} = \frac{\sum_t m_t \mathrm{AP}_t}{\sum_t m_t}, \quad
        \mathrm{MRR} = \frac{\sum_t m_t \, \mathrm{mean}_u (1 / \mathrm{rank}_{t,u})}{\sum_t m_t}

    with :math:`m_t` positive pairs in snapshot t, :math:`\mathrm{AP}_t` the average precision of all its pairs
    together, and u the sources that have a positive pair, each counting once; :math:`\mathrm{rank}_{t,u}` is the place
    of u's best positive pair among all pairs that begin at u, ties as :func:`reciprocal_ranks` says. The weights by
    edges, and MRR by source, are those of IBM's TM-GCN code.

    What to compare them with: MAP is a mean over snapshots, not over sources as in retrieval, and an opinionless scorer
    gets each snapshot's share of positive pairs. MRR asks for a source's *best* edge, so it is higher than one that
    ranks every edge by itself (as OGB and TGB do), the more so the more edges a source has. Both fall with the number
    of negatives for each edge, and only values of the same number, drawn in the same way, can be compared: where
    negatives do not keep their edge's source (``corrupt="both"``), most sources have few pairs or none beside their
    edges, and MRR is close to 1 for any scorer.

    A snapshot lies on one rank, so sums suffice and no score is gathered.

    Example:
        >>> metrics = RankingMetrics()
        >>> scores, positive = torch.tensor([2.0, 1.0, 3.0]), torch.tensor([True, False, False])
        >>> metrics.update(scores, positive, step=torch.zeros(3, dtype=int), source=torch.tensor([5, 5, 6]))
        >>> {name: value.item() for name, value in metrics.compute().items()}
        {'map': 0.5, 'mrr': 1.0}
    """

    full_state_update = False
    precision: Tensor
    rank: Tensor
    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("precision", "rank", "edges"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def update(self, scores: Tensor, positive: Tensor, step: Tensor, source: Tensor) -> None:
        """Take pairs of this rank, maybe none; a snapshot whole or not at all.

        Args:
            scores: (M,).
            positive: (M,) bool, whether a pair is an edge.
            step: (M,) int64, whose snapshot it is.
            source: (M,) int64 vertices, fewer than 2³¹.
        """
        query, inverse_rank = reciprocal_ranks(scores, positive, step * 2**31 + source)
        # One sort, and each snapshot is a run: a mask for each would read all pairs as often as there are snapshots.
        step, order = step.sort(stable=True)
        runs = step.unique_consecutive(return_counts=True)[1].tolist()
        ranks = iter(inverse_rank.split((query // 2**31).unique_consecutive(return_counts=True)[1].tolist()))
        for here, hits in zip(scores[order].split(runs), positive[order].split(runs), strict=True):
            edges = hits.sum()
            if edges:  # only such a snapshot has queries
                self.precision += edges * average_precision(here, hits)
                self.rank += edges * next(ranks).mean()
                self.edges += edges

    @override
    def compute(self) -> dict[str, Tensor]:
        """Give ``map`` and ``mrr`` of all ranks; NaN where no edge was seen."""
        return {"map": self.precision / self.edges, "mrr": self.rank / self.edges}


def _without(logits: Tensor, column: int) -> Tensor:
    return torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)


def _into_unit(scores: Tensor) -> Tensor:
    """Into [0, 1], order and ties kept: torchmetrics squashes by itself what is not, but only then."""
    wide = scores.to(widest_float(scores.device))
    return 0.5 + 0.5 * wide / (1 + wide.abs())
