import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.graphs import SnapshotGraphs, build

TRIANGLE = Timeline.from_events([0, 1, 2, 0], [1, 2, 0, 1], [0, 0, 1, 2], window=2)


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_counts_are_those_of_a_dense_sum_to_the_bit(data, reference):
    timeline = data.draw(reference.timelines(m_windows=(1,)))
    graphs = build(timeline, 0, timeline.num_snapshots)
    want = reference.counts(timeline)
    got = torch.zeros_like(want)
    row, column, value = graphs.edge_list()
    n = timeline.num_nodes
    got[row // n, row % n, column % n] = value.to(want.dtype)
    assert torch.equal(got, want)
    assert torch.equal(row // n, column // n)
    assert graphs.value.dtype == (want.dtype if want.is_floating_point() else torch.int32)
    assert graphs.col.dtype == graphs.crow.dtype == torch.int32
    assert graphs.scale == (0.5 if timeline.symmetrise else 1.0)
    flat = row * n + column % n
    assert bool((flat.diff() > 0).all()), "columns rise within a row, none twice"


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_normalised_and_mixed_as_the_matrices_say(data, reference):
    timeline = data.draw(reference.timelines())
    graphs = build(timeline, 0, timeline.num_snapshots)
    torch.testing.assert_close(graphs.dense(), reference.normalised(timeline), rtol=0, atol=1e-14)
    assert (graphs.inv_sqrt_degree is None) == (timeline.m_window > 1)


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_a_slice_with_its_history_has_the_same_snapshots(data, reference):
    timeline = data.draw(reference.timelines())
    start, stop = data.draw(reference.runs(timeline))
    whole = build(timeline, 0, timeline.num_snapshots)
    n = timeline.num_nodes
    for part in (
        build(timeline, start, stop),
        build(timeline.slice_time(start, stop), 0, stop - start),
        build(timeline.slice_time(start, timeline.num_snapshots).slice_time(0, stop - start), 0, stop - start),
    ):
        assert part.num_snapshots == stop - start
        low, high = int(whole.crow[start * n]), int(whole.crow[stop * n])
        assert torch.equal(part.crow, whole.crow[start * n : stop * n + 1] - low)
        assert torch.equal(part.col, whole.col[low:high])
        assert torch.equal(part.value, whole.value[low:high])
        if whole.inv_sqrt_degree is not None:
            assert torch.equal(part.inv_sqrt_degree, whole.inv_sqrt_degree[start * n : stop * n])


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_transposed(data, reference):
    timeline = data.draw(reference.timelines())
    graphs = build(timeline, 0, timeline.num_snapshots)
    turned = graphs.transposed()
    assert torch.equal(turned.unnormalised_dense(), graphs.unnormalised_dense().transpose(1, 2))
    torch.testing.assert_close(turned.dense(), graphs.dense().transpose(1, 2), rtol=0, atol=1e-15)
    assert graphs.transposed() is turned
    assert turned.transposed() is graphs
    assert (turned is graphs) == timeline.symmetrise
    row, column, _ = turned.edge_list()
    assert bool(((row * timeline.num_nodes + column % timeline.num_nodes).diff() > 0).all())


def test_graphs_and_their_transpose_go_without_the_garbage_collector():
    gc.disable()
    try:
        graphs = build(TRIANGLE, 0, 3)
        graphs.transposed().transposed()
        gone = weakref.ref(graphs)
        del graphs
        assert gone() is None
    finally:
        gc.enable()


def test_a_transpose_counts_in_bytes_and_outlives_its_original():
    graphs = build(TRIANGLE, 0, 3)
    before = graphs.nbytes
    turned = graphs.transposed()
    assert graphs.nbytes == before + turned.crow.nbytes + turned.col.nbytes + turned.value.nbytes
    want = graphs.dense()
    del graphs
    assert torch.equal(turned.transposed().dense(), want)


def test_to_the_same_device_is_the_same_object_and_elsewhere_a_copy():
    graphs = build(TRIANGLE, 0, 3)
    assert graphs.to("cpu") is graphs
    away = graphs.to("meta")
    assert away.device.type == "meta"
    assert away.inv_sqrt_degree.device.type == "meta"


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 4)])
def test_a_run_beyond_the_timeline_is_refused(start, stop):
    with pytest.raises(ValueError, match=f"got snapshots {start} to {stop}"):
        build(TRIANGLE, start, stop)


def test_a_history_that_was_cut_off_is_missed():
    cut = TRIANGLE.slice_time(1, 3).replace(
        history=0,
        offsets=torch.tensor([0, 1, 2]),
        edge_index=torch.tensor([[2, 0], [0, 1]], dtype=torch.int32),
    )
    with pytest.raises(ValueError, match=r"needs the events of 1 steps before it, the timeline brings 0"):
        build(cut, 0, 2)
    assert build(cut, 1, 2).nnz == 2


def test_signed_weights_that_leave_no_degree_are_refused():
    timeline = Timeline.from_events([0, 1], [1, 0], [0, 0], weight=[-1.0, 2.0])
    with pytest.raises(ValueError, match=r"vertex 0 has the degree 0\.0"):
        build(timeline, 0, 1)
    fine = Timeline.from_events([0, 1], [1, 0], [0, 0], weight=[-0.75, 2.0])
    assert build(fine, 0, 1).inv_sqrt_degree[0] == 2.0


def test_no_snapshots_and_no_events():
    none = build(TRIANGLE, 1, 1)
    assert isinstance(none, SnapshotGraphs)
    assert (none.num_snapshots, none.nnz, none.dense().shape) == (0, 0, (0, 3, 3))
    empty = Timeline.from_events(*3 * [torch.zeros(0, dtype=torch.int64)], num_nodes=2, num_snapshots=2, m_window=2)
    assert torch.equal(build(empty, 0, 2).dense(), torch.eye(2, dtype=torch.float64).expand(2, 2, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_on_a_gpu_the_same_to_the_bit(data, reference):
    timeline = data.draw(reference.timelines())
    here, there = (build(timeline, 0, timeline.num_snapshots, device=device) for device in ("cpu", "cuda"))
    for a, b in ((here, there), (here.transposed(), there.transposed())):
        assert torch.equal(a.crow, b.crow.cpu())
        assert torch.equal(a.col, b.col.cpu())
        if a.inv_sqrt_degree is None or here.value.is_floating_point():
            torch.testing.assert_close(a.dense(), b.dense().cpu(), rtol=0, atol=1e-14)
        else:
            assert torch.equal(a.value, b.value.cpu())
            assert torch.equal(a.inv_sqrt_degree, b.inv_sqrt_degree.cpu())
