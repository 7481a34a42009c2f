"""Labelled rows that fit into memory: a stratified split, standardised features, a batch in one indexing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from fulgurite.data.classification import ClassificationData, stratified_split
from fulgurite.data.splits import Split


class LabelledRows(Dataset[tuple[Tensor, Tensor]]):
    """Feature rows and their labels in two tensors; a whole batch is one indexing.

    Args:
        features: (N, F), or (N, C, H, W) of images.
        labels: (N,) class numbers.

    Example:
        >>> rows = LabelledRows(torch.eye(3), torch.tensor([0, 1, 2]))
        >>> len(rows), rows.__getitems__([2, 0])[1].tolist()
        (3, [2, 0])
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Give a batch: what torch's loaders ask for where it exists, instead of stacking row by row."""
        return self.features[indices], self.labels[indices]


class LabelledData(ClassificationData):
    """Base of the data modules whose batches are (features (B, F), labels (B,)); a subclass says how to load.

    The split is the same in every run: within each class the rows are shuffled by ``seed`` alone and cut by the shares.

    Args:
        batch_size: rows in a batch.
        val_share: share of each class for validation, in [0, 1).
        test_share: share of each class for testing, in [0, 1); the rest is for training.
        normalize: shift and scale the features by statistics of the training part.
        seed: of the split; the order of training batches follows torch's global generator.
        num_workers: worker processes of each loader; the rows are in memory, so that none is fastest.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        val_share: float,
        test_share: float,
        normalize: bool,
        seed: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            val_share=val_share,
            test_share=test_share,
            seed=seed,
            num_workers=num_workers,
            collate=_as_it_is,
        )
        self.normalize = normalize

    def load(self) -> tuple[Tensor, Tensor]:
        """Read features (N, F), float32, and labels (N,), int64; called once."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its rows come from: load()")

    def alter(self, features: Tensor, labels: Tensor, rows: Mapping[Split, Tensor]) -> Tensor:
        """Give the features that are used in the place of those read, now that the rows of each part are known."""
        return features

    def standardize(self, features: Tensor, train: Tensor) -> Tensor:
        """Shift and scale the features (N, F) of all rows by the training rows (M, F): here, each feature by itself."""
        spread = train.std(dim=0)
        return (features - train.mean(dim=0)) / torch.where(spread > 0, spread, 1.0)

    @override
    def make_parts(self) -> Mapping[Split, LabelledRows]:
        """Load, split and standardise."""
        features, labels = self.load()
        rows = stratified_split(labels, val_share=self.val_share, test_share=self.test_share, seed=self.seed)
        features = self.alter(features, labels, rows)
        if self.normalize:
            features = self.standardize(features, features[rows["train"]])
        return {part: LabelledRows(features[index], labels[index]) for part, index in rows.items() if len(index)}


class LabelledImages(LabelledData):
    """Base of the data modules whose batches are (images (B, C, H, W) float32, labels (B,)); see :class:`LabelledData`.

    They are standardised by one mean and one spread: pixels at the border often never change and have no spread.
    """

    @override
    def standardize(self, features: Tensor, train: Tensor) -> Tensor:
        """Shift and scale by the mean and the spread over all pixels of the training images."""
        return (features - train.mean()) / train.std()


def _as_it_is(batch: Any) -> Any:
    return batch
