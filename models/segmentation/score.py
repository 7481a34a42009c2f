"""The mean intersection over union of a whole data set, from one confusion matrix."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex
from typing_extensions import override

_CHUNK = 1 << 20  # pixels counted at once: single precision adds whole numbers exactly up to 16 times as many


class SegmentationScore(MulticlassJaccardIndex):
    r"""Mean IoU over the classes that occur, of all pixels that were seen; and with it what each class has.

    .. math:: \mathrm{IoU}_k = \frac{M_{kk}}{\sum_j M_{kj} + \sum_j M_{jk} - M_{kk}}

    with M the counts of (true, predicted) classes over the whole data set and all ranks, pixels of the void label left
    out. It is torchmetrics' :class:`~torchmetrics.classification.MulticlassJaccardIndex` with ``average="macro"``,
    counted in memory of the pixels' size also under ``Trainer(deterministic=True)``.

    Args:
        num_classes: K.
        ignore_index: the void label, or ``None``.

    Attributes:
        per_class: (K,) IoU of each class, once computed; NaN for one that neither occurs nor is predicted.
        pixel_accuracy: share of pixels whose class is right, once computed.

    Example:
        >>> score = SegmentationScore(3, ignore_index=255)
        >>> score.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 255]))
        >>> score.compute(), score.per_class, score.pixel_accuracy
        (tensor(0.5000), tensor([0.5000, 0.5000,    nan]), tensor(0.6667))
    """

    per_class: Tensor
    pixel_accuracy: Tensor

    def __init__(self, num_classes: int, *, ignore_index: int | None = None) -> None:
        super().__init__(num_classes, average="macro", ignore_index=ignore_index, validate_args=False)

    @override
    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count predicted and true classes, of the same shape."""
        preds, target = preds.reshape(-1), target.reshape(-1)
        if self.ignore_index is not None:
            keep = target != self.ignore_index
            preds, target = preds[keep], target[keep]
        if preds.is_cuda and torch.are_deterministic_algorithms_enabled():  # bincount has no such form there
            for some, true in zip(preds.split(_CHUNK), target.split(_CHUNK), strict=True):
                hot = [torch.nn.functional.one_hot(x, self.num_classes).float() for x in (true, some)]
                self.confmat += (hot[0].T @ hot[1]).to(self.confmat.dtype)
        else:
            pairs = torch.bincount(target * self.num_classes + preds, minlength=self.num_classes**2)
            self.confmat += pairs.reshape(self.num_classes, self.num_classes)

    @override
    def compute(self) -> Tensor:
        """Give the mean IoU."""
        counts = self.confmat.double()
        right = counts.diagonal()
        self.per_class = (right / (counts.sum(0) + counts.sum(1) - right)).float()
        self.pixel_accuracy = (right.sum() / counts.sum()).float()
        return super().compute()
