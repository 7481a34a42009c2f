"""Trains a detector of objects and measures it as COCO does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from typing_extensions import override

from fulgurite.models.backbone import BackboneNorm
from fulgurite.models.detection.network import Kind, Place, build_detector
from fulgurite.models.detection.pictures import draw_detections
from fulgurite.models.schedules import RateSchedule, ScheduleName
from fulgurite.models.segmentation.pictures import publish

Images = Sequence[Tensor]
Objects = dict[str, Tensor]

_LOGGED = ("map", "map_50", "map_75", "mar_100")
_BY_SIZE = ("map_small", "map_medium", "map_large")


class ObjectDetector(LightningModule):
    r"""Trains Faster or Mask R-CNN on a feature pyramid, with a context layer in the backbone and/or the pyramid.

    S. Ren, K. He, R. Girshick, J. Sun, `Faster R-CNN <https://arxiv.org/abs/1506.01497>`_, 2015; K. He, G. Gkioxari,
    P. Dollár, R. Girshick, `Mask R-CNN <https://arxiv.org/abs/1703.06870>`_, 2017: torchvision's, whose losses are
    summed.

    A batch is (list of images (3, H, W) float32 in [0, 1], list of targets). A target has ``boxes`` (n, 4) of (x1, y1,
    x2, y2) pixels, ``labels`` (n,) int64 from 1 to K, for Mask R-CNN ``masks`` (n, H, W) uint8, and may have
    ``iscrowd`` and ``area``; n may be 0. The detector shifts, scales and resizes images itself, and gives boxes in
    pixels of the images as they came.

    Logged, over all ranks: ``train/loss`` and its parts; ``val/map``, COCO's mean average precision over IoU 0.5 …
    0.95, ``val/map_50``, ``val/map_75`` and ``val/mar_100``; of Mask R-CNN also ``val/segm_map`` …, by masks; the same
    for ``test``, there also ``map_small``, ``map_medium``, ``map_large`` where there are such objects, and
    ``test/map/<class>``. ``pictures`` images of each validation and test are drawn with their true and their predicted
    boxes, into TensorBoard and below the log folder as ``pictures/val.png`` (the newest).

    Prediction gives, for each image, ``boxes`` (m, 4), ``labels`` (m,), ``scores`` (m,), falling, and ``masks``
    (m, H, W) bool. ``Trainer(deterministic=True)`` works; on a GPU torchvision then cuts boxes out by a slower way that
    takes more memory. LightningCLI's ``optimizer`` and ``lr_scheduler`` replace the module's own.

    Args:
        num_classes: K, the background not counted.
        kind: ``faster_rcnn`` for boxes, ``mask_rcnn`` for boxes and masks.
        backbone: a name of :func:`~fulgurite.models.backbone.build_backbone`.
        weights: of the backbone, where training begins: ``None`` at random, a file, or a name of torchvision's.
        norm: ``batch``, or ``frozen``, usual with ``weights`` and few images a step.
        trainable_layers: how many of the backbone's layer4, …, layer1 and stem are trained, 0 to 5; 3 is usual with
            ``weights``. Context layers are always trained.
        context: ``repgraph``, ``non_local``, ``global_context`` or ``none``.
        context_options: of the context layer.
        context_at: where it is: behind ``layer1`` … ``layer4``, and ``fpn``, which is one layer of its own for each of
            the pyramid's four maps.
        min_size: pixels to which the shorter side is brought; of several, training draws one for each image, and the
            last is for testing.
        max_size: of the longer side, at most.
        anchor_sizes: side of the anchors of each of the five levels; small ones for small images.
        aspect_ratios: height to width of the anchors.
        pyramid_width: channels of the pyramid.
        head_width: of the two linear layers of the box head.
        proposals: that reach the box head; twice as many in training, before ``samples`` of them are drawn.
        samples: boxes of an image on which the head is trained.
        detections: given for an image, at most.
        score_threshold: of a detection, at least.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: of the optimizer, before its schedule.
        momentum: of ``sgd``.
        weight_decay: of the optimizer.
        schedule: ``poly``, ``step``, ``cosine`` or ``constant``; see :class:`~fulgurite.models.schedules.RateSchedule`.
        power: of ``poly``.
        milestones: of ``step``: shares of the run.
        gamma: of ``step``.
        warmup_steps: steps over which the rate rises at first.
        pictures: images drawn of each validation and test; 0 for none.

    Raises:
        ValueError: an option out of range; a data module with another number of classes; a batch of another form, a
            label out of range, a target without the masks that Mask R-CNN needs, losses that are not finite.
        ImportError: ``faster-coco-eval`` is not installed, when a run with validation or a test begins.

    Example:
        >>> detector = ObjectDetector(3, min_size=64, max_size=64, pyramid_width=16, head_width=16)
        >>> found = detector.eval()([torch.rand(3, 48, 64), torch.rand(3, 64, 64)])
        >>> len(found), sorted(found[0])
        (2, ['boxes', 'labels', 'scores'])
    """

    def __init__(
        self,
        num_classes: int,
        *,
        kind: Kind = "faster_rcnn",
        backbone: str = "small_resnet",
        weights: str | None = None,
        norm: BackboneNorm = "batch",
        trainable_layers: int = 5,
        context: str = "repgraph",
        context_options: dict[str, Any] | None = None,
        context_at: list[Place] | tuple[Place, ...] = ("layer3",),
        min_size: int | list[int] = 800,
        max_size: int = 1333,
        anchor_sizes: list[int] | tuple[int, ...] = (32, 64, 128, 256, 512),
        aspect_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0),
        pyramid_width: int = 256,
        head_width: int = 1024,
        proposals: int = 1000,
        samples: int = 512,
        detections: int = 100,
        score_threshold: float = 0.05,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        learning_rate: float = 0.02,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: ScheduleName = "step",
        power: float = 0.9,
        milestones: list[float] | tuple[float, ...] = (2 / 3, 8 / 9),
        gamma: float = 0.1,
        warmup_steps: int = 0,
        pictures: int = 4,
    ) -> None:
        super().__init__()
        if optimizer not in ("sgd", "adamw"):
            raise ValueError(f"got optimizer={optimizer!r}; choose from sgd, adamw")
        if not learning_rate > 0:
            raise ValueError(f"got learning_rate={learning_rate}; want more than 0")
        if pictures < 0:
            raise ValueError(f"got pictures={pictures}; want 0 or more")
        self._rates = RateSchedule(
            schedule, warmup_steps=warmup_steps, power=power, milestones=tuple(milestones), gamma=gamma
        )
        self.network = build_detector(
            num_classes,
            kind=kind,
            backbone=backbone,
            weights=weights,
            norm=norm,
            trainable_layers=trainable_layers,
            context=context,
            context_options=context_options,
            context_at=context_at,
            min_size=min_size,
            max_size=max_size,
            anchor_sizes=anchor_sizes,
            aspect_ratios=aspect_ratios,
            pyramid_width=pyramid_width,
            head_width=head_width,
            proposals=proposals,
            samples=samples,
            detections=detections,
            score_threshold=score_threshold,
        )
        self.num_classes = num_classes
        self.kind = kind
        self.pictures = pictures
        self.learning_rate = learning_rate
        self._optimizer_name = optimizer
        self._momentum = momentum
        self._weight_decay = weight_decay
        self.metric: MeanAveragePrecision | None = None
        self._drawn: list[tuple[Tensor, Objects, Objects]] = []
        # Without the weights: a checkpoint has its own, and the file may be gone when it is loaded.
        self.save_hyperparameters(ignore=["weights"])

    @property
    def has_masks(self) -> bool:
        """Whether masks are predicted too."""
        return self.kind == "mask_rcnn"

    @override
    def setup(self, stage: str) -> None:
        """Hold the data's classes against the network's, and get the metric ready."""
        names = self._class_names()
        if names is not None and len(names) != self.num_classes:
            listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            raise ValueError(
                f"got num_classes={self.num_classes} for data of {len(names)} classes ({listed}); "
                f"give num_classes={len(names)}, without a background"
            )
        if stage != "predict" and self.metric is None:
            self.metric = _metric(masks=self.has_masks)

    @override
    def forward(self, images: Images) -> list[Objects]:
        """Detect: of images (3, H, W), each of its own size, give boxes, labels and scores, and masks (m, H, W) bool.

        Raises:
            ValueError: the module is in training mode, or the images are of another form.
        """
        if self.training:
            raise ValueError("the detector is in training mode, in which it needs targets; call eval() first")
        _check_images(images)
        found = self.network(list(images))
        for objects in found:
            objects["boxes"], objects["scores"] = objects["boxes"].float(), objects["scores"].float()
            if "masks" in objects:
                objects["masks"] = objects["masks"].squeeze(1) > 0.5
        return found

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give the loss to descend, and log it and its parts."""
        images, targets = self._check(batch)
        losses = self.network(images, targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        if not loss.isfinite():
            parts = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
            raise ValueError(f"the loss is {float(loss)} ({parts}); lower learning_rate, or raise warmup_steps")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(images))
        return loss

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Detect, and hold it against the truth."""
        self._measure(batch)

    @override
    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Detect, and hold it against the truth."""
        self._measure(batch)

    @override
    def predict_step(self, batch: Any, batch_idx: int) -> list[Objects]:
        """Detect; a batch may also be images alone."""
        images = batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 and _is_batch(batch) else batch
        return self(images)

    @override
    def on_validation_epoch_end(self) -> None:
        """Log the average precisions, and draw."""
        self._conclude("val")

    @override
    def on_test_epoch_end(self) -> None:
        """Log the average precisions, each class's too, and draw."""
        self._conclude("test")

    @override
    def configure_optimizers(self) -> Any:
        """Give the optimizer, and with it the schedule of its rate; see the class."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer: torch.optim.Optimizer
        if self._optimizer_name == "sgd":
            optimizer = torch.optim.SGD(
                trained, lr=self.learning_rate, momentum=self._momentum, weight_decay=self._weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self._weight_decay)
        return self._rates.configure(self, optimizer)

    def _measure(self, batch: Any) -> None:
        images, targets = self._check(batch)
        found = self(images)
        assert self.metric is not None
        keys = ("boxes", "labels", "iscrowd", "area", *(("masks",) if self.has_masks else ()))
        self.metric.update(found, [{key: target[key] for key in keys if key in target} for target in targets])
        for image, target, objects in zip(images, targets, found, strict=True):
            if len(self._drawn) < self.pictures:
                self._drawn.append((image, target, objects))

    def _conclude(self, stage: str) -> None:
        assert self.metric is not None
        self.metric.class_metrics = stage == "test"
        values = self.metric.compute()
        self.metric.reset()
        for name in _LOGGED + (_BY_SIZE if stage == "test" else ()):
            for key, logged in ((f"bbox_{name}", name), (f"segm_{name}", f"segm_{name}"), (name, name)):
                if key in values and (name not in _BY_SIZE or values[key] >= 0):
                    value = values[key].clamp(min=0).to(self.device)  # −1, where nothing is to be found
                    self.log(f"{stage}/{logged}", value, prog_bar=name == "map", sync_dist=True)
        if stage == "test":
            names = self._class_names() or [str(number) for number in range(1, self.num_classes + 1)]
            for key, logged in (
                ("map_per_class", "map"),
                ("bbox_map_per_class", "map"),
                ("segm_map_per_class", "segm_map"),
            ):
                if key in values:
                    pairs = zip(values["classes"].reshape(-1).tolist(), values[key].reshape(-1), strict=True)
                    for label, value in pairs:
                        if value >= 0:
                            self.log(f"test/{logged}/{names[label - 1]}", value.to(self.device), sync_dist=True)
        self._draw(stage)

    def _draw(self, stage: str) -> None:
        drawn, self._drawn = self._drawn, []
        folder = self.trainer.log_dir if self.pictures else None  # asked for on every rank: it is broadcast
        if not drawn or not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        names = self._class_names() or [str(number) for number in range(1, self.num_classes + 1)]
        picture = draw_detections(drawn, class_names=names)
        path = None if folder is None else Path(folder) / "pictures" / f"{stage}.png"
        publish(picture, path=path, loggers=self.trainer.loggers, name=f"{stage}/pictures", step=self.global_step)

    def _class_names(self) -> Sequence[str] | None:
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        return getattr(data, "class_names", None)

    def _check(self, batch: Any) -> tuple[list[Tensor], list[Objects]]:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not _is_batch(batch):
            raise ValueError(
                f"got a batch of {type(batch).__name__}; want (list of images (3, H, W), list of targets with boxes "
                "and labels)"
            )
        images, targets = batch
        _check_images(images)
        if len(images) != len(targets):
            raise ValueError(f"got {len(images)} images and {len(targets)} targets; want one target an image")
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            labels, boxes = target["labels"], target["boxes"]
            if boxes.shape != (len(labels), 4) or not boxes.is_floating_point():
                raise ValueError(
                    f"image {number} has boxes {tuple(boxes.shape)} of {boxes.dtype} for {len(labels)} labels; "
                    f"want ({len(labels)}, 4) of a float type"
                )
            if len(labels) and not (int(labels.min()) >= 1 and int(labels.max()) <= self.num_classes):
                raise ValueError(
                    f"image {number} has labels from {int(labels.min())} to {int(labels.max())}; "
                    f"want 1 to {self.num_classes}: 0 is the background"
                )
            if len(labels) and bool((boxes[:, 2:] <= boxes[:, :2]).any()):
                bad = boxes[(boxes[:, 2:] <= boxes[:, :2]).any(dim=1)][0]
                raise ValueError(
                    f"image {number} has the box {bad.tolist()}, without an area; want x1 < x2 and y1 < y2"
                )
            if self.has_masks and ("masks" not in target or target["masks"].shape != (len(labels), *image.shape[1:])):
                got = f"masks {tuple(target['masks'].shape)}" if "masks" in target else "no masks"
                raise ValueError(
                    f"image {number} of {tuple(image.shape[1:])} has {got}; kind='mask_rcnn' wants "
                    f"{(len(labels), *image.shape[1:])}: give the data masks, or kind='faster_rcnn'"
                )
        return list(images), list(targets)


def _metric(*, masks: bool) -> MeanAveragePrecision:
    try:
        metric = MeanAveragePrecision(
            iou_type=("bbox", "segm") if masks else "bbox", backend="faster_coco_eval", class_metrics=False
        )
    except ModuleNotFoundError as error:
        raise ImportError(
            "the average precision of detections needs faster-coco-eval, which is not installed; "
            'run: pip install "fulgurite[detection]"'
        ) from error
    metric.warn_on_many_detections = False
    return metric


def _is_batch(batch: Sequence[Any]) -> bool:
    return isinstance(batch[1], list | tuple) and all(
        isinstance(target, dict) and "boxes" in target and "labels" in target for target in batch[1]
    )


def _check_images(images: Any) -> None:
    for number, image in enumerate(images):
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            got = f"{tuple(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"image {number} is {got}; want (3, H, W) of a float type, values in [0, 1]")
