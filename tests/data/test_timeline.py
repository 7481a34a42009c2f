"""Timelines: events sorted and summed, slices with their history, what is refused."""

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from torch import Tensor

from fulgurite.data.timeline import Timeline
from fulgurite.plugins.snapshot_parallel.timeline import TimelineLike


def drawn(
    seed: int, *, events: int = 60, nodes: int = 7, steps: int = 9, weighted: bool = False, **options: Any
) -> Timeline:
    generator = np.random.default_rng(seed)
    return Timeline.from_events(
        generator.integers(0, nodes, events),
        generator.integers(0, nodes, events),
        generator.integers(0, steps, events),
        weight=generator.normal(size=events) if weighted else None,
        num_nodes=nodes,
        num_snapshots=steps,
        target_index=generator.integers(0, nodes, (2, 30)),
        target_label=generator.integers(0, 2, 30),
        target_time=generator.integers(0, steps, 30),
        **options,
    )


def windowed(timeline: Timeline) -> Tensor:
    """(T, N, N) sums over the window, counted event by event."""
    dense = torch.zeros(timeline.num_snapshots, timeline.num_nodes, timeline.num_nodes, dtype=torch.float64)
    for step in range(timeline.history + timeline.num_snapshots):
        for event in range(int(timeline.offsets[step]), int(timeline.offsets[step + 1])):
            source, target = timeline.edge_index[:, event].tolist()
            weight = 1 if timeline.edge_weight is None else float(timeline.edge_weight[event])
            for snapshot in range(step, step + timeline.window):
                if 0 <= snapshot - timeline.history < timeline.num_snapshots:
                    dense[snapshot - timeline.history, source, target] += weight
    return dense


def test_it_satisfies_the_protocol_of_the_strategy() -> None:
    assert isinstance(drawn(0), TimelineLike)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_repeated_events_are_summed_and_sorted(seed: int, weighted: bool) -> None:
    timeline = drawn(seed, weighted=weighted)
    timeline.check()
    generator = np.random.default_rng(seed)
    source, target, step = (generator.integers(0, size, 60) for size in (7, 7, 9))
    weight = generator.normal(size=60) if weighted else np.ones(60)
    expected = np.zeros((9, 7, 7))
    np.add.at(expected, (step, source, target), weight)
    assert torch.allclose(windowed(timeline), torch.from_numpy(expected), atol=1e-12)
    if weighted or (expected > 1).any():
        assert timeline.edge_weight is not None
        assert timeline.edge_weight.dtype == (torch.float64 if weighted else torch.int32)
    else:
        assert timeline.edge_weight is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.data())
def test_a_slice_has_the_snapshots_of_the_whole(seed: int, window: int, data: st.DataObject) -> None:
    timeline = drawn(seed, window=window, features=torch.arange(9.0).view(9, 1, 1).expand(9, 7, 2))
    start = data.draw(st.integers(0, 9))
    stop = data.draw(st.integers(start, 9))
    part = timeline.slice_time(start, stop)
    assert torch.equal(windowed(part), windowed(timeline)[start:stop])
    assert part.first == start
    assert part.features is not None
    assert part.features[part.history :, 0, 0].tolist() == list(range(start, stop))
    again = data.draw(st.integers(0, stop - start))
    nested = part.slice_time(again, stop - start)
    assert nested.first == start + again
    assert torch.equal(windowed(nested), windowed(timeline)[start + again : stop])
    low, high = int(timeline.target_offsets[start + again]), int(timeline.target_offsets[stop])
    assert torch.equal(nested.target_index, timeline.target_index[:, low:high])
    assert torch.equal(nested.target_label, timeline.target_label[low:high])


def test_a_slice_shares_its_events_and_takes_only_the_history_that_it_needs() -> None:
    timeline = drawn(1, window=3, m_window=2, name="a")
    part = timeline.slice_time(5, 7)
    assert (part.history, part.first, part.name) == (3, 5, "a[5:7]")
    assert part.edge_index.untyped_storage().data_ptr() == timeline.edge_index.untyped_storage().data_ptr()
    assert timeline.slice_time(1, 2).history == 1
    assert timeline.slice_time(4, 4).history == 0
    assert timeline.slice_time(0, 9) is timeline


def test_where_keys_do_not_fit_into_64_bits_the_result_is_the_same() -> None:
    far = 2**31 - 1
    source, target, time = [far - 1, 0, far - 1, 3], [0, far - 1, 0, 2], [7, 7, 7, 0]
    timeline = Timeline.from_events(source, target, time, num_nodes=far, num_snapshots=9)
    assert timeline.edge_index.tolist() == [[3, 0, far - 1], [2, far - 1, 0]]
    assert timeline.edge_weight is not None
    assert timeline.edge_weight.tolist() == [1, 1, 2]
    assert timeline.offsets.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 3, 3]


def test_it_survives_pickling_and_moving() -> None:
    timeline = drawn(2, weighted=True, features=torch.ones(7, 3), degree_features=True)
    for other in (pickle.loads(pickle.dumps(timeline)), timeline.to("cpu", non_blocking=True)):
        assert torch.equal(other.edge_index, timeline.edge_index)
        assert torch.equal(other.edge_weight, timeline.edge_weight)
        assert other.num_features == 5
    moved = timeline.to("meta")
    assert moved.edge_index.device.type == moved.target_label.device.type == "meta"
    assert moved.offsets.device.type == moved.scored.device.type == "cpu"


def test_a_timeline_without_events_or_targets_is_legal() -> None:
    timeline = Timeline.from_events([], [], [], num_nodes=2, num_snapshots=3)
    assert timeline.offsets.tolist() == [0, 0, 0, 0]
    assert timeline.edge_weight is None
    assert timeline.num_targets == 0
    timeline.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": [0, -1]}, r"source\[1\] = -1; expected 0 … 2"),
        ({"target": [3, 0]}, r"target\[0\] = 3; expected 0 … 2, num_nodes is 3"),
        ({"time": [0, 4]}, r"time\[1\] = 4; expected 0 … 3, num_snapshots is 4"),
        ({"time": [0.5, 1.0]}, "time of float64; expected whole numbers"),
        ({"time": [0]}, "2 sources, 2 targets, 1 times"),
        ({"weight": [1.0, float("nan")]}, r"weight\[1\] = nan"),
        ({"weight": [1.0]}, r"weight of shape \(1,\)"),
        ({"target_index": [0]}, "give all three"),
        ({"target_index": [5], "target_label": [0], "target_time": [0]}, r"target_index\[0\] = 5"),
        ({"target_index": [1], "target_label": [0], "target_time": [9]}, r"target_time\[0\] = 9"),
        ({"target_index": [1], "target_label": [0, 1], "target_time": [0, 1]}, r"expected \(k, M\)"),
        ({"window": 0}, "window=0; expected 1 or more"),
        ({"features": torch.ones(2, 1)}, r"features of shape \(2, 1\)"),
        ({"features": torch.ones(3, 1, dtype=torch.int64)}, "floating"),
        ({"scored": [True]}, r"scored of shape \(1,\)"),
        ({"num_nodes": None, "source": [], "target": [], "time": []}, "no events"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"source": [0, 1], "target": [1, 2], "time": [0, 1], "num_nodes": 3, "num_snapshots": 4}
    with pytest.raises(ValueError, match=message):
        Timeline.from_events(**{**options, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": torch.tensor([0, 2, 1, 3, 3, 3, 3, 3, 3, 3])}, "expected 0 rising to"),
        ({"target_offsets": torch.zeros(3, dtype=torch.int64)}, "target_offsets of shape"),
        ({"target_index": torch.zeros(3, 30, dtype=torch.int64)}, r"expected \(1 or 2, M\)"),
        ({"history": 2}, "first=0 with a history of 2"),
        ({"edge_index": torch.zeros(2, 4)}, "edge_index"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(3).replace(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"edge_index": torch.tensor([[0, 0], [1, 1]], dtype=torch.int32)},
            "event 1 of edge_index out of order, or twice",
        ),
        ({"edge_index": torch.tensor([[1, 0], [1, 1]], dtype=torch.int32)}, "event 1 of edge_index out of order"),
        ({"edge_index": torch.tensor([[0, -1], [1, 1]], dtype=torch.int32)}, "vertex -1 in edge_index"),
        ({"edge_weight": torch.tensor([1.0, float("inf")])}, "edge_weight that are not finite"),
    ],
)
def test_contents_are_looked_at_on_demand(change: dict[str, Any], message: str) -> None:
    timeline = Timeline.from_events([0, 1], [1, 0], [0, 0]).replace(**change)
    with pytest.raises(ValueError, match=message):
        timeline.check()


def test_a_timeline_stays_as_it_is() -> None:
    timeline = drawn(0)
    with pytest.raises(FrozenInstanceError):
        timeline.window = 2  # type: ignore[misc]
    assert (timeline.replace(window=2).window, timeline.window) == (2, 1)


@pytest.mark.parametrize("plugin", [DoublePrecision(), HalfPrecision("16-true"), HalfPrecision("bf16-true")])
def test_precision_plugins_leave_a_timeline_whole(plugin: Precision) -> None:
    timeline = drawn(0, weighted=True, features=torch.ones(7, 2))
    assert plugin.convert_input(timeline) is timeline


@pytest.mark.parametrize(
    ("weight", "expected", "kind"),
    [
        ([16777217, 1], [16777217, 1], torch.int32),
        ([2**31, 1], [2.0**31, 1.0], torch.float64),
        ([True, False], [1, 0], torch.int32),
        ([0.5, 1], [0.5, 1.0], torch.float64),
    ],
)
def test_whole_weights_stay_whole(weight: list[float], expected: list[float], kind: torch.dtype) -> None:
    found = Timeline.from_events([0, 1], [1, 0], [0, 0], weight=weight).edge_weight
    assert found is not None
    assert (found.tolist(), found.dtype) == (expected, kind)


def test_slices_outside_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slice_time\(3, 10\); expected 0 ≤ start ≤ stop ≤ 9"):
        drawn(0).slice_time(3, 10)
