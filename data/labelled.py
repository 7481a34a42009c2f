"""What the data modules of labelled rows have in common: a stratified split, standardised features, loaders."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from fulgurite.data.splits import SPLITS, Split


class LabelledRows(Dataset[tuple[Tensor, Tensor]]):
    """Feature rows and their labels in two tensors; a whole batch is one indexing.

    Args:
        features: (N, F).
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


class LabelledData(L.LightningDataModule):
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
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"got batch_size={batch_size}; want at least 1")
        if not (val_share >= 0 and test_share >= 0 and val_share + test_share < 1):
            raise ValueError(
                f"got val_share={val_share} and test_share={test_share}; want at least 0 each and less than 1 together"
            )
        self.batch_size = batch_size
        self.val_share = val_share
        self.test_share = test_share
        self.normalize = normalize
        self.seed = seed
        self.num_workers = num_workers
        self._parts: dict[Split, LabelledRows] | None = None

    def load(self) -> tuple[Tensor, Tensor]:
        """Read features (N, F), float32, and labels (N,), int64; called once."""
        raise NotImplementedError

    def standardize(self, features: Tensor, train: Tensor) -> Tensor:
        """Shift and scale the features (N, F) of all rows by the training rows (M, F): here, each feature by itself."""
        spread = train.std(dim=0)
        return (features - train.mean(dim=0)) / torch.where(spread > 0, spread, 1.0)

    @override
    def setup(self, stage: str | None = None) -> None:
        """Load and split on the first call; further calls do nothing."""
        if self._parts is not None:
            return
        features, labels = self.load()
        rows = stratified_split(labels, val_share=self.val_share, test_share=self.test_share, seed=self.seed)
        if self.normalize:
            features = self.standardize(features, features[rows["train"]])
        self._parts = {part: LabelledRows(features[index], labels[index]) for part, index in rows.items() if len(index)}

    def part(self, split: Split) -> LabelledRows:
        """The rows of one part.

        Raises:
            ValueError: the part is empty.
        """
        self.setup()
        assert self._parts is not None
        if split not in self._parts:
            raise ValueError(f"there is no {split} part; {split}_share is {getattr(self, f'{split}_share')}: raise it")
        return self._parts[split]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled anew every epoch."""
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part, always the same."""
        return self._loader("val")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part, always the same."""
        return self._loader("test")

    def _loader(self, split: Split, *, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            self.part(split),
            batch_size=self.batch_size,
            shuffle=shuffle,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
        )


def stratified_split(labels: Tensor, *, val_share: float, test_share: float, seed: int = 0) -> Mapping[Split, Tensor]:
    """Cut the rows of each class by the same shares, shuffled by the seed alone.

    Args:
        labels: (N,) class numbers.
        val_share: share for validation.
        test_share: share for testing.
        seed: of a generator of its own; torch's global one is left alone.

    Returns:
        The rows of each part, in ascending order.

    Example:
        >>> rows = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), val_share=0.25, test_share=0.25)
        >>> {part: len(index) for part, index in rows.items()}
        {'train': 4, 'val': 2, 'test': 2}
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[Split, list[Tensor]] = {part: [] for part in SPLITS}
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        first, second = round(val_share * len(rows)), round((val_share + test_share) * len(rows))
        found["val"].append(rows[:first])
        found["test"].append(rows[first:second])
        found["train"].append(rows[second:])
    return {part: torch.cat(pieces).sort().values for part, pieces in found.items()}


def _as_it_is(batch: Any) -> Any:
    return batch
