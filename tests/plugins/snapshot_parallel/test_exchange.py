"""Redistribution and gathering among real ranks: values, gradients, and bytes to the last one."""

import pytest
import torch
import torch.distributed as dist

from fulgurite.plugins.snapshot_parallel.collective import Tape
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange, Traffic
from fulgurite.plugins.snapshot_parallel.partitioning import Split, partition

distributed = pytest.mark.distributed


def split_of(ranks, steps=7, nodes=5):
    return partition([1] * steps, nodes, ranks).blocks[0]


def with_gaps(ranks):
    """A later block in which only the first and the last rank have snapshots, and the first has no vertex."""
    if ranks == 1:
        return Split(steps=((3, 9),), vertices=((0, 4),))
    steps = ((3, 7), *((7, 7),) * (ranks - 2), (7, 9))
    return Split(steps=steps, vertices=((0, 0), *((0, 0),) * (ranks - 2), (0, 4)))


def splits(ranks):
    return [split_of(ranks), split_of(ranks, steps=2), split_of(ranks, nodes=2), with_gaps(ranks)]


def shards(split, rank, dtype, features=3):
    whole = torch.arange(split.num_steps * split.num_vertices * features).to(dtype)
    whole = (whole % 97).view(split.num_steps, split.num_vertices, features)
    (start, stop), (low, high) = split.steps[rank], split.vertices[rank]
    return whole, slice(start - split.start, stop - split.start), slice(low, high)


def there_and_back(split, dtype, features):
    exchange = GroupExchange()
    rank = exchange.rank
    whole, own_steps, own_vertices = shards(split, rank, dtype, features)
    x = whole[own_steps].clone().requires_grad_()
    y = exchange.to_vertices(x, split)
    assert torch.equal(y, whole[:, own_vertices])
    z = exchange.to_snapshots(2 * y, split)
    assert torch.equal(z, 2 * whole[own_steps])
    (z * whole[own_steps]).sum().backward()
    assert torch.equal(x.grad, 2 * whole[own_steps])
    return exchange.traffic


def every_way(ranks):
    kinds = ((torch.float32, 3), (torch.float64, 1), (torch.bfloat16, 6))
    return [(split, *kind, there_and_back(split, *kind)) for split in splits(ranks) for kind in kinds]


@distributed
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shards_go_there_and_back_and_bytes_are_the_formula(run_ranks, ranks):
    for rank, ways in enumerate(run_ranks(every_way, ranks, ranks)):
        for split, dtype, features, traffic in ways:
            away = split.bytes_to_vertices(rank, features, dtype.itemsize)
            back = split.bytes_to_snapshots(rank, features, dtype.itemsize)
            kinds = ("to_vertices", "to_snapshots", "to_snapshots/backward", "to_vertices/backward")
            expected = dict(zip(kinds, (away, back, away, back), strict=True)) if ranks > 1 else {}
            assert traffic.bytes == expected
            assert traffic.calls == dict.fromkeys(expected, 1)


def test_the_formula_is_the_notes():
    split = split_of(3)
    assert (split.steps_each, split.vertices_each) == ((3, 2, 2), (2, 2, 1))
    assert split.bytes_to_vertices(1, features=6, itemsize=8) == 2 * (5 - 2) * 6 * 8
    assert split.bytes_to_snapshots(0, features=6, itemsize=8) == 2 * (7 - 3) * 6 * 8


def any_trailing_shape(split):
    exchange = GroupExchange()
    whole, own_steps, own_vertices = shards(split, exchange.rank, torch.float64, 6)
    for shape in ((), (2, 3)):
        full = whole[..., 0] if shape == () else whole.unflatten(2, shape)
        # Not contiguous in memory, as slices of wider tensors are.
        y = exchange.to_vertices(full.transpose(0, 1).contiguous().transpose(0, 1)[own_steps], split)
        assert torch.equal(y, full[:, own_vertices])
        assert torch.equal(exchange.to_snapshots(y, split), full[own_steps])


@distributed
def test_trailing_dimensions_are_free(run_ranks):
    run_ranks(any_trailing_shape, 3, split_of(3))


def gathered(split):
    exchange = GroupExchange()
    whole, own_steps, _ = shards(split, exchange.rank, torch.float64, 2)
    x = whole[own_steps].clone().requires_grad_()
    y = exchange.gather_steps(x, split)
    assert torch.equal(y, whole)
    (y * (exchange.rank + 1)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, sum(range(1, exchange.size + 1))))
    return exchange.traffic


@distributed
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_gathered_steps_get_the_sum_of_all_ranks_gradients(run_ranks, ranks):
    split = split_of(ranks)
    frame = 5 * 2 * 8
    for rank, traffic in enumerate(run_ranks(gathered, ranks, split)):
        mine, others = split.steps_each[rank], split.num_steps - split.steps_each[rank]
        sent = {"gather": mine * (ranks - 1) * frame, "gather/backward": others * frame}
        assert traffic.bytes == (sent if ranks > 1 else {})


def summed():
    exchange = GroupExchange()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    total = exchange.sum(x)
    assert total.tolist() == [3.0, 6.0]
    assert x.tolist() == [1.0, 2.0]
    assert not total.requires_grad
    return exchange.traffic.bytes


@distributed
def test_sums_leave_what_they_sum(run_ranks):
    assert run_ranks(summed, 3) == [{"scalars": 8}] * 3


def without_gradients(split, mode):
    exchange = GroupExchange()
    whole, own_steps, own_vertices = shards(split, exchange.rank, torch.float64)
    with mode():
        x = whole[own_steps] * 1.0
        assert torch.equal(exchange.to_vertices(x, split), whole[:, own_vertices])
        assert torch.equal(exchange.gather_steps(x, split), whole)
        extended, carried = exchange.halo(x, split, width=2)
        assert torch.equal(extended, whole[max(0, own_steps.start - 2) : own_steps.stop])
        assert not extended.requires_grad
    return len(carried)


@distributed
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradients_no_graph(run_ranks, mode):
    assert sum(run_ranks(without_gradients, 2, split_of(2), mode)) == 2


def requirements(split):
    exchange = GroupExchange()
    whole, own_steps, _ = shards(split, exchange.rank, torch.float64)
    plain = exchange.to_vertices(whole[own_steps], split)
    asked = exchange.to_vertices(whole[own_steps].requires_grad_(), split)
    return plain.requires_grad, asked.requires_grad


@distributed
def test_a_result_needs_a_gradient_where_its_input_does_on_every_rank(run_ranks):
    # Ranks 2 and 3 own nothing at all.
    split = Split(steps=((0, 1), (1, 2), (2, 2), (2, 2)), vertices=((0, 1), (1, 2), (2, 2), (2, 2)))
    assert run_ranks(requirements, 4, split) == [(False, True)] * 4


def narrow(split):
    exchange = GroupExchange(wire_dtype=torch.bfloat16)
    _, own_steps, own_vertices = shards(split, exchange.rank, torch.float32)
    whole = torch.linspace(0, 1, split.num_steps * split.num_vertices).view(split.num_steps, split.num_vertices)
    x = whole[own_steps].clone().requires_grad_()
    y = exchange.to_vertices(x, split)
    expected = whole.bfloat16().float()[:, own_vertices].clone()
    expected[own_steps] = whole[own_steps, own_vertices]
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    (y * whole[:, own_vertices]).sum().backward()
    gradient = whole.bfloat16().float()[own_steps].clone()
    gradient[:, own_vertices] = whole[own_steps, own_vertices]
    assert torch.equal(x.grad, gradient)
    counts = exchange.to_vertices(torch.full((len(x), split.num_vertices), 2**40 + 1), split)
    assert bool((counts == 2**40 + 1).all())
    return exchange.traffic.bytes


@distributed
def test_the_wire_is_narrow_and_what_stays_is_exact(run_ranks):
    split = split_of(3)
    for rank, sent in enumerate(run_ranks(narrow, 3, split)):
        whole = split.bytes_to_vertices(rank, 1, 8)  # the counts, which are no floats, go as they are
        assert sent["to_vertices"] == split.bytes_to_vertices(rank, 1, 2) + whole
        assert sent["to_vertices/backward"] == split.bytes_to_snapshots(rank, 1, 2)


def loss_on_one_rank(split):
    """Two branches of collectives; each rank's loss needs another one, and rank 1 has no loss term at all."""
    exchange = GroupExchange()
    rank = exchange.rank
    order = []
    transfer = exchange._transfer

    def noted(route, x, backward):
        order.append(f"{route.kind}/backward" if backward else route.kind)
        return transfer(route, x, backward)

    exchange._transfer = noted
    x = torch.full((split.steps_each[rank], split.num_vertices, 1), rank + 1.0, requires_grad=True)
    with exchange.chained() as chain:
        y = exchange.to_vertices(x, split)
        gathered = exchange.gather_steps(3 * x, split)
        z = chain.tie(exchange.to_snapshots(2 * y, split))
    loss = {0: z.sum(), 1: 0 * z.sum(), 2: gathered.sum() + 0 * z.sum()}[rank]
    loss.backward()
    return order, x.grad.flatten().tolist()


@distributed
def test_backward_collectives_come_in_one_order_whatever_a_loss_needs(run_ranks):
    split = split_of(3, steps=3, nodes=3)
    results = run_ranks(loss_on_one_rank, 3, split, timeout=30)
    forward = ["to_vertices", "gather", "to_snapshots"]
    assert all(order == forward + [f"{kind}/backward" for kind in reversed(forward)] for order, _ in results)
    # 2 along the way there and back on rank 0; 3 for every snapshot from rank 2's gathered sum.
    assert [gradient for _, gradient in results] == [[5.0] * 3, [3.0] * 3, [3.0] * 3]


def recorded(split):
    exchange = GroupExchange()
    whole, own_steps, _ = shards(split, exchange.rank, torch.float64)
    tape = Tape()
    with torch.no_grad(), exchange.recording(tape):
        y = exchange.to_vertices(whole[own_steps], split)
        z = exchange.to_snapshots(2 * y, split)
    forward = dict(exchange.traffic.bytes)
    x = whole[own_steps].clone().requires_grad_()
    with exchange.replaying(Tape(tape.outputs)):
        again = exchange.to_snapshots(2 * exchange.to_vertices(x, split), split)
    assert torch.equal(again, z)
    assert {kind: sent for kind, sent in exchange.traffic.bytes.items() if "/" not in kind} == forward
    again.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))
    assert not any(output.requires_grad for output in tape.outputs)
    with pytest.raises(RuntimeError, match="same collectives"), exchange.replaying(Tape(tape.outputs)):
        exchange.to_vertices(x, split)
    with pytest.raises(RuntimeError, match="asks for collective 1"), exchange.replaying(Tape()):
        exchange.to_vertices(x, split)
    return exchange.traffic.calls


@distributed
def test_what_is_on_the_tape_is_not_sent_again(run_ranks):
    calls = {"to_vertices": 1, "to_snapshots": 1, "to_snapshots/backward": 1, "to_vertices/backward": 1}
    assert run_ranks(recorded, 2, split_of(2)) == [calls] * 2


def subgroup(split):
    # Every rank makes both groups; of four ranks, 0 and 2 share one and 1 and 3 the other.
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    exchange = GroupExchange(groups[dist.get_rank() % 2])
    x = torch.full((split.steps_each[exchange.rank], split.num_vertices, 1), float(dist.get_rank()))
    y = exchange.to_vertices(x, split)
    return exchange.rank, exchange.size, sorted(set(y.flatten().tolist()))


@distributed
def test_ranks_of_a_group_keep_to_themselves(run_ranks):
    found = run_ranks(subgroup, 4, split_of(2))
    assert found == [(0, 2, [0.0, 2.0]), (0, 2, [1.0, 3.0]), (1, 2, [0.0, 2.0]), (1, 2, [1.0, 3.0])]


def test_one_process_copies_nothing():
    exchange, split = Exchange(), split_of(1)
    x = torch.ones(7, 5, 2, requires_grad=True)
    assert exchange.to_vertices(x, split) is x
    assert exchange.to_snapshots(x, split) is x
    assert exchange.gather_steps(x, split) is x
    assert exchange.halo(x, split, width=3)[0] is x
    assert exchange.halo(x, split, width=3)[1].data_ptr() == x[4:].data_ptr()
    assert exchange.sum(x).data_ptr() == x.data_ptr()
    with exchange.chained() as chain:
        assert chain.tie(x) is x
    assert exchange.traffic == Traffic()


def test_wrong_shapes_are_refused_before_anything_is_sent():
    exchange, split = Exchange(), split_of(1)
    for call in (exchange.to_vertices, exchange.to_snapshots):
        with pytest.raises(ValueError, match=r"got a tensor of shape \(7, 4\); expected it to begin with \(7, 5\)"):
            call(torch.ones(7, 4), split)
    with pytest.raises(ValueError, match=r"expected it to begin with \(7,\)"):
        exchange.gather_steps(torch.ones(6, 2), split)
    with pytest.raises(ValueError, match="expected a floating type"):
        GroupExchange(wire_dtype=torch.int32)


def test_traffic_counts_from_zero_again():
    traffic = Traffic()
    traffic.add("halo", 3)
    traffic.add("halo", 4)
    assert (traffic.bytes, traffic.calls, traffic.total) == ({"halo": 7}, {"halo": 2}, 7)
    traffic.reset()
    assert traffic == Traffic()
