import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.plugins.snapshot_parallel import merge_compiled
from fulgurite.plugins.snapshot_parallel.merge import Steps, _both_sorted, merge, merge_windows


@given(data=st.data())
@settings(deadline=None, max_examples=120)
def test_tensors_and_compiled_loops_agree_to_the_bit(data, reference):
    timeline = data.draw(reference.timelines())
    source, target = timeline.edge_index
    options = {"num_nodes": timeline.num_nodes, "symmetrise": timeline.symmetrise, "union": timeline.union}
    steps = Steps.of(source, target, timeline.edge_weight, timeline.offsets.tolist(), **options)
    emit = data.draw(st.integers(0, timeline.num_snapshots))
    compiled = merge_windows(steps, window=timeline.window, emit=emit)
    tensors = merge_windows(steps, window=timeline.window, emit=emit, force_tensors=True)
    for a, b in zip(compiled, tensors, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@given(data=st.data())
@settings(deadline=None, max_examples=120)
def test_both_directions_by_sorting_and_by_counting_agree(data, reference):
    timeline = data.draw(reference.timelines(symmetrise=True))
    offsets = timeline.offsets.tolist()
    source, target = timeline.edge_index
    steps = Steps.of(
        source,
        target,
        timeline.edge_weight,
        offsets,
        num_nodes=timeline.num_nodes,
        symmetrise=True,
        union=timeline.union,
    )

    weight = None if timeline.union else timeline.edge_weight
    keys, amounts, real, ends = _both_sorted(source, target, weight, offsets, timeline.num_nodes, steps.form)
    assert torch.equal(keys, steps.keys)
    assert torch.equal(amounts, steps.amounts)
    assert ends == steps.offsets
    assert (real is None) == (steps.weight is None)
    assert real is None or torch.equal(real, steps.weight)


@given(
    st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    st.dictionaries(st.integers(0, 30), st.integers(1, 3)),
    st.data(),
)
@settings(deadline=None)
def test_merge_is_a_dictionary_that_counts(held, new, data):
    total = {key: held.get(key, 0) + new.get(key, 0) for key in held | new}
    leaving = data.draw(st.sets(st.sampled_from(sorted(total)))) if total else set()
    gone = {key: data.draw(st.integers(1, total[key])) for key in leaving}
    want = {key: count - gone.get(key, 0) for key, count in total.items() if count > gone.get(key, 0)}

    def lists(counts):
        keys = sorted(counts)
        return torch.tensor(keys, dtype=torch.int64), torch.tensor([[counts[key] for key in keys]], dtype=torch.int64)

    before = lists(held)
    kept = [tensor.clone() for tensor in before]
    keys, amounts = merge(*before, *lists(new), *lists(gone))
    assert torch.equal(keys, lists(want)[0])
    assert torch.equal(amounts, lists(want)[1])
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))


def test_many_steps_never_lose_count():
    # 3,000 steps of one key that comes and goes: sums that were subtracted in floating point would have drifted.
    count = 3000
    source = torch.zeros(count, dtype=torch.int32)
    weight = torch.full((count,), 0.1, dtype=torch.float32)
    steps = Steps.of(source, source, weight, list(range(count + 1)), num_nodes=1, symmetrise=False, union=False)
    _, _, value = merge_windows(steps, window=3, emit=2)
    assert value.unique().numel() == 1


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_counting_first_changes_nothing(data, reference):
    timeline = data.draw(reference.timelines(m_windows=(1,)))
    options = {"num_nodes": timeline.num_nodes, "symmetrise": timeline.symmetrise, "union": timeline.union}
    steps = Steps.of(*timeline.edge_index, timeline.edge_weight, timeline.offsets.tolist(), **options)
    want = merge_windows(steps, window=timeline.window, emit=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_compiled, "COUNT_FIRST", 0)
        got = merge_windows(steps, window=timeline.window, emit=0)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
