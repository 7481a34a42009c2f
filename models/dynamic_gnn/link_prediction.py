"""Predicts which edges the next snapshot has."""

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from fulgurite.models.classification_module import OptimizerName
from fulgurite.models.dynamic_gnn.endpoint_classifier import Head
from fulgurite.models.dynamic_gnn.metrics import RankingMetrics, class_scores
from fulgurite.models.dynamic_gnn.negatives import Corrupt, sample_negatives
from fulgurite.models.dynamic_gnn.task import ClassWeight, DynamicTask
from fulgurite.plugins.snapshot_parallel.shard import Shard, Targets


class DynamicLinkPredictor(DynamicTask):
    r"""Trains a dynamic graph network to tell the edges of snapshot t + 1 from pairs that are none.

    The task of Chakaravarthy et al., *Efficient Scaling of Dynamic Graph Neural Networks*, SC 2021,
    `arXiv:2109.07893 <https://arxiv.org/abs/2109.07893>`__. A target (u, v) of snapshot t is an edge of the next one,
    label 1; its logits come from the embeddings of u and v at t. ``negatives`` pairs for each, label 0, are drawn among
    those that are no target of t (:func:`~fulgurite.models.dynamic_gnn.negatives.sample_negatives`), by (``seed``,
    epoch, t) and never by rank: with every number of processes the pairs, and so the gradients, are the same.
    Evaluation draws the same pairs in every epoch. Targets of label 0 that the timeline brings along are used as well.

    Logged, over all ranks: ``train/loss`` (:class:`~fulgurite.models.dynamic_gnn.task.DynamicTask`); at ``val/`` and
    ``test/``: ``loss``; ``ap``, ``auroc`` and ``f1`` of all pairs together; ``map`` and ``mrr``, a snapshot's average
    precision over all its pairs and the mean reciprocal rank of a source's best edge among the source's pairs, averaged
    over snapshots by their number of edges (:class:`~fulgurite.models.dynamic_gnn.metrics.RankingMetrics` says how they
    differ from others' of that name). With ``negatives`` pairs an edge, all of these depend on that number, and ``mrr``
    says little with ``corrupt="both"``. What is not defined (nothing scored) is NaN, and said.

    Args:
        network: gives embeddings (t, N, ``out_channels``).
        negatives: pairs for each edge that are none. In a nearly complete graph there may be fewer:
            ``missing_negatives`` counts those of the last batch on this rank.
        head: ``product``: linear in :math:`h_u, h_v` and :math:`h_u \circ h_v`; ``linear``: without the product, which
            tells how active vertices are but not who belongs to whom
            (:class:`~fulgurite.models.dynamic_gnn.endpoint_classifier.EndpointClassifier`).
        corrupt: ``target``: a negative keeps the edge's source, and how active sources are helps nothing; ``both``:
            any pair.
        seed: of the negatives.
        class_weight: of no edge and of an edge; ``"balanced"``: both get half of the loss; None: as many as they are.
        optimizer: ``adam``, ``adamw`` or ``sgd``.
        learning_rate: of the optimizer. A timeline is one batch, so an epoch is one step: small rates take long.
        momentum: of ``sgd``.
        weight_decay: of the optimizer.

    Raises:
        ValueError: an option out of range, or a timeline that does not fit; see
            :meth:`~fulgurite.models.dynamic_gnn.task.DynamicTask.check`.

    Example:
        >>> from fulgurite.data.timeline import Timeline
        >>> from fulgurite.models.dynamic_gnn import CDGCN
        >>> timeline = Timeline.from_events(
        ...     [0, 1, 2], [1, 2, 0], [0, 1, 2], degree_features=True,
        ...     target_index=[[1, 2], [2, 0]], target_label=[1, 1], target_time=[0, 1],
        ... )
        >>> predictor = DynamicLinkPredictor(CDGCN(2))
        >>> predictor(timeline).shape
        torch.Size([2, 2])
    """

    ends = 2

    def __init__(
        self,
        network: nn.Module,
        *,
        negatives: int = 19,
        head: Head = "product",
        corrupt: Corrupt = "target",
        seed: int = 0,
        class_weight: ClassWeight = "balanced",
        optimizer: OptimizerName = "adam",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        for option, value in (("negatives", negatives), ("seed", seed)):
            if value < 0:
                raise ValueError(f"got {option}={value}; expected 0 or more")
        if corrupt not in ("target", "both"):
            raise ValueError(f"got corrupt={corrupt!r}; choose from target, both")
        super().__init__(
            network,
            num_classes=2,
            class_weight=class_weight,
            optimizer=optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            head=head,
        )
        self.negatives = negatives
        self.corrupt: Corrupt = corrupt
        self.seed = seed
        self.missing_negatives = 0

    @override
    def new_metrics(self) -> dict[str, Metric]:
        return super().new_metrics() | {"ranking": RankingMetrics()}

    @override
    def targets(self, shard: Shard, epoch: int | None) -> Targets:
        """Give this rank's edges, and after them the negatives."""
        own = shard.targets
        step, time, index, label = (x.cpu().numpy() for x in (own.step, own.time, own.index, own.label))
        # Evaluation is epoch 0 of the draw, and the first epoch of training 1.
        draw = 0 if epoch is None else epoch + 1
        bounds = np.append(np.flatnonzero(np.diff(step, prepend=-1)), len(step))
        pairs, places, missing = [], [], 0
        for start, stop in pairwise(bounds.tolist()):
            edges = index[:, start:stop][:, label[start:stop] == 1]
            drawn = sample_negatives(
                edges,
                num_nodes=shard.num_nodes,
                per_edge=self.negatives,
                seed=(self.seed, draw, int(time[start])),
                corrupt=self.corrupt,
            )
            pairs.append(drawn.index)
            places.append(np.full(drawn.index.shape[1], start))
            missing += drawn.missing
        self._tell_missing(missing, self.negatives * int((label == 1).sum()))
        if not pairs:
            return own
        device = own.label.device
        negative = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device)
        place = torch.from_numpy(np.concatenate(places)).to(device)
        return Targets(
            step=torch.cat([own.step, own.step[place]]),
            time=torch.cat([own.time, own.time[place]]),
            index=torch.cat([own.index, negative], dim=1),
            label=torch.cat([own.label, own.label.new_zeros(len(place))]),
        )

    @override
    def measure(self, metrics: Mapping[str, Any], logits: Tensor, targets: Targets) -> None:
        scores = class_scores(logits)[:, 0]
        metrics["ranking"].update(scores, targets.label == 1, targets.time, targets.index[0])

    def _tell_missing(self, missing: int, wanted: int) -> None:
        if missing and not self.missing_negatives:
            warnings.warn(
                f"{missing} of {wanted} negatives do not exist: nearly every pair is an edge; fewer are used",
                stacklevel=2,
            )
        self.missing_negatives = missing
