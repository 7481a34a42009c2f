"""Trains a classifier of images and measures it."""

from fulgurite.models.classification_module import ClassificationModule, OptimizerName, Schedule
from fulgurite.models.image_classification.network import build_network


class ImageClassifier(ClassificationModule):
    r"""Trains a convolutional network by cross-entropy on images (B, in_channels, H, W) with labels (B,) int64.

    The loss of an image is :math:`-\log \mathrm{softmax}(z)_y`, with the logits z, (B, C), that the module gives.
    Logged, over all ranks: ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``test/loss``,
    ``test/accuracy``. LightningCLI's ``optimizer`` and ``lr_scheduler`` replace the module's own.

    A checkpoint is loaded without another word, ``ImageClassifier.load_from_checkpoint(path)``, also where training
    began from ``weights`` that are gone since.

    Args:
        num_classes: C.
        backbone: the network: ``small_cnn`` or ``gap_cnn``
            (:mod:`fulgurite.models.image_classification.network`), a classifier of torchvision such as ``resnet18``,
            or ``timm/`` and the name of one of timm's.
        in_channels: of the images; 1 for grey ones.
        weights: where training begins: ``None`` at random; a file with the network's weights, or a checkpoint; a name
            of torchvision's such as ``IMAGENET1K_V1``, or ``DEFAULT``, which are downloaded once.
        learning_rate: of the optimizer; under a ``cosine`` schedule, at the start.
        optimizer: ``adam``, ``adamw`` or ``sgd`` (momentum 0.9).
        weight_decay: of the optimizer.
        schedule: ``cosine``: the rate falls to 0 over the run; ``constant``: it stays.

    Raises:
        ValueError: an option out of range; an unknown network; weights of another one; a data module with another
            number of classes.
        ImportError: a network of timm's is asked for, and timm is not installed.

    Example:
        >>> import torch
        >>> classifier = ImageClassifier(10, backbone="small_cnn", in_channels=1)
        >>> classifier(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "small_cnn",
        in_channels: int = 3,
        weights: str | None = None,
        learning_rate: float = 1e-3,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        schedule: Schedule = "cosine",
    ) -> None:
        if num_classes < 2:  # before a network of no use is built
            raise ValueError(f"got num_classes={num_classes}; want at least 2")
        super().__init__(
            build_network(backbone, num_classes=num_classes, in_channels=in_channels, weights=weights),
            num_classes=num_classes,
            learning_rate=learning_rate,
            optimizer=optimizer,
            weight_decay=weight_decay,
            schedule=schedule,
        )
        # Without the weights: a checkpoint has its own, and the file may be gone when it is loaded.
        self.save_hyperparameters(ignore=["weights"])
