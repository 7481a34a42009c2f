"""The data module: parts that see their past and nothing later, windows, names, what is refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.temporal_graph import TemporalGraph
from fulgurite.data.timeline import Timeline
from fulgurite.data.transaction_graph import TransactionGraph

SMALL = TransactionGraph(num_nodes=150, num_steps=30, events_per_step=40)


def small(**options: Any) -> TemporalGraph:
    return TemporalGraph(generator=SMALL, **{"edge_life": 3, **options})


def rows(timeline: Timeline, *, shift: int = 0) -> set[tuple[int, ...]]:
    step = (
        torch.repeat_interleave(torch.arange(timeline.num_snapshots), timeline.target_offsets.diff()) + timeline.first
    )
    return set(
        zip((step + shift).tolist(), *timeline.target_index.tolist(), timeline.target_label.tolist(), strict=True)
    )


@pytest.mark.parametrize("task", ["link", "edge", "node"])
def test_a_part_sees_its_past_and_nothing_later(task: Any) -> None:
    data = small(task=task, val_steps=5, test_steps=0.2)
    ahead = 1 if task == "link" else 0
    parts = [data.part(split) for split in ("train", "val", "test")]
    assert [part.num_snapshots for part in parts] == [19, 24, 30]
    everything: set[tuple[int, ...]] = set()
    for part, begin in zip(parts, (0, 19, 24), strict=True):
        part.check()
        found = rows(part, shift=ahead)
        assert found
        assert all(begin <= row[0] < part.num_snapshots for row in found)
        assert part.scored.tolist() == (part.target_offsets.diff() > 0).tolist()
        assert torch.equal(part.edge_index, parts[-1].edge_index[:, : part.edge_index.shape[1]])
        assert not everything & found
        everything |= found
    graph = data.graph
    if task != "node":
        events = zip(graph.step.tolist(), graph.source.tolist(), graph.target.tolist(), strict=True)
        assert {row[:3] for row in everything} == {event for event in events if event[0] >= ahead}


def test_batches_are_whole_timelines_or_windows_that_make_them_up() -> None:
    data = small(task="node", window_size=7)
    windows = list(data.train_dataloader())
    assert sorted((window.first, window.num_snapshots) for window in windows) == [(0, 7), (7, 7), (14, 4)]
    assert all(window.history == min(2, window.first) for window in windows)
    train = data.part("train")
    assert set.union(*(rows(window) for window in windows)) == rows(train)
    (whole,) = small(task="node").train_dataloader()
    assert whole.num_snapshots == train.num_snapshots == 18
    (val,) = data.val_dataloader()
    assert val.num_snapshots == 24


def test_a_timeline_stays_on_the_host_other_batches_move() -> None:
    data, meta = small(), torch.device("meta")
    train = data.part("train")
    assert data.transfer_batch_to_device(train, meta, 0) is train
    assert data.transfer_batch_to_device([torch.zeros(2)], meta, 0)[0].device == meta


def test_the_order_of_windows_is_shuffled_by_torchs_generator() -> None:
    data = small(task="node", window_size=2)
    torch.manual_seed(0)
    orders = [[window.first for window in data.train_dataloader()] for _ in range(3)]
    assert sorted(orders[0]) == list(range(0, 18, 2))
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_features_side_by_side() -> None:
    bare = small(features=[]).part("train")
    assert (bare.num_features, bare.degree_features) == (1, False)
    degrees = small().part("train")
    assert (degrees.num_features, degrees.features, degrees.degree_features) == (2, None, True)
    data = small(features=["degrees", "amounts", "signature"], seed=3)
    train, test = data.part("train"), data.part("test")
    assert train.num_features == 12
    assert train.features is not None
    assert test.features is not None
    assert train.features.shape == (18, 150, 10)
    assert torch.equal(train.features, test.features[:18])
    assert torch.equal(train.features[0, :, 2:], train.features[9, :, 2:])
    steady = small(features=["signature"], seed=3).part("train").features
    assert steady is not None
    assert torch.equal(steady, train.features[0, :, 2:])


def test_weights_are_amounts_and_counts_are_counts() -> None:
    counts, amounts = small().part("train"), small(weighted=True).part("train")
    assert counts.edge_weight is not None
    assert counts.edge_weight.dtype == torch.int32
    assert amounts.edge_weight is not None
    assert amounts.edge_weight.dtype == torch.float32
    events = small().graph
    assert events.weight is not None
    assert amounts.edge_weight.double().sum().item() == pytest.approx(events.weight[events.step < 18].sum(), rel=1e-5)
    assert int(counts.edge_weight.sum()) == (events.step < 18).sum()


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [
        ([16777217, 1, 2, 3], torch.int32),
        ([2**40 + 1, 1, 2, 3], torch.float64),
        ([2**30, 2**30, 2**30, 2**30], torch.float64),  # a window's sum would not be a whole number of 32 bits
        ([1.5, 1, 2, 3], torch.float32),
    ],
)
def test_whole_weights_are_exact(weights: list[float], dtype: torch.dtype, tmp_path: Path) -> None:
    lines = [f"{k},{k + 1},{k + 10},{weight}" for k, weight in enumerate(weights)]
    (tmp_path / "a.csv").write_text("\n".join(["source,target,time,weight", *lines]))
    data = TemporalGraph(root=str(tmp_path), bin_width=1, weighted=True, edge_life=4, val_steps=0, test_steps=0)
    train = data.part("train")
    assert train.edge_weight is not None
    assert train.edge_weight.dtype == dtype
    assert train.edge_weight.tolist() == weights


def test_what_is_read_is_told_with_the_share_of_each_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{k % 5},{k % 7 + 5},{k},{k % 4 if k % 4 < 3 else 2}" for k in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["source,target,time,label", *rows]))
    with caplog.at_level("INFO"):
        TemporalGraph(root=str(tmp_path), steps=10, task="edge", val_steps=0, test_steps=0).setup()
    assert "40 train targets, 25.0% of class 0, 25.0% of class 1, 50.0% of class 2" in caplog.text
    caplog.clear()
    (tmp_path / "a.csv").write_text(
        "\n".join(["source,target,time,label", *(row[:-1] + "0" for row in rows), "0,1,40,1"])
    )
    with caplog.at_level("INFO"):
        TemporalGraph(root=str(tmp_path), steps=10, task="edge", val_steps=0, test_steps=0).setup()
    assert "41 train targets, 2.4% of class 1" in caplog.text


def test_names_are_equal_where_contents_are() -> None:
    options: list[dict[str, Any]] = [
        {},
        {"edge_life": 4},
        {"union": True},
        {"symmetrise": True},
        {"m_window": 2},
        {"weighted": True},
        {"features": ["signature"]},
        {"features": ["signature"], "seed": 1},
        {"task": "node"},
        {"horizon": 2},
        {"val_steps": 7, "test_steps": 7},
    ]
    names = [small(**option).part(split).name for option in options for split in ("train", "val", "test")]
    assert len(set(names)) == len(names)
    assert small().part("val").name == names[1]
    assert small(window_size=3).part("val").name == names[1]


def test_parts_can_be_left_out_and_the_module_pickled() -> None:
    data = small(val_steps=0, test_steps=0)
    assert data.part("train").num_snapshots == 30
    assert data.val_dataloader() == data.test_dataloader() == []
    with pytest.raises(ValueError, match="no steps for 'val'"):
        data.part("val")
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.part("train").edge_index, data.part("train").edge_index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "x", "generator": SMALL}, "expected one of the two"),
        ({"steps": 3}, "the generator has num_steps"),
        ({"edge_life": 0}, "edge_life=0; expected 1 or more"),
        ({"m_window": 0}, "m_window=0"),
        ({"window_size": -1}, "window_size=-1"),
        ({"horizon": 0}, "horizon=0; expected 1 or more"),
        ({"val_steps": 1.5}, "val_steps=1.5; expected a share below 1, or a whole number"),
        ({"test_steps": -1}, "test_steps=-1"),
        ({"features": ["age"]}, "expected of degrees, amounts, given, signature"),
        ({"features": ["degrees", "degrees"]}, "none twice"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalGraph(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_steps": 20, "test_steps": 10}, "got 30 steps, of which 20 for val and 10 for test; none are left"),
        ({"val_steps": 29, "test_steps": 0}, "got no target of task 'link' in steps 0 … 0, which are for train"),
        ({"features": ["given"]}, "no features with the data"),
    ],
)
def test_data_that_does_not_fit_is_refused_and_nothing_is_kept(options: dict[str, Any], message: str) -> None:
    data = small(**options)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            data.setup()


def test_ratings_of_a_file(tmp_path: Path) -> None:
    lines = [f"{10 + step % 3},{20 + step % 4},{step % 21 - 10},{1000 + step}" for step in range(60)]
    (tmp_path / "soc-sign.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"got weights from -10 on .*give weighted: absolute"):
        TemporalGraph(root=str(tmp_path), steps=12, weighted=True).setup()
    data = TemporalGraph(root=str(tmp_path), steps=12, weighted="absolute", edge_life=2)
    train = data.part("train")
    assert train.edge_weight is not None
    assert 0 <= float(train.edge_weight.min()) < float(train.edge_weight.max()) <= 10
    assert (train.num_nodes, train.num_snapshots) == (7, 8)
    assert data.graph.vertices is not None
    assert data.graph.vertices.tolist() == [10, 11, 12, 20, 21, 22, 23]
    with pytest.raises(ValueError, match="events without labels"):
        TemporalGraph(root=str(tmp_path), steps=12, task="edge").setup()
    (tmp_path / "soc-sign.csv").write_text("1 2 5\n2 1 6\n2 3 7\n1 3 9\n3 1 10\n")
    with pytest.raises(ValueError, match="without weights for weighted=True"):
        TemporalGraph(root=str(tmp_path), steps=4, weighted=True, empty_steps="keep").setup()
