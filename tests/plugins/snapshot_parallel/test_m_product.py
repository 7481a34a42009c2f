import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.snapshot_parallel.events import windows
from fulgurite.plugins.snapshot_parallel.m_product import m_features, m_windows


@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_tensors_and_compiled_loops_agree(data, reference):
    timeline = data.draw(reference.timelines(m_windows=(2, 3, 20)))
    start, stop = data.draw(reference.runs(timeline))
    lists = windows(timeline, start, stop)
    scale = 0.5 if timeline.symmetrise else 1.0
    options = {"window": timeline.m_window, "first": start, "count": stop - start}
    compiled, tensors = (
        m_windows(lists, lists.inv_sqrt_degree(scale), scale, **options, force_tensors=force) for force in (False, True)
    )
    assert torch.equal(compiled.crow, tensors.crow)
    assert torch.equal(compiled.col, tensors.col)
    torch.testing.assert_close(compiled.value, tensors.value, rtol=1e-15, atol=0)


@given(t=st.integers(1, 8), window=st.integers(1, 10), seed=st.integers(0, 2**31 - 1), data=st.data())
@settings(deadline=None)
def test_features_are_mixed_as_the_matrix_says(t, window, seed, data, reference):
    features = torch.randn(t, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    want = reference.mixed(features, window)
    first = data.draw(st.integers(0, t))
    count = data.draw(st.integers(0, t - first))
    history = data.draw(st.integers(min(first, window - 1), first))
    got = m_features(features[first - history : first + count], window=window, first=first, count=count)
    torch.testing.assert_close(got, want[first : first + count], rtol=0, atol=1e-14)


def test_a_window_of_one_changes_nothing():
    features = torch.arange(6.0).view(3, 2, 1)
    assert torch.equal(m_features(features, window=1, first=5, count=3), features)


def test_the_restart_of_a_split_is_where_its_numbers_begin():
    features = torch.tensor([3.0, 5.0]).view(2, 1, 1)
    restarted = m_features(features, window=2, first=0, count=2)
    continued = m_features(torch.cat((features[:1] * 0, features)), window=2, first=7, count=2)
    assert restarted.flatten().tolist() == [3.0, 4.0]
    assert continued.flatten().tolist() == [1.5, 4.0]


def test_missing_history_is_said():
    with pytest.raises(ValueError, match="got 2 snapshots for 2 from number 4 on; expected 3 more before them"):
        m_features(torch.zeros(2, 1, 1), window=4, first=4, count=2)
