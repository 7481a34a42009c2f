"""Any segmentation model of mmsegmentation as a LightningModule."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.segmentation.base import SegmentationModule
from fulgurite.models.segmentation.mmseg_config import is_plain, read_config
from fulgurite.models.segmentation.mmseg_network import MmsegNetwork
from fulgurite.models.segmentation.mmseg_weights import load_part


class MmsegSegmenter(SegmentationModule):
    """A model of `mmsegmentation <https://github.com/open-mmlab/mmsegmentation>`_, trained and predicted by Lightning.

    Its own heads, losses and ``test_cfg`` (whole images or a sliding window) are used; RepGraph's layer, head and
    backbone are registered. Batches, what is logged and all further options: see
    :class:`~fulgurite.models.segmentation.base.SegmentationModule`; beside ``train/loss`` each of mmsegmentation's own
    losses and accuracies is logged, such as ``train/decode.loss_ce``.

    *Images are normalised once, by the data module.* The config's ``data_preprocessor`` is not run; where its mean and
    scale, divided by 255, are not the data's, a warning says so. Images are RGB.

    A config is data here. In a mapping each ``type`` has to be registered already, whoever gives it; ``custom_imports``
    and dotted types are taken for modules opened by ``--allow-import`` alone. A ``.py`` file is a program: name one
    that mmsegmentation ships, or give ``mmengine.Config.fromfile(path)`` from Python. Weights that a config asks for
    (``pretrained``, ``init_cfg``) are read from a file with ``weights_only``, never from the network. ``SyncBN``
    becomes ``BN``: let ``Trainer(sync_batchnorm=True)`` synchronise.

    Args:
        config: the model's mapping (``type: EncoderDecoder``, ``backbone``, ``decode_head``, …), or one that has it
            under ``model``; or the name of a config that mmsegmentation ships, such as
            ``nonlocal_r50-d8_4xb4-80k_ade20k-512x512``.
        changes: merged over the model's mapping, such as ``{"decode_head": {"num_classes": 4}}``; a value of ``None``
            takes the key out.
        weights: a file of weights of the whole model, such as one of mmsegmentation's zoo, where training begins; a
            classifier of other classes starts anew.
        ignore_index: the void label, or ``None``; all heads get it.
        options: of :class:`~fulgurite.models.segmentation.base.SegmentationModule`.

    Raises:
        ImportError: mmsegmentation is not installed, or mmcv is of a version that it does not take.
        ValueError: a config that is refused or cannot be built, weights that do not fit, an option out of range.

    Example:
        >>> import torch
        >>> head = {"in_channels": 64, "in_index": 3, "channels": 8, "num_classes": 3, "num_nodes": 4}
        >>> backbone = {"depth": 18, "stem_channels": 8, "base_channels": 8}
        >>> model = MmsegSegmenter({
        ...     "type": "EncoderDecoder",
        ...     "backbone": {"type": "ResNetV1c", **backbone},
        ...     "decode_head": {"type": "RepGraphHead", **head},
        ... })
        >>> model.eval()(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 3, 32, 48])
    """

    def __init__(
        self,
        config: dict[str, Any] | str,
        *,
        changes: dict[str, Any] | None = None,
        weights: str | None = None,
        ignore_index: int | None = 255,
        **options: Any,
    ) -> None:
        read = read_config(config, changes)
        network = MmsegNetwork(read, ignore_index=ignore_index)
        channels = read.model["backbone"].get("in_channels", 3)
        super().__init__(network.num_classes, in_channels=channels, ignore_index=ignore_index, **options)
        self.network = network
        self._preprocessor = read.preprocessor
        if weights is not None:
            load_part(network.segmentor, weights)
        self.save_hyperparameters(ignore=["weights"])
        # Without the weights that it asked for: a checkpoint has its own, and the file may be gone when it is loaded.
        plain = {**read.model.to_dict(), **({"data_preprocessor": read.preprocessor} if read.preprocessor else {})}
        if not isinstance(config, str) or is_plain(plain):
            self.hparams.update(config=plain, changes=None)

    @override
    def compute_losses(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Give mmsegmentation's own losses, and the accuracies that it has beside them."""
        return self.network.losses(images, masks)

    @override
    def compute_logits(self, images: Tensor) -> Tensor:
        """Give the logits (B, K, H, W), by ``test_cfg``."""
        return self.network(images)

    @override
    def head_parameters(self) -> list[nn.Parameter]:
        """Give the parameters of the decode heads and the auxiliary heads."""
        heads = [getattr(self.network.segmentor, name, None) for name in ("decode_head", "auxiliary_head")]
        return [parameter for head in heads if head is not None for parameter in head.parameters()]

    @override
    def setup(self, stage: str) -> None:
        """Hold the data's classes against the model's, and its normalisation against the config's."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        for name in ("mean", "std"):
            wanted, found = self._preprocessor.get(name), getattr(data, name, None)
            if wanted is None or found is None:
                continue
            if len(wanted) != len(found) or max(abs(w / 255 - f) for w, f in zip(wanted, found, strict=True)) > 0.01:
                rank_zero_warn(
                    f"the data is normalised by {name} {[round(255 * value, 1) for value in found]}, the mmseg config "
                    f"asks for {list(wanted)}; weights that were trained under it expect that: give it to the data"
                )
