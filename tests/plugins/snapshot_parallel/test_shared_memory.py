"""Parts read out of other processes' memory: the same bits as by gloo, growing rooms, nothing left behind, the dead."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fulgurite.plugins.snapshot_parallel import shared_memory
from fulgurite.plugins.snapshot_parallel.exchange import GroupExchange
from fulgurite.plugins.snapshot_parallel.failure import RollCall, exchange_broke
from fulgurite.plugins.snapshot_parallel.partitioning import Split, partition
from fulgurite.plugins.snapshot_parallel.shared_memory import SharedMemory

pytestmark = pytest.mark.distributed
GROUP_TIMEOUT = 10


def blocks_of(ranks):
    """Uneven blocks, fewer snapshots than ranks, fewer vertices than ranks, and a rank that owns nothing at all."""
    found = [*partition([5, 1, 1, 1, 1, 3, 1], 5, ranks, 2).blocks, partition([1, 1], 2, ranks).blocks[0]]
    idle = ((2, 2),) * (ranks - 1)
    return [*found, Split(steps=((0, 2), *idle), vertices=((0, 3), *((3, 3),) * (ranks - 1)))]


def everything(split, exchange, dtype):
    """What all kinds of exchanges give, and the gradients that come back."""
    rank = exchange.rank
    draw = torch.Generator().manual_seed(7 + rank)
    given = torch.randn(split.steps_each[rank], split.num_vertices, 3, generator=draw, dtype=torch.float64)
    x = given.to(dtype).requires_grad_()
    with exchange.chained() as chain:
        vertices = exchange.to_vertices(x, split)
        back = exchange.to_snapshots(vertices.cos(), split)
        gathered = exchange.gather_steps(x.sin(), split)
        extended, carried = exchange.halo(x, split, width=2) if not split.earlier else (x[:0], x[:0])
        total = chain.tie(
            (back * back).sum() + (gathered * (rank + 1)).sum() + (extended**3).sum() + vertices.sum() + carried.sum()
        )
    total.backward()
    return [tensor.detach().clone() for tensor in (vertices, back, gathered, extended, carried, x.grad)]


def both_ways(ranks, dtype, wire):
    found = []
    for shared in (True, False):
        exchange = GroupExchange(wire_dtype=wire, shared_memory=shared)
        tensors = [tensor for split in blocks_of(ranks) for tensor in everything(split, exchange, dtype)]
        found.append((tensors, exchange.traffic, exchange._memory is not None))
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    ("dtype", "wire"), [(torch.float64, None), (torch.float32, torch.bfloat16), (torch.bfloat16, None)]
)
def test_bits_and_bytes_are_those_of_the_process_group(run_ranks, ranks, dtype, wire):
    for shared, sent in run_ranks(both_ways, ranks, ranks, dtype, wire):
        assert (shared[2], sent[2]) == (True, False)
        assert shared[1] == sent[1]
        assert len(shared[0]) == len(sent[0])
        for ours, theirs in zip(shared[0], sent[0], strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


def many_sizes():
    """Parts that shrink and grow, each made of other numbers; they stay until the next call, whoever hurries ahead."""
    memory = SharedMemory.of_group(None)
    rank, size = dist.get_rank(), dist.get_world_size()
    for turn, length in enumerate([3, 0, 50_000, 7, 200_000, 199_999, 1, 400_000]):
        parts = [torch.full((length + to, 2), 1000.0 * turn + 10 * rank + to)[:, 0] for to in range(size)]
        came = memory.swap(parts, [torch.Size((length + rank,))] * size)
        assert came[rank] is parts[rank]
        if rank == turn % size:
            time.sleep(0.02)  # the others begin the next call meanwhile
        for sender, part in enumerate(came):
            assert torch.equal(part, torch.full((length + rank,), 1000.0 * turn + 10 * sender + rank))
    shared = [file for file in Path("/proc/self/fd").iterdir() if "memfd:fulgurite" in _target(file)]
    named = [path.name for path in Path("/dev/shm").glob("*fulgurite*")]
    return memory._capacity, len(shared), named


def _target(file):
    try:
        return os.readlink(file)
    except OSError:  # the folder's own descriptor, closed by now
        return ""


def test_room_grows_with_what_is_sent_and_outgrown_room_is_let_go(run_ranks):
    for capacity, descriptors, named in run_ranks(many_sizes, 3):
        assert 2 * 400_000 * 4 <= capacity <= 2 * 400_000 * 4 + 2**18
        # One for the room, and those that the mappings of the room and of two other ranks' hold.
        assert descriptors <= 4
        assert named == []


def inference_then_training():
    exchange = GroupExchange()
    split = partition([1, 1], 4, 2).blocks[0]
    x = torch.ones(1, 4, 2)
    with torch.inference_mode():
        exchange.to_vertices(x, split)
    y = exchange.to_vertices(x.requires_grad_(), split)
    y.sum().backward()
    return x.grad.sum().item()


def test_memory_made_while_validating_serves_training(run_ranks):
    assert run_ranks(inference_then_training, 2) == [8.0, 8.0]


def one_cannot(broken):
    if dist.get_rank() == 1:
        broken()
    exchange = GroupExchange()
    split = partition([1, 1], 4, 2).blocks[0]
    y = exchange.to_vertices(torch.full((1, 4, 2), float(exchange.rank)), split)
    return exchange._memory is None, sorted(set(y.flatten().tolist()))


def no_memory_files():
    del os.memfd_create


def other_machine():
    # Processes that this one sees under the numbers of others, or not at all.
    shared_memory._holds = lambda process, descriptor, secret: process == os.getpid()


@pytest.mark.parametrize("broken", [no_memory_files, other_machine])
def test_where_one_rank_cannot_share_all_send(run_ranks, broken):
    assert run_ranks(one_cannot, 2, broken) == [(True, [0.0, 1.0])] * 2


def test_a_secret_is_only_found_in_the_memory_that_holds_it():
    room = shared_memory._Room.make(4)
    room.bytes.copy_(torch.tensor([1, 2, 3, 4]))
    assert shared_memory._holds(os.getpid(), room.descriptor, bytes([1, 2, 3, 4]))
    assert not shared_memory._holds(os.getpid(), room.descriptor, bytes([1, 2, 3, 5]))
    os.close(room.descriptor)
    assert not shared_memory._holds(os.getpid(), room.descriptor, bytes([1, 2, 3, 4]))


def swap_until(event, victim, steps=50, at=5):
    def share(value):
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    roll = RollCall.open(rank=dist.get_rank(), world_size=3, host="127.0.0.1", share=share, grace=1.0)
    exchange = GroupExchange()
    split = partition([1] * 6, 9, 3).blocks[0]
    began = time.monotonic()
    try:
        for step in range(steps):
            if exchange.rank == victim and step == at:
                event()
            # Wider with every step: there is always new room to open.
            exchange.to_vertices(torch.ones(2, 9, 4096 * (1 + step)), split)
    except Exception as error:
        verdict = roll.explain(error)
        return exchange._memory is not None, str(verdict), exchange_broke(error), time.monotonic() - began
    return None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("the third file is empty")


@pytest.mark.parametrize(("event", "said"), [(die, "rank 1 died"), (fail, "rank 1 failed with ValueError: the third")])
def test_a_rank_that_ends_is_named_by_all_others_within_the_timeout(run_ranks, event, said):
    results = run_ranks(swap_until, 3, event, 1, group_timeout=GROUP_TIMEOUT, errors="return")
    for rank in (0, 2):
        shared, verdict, broke, seconds = results[rank]
        assert shared
        assert broke
        assert verdict.startswith(said)
        assert seconds < GROUP_TIMEOUT


def test_memory_that_is_gone_with_its_process_is_an_exchange_that_broke():
    gone = SharedMemory.__new__(SharedMemory)
    gone._others, gone._processes = {}, [2**22 + 1]  # above Linux's largest process number
    with pytest.raises(ConnectionError, match="rank 0 is gone") as caught:
        gone._read(0, 3, 0, torch.Size((2,)), torch.float32, torch.float32)
    assert exchange_broke(caught.value)
