"""Nothing that is built depends on what memory held before: every buffer begins full of rubbish here."""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.snapshot_parallel.events import windows
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.m_product import m_windows
from fulgurite.plugins.snapshot_parallel.merge import Steps, merge_windows
from fulgurite.plugins.snapshot_parallel.residency import Residency

RUBBISH = 61356675
_empty = np.empty


def _poisoned(*args, **kwargs):
    made = _empty(*args, **kwargs)
    made.fill(RUBBISH if made.dtype.kind != "f" else np.nan)
    return made


@contextmanager
def poisoned():
    """``numpy.empty`` gives rubbish, and torch's kin of it the largest number or NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with patch.object(np, "empty", _poisoned):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def parts(graphs):
    turned = graphs.transposed()
    tensors = [graphs.crow, graphs.col, graphs.value, graphs.inv_sqrt_degree, turned.crow, turned.col, turned.value]
    return [tensor for tensor in tensors if tensor is not None]


def assert_the_same(make):
    clean = make()  # first, so that loops are compiled with numpy as it is
    with poisoned():
        assert np.empty(1, np.int32)[0] == RUBBISH
        assert torch.empty(1).isnan().all()
        found = make()
    for got, want in zip(found, clean, strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
        assert not got.isnan().any()


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_graphs_and_their_transposes(data, reference):
    timeline = data.draw(reference.timelines())
    start, stop = data.draw(reference.runs(timeline))
    assert_the_same(lambda: parts(build(timeline, start, stop)))


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_what_runs_on_a_gpu(data, reference):
    timeline = data.draw(reference.timelines(m_windows=(1,)))
    width = data.draw(st.integers(1, 3))
    weight = timeline.edge_weight

    def make():
        steps = Steps.of(
            *timeline.edge_index,
            weight,
            timeline.offsets.tolist(),
            num_nodes=timeline.num_nodes,
            symmetrise=timeline.symmetrise,
            union=timeline.union,
        )
        merged = merge_windows(steps, window=timeline.window, emit=0, force_tensors=True)
        lists, scale = windows(timeline, 0, timeline.num_snapshots), 0.5 if timeline.symmetrise else 1.0
        count, d = timeline.num_snapshots, lists.inv_sqrt_degree(scale)
        mixed = m_windows(lists, d, scale, window=width, first=0, count=count, force_tensors=True)
        return [*merged, mixed.crow, mixed.col, mixed.value]

    assert_the_same(make)


@pytest.mark.parametrize("mode", ["auto", "events", "full", "difference"])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_what_is_sent_and_unpacked(mode, data, reference):
    timeline = data.draw(reference.timelines(degree_features=True))
    start, stop = data.draw(reference.runs(timeline))

    def make():
        source = Residency("cpu", transfer=mode, residency="streamed").source(timeline, [(start, stop)])
        return [*parts(source.graphs(start, stop)), source.features(start, stop)]

    assert_the_same(make)
