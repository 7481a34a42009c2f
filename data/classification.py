"""What the data modules of labelled things have in common: parts, and loaders over them."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from fulgurite.data.splits import SPLITS, Split


class LabelledDataset(Protocol):
    """A map-style dataset of (input, class number) that knows its labels without making the inputs."""

    labels: Tensor

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, Any]: ...


class ClassificationData(L.LightningDataModule):
    """Base of the data modules whose batches are (inputs (B, …), labels (B,)); a subclass says how to load.

    Args:
        batch_size: rows in a batch.
        val_share: share of each class for validation, in [0, 1).
        test_share: share of each class for testing, in [0, 1); the rest is for training.
        seed: of the split; the order of training batches follows torch's global generator.
        num_workers: worker processes of each loader.
        collate: makes a batch of rows; ``None`` stacks them.

    Raises:
        ValueError: an option out of range.
    """

    class_names: tuple[str, ...] | None = None  #: of class 0, 1, …, where they have names

    def __init__(
        self,
        *,
        batch_size: int,
        val_share: float,
        test_share: float,
        seed: int,
        num_workers: int,
        collate: Callable[[Any], Any] | None = None,
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
        self.seed = seed
        self.num_workers = num_workers
        self._collate = collate
        self._parts: Mapping[Split, LabelledDataset] | None = None

    def make_parts(self) -> Mapping[Split, LabelledDataset]:
        """Load the data and give the parts that are not empty; called once."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its data comes from: make_parts()")

    @override
    def setup(self, stage: str | None = None) -> None:
        """Load and split on the first call; further calls do nothing."""
        if self._parts is None:
            self._parts = self.make_parts()

    def part(self, split: Split) -> Any:
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
            collate_fn=self._collate,
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
