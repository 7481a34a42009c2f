"""Classifies edges of snapshots."""

from torch import nn

from fulgurite.models.classification_module import OptimizerName
from fulgurite.models.dynamic_gnn.endpoint_classifier import Head
from fulgurite.models.dynamic_gnn.task import ClassWeight, DynamicTask


class DynamicEdgeClassifier(DynamicTask):
    r"""Trains a dynamic graph network to classify pairs of vertices, such as a snapshot's transactions or ratings.

    One of the tasks of Chakaravarthy et al., *Efficient Scaling of Dynamic Graph Neural Networks*, SC 2021,
    `arXiv:2109.07893 <https://arxiv.org/abs/2109.07893>`__. A target is a pair (u, v) of snapshot t with a class; its
    logits come from the embeddings of u and v at t.

    Logged, over all ranks: ``train/loss`` (:class:`~fulgurite.models.dynamic_gnn.task.DynamicTask`); at ``val/`` and
    ``test/``: ``loss``, ``ap``, ``auroc`` and ``f1``, of two classes those of class 1, of more the mean over those that
    occur (:class:`~fulgurite.models.dynamic_gnn.metrics.ClassMetrics`). What is not defined (nothing scored, one
    class only) is NaN, and said.

    Args:
        network: gives embeddings (t, N, ``out_channels``).
        num_classes: C.
        head: ``linear``: :math:`W [h_u \| h_v] + b`; ``product``: with :math:`V (h_u \circ h_v)`, where the class is a
            matter of how the two go together.
        class_weight: C numbers; ``"balanced"``: every class that occurs gets the same share of the loss, however rare;
            None: as many as they are.
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
        ...     target_index=[[0, 1], [1, 2]], target_label=[1, 0], target_time=[0, 2],
        ... )
        >>> classifier = DynamicEdgeClassifier(CDGCN(2))
        >>> classifier(timeline).shape
        torch.Size([2, 2])
    """

    ends = 2

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int = 2,
        head: Head = "linear",
        class_weight: ClassWeight = "balanced",
        optimizer: OptimizerName = "adam",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            network,
            num_classes=num_classes,
            class_weight=class_weight,
            optimizer=optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            head=head,
        )
