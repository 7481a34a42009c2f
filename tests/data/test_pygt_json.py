"""JSON files of PyTorch Geometric Temporal: the real one where it is, tiny ones, and what is refused."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from fulgurite.data.pygt_json import read_pygt_json


def content() -> dict[str, Any]:
    steps = {
        str(number): {
            "index": number,
            "edges": [[0, 1], [2, 2]][: 2 - number],
            "weights": [2, 1][: 2 - number],
            "X": [[1, 0.5], [1, 0], [2, number]],
            "y": [number, 0, 13196],
        }
        for number in range(2)
    }
    return {**steps, "time_periods": 2, "node_ids": {"b": 1, "a": 0, "c": 2}}


def write(folder: Path, value: Any) -> Path:
    path = folder / "tiny.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_the_real_tennis_graph(shared_data: Path) -> None:
    graph = read_pygt_json(shared_data / "twitter_tennis" / "twitter_tennis_rg17.json")
    assert (graph.num_snapshots, graph.num_nodes, len(graph.source), len(graph.names)) == (120, 1000, 40_839, 1000)
    assert int((graph.source == graph.target).sum()) == 253
    assert (graph.weight.min(), graph.weight.max(), graph.values.max()) == (1, 42, 13_196)
    # X is the degree in the undirected graph, where a self-loop counts twice, by another's implementation.
    now = graph.time == 7
    undirected = nx.Graph(zip(graph.source[now].tolist(), graph.target[now].tolist(), strict=True))
    for vertex, degree in undirected.degree:
        assert graph.features[7, vertex, 0] == degree


def test_a_tiny_file(tmp_path: Path) -> None:
    graph = read_pygt_json(write(tmp_path, content()))
    assert (graph.source.tolist(), graph.target.tolist(), graph.time.tolist()) == ([0, 2, 0], [1, 2, 1], [0, 0, 1])
    assert graph.weight.tolist() == [2, 1, 2]
    assert graph.features[1].tolist() == [[1, 0.5], [1, 0], [2, 1]]
    assert graph.values.tolist() == [[0, 0, 13196], [1, 0, 13196]]
    assert graph.names == ("a", "b", "c")


def test_a_step_without_edges_is_read(tmp_path: Path) -> None:
    value = content()
    value["1"] |= {"edges": [], "weights": []}
    assert read_pygt_json(write(tmp_path, value)).time.tolist() == [0, 0]
    assert np.bincount([0, 0], minlength=2).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [[0, 3]], "weights": [1]}, "step 1: got vertex 3 in edges; expected 0 … 2"),
        ({"edges": [[0, -1]], "weights": [1]}, "step 1: got vertex -1 in edges"),
        ({"edges": [[0, 0.5]], "weights": [1]}, "step 1: got edges of shape .* expected pairs of whole numbers"),
        ({"edges": [[0, 1, 2]], "weights": [1]}, "expected pairs of whole numbers"),
        ({"weights": []}, "step 1: got 0 weights for 1 edges"),
        ({"weights": [float("nan")]}, "step 1: got weights that are not finite"),
        ({"X": [[1, 1]]}, r"step 1: got X of shape \(1, 2\) and y of \(3,\)"),
        ({"X": [[1], [1], [1]]}, r"step 1: got X of shape \(3, 1\); expected \(3, 2\), as in step 0"),
        ({"X": [[1, "a"]] * 3}, "step 1: got X that are no table of numbers"),
        ({"index": 5}, "step 1: got index 5; expected 1"),
    ],
)
def test_bad_steps_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    value = content()
    value["1"] |= change
    with pytest.raises(ValueError, match=message):
        read_pygt_json(write(tmp_path, value))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    value = content()
    gap = {"2" if key == "1" else key: step for key, step in value.items()}
    for bad, message in (
        ('{"0": \n{', "line 2, column 2: no JSON"),
        ("", "is empty"),
        ([1], "got a list; expected an object"),
        (gap, 'expected the keys "0", "1", … without a gap'),
        ({**value, "time_periods": 3}, "time_periods 3"),
        ({**value, "1": 7}, "step 1: got a int"),
        ({**value, "1": {"edges": [], "X": []}}, "step 1: no weights and no y"),
        ({**value, "node_ids": {"a": 0}}, "got 1 node_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            read_pygt_json(write(tmp_path, bad))
