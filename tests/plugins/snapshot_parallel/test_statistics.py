import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.graphs import build
from fulgurite.plugins.snapshot_parallel.stand_in import StandIn, StandInSource
from fulgurite.plugins.snapshot_parallel.statistics import Statistics, StatisticsError
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4)), min_size=1), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_a_timelines_entries_are_those_of_its_graphs(events, window):
    source, target, time = zip(*events, strict=True)
    timeline = Timeline.from_events(
        source, target, time, num_nodes=6, num_snapshots=5, window=window, symmetrise=True, degree_features=True
    )
    statistics = Statistics.of(timeline)
    assert statistics.nnz == tuple(build(timeline, step, step + 1).nnz for step in range(5))
    assert (statistics.snapshots, statistics.nodes, statistics.features) == (5, 6, 2)


def test_the_type_is_that_of_the_computation():
    timeline = Timeline.from_events([0], [1], [0], features=torch.ones(2, 3, dtype=torch.float64))
    assert Statistics.of(timeline).dtype == "float64"
    assert Statistics.of(timeline, dtype=torch.float32).dtype == "float32"
    with pytest.raises(StatisticsError, match="dtype=int64"):
        Statistics.of(timeline, dtype=torch.int64)


def test_words_are_read():
    read = Statistics.parse("snapshots=200, nodes=1e6,nnz=5_000_000,features=2,dtype=float64,symmetric=false,events=7")
    assert (read.snapshots, read.nodes, read.total_nnz, read.features) == (200, 10**6, 10**9, 2)
    assert (read.itemsize, read.symmetric, read.events) == (8, False, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "snapshots is missing"),
        ("snapshots=3,nodes=4,nnz=5", "features is missing"),
        ("snapshots=three,nodes=4,nnz=5,features=1", "snapshots=three; expected a whole number"),
        ("snapshots=3,nodes=nan,nnz=5,features=1", "nodes=nan"),
        ("snapshots=3,nodes=1.5,nnz=5,features=1", "nodes=1.5"),
        ("snapshots=0,nodes=4,nnz=5,features=1", "snapshots=0; expected 1 or more"),
        ("snapshots=-1,nodes=4,nnz=5,features=1", "snapshots=-1; expected 1 or more"),
        ("snapshots=3,nodes=4,nnz=-5,features=1", "0 or more"),
        ("snapshots=3,nodes=4,nnz=5,features=1,colour=red", "'colour=red'; expected NAME=VALUE of"),
        ("snapshots=3,nodes=4,nnz=5,features=1,symmetric=maybe", "true or false"),
        ("snapshots=3,nodes=4,nnz=5,features=1,dtype=int8", "dtype=int8"),
    ],
)
def test_words_that_make_no_timeline_are_refused(text, said):
    with pytest.raises(StatisticsError, match=said):
        Statistics.parse(text)


def test_statistics_are_plain_json():
    statistics = Statistics.parse("snapshots=3,nodes=4,nnz=5,features=1,m_window=2")
    assert Statistics.from_dict(json.loads(json.dumps(statistics.to_dict()))) == statistics


def test_fewer_vertices_have_as_many_entries_each():
    small = Statistics.parse("snapshots=3,nodes=4000,nnz=10000,features=1").scaled(100)
    assert small.nnz == (250, 250, 250)
    assert small.nodes == 100


@pytest.mark.parametrize("m_window", [1, 3])
def test_a_stand_in_has_the_size_that_was_told(m_window):
    statistics = Statistics.parse(f"snapshots=4,nodes=30,nnz=50,features=3,dtype=float64,m_window={m_window}")
    source = StandInSource(statistics)
    graphs = source.graphs(1, 3)
    assert (graphs.num_snapshots, graphs.num_nodes, graphs.nnz) == (2, 30, 100)
    assert int(graphs.col.max()) < 30
    assert int(graphs.crow[-1]) == 100
    assert (graphs.inv_sqrt_degree is None) == (m_window > 1)
    assert torch.isfinite(graphs.dense()).all()
    features = source.features(1, 3)
    assert features.shape == (2, 30, 3)
    assert features.dtype == torch.float64
    assert source.nbytes == (graphs.nbytes, features.nbytes)
    assert source.graphs(1, 3) is graphs
    assert torch.equal(StandInSource(statistics).features(1, 3), features)


def test_an_empty_run_has_empty_graphs():
    source = StandInSource(Statistics.parse("snapshots=4,nodes=30,nnz=50,features=3"))
    assert source.graphs(2, 2).nnz == 0
    assert source.features(2, 2).shape == (0, 30, 3)


def test_a_stand_in_is_a_timeline():
    stand_in = StandIn(num_snapshots=5, num_nodes=3)
    assert isinstance(stand_in, TimelineLike)
    late = stand_in.slice_time(2, 5)
    assert (late.num_snapshots, late.first, len(late.offsets)) == (3, 2, 4)
