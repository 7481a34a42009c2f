"""A rank's part of a real timeline: what its blocks read, its targets, and a run over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.exchange import Exchange, GroupExchange
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.partitioning import partition
from fulgurite.plugins.snapshot_parallel.resident import Resident
from fulgurite.plugins.snapshot_parallel.shard import Block, Shard, Targets


def timeline(steps=6, nodes=5, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)

    def draw(high, count):
        return torch.randint(high, (count,), generator=generator).numpy()

    return Timeline.from_events(
        draw(nodes, 40),
        draw(nodes, 40),
        draw(steps, 40),
        num_nodes=nodes,
        num_snapshots=steps,
        features=torch.randn(nodes, 3, generator=generator, dtype=torch.float64),
        target_index=torch.randint(nodes, (2, 30), generator=generator).numpy(),
        target_label=draw(2, 30),
        target_time=draw(steps, 30),
        window=2,
        degree_features=True,
        **options,
    )


class Leaky(nn.Module):
    """A state per vertex that forgets: enough to see the order of snapshots."""

    coupling = "recurrent"

    def __init__(self):
        super().__init__()
        self.leak = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def initial_carry(self, block):
        start, stop = block.split.vertices[block.rank]
        return (torch.zeros(stop - start, block.features.shape[2], dtype=torch.float64),)

    def forward(self, block, carry):
        summed = (
            torch.bmm(block.graphs.dense(), block.features.double()) if block.graphs.num_snapshots else block.features
        )
        x = block.exchange.to_vertices(summed.double() * self.leak.sigmoid(), block.split)
        (state,) = carry
        states = []
        for frame in x:
            state = self.leak * state + frame
            states.append(state)
        return block.exchange.to_snapshots(torch.stack(states), block.split), (state,)


def test_all_of_a_timeline_in_one_process():
    batch = timeline()
    shard = Shard.whole(batch)
    (block,) = shard.blocks
    assert (block.start, block.stop, block.num_nodes, block.rank) == (0, 6, 5, 0)
    assert torch.equal(block.graphs.dense(), build(batch, 0, 6).dense())
    assert block.features.shape == (6, 5, 5)
    assert torch.equal(block.features[3, :, 2:], batch.features.to(block.features.dtype))
    assert (shard.num_snapshots, shard.num_nodes, shard.num_features) == (6, 5, 5)
    assert shard.times.tolist() == list(range(6))
    assert shard.collectives == "none"
    assert type(shard.exchange) is Exchange


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    scored=st.lists(st.booleans(), min_size=6, max_size=6),
    ranks=st.integers(1, 4),
    blocks=st.integers(1, 3),
    cut=st.integers(0, 3),
)
def test_targets_are_those_of_own_scored_snapshots(seed, scored, ranks, blocks, cut):
    whole = timeline(seed=seed, scored=scored)
    batch = whole.slice_time(cut, 6)
    part = partition([1] * (6 - cut), 5, ranks, blocks)
    found = []
    for rank in range(ranks):
        own = part.owned(rank)
        targets = Targets.of(batch, own)
        assert targets.time.tolist() == [own[step] + cut for step in targets.step.tolist()]
        assert targets.step.tolist() == sorted(targets.step.tolist())
        found += zip(targets.time.tolist(), *targets.index.tolist(), targets.label.tolist(), strict=True)
    expected = []
    for time in range(cut, 6):
        places = range(whole.target_offsets[time], whole.target_offsets[time + 1]) if scored[time] else ()
        expected += [(time, *whole.target_index[:, i].tolist(), int(whole.target_label[i])) for i in places]
    assert sorted(found) == sorted(expected)


def test_a_slice_keeps_its_numbers_on_the_whole_timeline():
    batch = timeline().slice_time(2, 6)
    shard = Shard.whole(batch)
    assert shard.times.tolist() == [2, 3, 4, 5]
    assert (shard.blocks[0].start, shard.blocks[0].stop) == (0, 4)


def on_a_rank(collectives):
    batch = timeline()
    exchange = GroupExchange()
    part = partition([1] * 6, 5, exchange.size, 2)
    source = Resident(batch)
    shard = Shard.build(batch, part, exchange, source=source, collectives=collectives)
    network = Leaky()
    embeddings = shard.run(network)
    targets = shard.targets
    ends = embeddings[targets.step[None].expand(2, -1), targets.index]
    loss = (ends.sum(2).prod(0) * targets.label).sum() + shard.anchor(embeddings)
    loss.backward()
    return shard.times, embeddings.detach(), loss.item(), network.leak.grad


@pytest.mark.distributed
@pytest.mark.parametrize("collectives", ["none", "save"])
def test_ranks_together_give_what_one_gives(run_ranks, collectives):
    ((_, expected, loss, gradient),) = run_ranks(on_a_rank, 1, "none")
    for ranks in (2, 4):  # with four, three snapshots a block leave one rank idle
        found = run_ranks(on_a_rank, ranks, collectives)
        together = torch.full_like(expected, torch.nan)
        for times, embeddings, _, _ in found:
            together[times] = embeddings
        assert torch.allclose(together, expected, rtol=0, atol=1e-12)
        assert abs(sum(part[2] for part in found) - loss) <= 1e-12
        assert abs(sum(part[3] for part in found) - gradient) <= 1e-12


def test_blocks_ask_anew_but_for_what_is_held():
    class Counting(Resident):
        def __init__(self, batch):
            super().__init__(batch)
            self.asked = []

        def graphs(self, start, stop):
            self.asked.append(("graphs", start, stop))
            return super().graphs(start, stop)

        def features(self, start, stop):
            self.asked.append(("features", start, stop))
            return super().features(start, stop)

    source = Counting(timeline())
    block = Block(partition([1] * 6, 5, 1, 2), 1, Exchange(), source=source)
    with block.held():
        assert block.graphs is block.graphs
        with block.held():
            assert block.features is block.features
        assert block.features is block.features
    assert source.asked == [("graphs", 3, 6), ("features", 3, 6)]
    _ = block.graphs
    assert source.asked[2:] == [("graphs", 3, 6)]


def test_what_validation_fetched_serves_training():
    shard = Shard.whole(timeline())
    block, network = shard.blocks[0], Leaky()
    with torch.inference_mode():
        shard.run(network)
        doubled = block.cached("doubled", lambda: 2 * block.features)
    assert not block.features.is_inference()
    assert not doubled.is_inference()
    assert not shard.targets.label.is_inference()
    shard.run(network).sum().backward()
    assert network.leak.grad is not None


class Plain:
    """A source that keeps nothing and knows no modes."""

    device = torch.device("cpu")

    def features(self, start, stop):
        return torch.ones(stop - start, 5, 1)


def test_what_a_source_makes_is_made_outside_of_inference_mode():
    block = Block(partition([1] * 6, 5, 1), 0, Exchange(), source=Plain())
    with torch.inference_mode():
        assert not block.features.is_inference()


def test_cached_is_made_once_where_the_source_keeps_and_anew_where_not():
    part = partition([1] * 6, 5, 1, 2)
    calls = []
    for source, times in ((Resident(timeline()), 1), (Plain(), 3)):
        calls.clear()
        block = Block(part, 0, Exchange(), source=source)
        for _ in range(3):
            made = block.cached("sum", lambda block=block: calls.append(1) or block.features.sum())
        assert len(calls) == times
        other = Block(part, 1, Exchange(), source=source).cached("sum", lambda: torch.tensor(-1.0))
        assert other == -1.0 != made
    given = Block(part, 0, Exchange(), source=Resident(timeline())).with_features(torch.ones(3, 5, 1).requires_grad_())
    assert given.cached("double", lambda: 2 * given.features).requires_grad


def test_the_halo_mode_decides_for_the_whole_timeline():
    few, many = partition([1] * 40, 5, 8), partition([1] * 40, 5, 8, blocks=5)
    for mode, answers in (("auto", [True, False]), ("always", [True, True]), ("never", [False, False])):
        assert [Block(part, 0, Exchange(halo_mode=mode)).uses_halo(6) for part in (few, many)] == answers


def test_the_anchor_is_zero_reaches_everything_and_tells_what_is_not_finite():
    shard = Shard.whole(timeline())
    x = torch.full((6, 5, 2), 3e4, dtype=torch.float16, requires_grad=True)
    anchor = shard.anchor(x)  # the sum alone is beyond half precision
    assert anchor.item() == 0.0
    anchor.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert shard.anchor(torch.ones(0, 5, 2)).item() == 0.0
    for wrong in (torch.nan, torch.inf):
        assert shard.anchor(torch.tensor([[[1.0, wrong]]])).isnan()


def test_state_along_the_graph_is_refused_on_several_ranks():
    class Coupled(Leaky):
        coupling = "graph"

    shard = Shard.whole(timeline())
    assert shard.run(Coupled()).shape == (6, 5, 5)
    shard.exchange.size = 2
    with pytest.raises(ValueError, match=r"got Coupled.* on 2 snapshot ranks; .* data-parallel"):
        shard.run(Coupled())


def test_a_partition_of_something_else_is_refused():
    batch = timeline()
    source = Resident(batch)
    for part in (partition([1] * 5, 5, 1), partition([1] * 6, 4, 1), partition([1] * 6, 5, 2)):
        with pytest.raises(ValueError, match="expected 6, 5 and 1"):
            Shard.build(batch, part, Exchange(), source=source)


def test_a_block_without_a_source_says_so():
    block = Block(partition([1] * 6, 5, 1), 0, Exchange())
    with pytest.raises(ValueError, match="without a source"):
        _ = block.graphs


def test_a_timeline_without_snapshots_is_refused():
    with pytest.raises(ValueError, match="got a timeline without snapshots; expected 1 or more"):
        Shard.whole(timeline().slice_time(3, 3))
