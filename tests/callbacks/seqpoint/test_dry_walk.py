import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from fulgurite.callbacks.seqpoint import PlanError
from fulgurite.callbacks.seqpoint.dry_walk import dry_walk

SAMPLES = [torch.zeros(length, 4) for length in range(3, 15)]


def collate(samples):
    lengths = torch.tensor([len(sample) for sample in samples])
    return {"source": torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), "source_lengths": lengths}


def loader(**options):
    return DataLoader(SAMPLES, batch_size=2, collate_fn=collate, **options)


def test_the_walk_sees_what_training_would_see_and_leaves_the_generators_alone():
    torch.manual_seed(3)
    shuffled = loader(shuffle=True)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    walk = dry_walk(shuffled)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    assert sorted(index for batch in walk.batches for index in batch) == list(range(len(SAMPLES)))
    for batch, shape, real, padded in zip(walk.batches, walk.shapes, walk.real, walk.padded, strict=True):
        lengths = [len(SAMPLES[index]) for index in batch]
        assert shape.tolist() == [len(batch), max(lengths)]
        assert (real, padded) == (sum(lengths), len(batch) * max(lengths))


def test_accumulation_adds_the_optimizer_step():
    walk = dry_walk(loader(), accumulate=4)
    assert walk.columns == ("batch", "source", "optimizer_step")
    assert walk.shapes[:, -1].tolist() == [0, 0, 0, 1, 0, 1]  # an epoch's last batch always steps


def test_shape_fn_says_the_shape():
    walk = dry_walk(loader(), shape_fn=lambda batch: (len(batch["source"]), int(batch["source"].numel())))
    assert walk.shapes[0].tolist() == [2, 2 * 4 * 4]


def test_columns_of_another_plan_are_refused():
    with pytest.raises(PlanError, match="the plan's columns are batch, source, target"):
        dry_walk(loader(), columns=("batch", "source", "target"))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(SAMPLES)


@pytest.mark.parametrize("bad", [DataLoader(Stream(), batch_size=2), DataLoader(SAMPLES, batch_size=None), [1, 2]])
def test_what_cannot_be_walked_is_refused(bad):
    with pytest.raises(PlanError, match="cannot be walked through"):
        dry_walk(bad)


def test_an_empty_epoch_is_refused():
    with pytest.raises(PlanError, match="empty"):
        dry_walk(DataLoader(SAMPLES[:1], batch_size=2, drop_last=True))
