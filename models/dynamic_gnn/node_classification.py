"""Classifies vertices at snapshots."""

from torch import nn

from fulgurite.models.classification_module import OptimizerName
from fulgurite.models.dynamic_gnn.task import ClassWeight, DynamicTask


class DynamicNodeClassifier(DynamicTask):
    r"""Trains a dynamic graph network to classify vertices, each at a snapshot, such as accounts that launder money.

    One of the tasks of Chakaravarthy et al., *Efficient Scaling of Dynamic Graph Neural Networks*, SC 2021,
    `arXiv:2109.07893 <https://arxiv.org/abs/2109.07893>`__. A target is a vertex v at snapshot t with a class; its
    logits are :math:`W h_{t,v} + b`.

    Logged, over all ranks: ``train/loss`` (:class:`~fulgurite.models.dynamic_gnn.task.DynamicTask`); at ``val/`` and
    ``test/``: ``loss``, ``ap``, ``auroc`` and ``f1``, of two classes those of class 1, of more the mean over those that
    occur (:class:`~fulgurite.models.dynamic_gnn.metrics.ClassMetrics`). What is not defined (nothing scored, one
    class only) is NaN, and said.

    Args:
        network: gives embeddings (t, N, ``out_channels``).
        num_classes: C.
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
        ...     target_index=[[0, 2]], target_label=[1, 0], target_time=[0, 2],
        ... )
        >>> classifier = DynamicNodeClassifier(CDGCN(2))
        >>> classifier(timeline).shape
        torch.Size([2, 2])
    """

    ends = 1

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int = 2,
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
        )
