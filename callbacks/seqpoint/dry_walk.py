"""Walk through an epoch's batches without training: what is drawn, and in what shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from fulgurite.callbacks.random_state import random_state, set_random_state
from fulgurite.callbacks.seqpoint.leaves import find_leaves
from fulgurite.callbacks.seqpoint.padding import PaddingCounter
from fulgurite.callbacks.seqpoint.plan import PlanError
from fulgurite.callbacks.seqpoint.shapes import ShapeFinder, UserShape


@dataclass(frozen=True)
class DryWalk:
    """An epoch that was drawn but not trained on.

    Attributes:
        batches: the sample indices of each batch, in order.
        shapes: (M, C) shape of each batch.
        columns: names of the shape's columns.
        real: (M,) real tokens of each batch, -1 where unknown.
        padded: (M,) tokens with padding, -1 where unknown.
    """

    batches: list[list[int]]
    shapes: NDArray[np.int64]
    columns: tuple[str, ...]
    real: NDArray[np.int64]
    padded: NDArray[np.int64]


def dry_walk(
    loader: DataLoader[Any],
    *,
    shape_fn: Callable[[Any], int | Sequence[int]] | None = None,
    accumulate: int = 1,
    columns: Sequence[str] | None = None,
) -> DryWalk:
    """Draw one epoch of batches and read their shapes; every global random number generator is left as it was.

    Args:
        loader: a loader with a batch sampler over a map-style data set.
        shape_fn: from a batch to (batch, source length[, target length]); None finds them.
        accumulate: optimizer steps every so many batches.
        columns: the columns of the plan that is to be run, if there is one.

    Raises:
        PlanError: the loader has no batch sampler, its epoch is empty, or its batches lack one of the columns.

    Example:
        >>> import torch
        >>> loader = DataLoader([torch.zeros(n, 4) for n in (3, 5, 7)], batch_size=1)
        >>> dry_walk(loader).shapes.tolist()
        [[1, 3], [1, 5], [1, 7]]
    """
    sampler: Any = getattr(loader, "batch_sampler", None)
    dataset: Any = getattr(loader, "dataset", None)
    collate: Any = getattr(loader, "collate_fn", None)
    if sampler is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise PlanError(
            f"{type(loader).__name__} cannot be walked through: expected a torch DataLoader with a batch sampler over "
            "a map-style data set; make the plan from a training run with the SeqPoint callback instead"
        )
    state = random_state()
    try:
        reader = UserShape(shape_fn) if shape_fn else ShapeFinder()
        padding = PaddingCounter()
        batches, sizes = [], []
        for indices in sampler:
            batch = collate([dataset[index] for index in indices])
            leaves = find_leaves(batch)
            sizes.append(reader.read(batch, leaves))
            padding.count(leaves)
            batches.append(list(indices))
    finally:
        set_random_state(state)
    if not batches:
        raise PlanError("the loader's epoch is empty: expected at least one batch")
    table = np.array(sizes, dtype=np.int64)
    found = reader.choose(table)
    shapes, names = table[:, list(found.indices)], found.names
    wants_flag = "optimizer_step" in (columns or ()) or (columns is None and accumulate > 1)
    if wants_flag:
        steps = (np.arange(1, len(batches) + 1) % accumulate == 0) | (np.arange(1, len(batches) + 1) == len(batches))
        shapes, names = np.column_stack([shapes, steps.astype(np.int64)]), (*names, "optimizer_step")
    if columns is not None and tuple(columns) != tuple(names):
        raise PlanError(
            f"the plan's columns are {', '.join(columns)}, these batches have {', '.join(names)}: "
            "the plan is for other data, select anew"
        )
    real, padded = padding.finish()
    return DryWalk(batches, shapes, tuple(names), real, padded)
