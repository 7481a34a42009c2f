"""One training of each kind, from its settings and a seed: for repgraph_learning.py."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional

from fulgurite.data import DigitScenes, SegmentationFolder, VocDetection
from fulgurite.models import ObjectDetector, SemanticSegmenter
from fulgurite.models.repgraph import build_context

DATA = Path(os.environ.get("FULGURITE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def parameters(module: nn.Module) -> int:
    """How many are trained."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def far_network(settings: Mapping[str, Any], channels: int, classes: int) -> nn.Sequential:
    """Two 3 × 3 convolutions, the layer, and a head that sees one pixel."""
    width = settings["width"]
    stem: list[nn.Module] = []
    for inputs in (channels, width):
        stem += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    options = {"inter_channels": width, "variant": "simple", "tied": False} if settings["context"] != "none" else {}
    layer = build_context(settings["context"], width, **options, **settings.get("options", {}))
    return nn.Sequential(*stem, layer, nn.Conv2d(width, classes, 1))


def train_far(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Pixel accuracy on scenes of digits that were not trained on; every training scene is seen once."""
    data = _scenes(settings, seed)
    data.setup("fit")
    data.setup("test")
    torch.manual_seed(seed)
    network = far_network(settings, data.in_channels, data.num_classes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings["rate"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["rate"], total_steps=settings["steps"])
    for images, labels in data.train_dataloader():
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        right = [(network(images).argmax(1) == labels).float().mean() for images, labels in data.test_dataloader()]
    accuracy = float(torch.stack(right).mean())
    return {"parameters": parameters(network), "test": {"pixel accuracy": round(accuracy, 4)}}


def _scenes(settings: Mapping[str, Any], seed: int) -> DigitScenes:
    """Each training scene is another, so that none is seen twice however many epochs there are."""
    return DigitScenes(
        variant=settings["variant"],
        side=settings["side"],
        num_train=settings["steps"] * settings["batch"],
        num_test=settings["tests"],
        batch_size=settings["batch"],
        augment=True,
        seed=seed,
    )


@cache
def digest(variant: str, side: int) -> str:
    """Of a scene, so that trainings on scenes that were composed otherwise count as others."""
    image, labels = DigitScenes(variant=variant, side=side, num_test=1).part("test")[0]  # type: ignore[arg-type]
    return hashlib.sha256(image.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notices that Lightning gives of every training."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@quiet()
def _fit_and_measure(
    module: pl.LightningModule, data: pl.LightningDataModule, settings: Mapping[str, Any], part: str
) -> Mapping[str, Any]:
    """Train, and score the part ``val`` or ``test``, which nothing was chosen by."""
    trainer = pl.Trainer(
        max_epochs=settings["epochs"],
        limit_train_batches=settings.get("batches", 1.0),
        limit_val_batches=settings.get("batches", 1.0),
        limit_test_batches=settings.get("batches", 1.0),
        check_val_every_n_epoch=settings["epochs"] + 1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    measure = trainer.validate if part == "val" else trainer.test
    return measure(module, data, verbose=False)[0]


def train_segmentation(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Mean IoU, counted over all images that were held out, after the last epoch."""
    data, part = _segmentation_data(settings, seed)
    pl.seed_everything(seed, verbose=False)
    module = SemanticSegmenter(
        data.num_classes,
        backbone=settings["backbone"],
        context=settings["context"],
        class_weights=[share] + [1.0] * (data.num_classes - 1) if (share := settings.get("background")) else None,
        output_stride=settings["output_stride"],
        ignore_index=data.ignore_index,
        optimizer="adamw",
        learning_rate=settings["rate"],
        warmup_steps=settings["warm_up"],
        weight_decay=settings["decay"],
        head_channels=settings["head"],
        dropout=settings["dropout"],
        pictures=0,
    )
    scores = _fit_and_measure(module, data, settings, part)
    test = {"mIoU": scores[f"{part}/miou"], "pixel accuracy": scores[f"{part}/pixel_accuracy"]}
    return _rounded(module, test)


def _segmentation_data(settings: Mapping[str, Any], seed: int) -> tuple[pl.LightningDataModule, str]:
    if settings["data"] == "scenes":
        return _scenes(settings, seed), "test"
    data = SegmentationFolder(
        root=str(DATA / "camvid_small"),
        num_classes=11,
        ignore_index=11,
        batch_size=settings["batch"],
        scale=tuple(settings["scale"]),
        crop_size=tuple(settings["crop"]),
        flip=0.5,
    )
    return data, "val"


def _rounded(module: pl.LightningModule, test: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": parameters(module), "test": {name: round(float(value), 4) for name, value in test.items()}}


def train_detection(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Mean average precision over all images that were held out, after the last epoch."""
    data = VocDetection(
        str(DATA / "bccd"), batch_size=settings["batch"], max_side=settings["max_side"], augment="flips"
    )
    pl.seed_everything(seed, verbose=False)
    module = ObjectDetector(
        data.num_classes,
        context=settings["context"],
        context_at=("layer3",),
        min_size=settings["min_side"],
        max_size=settings["max_side"],
        anchor_sizes=tuple(settings["anchors"]),
        pyramid_width=settings["width"],
        head_width=settings["head"],
        proposals=settings["proposals"],
        samples=settings["samples"],
        optimizer="adamw",
        learning_rate=settings["rate"],
        warmup_steps=settings["warm_up"],
        weight_decay=settings["decay"],
        schedule="cosine",
        pictures=0,
    )
    scores = _fit_and_measure(module, data, settings, "val")
    return _rounded(module, {"mAP": scores["val/map"], "mAP at 0.5": scores["val/map_50"]})
