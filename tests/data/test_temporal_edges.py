"""Edge lists in each form, on tiny files; steps; what is refused, with its line."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.data.temporal_edges import EmptySteps, binned, compacted, read_temporal_edges

FORMS = {
    "snap.txt": "# wiki-talk\n9 4 100\n4 9 150\n9 70 160\n",
    "bitcoin.csv": "9,4,-10,100\n4,9,3,150.5\n9,70,1,160\n",
    "out.trust": "% sym signed\n% 3 70 70\n9 4\t-10 100\n4\t9 3\t150.5\n9 70 1   160\n",
    "header.csv": "time,Amount,from,TO,note\n100,-10,9,4,a b\n150.5,3,4,9,\n160,1,9,70,c\n",
    "header.tsv": "src\tdst\tts\n9\t4\t100\n4\t9\t150.5\n9\t70\t160\n",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_recognised(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(FORMS[name].encode()) if packed else FORMS[name].encode())
    edges = read_temporal_edges(path)
    assert edges.vertices.tolist() == [4, 9, 70]
    assert edges.source.tolist() == [1, 0, 1]
    assert edges.target.tolist() == [0, 1, 2]
    assert edges.time.tolist() == [100, 150 if name == "snap.txt" else 150.5, 160]
    assert (edges.weight is None) == (name in ("snap.txt", "header.tsv"))
    assert edges.weight is None or edges.weight.tolist() == [-10, 3, 1]


def write(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_labels_and_columns_by_hand(tmp_path: Path) -> None:
    edges = read_temporal_edges(write(tmp_path, "src,dst,time,label\n0,1,5,1\n1,2,6,0\n"))
    assert edges.label is not None
    assert edges.label.tolist() == [1, 0]
    path = write(tmp_path, "5 x 1 0\n6 y 2 1\n", "a.txt")
    edges = read_temporal_edges(path, layout="snap", columns=["time", "-", "target", "source"])
    assert (edges.source.tolist(), edges.target.tolist(), edges.time.tolist()) == ([0, 1], [1, 2], [5, 6])
    konect = write(tmp_path, "% asym\n1 2 77\n", "out.tiny")
    assert read_temporal_edges(konect, columns=["source", "target", "time"]).time.tolist() == [77]


def test_unordered_times_are_sorted_where_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "1 2 30\n3 4 10\n5 6 30\n7 8 20\n", "a.txt")
    with pytest.raises(ValueError, match=r"line 2: got time 10.0; expected times in ascending order.*unordered: sort"):
        read_temporal_edges(path)
    edges = read_temporal_edges(path, unordered="sort")
    assert edges.time.tolist() == [10, 20, 30, 30]
    assert edges.vertices[edges.source].tolist() == [3, 7, 1, 5]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("src,dst,time\n0,1,2\n0,-1,3\n", {}, "line 3: got target -1; expected a vertex, 0 or more"),
        ("0 1 5\n0 7 6\n", {"num_nodes": 7}, "line 2: got target 7; expected 0 … 6, num_nodes is 7"),
        ("0,1,2,5\n\n0,1,nan,6\n", {}, "line 3: got weight nan; expected a finite number"),
        ("0 1 inf\n", {}, "line 1: got time inf"),
        ("0 1 5\n0 1 99\n", {"until": 10}, r"line 2: got time 99.0; expected 10 or earlier \(until\)"),
        ("0 1 5\n0 1\n", {}, "line 2: got 2 columns; expected 3"),
        ("0 1 5\n0 x 6\n", {}, "line 2, column 2: got 'x'"),
        ("# nothing\n", {}, "nothing but comments"),
        ("", {}, "is empty"),
        ("src,dst,time\n", {}, "a header and no events"),
        ("src,dst,when\n0,1,2\n", {}, "line 1: no column for time among src, dst, when"),
        ("a,b,c\n0,1,2\n", {}, "no column for source and target and time"),
        ("src,from,dst,time\n0,1,2,3\n", {}, "got 2 columns for source"),
        ("0 1\n", {}, "got 2 columns; expected source target weight time .* without times cannot be cut"),
        ("0 1 2 3 4\n", {}, r"got 5 columns; .*: say what they hold by columns, e.g. \[source, target, time\]"),
        (
            "% c\n1 2 3\n",
            {},
            r"line 2: got 3 columns; expected source target weight time in the layout 'konect': a graph without times "
            r"cannot be cut .* if the third are times, say so by columns: \[source, target, time\]",
        ),
        ("% c\n1 2\n", {}, "line 2: got 2 columns; .* without times cannot be cut into snapshots"),
        ("0 1 5\n", {"columns": ["source", "target"]}, "got 3 columns; expected 2, as columns says"),
        ("0 1 5\n", {"columns": ["source", "target", "when"]}, "got 'when' in columns"),
    ],
)
def test_bad_files_are_refused_with_the_line(text: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_temporal_edges(write(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=30), st.booleans())
def test_numbers_are_compacted_and_kept(pairs: list[tuple[int, int]], sparse: bool) -> None:
    scale = 10**15 if sparse else 1
    source, target = (np.array(ends) * scale for ends in zip(*pairs, strict=True))
    first, second, vertices = compacted(source, target)
    assert np.array_equal(vertices[first], source)
    assert np.array_equal(vertices[second], target)
    assert vertices.tolist() == sorted({*source.tolist(), *target.tolist()})


def test_steps_by_width_and_by_count() -> None:
    time = np.array([100.0, 109.9, 110.0, 135.0])
    by_width = binned(time, width=10, empty="keep")
    assert (by_width.of_event.tolist(), by_width.count, by_width.empty) == ([0, 0, 1, 3], 4, 1)
    assert by_width.starts.tolist() == [100, 110, 120, 130]
    dropped = binned(time, width=10, empty="drop")
    assert (dropped.of_event.tolist(), dropped.starts.tolist()) == ([0, 0, 1, 2], [100, 110, 130])
    by_count = binned(time, steps=2)
    assert by_count.of_event.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("width", [0.1, 0.3, 1 / 3, 2.5, 7.0, 1e-5])
@pytest.mark.parametrize("first", [0.0, 0.7, -3.2, 1_600_000_000.0])
def test_times_that_are_multiples_of_the_width_begin_a_step_each(width: float, first: float) -> None:
    # By products, by sums, and as a file has them.
    number = np.arange(200)
    sums = np.cumsum(np.full(200, width)) - width + first
    written = np.array([float(f"{time:.12g}") for time in number * width]) + first
    for time in (number * width + first, sums, written):
        if np.abs(time - (first + number * width)).max() < 2 * np.spacing(abs(time).max()):
            cut = binned(time, width=width)
            assert cut.of_event.tolist() == number.tolist()
            assert cut.of(time[::-1]).tolist() == number[::-1].tolist()


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=40, unique=True),
    st.integers(2, 150),
    st.sampled_from([1.0, 0.1, 1 / 3]),
    st.sampled_from(["keep", "drop"]),
)
def test_a_time_has_one_step_whoever_asks(times: list[int], steps: int, unit: float, empty: EmptySteps) -> None:
    time = np.sort(times) * unit
    cut = binned(time, steps=steps, empty=empty)
    assert cut.of(time).tolist() == cut.of_event.tolist()
    assert (cut.starts[cut.of_event] <= time + 1e-12).all()
    assert (time < np.append(cut.starts, np.inf)[cut.of_event + 1] - 1e-12).all()
    assert cut.of(np.array([-1e9, 1e9])).tolist() == [0, cut.count - 1]
    # A dropped step's times come after the events before them, and with the next events at the earliest.
    between = (time[1:] + time[:-1]) / 2
    place = cut.of(between)
    assert (cut.of_event[:-1] <= place).all()
    assert (place <= cut.of_event[1:]).all()


def test_times_of_a_dropped_step_belong_to_the_next_one() -> None:
    cut = binned(np.array([0.0, 1.0, 9.0]), width=1.0, empty="drop")
    assert cut.of(np.array([0.5, 1.5, 2.0, 8.9, 9.0])).tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "steps=None and width=None; expected one"),
        ({"steps": 3, "width": 1.0}, "expected one of the two"),
        ({"steps": 1}, "one snapshot is no timeline"),
        ({"width": 100.0}, "one snapshot, which is no timeline"),
        ({"width": 0.0}, "expected a number above 0"),
        ({"width": float("nan")}, "expected a number above 0"),
        ({"width": 1e-9}, "give a larger one"),
        ({"width": 10.0}, "got 1 empty steps of 4, the first is step 2 from time 120.0"),
    ],
)
def test_steps_that_make_no_timeline_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        binned(np.array([100.0, 109.9, 110.0, 135.0]), **options)


def test_events_all_at_one_time_are_no_timeline() -> None:
    with pytest.raises(ValueError, match="all at time 5"):
        binned(np.array([5.0, 5.0]), steps=2)
