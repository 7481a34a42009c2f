"""Batches of fixed data shards: what a shard holds never depends on the process that hosts it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Subset
from torch.utils.data.sampler import RandomSampler, SequentialSampler


class ShardError(ValueError):
    """A loader cannot be cut into shards; the message says what to give."""


class ShardLoader:
    """Wraps a training loader: its sample k belongs to shard ``k % shards``, and each batch is of one hosted shard.

    An epoch has ``shards`` batches, whichever shards they are of: the hosted ones, in turn. Who hosts nothing waits.
    In full batches a batch is a whole shard in the dataset's order, the same tensors every time. Otherwise it has the
    loader's batch size, and each pass over a shard is in an order drawn from (seed, shard, pass), where the loader
    shuffles.

    Args:
        loader: a ``DataLoader`` of a map-style dataset, with a length.
        shards: how many.
        hosted: the shards that this process hosts at the moment, ascending.
        wait: called again and again while there is none; returns False once the iteration is over.
        full_batch: whole shards.
        seed: of the orders.

    Attributes:
        shard: whose batch was given last.

    Raises:
        ShardError: something else than such a loader, a sampler of one's own, or fewer samples than shards.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.arange(7))
        >>> loader = ShardLoader(DataLoader(data, batch_size=2), 3, lambda: [0, 2], lambda: False, full_batch=True)
        >>> [(loader.shard, batch[0].tolist()) for batch in loader]
        [(0, [0, 3, 6]), (2, [2, 5]), (0, [0, 3, 6])]
    """

    def __init__(
        self,
        loader: object,
        shards: int,
        hosted: Callable[[], Sequence[int]],
        wait: Callable[[], bool],
        *,
        full_batch: bool,
        seed: int = 0,
    ) -> None:
        _check(loader, shards)
        assert isinstance(loader, DataLoader)
        self.loader, self.shards, self.full_batch, self.seed = loader, shards, full_batch, seed
        self._hosted, self._wait = hosted, wait
        self._batches: dict[int, Iterator[Any]] = {}
        self._whole: dict[int, Any] = {}
        self._passes: dict[int, int] = {}
        self.shard = -1

    def __len__(self) -> int:
        return self.shards

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.shards):
            while not (hosted := self._hosted()):
                if not self._wait():
                    return
            # The next in turn after the last one, in whatever is hosted now.
            self.shard = next((shard for shard in hosted if shard > self.shard), hosted[0])
            for kept in (self._batches, self._whole):
                for shard in set(kept) - set(hosted):
                    del kept[shard]
            yield self._full(self.shard) if self.full_batch else self._next(self.shard)

    def size(self, shard: int) -> int:
        """How many samples a shard has."""
        return len(range(shard, len(self.loader.dataset), self.shards))  # type: ignore[arg-type]

    def whole(self, shard: int) -> Any:
        """All of a shard as one batch, whoever hosts it; draws no random numbers and changes nothing."""
        return next(iter(self._part(shard, self.size(shard), torch.Generator(), shuffle=False)))

    def identity(self) -> str:
        """Of the data: how many samples, and in full batches, which are always the same, a digest of some of them."""
        dataset: Any = self.loader.dataset
        count = len(dataset)
        if not self.full_batch:
            return f"{count} samples"
        with torch.random.fork_rng(devices=[]):
            some = Subset(dataset, [*range(min(self.shards, count)), count - 1])
            # Like every batch: a dataset may give several samples at once, which its collate function counts on.
            batch = next(iter(DataLoader(some, batch_size=len(some), collate_fn=self.loader.collate_fn)))
        hashed = hashlib.blake2b(digest_size=8)
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                hashed.update(leaf.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return f"{count} samples ({hashed.hexdigest()})"

    def _full(self, shard: int) -> Any:
        if shard not in self._whole:
            self._whole[shard] = self.whole(shard)
        return self._whole[shard]

    def _next(self, shard: int) -> Any:
        while True:
            if shard not in self._batches:
                size = min(self.loader.batch_size or 1, self.size(shard))
                shuffle = isinstance(self.loader.sampler, RandomSampler)
                number = self._passes[shard] = self._passes.get(shard, -1) + 1
                generator = torch.Generator().manual_seed(hash((self.seed, shard, number)) % 2**63)
                self._batches[shard] = iter(self._part(shard, size, generator, shuffle=shuffle))
            try:
                return next(self._batches[shard])
            except StopIteration:
                del self._batches[shard]

    def _part(self, shard: int, batch_size: int, generator: torch.Generator, *, shuffle: bool) -> DataLoader[Any]:
        dataset: Any = self.loader.dataset
        return DataLoader(
            Subset(dataset, range(shard, len(dataset), self.shards)),
            batch_size=batch_size,
            shuffle=shuffle,
            generator=generator,
            collate_fn=self.loader.collate_fn,
            num_workers=0 if self.full_batch else self.loader.num_workers,
            drop_last=False if self.full_batch else self.loader.drop_last and self.size(shard) >= batch_size,
        )


def _check(loader: object, shards: int) -> None:
    want = "give a DataLoader of a dataset with a length"
    if not isinstance(loader, DataLoader):
        raise ShardError(f"got a {type(loader).__name__} to train from; the data are cut into {shards} shards: {want}")
    if loader.batch_size is None or not isinstance(loader.sampler, RandomSampler | SequentialSampler):
        kind = type(loader.sampler if loader.batch_size is not None else loader.batch_sampler).__name__
        raise ShardError(
            f"got a loader with {kind}; samples are dealt out by index, and each shard's order is drawn by itself: "
            "give shuffle=True or False and no sampler"
        )
    try:
        samples = len(loader.dataset)  # type: ignore[arg-type]
    except TypeError:
        raise ShardError(f"the dataset {type(loader.dataset).__name__} has no length; {want}") from None
    if samples < shards:
        raise ShardError(f"got {samples} samples for {shards} shards; expected one each at least: take fewer shards")
