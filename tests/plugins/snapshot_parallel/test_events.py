import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel import events
from fulgurite.plugins.snapshot_parallel.events import degree_features, span, windowed_nnz, windows
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.m_product import m_windows


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_entries_are_counted_without_building(data, reference):
    timeline = data.draw(reference.timelines())
    start, stop = data.draw(reference.runs(timeline))
    graphs = build(timeline, 0, timeline.num_snapshots)
    want = np.diff(graphs.crow[:: timeline.num_nodes].numpy())
    assert windowed_nnz(timeline).tolist() == want.tolist()
    assert windowed_nnz(timeline.slice_time(start, stop)).tolist() == want[start:stop].tolist()


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_degrees_are_those_of_distinct_raw_events(data, reference):
    timeline = data.draw(reference.timelines())
    start, stop = data.draw(reference.runs(timeline))
    want = torch.zeros(timeline.num_snapshots, timeline.num_nodes, 2)
    for step in range(timeline.num_snapshots):
        for event in range(int(timeline.offsets[step]), int(timeline.offsets[step + 1])):
            i, j = timeline.edge_index[:, event].tolist()
            want[step, i, 1] += 1
            want[step, j, 0] += 1
    assert torch.equal(degree_features(timeline, start, stop), want[start:stop])
    assert torch.equal(degree_features(timeline.slice_time(start, stop), 0, stop - start), want[start:stop])


def test_a_run_needs_its_windows_and_the_windows_that_m_mixes():
    ones = np.zeros(30, dtype=np.int64)
    timeline = Timeline.from_events(ones, ones, np.arange(30), window=4, m_window=3)
    middle = span(timeline, 10, 12)
    assert (middle.low, middle.first_event_step, middle.low_step, middle.stop_step) == (8, 5, 8, 12)
    early = span(timeline, 1, 2)
    assert (early.low, early.first_event_step) == (0, 0)
    sliced = span(timeline.slice_time(10, 20), 0, 2)
    assert (sliced.low, sliced.first_event_step, sliced.low_step, sliced.stop_step) == (-2, 0, 3, 7)


def test_counts_are_found_once_a_timeline(monkeypatch):
    timeline = Timeline.from_events([0, 1], [1, 2], [0, 1], window=2)
    counts = windowed_nnz(timeline)
    assert windowed_nnz(timeline) is counts
    assert windowed_nnz(timeline.replace(window=1)).tolist() != counts.tolist()
    with pytest.raises(ValueError, match="read-only"):
        counts[0] = 7
    known = len(events._counted)
    del timeline
    assert len(events._counted) < known


def test_the_refusal_of_a_degree_names_its_snapshot():
    timeline = Timeline.from_events([0, 1], [1, 0], [0, 3], weight=[1.0, -2.0])
    with pytest.raises(ValueError, match=r"vertex 1 has the degree -1\.0 in the window of snapshot 3"):
        build(timeline.slice_time(2, 4), 0, 2)


def test_a_device_without_float64_takes_float32():
    assert events.widest_float(torch.device("mps")) == torch.float32
    assert events.widest_float(torch.device("cuda")) == torch.float64
    timeline = Timeline.from_events([0, 1, 0], [1, 2, 2], [0, 1, 1], window=2, symmetrise=True, m_window=2)
    lists, options = windows(timeline, 0, 2), {"window": 2, "first": 0, "count": 2, "force_tensors": True}
    d = lists.inv_sqrt_degree(0.5)
    exact, narrow = m_windows(lists, d, 0.5, **options), m_windows(lists, d.float(), 0.5, **options)
    assert (exact.value.dtype, narrow.value.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(narrow.value.double(), exact.value, rtol=1e-6, atol=0)
