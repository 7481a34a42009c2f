import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn import CDGCN, TMGCN, WDGCN, EvolveGCNH, EvolveGCNO
from fulgurite.plugins.snapshot_parallel.exchange import GroupExchange
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.replay import (
    Call,
    ReplayExchange,
    Scene,
    in_small,
    load,
    run_once,
    step_seconds,
)
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.statistics import Statistics

NODES, STEPS = 40, 9


def networks():
    return {
        "WDGCN": WDGCN(2),
        "CDGCN": CDGCN(2),
        "TMGCN": TMGCN(2, window=3),
        "EvolveGCNO": EvolveGCNO(2),
        "EvolveGCNH": EvolveGCNH(2),
    }


def a_timeline(m_window):
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randint(NODES, (2, 400), generator=generator)
    time = torch.randint(STEPS, (400,), generator=generator)
    options = {"num_nodes": NODES, "num_snapshots": STEPS, "m_window": m_window, "degree_features": True}
    return Timeline.from_events(source.numpy(), target.numpy(), time.numpy(), symmetrise=True, **options)


def by_kind(made, part, rank):
    found = {}
    for call in made:
        kind = call.kind + "/backward" * call.backward
        found[kind] = found.get(kind, 0) + int(call.sent(part)[rank])
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "halo"), [*((name, "auto") for name in networks()), ("TMGCN", "never")])
def test_a_replay_counts_what_real_ranks_send(name, halo, run_ranks):
    ranks = 3
    network, timeline = networks()[name], a_timeline(3 if name == "TMGCN" else 1)
    statistics = Statistics.of(timeline)

    def real():
        found = []
        for part, collectives in cases:
            exchange = GroupExchange(halo_mode=halo)
            shard = Shard.build(timeline, part, exchange, source=Resident(timeline), collectives=collectives)
            shard.run(network).sum().backward()
            found.append(dict(exchange.traffic.bytes))
        return found

    cases = [
        (statistics.partition(ranks, blocks), collectives)
        for blocks, collectives in [(1, "none"), (3, "save"), (STEPS, "resend")]
    ]
    found = run_ranks(real, ranks)
    for place, (part, collectives) in enumerate(cases):
        for rank in range(ranks):
            usage = run_once(network, in_small(statistics, part, rank, 24), collectives, halo=halo)
            # It ran over 24 vertices; its calls say what 40 send.
            told = by_kind(usage.calls, part, rank)
            assert {kind: sent for kind, sent in told.items() if sent} == {
                kind: sent for kind, sent in found[rank][place].items() if sent
            }


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=40)
def test_bytes_are_those_of_the_split(steps, nodes, ranks, row, data):
    blocks = data.draw(st.integers(1, steps))
    part = partition([1] * steps, nodes, ranks, blocks)
    for index, split in enumerate(part.blocks):
        there, back = Call("to_vertices", False, index, row, 4), Call("to_snapshots", False, index, row, 4)
        for rank in range(ranks):
            assert there.sent(part)[rank] == split.bytes_to_vertices(rank, row, 4)
            assert back.sent(part)[rank] == split.bytes_to_snapshots(rank, row, 4)
        assert np.array_equal(Call("to_vertices", True, index, row, 4).sent(part), back.sent(part))
        assert np.array_equal(Call("to_snapshots", True, index, row, 4).sent(part), there.sent(part))


def test_a_redistribution_of_all_ranks_is_the_papers_volume():
    """(P - 1) / P · T · N · (F_in + F_out) · s with even splits, whatever P: fixed in the number of ranks."""
    for ranks in (2, 4, 8):
        part = partition([1] * 16, 40, ranks)
        both = [Call(kind, False, 0, 6, 4).sent(part).sum() for kind in ("to_vertices", "to_snapshots")]
        assert sum(both) == (ranks - 1) / ranks * 16 * 40 * (6 + 6) * 4


def test_saving_sends_a_third_less_than_resending():
    statistics = Statistics.parse("snapshots=8,nodes=16,nnz=40,features=2")
    part = statistics.partition(4, 2)
    sent = {}
    for collectives in ("save", "resend"):
        usage = run_once(WDGCN(2), in_small(statistics, part, 1, 16), collectives)
        sent[collectives] = sum(int(call.sent(part)[1]) for call in usage.calls)
    assert sent["resend"] * 2 == sent["save"] * 3


def test_the_exchange_gives_shapes_and_counts_as_a_real_one():
    part = partition([1] * 6, num_nodes=10, ranks=4)
    exchange = ReplayExchange(2, part)
    x = torch.ones(part.blocks[0].steps_each[2], 10, 3, requires_grad=True)
    y = exchange.to_vertices(x, part.blocks[0])
    assert y.shape == (6, part.blocks[0].vertices_each[2], 3)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert exchange.traffic.calls == {"to_vertices": 1, "to_vertices/backward": 1}
    assert exchange.traffic.bytes["to_vertices"] == part.blocks[0].bytes_to_vertices(2, 3, 4)


def test_a_real_timelines_shard_can_be_replayed():
    timeline = a_timeline(1)
    statistics = Statistics.of(timeline)
    part = statistics.partition(3, 2)
    shard, exchange = Scene(statistics, part, 1, timeline).shard(torch.device("cpu"), "resend", "auto")
    assert load(shard)[0] > 0
    network = WDGCN(2)
    assert step_seconds(network, shard, repeats=1) > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert {call.block for call in exchange.made} == {0, 1}


def test_a_rank_without_snapshots_is_replayed_too():
    statistics = Statistics.parse("snapshots=2,nodes=16,nnz=40,features=2")
    part = statistics.partition(4)
    assert part.owned(3) == ()
    usage = run_once(WDGCN(2), in_small(statistics, part, 3, 16), "none")
    assert sum(call.backward for call in usage.calls) * 2 == len(usage.calls) > 0
