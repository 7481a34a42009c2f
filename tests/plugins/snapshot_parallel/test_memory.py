import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fulgurite.data.timeline import Timeline
from fulgurite.models.dynamic_gnn import CDGCN, TGCN, TMGCN, WDGCN, EvolveGCNH, EvolveGCNO
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.live_bytes import LiveBytes
from fulgurite.plugins.snapshot_parallel.memory import Coefficients, choose_blocks, predict
from fulgurite.plugins.snapshot_parallel.replay import Usage, load
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Shard
from fulgurite.plugins.snapshot_parallel.statistics import Statistics

NODES, STEPS = 3600, 16  # two to five times what the runs in small have


def networks():
    return {
        "WDGCN": WDGCN(2),
        "CDGCN": CDGCN(2),
        "TGCN": TGCN(2),
        "TMGCN": TMGCN(2, window=5),
        "EvolveGCNO": EvolveGCNO(2),
        "EvolveGCNH": EvolveGCNH(2),
    }


def a_timeline(m_window=1, symmetrise=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Steps of unequal numbers of events, so that ranks own unequal runs.
    counts = [400 + 120 * step for step in range(STEPS)]
    source, target = torch.randint(NODES, (2, sum(counts)), generator=generator)
    time = torch.repeat_interleave(torch.arange(STEPS), torch.tensor(counts))
    options = {"num_nodes": NODES, "window": 3, "m_window": m_window, "symmetrise": symmetrise, "degree_features": True}
    return Timeline.from_events(source.numpy(), target.numpy(), time.numpy(), **options)


def measured(network, timeline, part, exchange, collectives):
    """What forward and backward of a real shard hold at most, beside its graphs, features and gradients."""
    network = copy.deepcopy(network)
    shard = Shard.build(timeline, part, exchange, source=Resident(timeline), collectives=collectives)
    load(shard)
    with LiveBytes() as count:
        output = shard.run(network)
        output.backward(torch.ones_like(output))
        del output
    return count.peak - sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize(("blocks", "collectives"), [(1, "none"), (2, "resend"), (5, "save")])
def test_one_process_needs_what_was_predicted(name, blocks, collectives):
    network, timeline = networks()[name], a_timeline(m_window=5 if name == "TMGCN" else 1)
    plan = predict(network, Statistics.of(timeline), blocks=blocks, collectives=collectives)
    found = measured(network, timeline, plan.partition, Exchange(), collectives)
    assert plan.worst.working == pytest.approx(found, rel=0.15)


def test_runs_in_small_take_the_kernels_of_the_whole():
    """An LSTM of some width has a kernel for few vertices that keeps several times as much."""
    network = CDGCN(2, (16, 16))
    generator = torch.Generator().manual_seed(7)
    source, target = torch.randint(0, 4000, (2, 6000), generator=generator)
    times = torch.arange(6).repeat_interleave(1000)
    timeline = Timeline.from_events(source, target, times, num_nodes=4000, degree_features=True)
    plan = predict(network, Statistics.of(timeline))
    found = measured(network, timeline, plan.partition, Exchange(), "none")
    assert plan.worst.working == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize(("blocks", "collectives"), [(1, "none"), (5, "save")])
def test_the_allocator_bears_witness(name, blocks, collectives):
    """Counted by torch's own allocator, kernels' scratch included, and not by what the prediction counts with."""
    network, timeline = networks()[name], a_timeline(m_window=5 if name == "TMGCN" else 1)
    plan = predict(network, Statistics.of(timeline), blocks=blocks, collectives=collectives)
    shard = Shard.build(timeline, plan.partition, Exchange(), source=Resident(timeline), collectives=collectives)
    load(shard)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        output = shard.run(network)
        output.backward(torch.ones_like(output))
    changes = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    peak = max(itertools.accumulate(event.nbytes() for event in changes))
    assert plan.worst.working == pytest.approx(peak, rel=0.15)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["CDGCN", "TMGCN", "EvolveGCNH"])
@pytest.mark.parametrize(("blocks", "collectives"), [(1, "none"), (3, "resend"), (3, "save")])
def test_every_rank_looked_at_needs_what_was_predicted(name, blocks, collectives, run_ranks):
    network, timeline = networks()[name], a_timeline(m_window=5 if name == "TMGCN" else 1)
    plan = predict(network, Statistics.of(timeline), ranks=2, blocks=blocks, collectives=collectives)

    def work():
        return measured(network, timeline, plan.partition, GroupExchange(), collectives)

    found = run_ranks(work, 2)
    for memory in plan.per_rank:
        assert memory.working == pytest.approx(found[memory.rank], rel=0.15)
    assert plan.worst.working >= 0.85 * max(found)


def test_a_network_of_ones_own_needs_no_declaration():
    class Wide(nn.Module):
        coupling = "none"

        def __init__(self, channels):
            super().__init__()
            self.first, self.second = nn.Linear(2, channels), nn.Linear(channels, 1)

        def initial_carry(self, block):
            return ()

        def forward(self, block, carry):
            return self.second(self.first(block.features).tanh()), carry

    timeline = a_timeline()
    statistics = Statistics.of(timeline)
    narrow, wide = (predict(Wide(channels), statistics).worst.activations for channels in (10, 20))
    # tanh keeps its output; with its gradient, and its input's, three numbers for each further channel.
    assert wide - narrow == pytest.approx(3 * 10 * NODES * STEPS * 4, rel=0.02)


def test_graphs_and_features_are_counted_as_they_are():
    for symmetrise in (True, False):
        timeline = a_timeline(symmetrise=symmetrise)
        plan = predict(WDGCN(2), Statistics.of(timeline))
        shard = Shard.whole(timeline)
        topology, features = load(shard)
        assert plan.worst.topology == pytest.approx(topology, rel=0.02)
        assert plan.worst.features == features


def test_saving_keeps_what_resending_does_not():
    statistics = Statistics.of(a_timeline())
    save, resend = (
        predict(WDGCN(2), statistics, ranks=4, blocks=4, collectives=kept).worst for kept in ("save", "resend")
    )
    assert resend.saved == 0
    # Two layers, six features there and back.
    part = statistics.partition(4, 4)
    own = len(part.owned(save.rank)) * NODES
    lines = STEPS * part.blocks[0].vertices_each[save.rank]
    assert save.saved == pytest.approx(2 * 6 * 4 * (own + lines), rel=0.02)


def test_parameters_count_with_gradients_and_the_optimizers_state():
    network, statistics = WDGCN(2), Statistics.of(a_timeline())
    weights = sum(p.numel() for p in network.parameters())
    assert predict(network, statistics).worst.parameters == 4 * 4 * weights
    assert predict(network, statistics, optimizer_states=0).worst.parameters == 2 * 4 * weights


def test_predicting_leaves_network_and_random_state_alone():
    network = WDGCN(2)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    predict(network, Statistics.of(a_timeline()), ranks=2, blocks=2, collectives="save")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), network.state_dict().values(), strict=True))
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


STATISTICS = Statistics.parse("snapshots=24,nodes=2000,nnz=4000,features=2")


def test_what_fits_is_not_computed_twice():
    plan = choose_blocks(WDGCN(2), STATISTICS, free_bytes=10**12, ranks=2)
    assert (plan.blocks, plan.collectives) == (1, "none")


def test_the_fewest_blocks_that_fit_are_taken():
    limit = predict(WDGCN(2), STATISTICS, blocks=3, collectives="save").total
    plan = choose_blocks(WDGCN(2), STATISTICS, free_bytes=limit)
    assert (plan.blocks, plan.total) == (3, limit)
    assert choose_blocks(WDGCN(2), STATISTICS, free_bytes=limit + 10**6).blocks <= 3
    assert choose_blocks(WDGCN(2), STATISTICS, free_bytes=limit - 1).blocks > 3


def test_collectives_are_sent_again_only_where_keeping_them_does_not_fit():
    saving, resending = (
        predict(WDGCN(2), STATISTICS, ranks=2, blocks=4, collectives=kept).total for kept in ("save", "resend")
    )
    assert resending < saving
    assert choose_blocks(WDGCN(2), STATISTICS, free_bytes=saving, ranks=2, blocks=4).collectives == "save"
    assert choose_blocks(WDGCN(2), STATISTICS, free_bytes=saving - 1, ranks=2, blocks=4).collectives == "resend"


def test_what_fits_nowhere_is_what_needs_least():
    """More blocks are not always less: each keeps a carry."""
    plan = choose_blocks(WDGCN(2), STATISTICS, free_bytes=1000, ranks=2)
    assert plan.total > 1000
    assert plan.collectives == "resend"
    assert plan.total <= predict(WDGCN(2), STATISTICS, ranks=2, blocks=24, collectives="resend").total
    assert plan.total <= predict(WDGCN(2), STATISTICS, ranks=2, blocks=2, collectives="resend").total


def test_given_blocks_are_kept():
    plan = choose_blocks(WDGCN(2), STATISTICS, free_bytes=10**12, blocks=4)
    assert (plan.blocks, plan.collectives) == (4, "save")
    assert choose_blocks(WDGCN(2), STATISTICS, free_bytes=1, blocks=4, collectives="save").blocks == 4
    with pytest.raises(ValueError, match="got 25 blocks for 24 snapshots; expected 1 to 24"):
        choose_blocks(WDGCN(2), STATISTICS, free_bytes=1, blocks=25)


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(1, 10**6))
@settings(deadline=None)
def test_a_line_goes_through_both_runs(fixed, slope, nodes):
    small, large = (Usage(n, {"activations": fixed + slope * n}, ()) for n in (128, 256))
    line = Coefficients.through(small, large)
    assert line.at(nodes) == {"activations": fixed + slope * nodes}
