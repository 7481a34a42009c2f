"""A segmentor of mmsegmentation as a plain network: images in, logits or losses out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from fulgurite.models.segmentation.mmseg_config import MmsegConfigError, SegmentorConfig
from fulgurite.models.segmentation.mmseg_weights import load_part


class MmsegNetwork(nn.Module):
    """mmsegmentation's ``EncoderDecoder`` behind tensors; its own ``loss`` and ``inference`` do the work.

    Args:
        config: what :func:`~fulgurite.models.segmentation.mmseg_config.read_config` gave.
        ignore_index: the masks' value where a pixel has no class; each head gets it as its own.

    Attributes:
        segmentor: mmsegmentation's model.
        num_classes: of its decode head.

    Raises:
        MmsegConfigError: mmsegmentation cannot build the config: a key is missing, unknown or out of range.
    """

    def __init__(self, config: SegmentorConfig, *, ignore_index: int | None = 255) -> None:
        super().__init__()
        self.segmentor = _build(config)
        self.num_classes = int(self.segmentor.num_classes)
        self._threshold = getattr(self._last_head(), "threshold", None)
        for module in self.segmentor.modules():
            if hasattr(module, "loss_by_feat") and getattr(module, "ignore_index", None) is not None:
                module.ignore_index = -100 if ignore_index is None else ignore_index

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Give logits (B, K, H, W) of images (B, C, H, W) as ``test_cfg`` says, whole or by a sliding window."""
        size = images.shape[2:]
        whole = {"ori_shape": size, "img_shape": size, "pad_shape": size, "padding_size": [0, 0, 0, 0]}
        logits = self.segmentor.inference(images, [dict(whole) for _ in images])
        if logits.shape[1] == 1 and self.num_classes == 2:  # one output for two classes
            odds = torch.as_tensor(self._threshold, dtype=logits.dtype, device=logits.device)
            logits = torch.cat([torch.zeros_like(logits), logits - torch.logit(odds)], dim=1)
        return logits

    def losses(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Give the losses, one number each, of images (B, C, H, W) with masks (B, H, W); and accuracies beside them."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        size = tuple(images.shape[2:])
        metainfo = {"img_shape": size, "ori_shape": size, "pad_shape": size}
        samples = []
        for mask in masks:
            sample = SegDataSample(metainfo=metainfo)
            sample.gt_sem_seg = PixelData(data=mask[None])
            samples.append(sample)
        _, parts = self.segmentor.parse_losses(self.segmentor.loss(images, samples))
        return {key: value for key, value in parts.items() if key != "loss"}

    def _last_head(self) -> Any:
        head = self.segmentor.decode_head
        return head[-1] if isinstance(head, nn.ModuleList) else head


def _build(config: SegmentorConfig) -> Any:
    from mmengine.registry import DefaultScope
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS

    # The scope is global to the process: it is mmseg's while the model is built, and no longer.
    with DefaultScope.overwrite_default_scope("mmseg"), _quietly():
        try:
            model = MODELS.build(config.model)
            if not isinstance(model, EncoderDecoder):
                raise MmsegConfigError(
                    f"mmseg config: {type(model).__name__} is no segmentor; want EncoderDecoder or one made of it"
                )
            model.init_weights()
        except MmsegConfigError:
            raise
        except (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise MmsegConfigError(f"mmseg cannot build the config: {_said(error)}") from error
    for item in config.pretrained:
        load_part(model, item.path, module=item.module, prefix=item.prefix)
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep out of a run's output how each parameter was filled, and the remarks of mmseg's classes on each other."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"mm(seg|cv|engine)\.")
            yield
    finally:
        logger.setLevel(level)


def _said(error: BaseException) -> str:
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    missing = text if isinstance(error, AttributeError | KeyError) and text.isidentifier() else ""
    return f"the key {missing!r} is missing" if missing else (text or type(error).__name__)
