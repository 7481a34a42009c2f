"""Trains a classifier of flat inputs, dense or sparse, and measures it."""

from torch import nn
from typing_extensions import override

from fulgurite.models.classification_module import ClassificationModule, OptimizerName, Schedule
from fulgurite.models.sparse_network.restore import room_for_sparse


class SparseClassifier(ClassificationModule):
    r"""Trains a network by cross-entropy, be it dense, sparse, or one that becomes sparse in training.

    A batch is (inputs (B, …), labels (B,) int64). The network gives logits (B, C); of two classes it may give one
    logit (B, 1), that of class 1. The loss of a row is

    .. math:: -\log \mathrm{softmax}(z)_y.

    Logged, over all ranks: ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``test/loss``,
    ``test/accuracy``; accuracy is the share of rows whose largest logit is the label's.

    A checkpoint of a network that became sparse loads into a module that still has the dense one: the sparse network
    is built from the checkpoint. LightningCLI's ``optimizer`` and ``lr_scheduler`` replace the module's own.

    Args:
        network: the network; ``None`` if a callback such as
            :class:`~fulgurite.callbacks.neat_evolution.NeatEvolution` puts one in before training.
        num_classes: C.
        learning_rate: of the optimizer; under a ``cosine`` schedule, at the start.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
        weight_decay: of the optimizer.
        schedule: ``cosine``: the rate falls to 0 over the run; ``constant``: it stays.

    Raises:
        ValueError: an option out of range; outputs of another width than the classes need; training or evaluation
            without a network.

    Example:
        >>> import torch
        >>> from fulgurite.models import SparseNetwork
        >>> network = SparseNetwork([[0, 3], [1, 3], [2, 4]], num_inputs=3, outputs=[3, 4], activation="identity")
        >>> classifier = SparseClassifier(network, num_classes=2)
        >>> classifier(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        num_classes: int,
        learning_rate: float = 1e-3,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
    ) -> None:
        super().__init__(
            network,
            num_classes=num_classes,
            learning_rate=learning_rate,
            optimizer=optimizer,
            weight_decay=weight_decay,
            schedule=schedule,
        )
        self.save_hyperparameters(ignore=["network"])
        if "_instantiator" in self.hparams:  # LightningCLI gave the network's plain config, which can rebuild it
            self.save_hyperparameters()
        room_for_sparse(self, "network")

    @override
    def present(self) -> nn.Module:
        """Give the network.

        Raises:
            ValueError: there is none yet.
        """
        if self.network is None:
            raise ValueError(
                "SparseClassifier has no network yet: pass network=, or add a callback that makes one, such as "
                "NeatEvolution"
            )
        return self.network
