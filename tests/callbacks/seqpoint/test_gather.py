import math
from dataclasses import replace

import numpy as np
import pytest
import torch.distributed
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.gather import RankSteps, gather, merge, straggler_share
from fulgurite.callbacks.seqpoint.shapes import Columns

COLUMNS = Columns(("batch", "source"), (0, 2), ("", ""))


def steps(lengths, *, seconds=None, known=(), rank=0):
    count = len(lengths)
    sizes = np.array([[8, 99, length] for length in lengths], dtype=np.int64).reshape(count, 3)
    return RankSteps(
        sizes=sizes,
        optimizer_step=np.arange(count) % 2 == 1,
        known=np.array(known, dtype=np.int64).reshape(-1, 4),
        seconds=np.array(seconds if seconds is not None else np.ones(count), dtype=float),
        waits=np.full(count, 0.1 * (rank + 1)),
        starts=np.full(count, 2.0 + rank),
        outside=np.full(count, 0.5 + rank),
        traced=np.arange(count) == rank,
        real=np.full(count, 5),
        padded=np.full(count, 8),
        peak_bytes=np.full(count, math.nan if rank else 7.0),
    )


def test_one_process_is_its_own_epoch():
    log = merge([steps([5, 6, 5])], COLUMNS, epoch=4)
    assert log.epoch == 4
    assert log.columns == ("batch", "source", "optimizer_step")
    assert log.shapes.tolist() == [[8, 5, 0], [8, 6, 1], [8, 5, 0]]
    assert log.cold.tolist() == [True, True, False]


def test_the_largest_over_the_ranks_stands_for_the_step():
    log = merge([steps([5, 9], seconds=[1.0, 4.0]), steps([7, 2], seconds=[3.0, 2.0], rank=1)], COLUMNS, epoch=0)
    assert log.shapes.tolist() == [[8, 7, 0], [8, 9, 1]]
    assert log.seconds.tolist() == [3.0, 4.0]
    assert log.starts.tolist() == [2.0, 2.0]
    assert log.outside.tolist() == [0.5, 0.5]
    assert log.waits.tolist() == pytest.approx([0.2, 0.2])
    assert log.traced.tolist() == [True, True]
    assert log.real.tolist() == [10, 10]
    assert log.padded.tolist() == [16, 16]
    assert log.peak_bytes.tolist() == [7.0, 7.0]


def test_a_rank_that_does_not_know_its_tokens_makes_them_unknown():
    other = replace(steps([5]), real=np.array([-1]), padded=np.array([-1]))
    assert merge([steps([5]), other], COLUMNS, epoch=0).real.tolist() == [-1]


def test_cold_is_what_is_new_to_any_rank():
    known = [[8, 1, 5, 0], [8, 1, 7, 0]]  # the middle size does not belong to the shape
    mine, theirs = steps([5, 5, 7], known=known), steps([5, 5, 5], known=known, rank=1)
    assert merge([mine], COLUMNS, epoch=1).cold.tolist() == [False, True, False]
    assert merge([mine, theirs], COLUMNS, epoch=1).cold.tolist() == [False, True, False]
    assert merge([mine, replace(theirs, known=known_none())], COLUMNS, epoch=1).cold.tolist() == [True, True, False]


def known_none():
    return np.zeros((0, 4), dtype=np.int64)


def test_the_shortest_rank_decides():
    assert len(merge([steps([5, 6, 7]), steps([5, 6])], COLUMNS, epoch=0)) == 2
    assert len(merge([steps([])], COLUMNS, epoch=0)) == 0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 4), min_size=5, max_size=5), min_size=1, max_size=3))
def test_merge_against_a_loop(lengths):
    log = merge([steps(row, rank=rank) for rank, row in enumerate(lengths)], COLUMNS, epoch=0)
    seen = [set() for _ in lengths]
    for i in range(5):
        assert log.shapes[i, 1] == max(row[i] for row in lengths)
        keys = [(row[i], i % 2) for row in lengths]
        assert log.cold[i] == any(key not in mine for key, mine in zip(keys, seen, strict=True))
        for key, mine in zip(keys, seen, strict=True):
            mine.add(key)


def test_straggler_share():
    assert straggler_share(np.array([[2.0, 1.0], [2.0, 1.0]])) == 0.0
    assert straggler_share(np.array([[4.0, 0.0], [0.0, 4.0]])) == 0.5
    assert straggler_share(np.ones((1, 3))) == 0.0


def _rank(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        everybody = gather("this rank could not" if rank else steps([5, 6, 7]))
        assert isinstance(everybody[0], RankSteps)
        assert everybody[0].sizes[:, 2].tolist() == [5, 6, 7]
        assert everybody[1] == "this rank could not"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_get_the_same(tmp_path):
    torch.multiprocessing.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
