"""What the LightningModules that segment share: steps, scores, optimizer and schedule, testing, pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from typing_extensions import override

from fulgurite.models.schedules import RateSchedule, ScheduleName
from fulgurite.models.segmentation.inference import scaled, slide
from fulgurite.models.segmentation.pictures import draw_segmentation, publish
from fulgurite.models.segmentation.score import SegmentationScore

SegmentationOptimizer = Literal["sgd", "adamw"]
Batch = tuple[Tensor, Tensor]


class SegmentationModule(LightningModule):
    r"""A LightningModule that gives each pixel a class; a base class.

    A batch is (images (B, C, H, W) float32, masks (B, H, W) int64) with classes 0 … K − 1 and ``ignore_index`` where a
    pixel has none. A subclass says what the losses and the logits are, :meth:`compute_losses` and
    :meth:`compute_logits`, passes on its options and calls ``save_hyperparameters``.

    Logged, over all ranks: ``train/loss`` and its parts; ``val/loss``, the cross-entropy a pixel; ``val/miou``, the
    mean over classes of intersection over union, counted over the whole data set; ``val/pixel_accuracy``; the same for
    ``test``, and ``test/iou/<class>`` for each class that occurs. ``pictures`` images of each validation and test are
    drawn beside truth and prediction, into TensorBoard and below the log folder as ``pictures/val.png`` (the newest).

    LightningCLI's ``optimizer`` and ``lr_scheduler`` replace the module's own.

    Args:
        num_classes: K.
        in_channels: C, or ``None`` where any will do.
        ignore_index: the void label, or ``None``.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: of the optimizer, before its schedule.
        head_rate_factor: times which :meth:`head_parameters` have the rate; 10 is usual on a trained backbone.
        momentum: of ``sgd``.
        weight_decay: of the optimizer.
        schedule: ``poly``, ``step``, ``cosine`` or ``constant``; see :class:`~fulgurite.models.schedules.RateSchedule`.
        power: of ``poly``.
        milestones: of ``step``: shares of the run.
        gamma: of ``step``.
        warmup_steps: steps over which the rate rises at first.
        crop_size: side, or height and width, of the windows by which validation, test and prediction see an image;
            ``None``: whole.
        stride: between windows; ``None``: two thirds of the window.
        scales: factors of an image's size in test and prediction, whose probabilities are averaged.
        flip: whether test and prediction also see the mirror image.
        pictures: images drawn of each validation and test; 0 for none.

    Raises:
        ValueError: an option out of range; a data module with other classes, void label or channels; a batch without
            masks, or with masks of an unknown class.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int | None = None,
        ignore_index: int | None = 255,
        optimizer: SegmentationOptimizer = "sgd",
        learning_rate: float = 0.01,
        head_rate_factor: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        schedule: ScheduleName = "poly",
        power: float = 0.9,
        milestones: Sequence[float] = (2 / 3, 8 / 9),
        gamma: float = 0.1,
        warmup_steps: int = 0,
        crop_size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        pictures: int = 4,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"got num_classes={num_classes}; want at least 2")
        if optimizer not in ("sgd", "adamw"):
            raise ValueError(f"got optimizer={optimizer!r}; choose from sgd, adamw")
        for name, value in (("learning_rate", learning_rate), ("head_rate_factor", head_rate_factor)):
            if not value > 0:
                raise ValueError(f"got {name}={value}; want more than 0")
        if not scales or not all(scale > 0 for scale in scales):
            raise ValueError(f"got scales={list(scales)}; want one or more factors above 0, such as [0.75, 1.0, 1.25]")
        if pictures < 0:
            raise ValueError(f"got pictures={pictures}; want 0 or more")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.ignore_index = ignore_index
        self.learning_rate = learning_rate
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip
        self.pictures = pictures
        self.crop_size, self.stride = _windows(crop_size, stride)
        self._optimizer_name = optimizer
        self._head_rate_factor = head_rate_factor
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._rates = RateSchedule(
            schedule, warmup_steps=warmup_steps, power=power, milestones=tuple(milestones), gamma=gamma
        )
        self.scores = nn.ModuleDict(
            {stage: SegmentationScore(num_classes, ignore_index=ignore_index) for stage in ("val", "test")}
        )
        self.losses = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None

    def compute_losses(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Give the parts of the loss: those whose names contain ``loss`` are summed, all are logged."""
        raise NotImplementedError(
            f"{type(self).__name__} has to say what its losses are: compute_losses(images, masks)"
        )

    def compute_logits(self, images: Tensor) -> Tensor:
        """Give the logits (B, K, H, W) of images (B, C, H, W), at the images' size."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its logits are: compute_logits(images)")

    def head_parameters(self) -> list[nn.Parameter]:
        """Give the parameters whose rate is ``head_rate_factor`` times the others'; here, none."""
        return []

    @override
    def setup(self, stage: str) -> None:
        """Hold the data's classes, void label and channels against the module's, where the data module names them."""
        data = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "num_classes", None)
        if classes is not None and classes != self.num_classes:
            names = list(getattr(data, "class_names", None) or ())
            listed = f" ({', '.join(names[:10])}{', …' if len(names) > 10 else ''})" if names else ""
            raise ValueError(
                f"got num_classes={self.num_classes} for data of {classes} classes{listed}; give num_classes={classes}"
            )
        void = getattr(data, "ignore_index", None)
        if void is not None and void != self.ignore_index:
            raise ValueError(
                f"got ignore_index={self.ignore_index} for data whose void label is {void}; give ignore_index={void}"
            )
        channels = getattr(data, "in_channels", None)
        if channels is not None and self.in_channels is not None and channels != self.in_channels:
            raise ValueError(
                f"got in_channels={self.in_channels} for images of {channels} channels; give in_channels={channels}"
            )

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Give the logits (B, K, H, W) of images (B, C, H, W)."""
        self._check_images(images)
        return self.compute_logits(images)

    def predict_logits(
        self, images: Tensor, *, scales: Sequence[float] | None = None, flip: bool | None = None
    ) -> Tensor:
        """Give the logits of images as a test does: by windows, at several scales, mirrored.

        Args:
            images: (B, C, H, W).
            scales: in place of the module's.
            flip: in place of the module's.

        Returns:
            (B, K, H, W); over several views, logarithms of the mean probabilities.
        """
        self._check_images(images)

        def whole(view: Tensor) -> Tensor:
            if self.crop_size is None or self.stride is None:
                return self.compute_logits(view)
            return slide(self.compute_logits, view, self.crop_size, self.stride)

        return scaled(
            whole, images, self.scales if scales is None else scales, flip=self.flip if flip is None else flip
        )

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss to descend, and log it and its parts."""
        images, masks = self._check(batch)
        parts = self.compute_losses(images, masks)
        losses = [value for name, value in parts.items() if "loss" in name]
        if not losses:
            raise ValueError(f"compute_losses gave {', '.join(parts) or 'nothing'}; want a name that contains 'loss'")
        loss = torch.stack([value.mean() for value in losses]).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        if len(parts) > 1:
            for name, value in parts.items():
                part = name if name != "loss" else "main_loss"
                self.log(f"train/{part}", value.mean().detach(), batch_size=len(images))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch, each image once."""
        self._measure(batch, batch_idx, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure one batch, with every view of its images."""
        self._measure(batch, batch_idx, "test")

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give the class of each pixel, (B, H, W), of a batch with or without masks."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.predict_logits(images).argmax(dim=1)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log what the whole validation gave."""
        self._conclude("val")

    @override
    def on_test_epoch_end(self) -> None:
        """Log what the whole test gave, and each class."""
        self._conclude("test")

    @override
    def configure_optimizers(self) -> Any:
        """Give the optimizer, and with it the schedule of its rate; see the class."""
        heads = {id(parameter) for parameter in self.head_parameters()}
        groups = [
            {"params": [p for p in self.parameters() if (id(p) in heads) == chosen and p.requires_grad], "lr": rate}
            for chosen, rate in (
                (False, self.learning_rate),
                (True, self.learning_rate * self._head_rate_factor),
            )
        ]
        groups = [group for group in groups if group["params"]]
        optimizer: torch.optim.Optimizer
        if self._optimizer_name == "sgd":
            optimizer = torch.optim.SGD(groups, momentum=self._momentum, weight_decay=self._weight_decay)
        else:
            optimizer = torch.optim.AdamW(groups, weight_decay=self._weight_decay)
        return self._rates.configure(self, optimizer)

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4:
            raise ValueError(f"got images of shape {tuple(images.shape)}; want (batch, channels, height, width)")
        if self.in_channels is not None and images.shape[1] != self.in_channels:
            raise ValueError(
                f"got images of {images.shape[1]} channels for in_channels={self.in_channels}; "
                f"give in_channels={images.shape[1]}"
            )

    def _check(self, batch: Any) -> Batch:
        if isinstance(batch, Tensor) or not isinstance(batch, Sequence) or len(batch) != 2:
            what = f"images {tuple(batch.shape)} alone" if isinstance(batch, Tensor) else type(batch).__name__
            raise ValueError(f"got a batch of {what}; want (images (B, C, H, W), masks (B, H, W))")
        images, masks = batch
        self._check_images(images)
        wanted = (len(images), *images.shape[2:])
        if masks.shape != wanted or masks.is_floating_point():
            raise ValueError(
                f"got masks {tuple(masks.shape)} of {masks.dtype} for images {tuple(images.shape)}; "
                f"want {wanted} of whole numbers, a class for each pixel"
            )
        masks = masks.long()
        unknown = (masks < 0) | (masks >= self.num_classes)
        if self.ignore_index is not None:
            unknown &= masks != self.ignore_index
        if unknown.any():
            found = masks[unknown].unique().tolist()
            listed = ", ".join(str(value) for value in found[:10]) + (", …" if len(found) > 10 else "")
            void = "no void label" if self.ignore_index is None else f"{self.ignore_index} where there is none"
            raise ValueError(
                f"a mask has the unknown class {listed} in {int(unknown.sum())} pixels; "
                f"want 0 … {self.num_classes - 1}, and {void}: correct the masks, num_classes or ignore_index"
            )
        return images, masks

    def _measure(self, batch: Batch, batch_idx: int, stage: str) -> None:
        images, masks = self._check(batch)
        once = {"scales": (1.0,), "flip": False} if stage == "val" else {}
        logits = self.predict_logits(images, **once)  # type: ignore[arg-type]
        classes = logits.argmax(dim=1)
        valid = torch.ones_like(masks, dtype=torch.bool) if self.ignore_index is None else masks != self.ignore_index
        loss: Any = self.losses[stage]
        score: Any = self.scores[stage]
        loss.update(pixel_loss(logits, masks, self.ignore_index).detach(), valid.sum())
        score.update(classes, masks)
        if batch_idx == 0 and self.pictures:
            self._drawn = (images[: self.pictures], masks[: self.pictures], classes[: self.pictures])

    def _conclude(self, stage: str) -> None:
        score: Any = self.scores[stage]
        loss: Any = self.losses[stage]
        if score.update_called:
            values = {f"{stage}/miou": score.compute()}
            values |= {f"{stage}/pixel_accuracy": score.pixel_accuracy, f"{stage}/loss": loss.compute()}
            # Every rank has the same values: computing them has gathered the counts of all.
            self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
            if stage == "test":
                for name, value in zip(self._class_names(), score.per_class, strict=True):
                    if not value.isnan():
                        self.log(f"test/iou/{name}", value, sync_dist=True)
        score.reset()
        loss.reset()
        drawn, self._drawn = self._drawn, None
        folder = self.trainer.log_dir if self.pictures else None  # asked for on every rank: it is broadcast
        if drawn is None or self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        data = getattr(self.trainer, "datamodule", None)
        picture = draw_segmentation(
            *drawn,
            class_names=self._class_names(),
            palette=getattr(data, "palette", None),
            ignore_index=self.ignore_index,
            mean=getattr(data, "mean", None),
            std=getattr(data, "std", None),
        )
        path = None if folder is None else Path(folder) / "pictures" / f"{stage}.png"
        publish(picture, path=path, loggers=self.trainer.loggers, name=f"{stage}/pictures", step=self.global_step)

    def _class_names(self) -> list[str]:
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        return [str(index) for index in range(self.num_classes)] if names is None else [str(name) for name in names]


def pixel_loss(logits: Tensor, masks: Tensor, ignore_index: int | None, weights: Tensor | None = None) -> Tensor:
    """Give the mean cross-entropy of the pixels that have a class, 0 where none has.

    Pixels are rows of one list: over maps, PyTorch documents that CUDA's cross-entropy has no deterministic form.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64.
        ignore_index: the void label, or ``None``.
        weights: (K,) by which the mean is weighed, each pixel by its class; ``None``: all alike.

    Example:
        >>> pixel_loss(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 3], [255, 255]]]), 255)
        tensor(1.3863)
    """
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).float()
    void = -100 if ignore_index is None else ignore_index
    targets = masks.reshape(-1)
    total = functional.cross_entropy(rows, targets, weight=weights, ignore_index=void, reduction="sum")
    valid = targets != void
    if weights is None:
        return total / valid.sum().clamp_min(1)
    # The weight of what was summed; the least float, since all of it may be void or of a class of weight 0.
    weight = (weights[targets.masked_fill(~valid, 0)] * valid).sum()
    return total / weight.clamp_min(torch.finfo(weight.dtype).tiny)


def _windows(
    crop_size: int | Sequence[int] | None, stride: int | Sequence[int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    if crop_size is None:
        if stride is not None:
            raise ValueError(f"got stride={stride} without crop_size; give crop_size too, or neither")
        return None, None
    window = (crop_size, crop_size) if isinstance(crop_size, int) else (int(crop_size[0]), int(crop_size[1]))
    if stride is None:
        step = (max(1, 2 * window[0] // 3), max(1, 2 * window[1] // 3))
    else:
        step = (stride, stride) if isinstance(stride, int) else (int(stride[0]), int(stride[1]))
    if min(window) < 1 or not (1 <= step[0] <= window[0] and 1 <= step[1] <= window[1]):
        raise ValueError(
            f"got crop_size={crop_size}, stride={stride}; want a window of at least 1 × 1 and a stride of 1 up to the "
            "window's side: beyond, pixels between windows would have no prediction"
        )
    return window, step
