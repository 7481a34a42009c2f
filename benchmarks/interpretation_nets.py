"""The networks and images of benchmarks/representative_interpretation.py."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from fulgurite.data import MNIST5k
from fulgurite.models.image_classification import ImageClassifier

CLASSES = 10


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        seeds: of training, split and initial weights together.
        epochs: of each training.
        batches: share of an epoch's batches that are used.
        reference: images that interpretations are found on, all of them training images.
        held_out: images that the network was not trained on.
        inputs: held-out images that are interpreted, as many of each digit as of any other.
        neighbours: on which maps are scored, for each input.
        clusters: of k-means.
        images: of the large greedy cover.
        every_cut: measure every cut for its table, not only those that ``auto`` looks at.
        patience: seconds for choosing a cut, and for a report.
    """

    seeds: int
    epochs: int
    batches: float
    reference: int
    held_out: int
    inputs: int
    neighbours: int
    clusters: int
    images: int
    every_cut: bool = True
    patience: float = 600.0


@dataclass(frozen=True, eq=False)
class Digits:
    """Images (N, 1, 28, 28) and their labels, and which held-out ones are interpreted."""

    reference: Tensor
    reference_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    inputs: tuple[int, ...]

    @property
    def black(self) -> float:
        """What an empty pixel is, once images are standardised."""
        return float(self.reference.min())

    @classmethod
    def of(cls, data: MNIST5k, sizes: Sizes, seed: int) -> Digits:
        """Drawn from the training part and from the rest."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for part, count in (("train", sizes.reference), ("val", sizes.held_out)):
            rows = data.part(part)
            chosen = torch.randperm(len(rows), generator=generator)[:count]
            drawn += [rows.features[chosen], rows.labels[chosen]]
        inputs = []
        for digit in range(CLASSES)[: sizes.inputs]:
            inputs += (drawn[3] == digit).nonzero().flatten()[: max(1, sizes.inputs // CLASSES)].tolist()
        return cls(*drawn, tuple(inputs))


def trained(
    sizes: Sizes, seed: int, *, backbone: str = "small_cnn", **options: Any
) -> tuple[nn.Module, MNIST5k, float]:
    """A network in evaluation mode, its data (with such ``options``), and the seconds that training took."""
    begun = time.perf_counter()
    pl.seed_everything(seed, verbose=False)
    data = MNIST5k(**{"val_share": 0.2, "test_share": 0.0, "seed": seed, **options})
    model = ImageClassifier(CLASSES, backbone=backbone, in_channels=1)
    with warnings.catch_warnings():
        for message in (".*does not have many workers", ".*LeafSpec.* is deprecated"):
            warnings.filterwarnings("ignore", message=message)
        trainer = pl.Trainer(
            max_epochs=sizes.epochs,
            accelerator="cpu",
            limit_train_batches=sizes.batches,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data)
    return model.eval(), data, time.perf_counter() - begun
