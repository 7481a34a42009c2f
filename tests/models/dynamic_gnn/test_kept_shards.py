"""Which timelines are known again, and how many are kept."""

import pickle

import pytest
import torch

from fulgurite.data.temporal_graph import TemporalGraph
from fulgurite.data.timeline import Timeline
from fulgurite.data.transaction_graph import TransactionGraph
from fulgurite.models.dynamic_gnn import kept_shards
from fulgurite.models.dynamic_gnn.kept_shards import KeptShards
from fulgurite.plugins.snapshot_parallel.shard import Shard


@pytest.fixture
def built(monkeypatch) -> list[tuple[str | None, torch.device]]:
    """Name and device of every timeline whose graphs are asked for anew."""
    seen = []
    whole = Shard.whole.__func__

    def counted(cls, timeline, device=None):
        seen.append((timeline.name, device))
        return whole(cls, timeline, device="cpu")

    monkeypatch.setattr(Shard, "whole", classmethod(counted))
    return seen


def make_timeline(name: str | None = None, *, start: int = 0) -> Timeline:
    return Timeline.from_events([0, 1, 2], [1, 2, start], [0, 1, 2], num_nodes=3, degree_features=True, name=name)


def test_a_timeline_comes_again_as_its_tensors_or_by_name_and_content(built):
    kept, cpu = KeptShards(), torch.device("cpu")
    for name in (None, "one"):
        timeline = make_timeline(name)
        first = kept.get(timeline, cpu)
        assert kept.get(timeline, cpu) is first
        assert kept.get(timeline.replace(), cpu) is first
        copied = pickle.loads(pickle.dumps(timeline))
        assert (kept.get(copied, cpu) is first) == (name is not None)
    assert [name for name, _ in built] == [None, None, "one"]


@pytest.mark.parametrize("name", [None, "one"])
@pytest.mark.parametrize(
    "change",
    [
        {"window": 3},
        {"symmetrise": True},
        {"features": torch.ones(3, 1)},
        {"edge_index": make_timeline(start=1).edge_index},
    ],
)
def test_another_content_is_another_timeline_whatever_its_name(name, change):
    kept, timeline = KeptShards(), make_timeline(name)
    kept.get(timeline, "cpu")
    changed = timeline.replace(**change)
    got, expected = (shard.blocks[0] for shard in (kept.get(changed, "cpu"), Shard.whole(changed)))
    assert torch.equal(got.graphs.dense(), expected.graphs.dense())
    assert torch.equal(got.features, expected.features)


def test_another_device_gets_graphs_of_its_own(built):
    kept, timeline = KeptShards(), make_timeline("one")
    for device in ("cpu", "meta", "cpu"):
        kept.get(timeline, device)
    assert [device.type for _, device in built] == ["cpu", "meta"]


def test_those_used_longest_ago_go_where_memory_is_short(built, monkeypatch):
    timelines = [make_timeline(str(number)) for number in range(4)]
    size = Shard.whole(timelines[0]).blocks[0].source
    size.graphs(0, 3), size.features(0, 3)
    built.clear()
    kept = KeptShards()

    def use(number: int) -> None:
        block = kept.get(timelines[number], "cpu").blocks[0]
        assert block.graphs.num_snapshots == len(block.features) == 3

    # Half of what is free and what is kept: three fit.
    monkeypatch.setattr(kept_shards, "free_bytes", lambda _: (6 - len(kept)) * size.nbytes)
    for number in (0, 1, 2, 0, 3, 0, 1):
        use(number)
    assert [int(name) for name, _ in built] == [0, 1, 2, 3, 1]


def test_of_nameless_ones_that_may_never_come_again_few_are_kept():
    kept, timelines = KeptShards(), [make_timeline() for _ in range(30)]
    for timeline in timelines:
        kept.get(timeline, "cpu")
    assert len(kept) == 8


def test_the_windows_of_a_data_module_are_built_once_also_when_they_are_cut_again(built):
    data = TemporalGraph(
        generator=TransactionGraph(num_nodes=60, num_steps=20, events_per_step=20), task="node", window_size=3
    )
    kept = KeptShards()
    for _ in range(3):
        for window in data.train_dataloader():
            kept.get(window, "cpu")
    assert len(built) == len(set(built)) == 4
