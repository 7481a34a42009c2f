"""Trains a fully convolutional network with a context layer to segment images."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.segmentation.base import SegmentationModule, pixel_loss
from fulgurite.models.segmentation.network import SegmentationNetwork

if TYPE_CHECKING:
    from fulgurite.models.segmentation.mmseg_module import MmsegSegmenter


class SemanticSegmenter(SegmentationModule):
    r"""Gives each pixel of an image a class: a dilated residual network with a context layer in its head.

    The context layer is RepGraph's (`Representative Graph Neural Network <https://arxiv.org/abs/2008.05202>`_), or one
    of its controls at the same place. The loss is the mean cross-entropy of the pixels V that have a class, each
    weighed by its class, and ``aux_weight`` times that of a fully convolutional head on ``layer3``:

    .. math:: \ell = -\frac{\sum_{i \in V} w_{y_i} \log \mathrm{softmax}(z_i)_{y_i}}{\sum_{i \in V} w_{y_i}}
        + \lambda \, \ell_\mathrm{aux}.

    Batches, what is logged, and all further options: see
    :class:`~fulgurite.models.segmentation.base.SegmentationModule`. A checkpoint is loaded without another word,
    ``SemanticSegmenter.load_from_checkpoint(path)``, also where training began from ``weights`` that are gone since.
    ``Trainer(deterministic=True)`` is tested on the CPU; on CUDA, where nothing of it was run, only operations are used
    that PyTorch documents as having a deterministic form there.

    Args:
        num_classes: K.
        backbone: ``small_resnet``, ``tiny_resnet``, ``flat_cnn`` or a residual network of torchvision; see
            :func:`~fulgurite.models.backbone.build_backbone`.
        context: ``repgraph``, ``non_local``, ``global_context`` or ``none``.
        context_options: options of the context layer, such as ``{"num_nodes": 9, "init": "spread"}``.
        weights: of the backbone, where training begins: ``None`` at random; a file; or a name of torchvision's, such
            as ``DEFAULT``, which is downloaded once.
        in_channels: of the images.
        output_stride: of the last map, at most; the strides beyond are dilations.
        head_channels: width of the head; ``None``: the context stands on the backbone's map itself, and the classifier
            behind it.
        dropout: share of channels dropped before a classifier.
        aux_weight: λ; 0 for no auxiliary head.
        class_weights: w, one for each class, such as a small one for a background that fills most of an image;
            ``None``: 1 for all. ``val/loss`` and ``test/loss`` are not weighed.
        ignore_index: the void label, or ``None``.
        options: those of :class:`~fulgurite.models.segmentation.base.SegmentationModule`.

    Raises:
        ValueError: an option out of range; an unknown backbone or context; a data module with other classes, void
            label or channels; a batch without masks, or with masks of an unknown class.

    Example:
        >>> import torch
        >>> segmenter = SemanticSegmenter(6, backbone="tiny_resnet").eval()
        >>> segmenter(torch.zeros(2, 3, 40, 56)).shape
        torch.Size([2, 6, 40, 56])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "small_resnet",
        context: str = "repgraph",
        context_options: dict[str, Any] | None = None,
        weights: str | None = None,
        in_channels: int = 3,
        output_stride: int = 8,
        head_channels: int | None = 128,
        dropout: float = 0.1,
        aux_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = 255,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, in_channels=in_channels, ignore_index=ignore_index, **options)
        if not aux_weight >= 0:
            raise ValueError(f"got aux_weight={aux_weight}; want 0 or more")
        if class_weights is not None:
            _check_weights(class_weights, num_classes)
        weights_of_classes = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights_of_classes, persistent=False)
        self.network = SegmentationNetwork(
            num_classes,
            backbone=backbone,
            context=context,
            context_options=context_options,
            weights=weights,
            in_channels=in_channels,
            output_stride=output_stride,
            head_channels=head_channels,
            dropout=dropout,
            auxiliary=aux_weight > 0,
        )
        self._aux_weight = aux_weight
        # Without the weights: a checkpoint has its own, and the file may be gone when it is loaded.
        self.save_hyperparameters(ignore=["weights"])

    @override
    def compute_losses(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Give the loss of the logits, and of the auxiliary head."""
        logits, auxiliary = self.network(images)
        weights: Any = self.class_weights
        losses = {"loss": pixel_loss(logits, masks, self.ignore_index, weights)}
        if auxiliary is not None:
            losses["aux_loss"] = self._aux_weight * pixel_loss(auxiliary, masks, self.ignore_index, weights)
        return losses

    @override
    def compute_logits(self, images: Tensor) -> Tensor:
        """Give the logits (B, K, H, W)."""
        return self.network(images)[0]

    @override
    def head_parameters(self) -> list[nn.Parameter]:
        """Give the parameters of both heads."""
        heads = [self.network.head, self.network.auxiliary_head]
        return [parameter for head in heads if head is not None for parameter in head.parameters()]

    @classmethod
    def from_mmseg(cls, config: dict[str, Any] | str, **options: Any) -> "MmsegSegmenter":
        """Make a LightningModule of a model of mmsegmentation's.

        Args:
            config: a model's config, or the name of one that mmsegmentation ships; see
                :class:`~fulgurite.models.segmentation.mmseg_module.MmsegSegmenter`.
            options: that class's.

        Raises:
            ImportError: mmsegmentation is not installed.
            ValueError: a config with an unknown type, or a missing key.
        """
        from fulgurite.models.segmentation.mmseg_module import MmsegSegmenter

        return MmsegSegmenter(config, **options)


def _check_weights(weights: Sequence[float], num_classes: int) -> None:
    good = all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weight > 0 for weight in weights)
    if len(weights) != num_classes or not good:
        raise ValueError(
            f"got class_weights={list(weights)}; "
            f"want {num_classes} finite numbers from 0, one for each class, one or more above 0"
        )
