"""What the data modules of variable-length samples have in common: splits, loaders, shapes without a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from typing_extensions import override

from fulgurite.data.length_batches import Batching, LengthBatchSampler, check_batching, padded_shapes
from fulgurite.data.splits import Split


class MeasuredDataset(Protocol):
    """A map-style dataset that knows the lengths of its samples without making them."""

    lengths: NDArray[np.int64]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class RaggedIds:
    """Many short sequences of ids in one flat tensor: a million of them cost no million objects.

    Args:
        sequences: the ids of each sequence.

    Example:
        >>> ids = RaggedIds([[4, 5], [6]])
        >>> ids[1].tolist(), ids.lengths.tolist()
        ([6], [2, 1])
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        self._flat = torch.tensor([number for sequence in sequences for number in sequence], dtype=torch.long)
        self._ends = np.cumsum(self.lengths).tolist()

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._flat[self._ends[index] - self.lengths[index] : self._ends[index]]


class VariableLengthData(L.LightningDataModule):
    """Base of the data modules whose batches differ in shape; a subclass says how to load and how to collate.

    Args:
        collate: makes a batch of samples; picklable, for workers.
        batch_size: samples in a batch.
        batching: how training batches are put together, see :class:`~fulgurite.data.length_batches.LengthBatchSampler`.
            Validation and test batches are always bucketed, in the same order every time.
        max_tokens: a budget instead of ``batch_size``: the most of a batch's padded tokens in any of its tensors.
        num_workers: worker processes of each loader.
    """

    def __init__(
        self,
        *,
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        batch_size: int,
        batching: Batching,
        max_tokens: int | None,
        num_workers: int,
    ) -> None:
        super().__init__()
        check_batching(batch_size=batch_size, batching=batching, max_tokens=max_tokens)
        self.batch_size = batch_size
        self.batching = batching
        self.max_tokens = max_tokens
        self.num_workers = num_workers
        self._collate = collate
        self._splits: Mapping[Split, MeasuredDataset] | None = None

    def load(self) -> Mapping[Split, MeasuredDataset]:
        """Read the data and give each part; called once."""
        raise NotImplementedError(f"{type(self).__name__} has to say where its sequences come from: load()")

    @override
    def setup(self, stage: str | None = None) -> None:
        """Load the data on the first call; further calls do nothing."""
        if self._splits is None:
            self._splits = self.load()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N, 2) lengths of the training samples, as wide as their tensors are before padding."""
        return self._part("train").lengths

    def batch_shapes(self, epoch_seed: int = 0) -> NDArray[np.int64]:
        """Shapes of the training batches of an epoch, without training and without drawing from the global RNG.

        Args:
            epoch_seed: which shuffle. A run draws its own from torch's global RNG, so its epochs have the same
                distribution of shapes but not the same batches.

        Returns:
            (M, 3): samples, longest first sequence, longest second sequence of each batch, in order.
        """
        part = self._part("train")
        order = RandomSampler(part, generator=torch.Generator().manual_seed(epoch_seed))
        return padded_shapes(self._batches(part, order, self.batching), part.lengths)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled anew every epoch."""
        part = self._part("train")
        # Lightning turns shuffling off for overfit_batches, but does not look inside a batch sampler.
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))
        return self._loader(part, SequentialSampler(part) if overfit else RandomSampler(part), self.batching)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation part, always the same."""
        return self._evaluation("val")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test part, always the same."""
        return self._evaluation("test")

    def _evaluation(self, split: Split) -> DataLoader[Any]:
        part = self._part(split)
        return self._loader(part, SequentialSampler(part), "bucket")

    def _part(self, split: Split) -> MeasuredDataset:
        self.setup()
        assert self._splits is not None
        if split not in self._splits:
            raise ValueError(f"there is no {split} part; {split}_share is 0: raise it")
        return self._splits[split]

    def _batches(self, part: MeasuredDataset, order: Sampler[int], batching: Batching) -> LengthBatchSampler:
        return LengthBatchSampler(
            order, self.batch_size, lengths=part.lengths, batching=batching, max_tokens=self.max_tokens
        )

    def _loader(self, part: MeasuredDataset, order: Sampler[int], batching: Batching) -> DataLoader[Any]:
        return DataLoader(
            part,  # type: ignore[arg-type]  # torch asks for its own base class; any map-style dataset will do
            batch_sampler=self._batches(part, order, batching),
            collate_fn=self._collate,
            num_workers=self.num_workers,
        )
