import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.checks import check_events
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.shard import Shard

GOOD = Timeline.from_events([0, 1, 0, 2], [1, 0, 2, 2], [1, 1, 2, 2], num_snapshots=4, window=2)


def ends(*pairs):
    return {"edge_index": torch.tensor(pairs, dtype=torch.int32).T.contiguous()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ends((0, 1), (1, 0), (0, 2), (2, 613566756)),
            "got vertex 613566756 in step 2; expected 0 … 2, num_nodes is 3",
        ),
        (ends((0, 1), (-1, 0), (0, 2), (2, 2)), "got vertex -1 in step 1; expected 0 … 2"),
        ({"num_nodes": 2}, "got vertex 2 in step 2; expected 0 … 1, num_nodes is 2"),
        (ends((1, 0), (0, 1), (0, 2), (2, 2)), "got the event 0 → 1 of step 1 out of order, or twice"),
        (ends((0, 1), (1, 0), (2, 2), (2, 2)), "got the event 2 → 2 of step 2 out of order, or twice"),
        ({"edge_weight": torch.ones(4, dtype=torch.int64)}, "got edge_weight of torch.int64; expected int32 counts"),
        ({"edge_weight": torch.tensor([1.0, 2.0, torch.nan, 1.0])}, "got the weight nan of an edge"),
    ],
)
def test_events_that_no_graph_can_be_built_of_are_said(change, message):
    wrong = GOOD.replace(**change)
    for use in (check_events, Shard.whole, lambda timeline: build(timeline, 0, 4)):
        with pytest.raises(ValueError, match=message):
            use(wrong)


def test_steps_are_numbered_on_the_whole_timeline():
    with pytest.raises(ValueError, match="in step 2"):
        check_events(GOOD.slice_time(2, 4).replace(num_nodes=2))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_drawn_timelines_pass(data, reference):
    check_events(data.draw(reference.timelines()))


def heavy(steps, weight, *, window, symmetrise=False, pairs=((0, 1),)):
    source, target = zip(*pairs * steps, strict=True)
    time = [step for step in range(steps) for _ in pairs]
    timeline = Timeline.from_events(source, target, time, window=window, symmetrise=symmetrise)
    return timeline.replace(edge_weight=torch.full((steps * len(pairs),), weight, dtype=torch.int32))


@pytest.mark.parametrize(
    ("timeline", "fits"),
    [
        (heavy(3, 2**30, window=3), False),
        (heavy(3, 2**30, window=1), True),
        (heavy(9, 2**30 - 1, window=2), True),
        (heavy(2, 2**30, window=2), False),
        (heavy(1, 2**30, window=1, symmetrise=True, pairs=((0, 1), (1, 0))), False),
        (heavy(1, 2**30, window=1, symmetrise=True), True),
        (heavy(3, 2**29, window=3, pairs=((0, 1), (0, 2), (1, 2), (2, 0))), True),
        (heavy(3, -(2**30), window=3), False),
    ],
)
def test_whole_weights_sum_within_int32_or_are_refused(timeline, fits):
    if fits:
        dense = build(timeline, 0, timeline.num_snapshots).unnormalised_dense()
        wide = build(timeline.replace(edge_weight=timeline.edge_weight.double()), 0, timeline.num_snapshots)
        assert torch.equal(dense, wide.unnormalised_dense())
    else:
        with pytest.raises(ValueError, match=r"over a window; expected at most 2147483647, .* edge_weight.double\(\)"):
            build(timeline, 0, timeline.num_snapshots)
