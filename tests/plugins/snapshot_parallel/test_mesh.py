from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from fulgurite.plugins.snapshot_parallel.mesh import Mesh


def test_every_rank_has_one_place_and_neighbours_share_a_batch():
    meshes = [Mesh(rank, 6, 2) for rank in range(6)]
    assert [(m.data_rank, m.snapshot_rank) for m in meshes] == [(d, s) for d in range(3) for s in range(2)]
    assert all(m.rank in m.peers(m.data_rank) for m in meshes)


@pytest.mark.parametrize("snapshot_ranks", [0, 4, 5, 12])
def test_a_number_that_does_not_divide_is_refused_with_those_that_do(snapshot_ranks):
    with pytest.raises(ValueError, match="choose from 1, 2, 3, 6"):
        Mesh(0, 6, snapshot_ranks)


@pytest.mark.distributed
def test_groups_sum_over_the_ranks_of_one_batch(run_ranks):
    def sums():
        rank = dist.get_rank()
        found = []
        for snapshot_ranks in (1, 2, 4):
            group = Mesh(rank, 4, snapshot_ranks).snapshot_group(timedelta(seconds=20))
            value = torch.tensor(float(rank))
            if group is not None:
                dist.all_reduce(value, group=group)
            found.append(float(value))
        return found

    assert run_ranks(sums, 4) == [[0.0, 1.0, 6.0], [1.0, 1.0, 6.0], [2.0, 5.0, 6.0], [3.0, 5.0, 6.0]]


@pytest.mark.distributed
def test_a_group_times_out_when_the_strategy_says_so(run_ranks):
    def wait_for_nobody():
        group = Mesh(dist.get_rank(), 4, 2).snapshot_group(timedelta(seconds=1))
        if dist.get_rank() % 2 == 0:
            with pytest.raises(RuntimeError, match=r"(?i)timed out"):
                dist.all_reduce(torch.ones(1), group=group)
        dist.barrier()

    run_ranks(wait_for_nobody, 4)
