"""Events in steps from each form, and what is to be predicted of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulgurite.data.event_graph import EventGraph, amounts, generated, make_targets, read_event_graph
from fulgurite.data.transaction_graph import TransactionGraph

GRAPH = EventGraph(
    source=np.array([0, 0, 1, 2, 0]),
    target=np.array([1, 1, 2, 0, 1]),
    step=np.array([0, 0, 0, 1, 2]),
    weight=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    edge_label=np.array([0, 1, 0, 0, 1]),
    guilty_from=np.array([2, 0, 3]),
    num_nodes=3,
    num_snapshots=3,
)
TINY_AML = {
    "nodes.csv": "nodeid,isFraud,init_balance,fraudStep\n0,1,1.5,2\n1,1,1.5,-1\n2,0,1.5,-1\n",
    "transactions.csv": "sourceNodeId,targetNodeId,value,time\n2,0,7,1\n0,1,7,2\n1,2,7,4\n",
}


def as_rows(targets: Any) -> list[tuple[int, ...]]:
    return sorted(zip(targets.step, targets.known, *targets.index, targets.label, strict=True))


def test_links_are_those_of_a_later_step_each_once() -> None:
    assert as_rows(make_targets(GRAPH, "link", horizon=1, threshold=0)) == [(0, 1, 2, 0, 1), (1, 2, 0, 1, 1)]
    assert as_rows(make_targets(GRAPH, "link", horizon=2, threshold=0)) == [(0, 2, 0, 1, 1)]


def test_an_edge_has_the_largest_class_of_its_events() -> None:
    expected = [(0, 0, 0, 1, 1), (0, 0, 1, 2, 0), (1, 1, 2, 0, 0), (2, 2, 0, 1, 1)]
    assert as_rows(make_targets(GRAPH, "edge", horizon=1, threshold=0)) == expected


def test_where_keys_do_not_fit_into_64_bits_edges_are_the_same() -> None:
    huge = replace(GRAPH, num_nodes=2**31, guilty_from=None)
    for task in ("link", "edge"):
        small, large = (make_targets(graph, task, horizon=1, threshold=0) for graph in (GRAPH, huge))  # type: ignore[arg-type]
        assert as_rows(small) == as_rows(large)


def test_vertices_are_asked_where_they_have_events_and_guilty_from_their_step_on() -> None:
    expected = [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 2, 0), (1, 1, 0, 0), (1, 1, 2, 0), (2, 2, 0, 1), (2, 2, 1, 1)]
    assert as_rows(make_targets(GRAPH, "node", horizon=1, threshold=0)) == expected


def test_values_are_asked_of_all_vertices_ahead_of_time() -> None:
    graph = replace(GRAPH, guilty_from=None, values=np.array([[9.0, 0, 0], [1, 2, 3], [4, 0, 6]]))
    rows = as_rows(make_targets(graph, "node", horizon=1, threshold=2))
    assert rows == [(0, 1, 0, 0), (0, 1, 1, 0), (0, 1, 2, 1), (1, 2, 0, 1), (1, 2, 1, 0), (1, 2, 2, 1)]
    assert len(make_targets(graph, "node", horizon=0, threshold=2).label) == 9


def test_labels_that_are_not_there_are_refused() -> None:
    bare = replace(GRAPH, edge_label=None, guilty_from=None, weight=None)
    for task, message in (("edge", "events without labels"), ("node", "vertices without labels")):
        with pytest.raises(ValueError, match=message):
            make_targets(bare, task, horizon=1, threshold=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="events without weights for the feature 'amounts'"):
        amounts(bare)
    with pytest.raises(ValueError, match="events of weights below 0"):
        amounts(replace(GRAPH, weight=-np.ones(5)))


def test_amounts_are_sums_of_a_step() -> None:
    table = np.expm1(amounts(GRAPH).astype(np.float64))
    assert table.shape == (3, 3, 2)
    assert table[0].round(4).tolist() == [[3, 0], [3, 3], [0, 3]]
    assert table[1].round(4).tolist() == [[0, 4], [0, 0], [4, 0]]


def test_generated_accounts_are_guilty_when_they_pass_on_what_they_received() -> None:
    events = TransactionGraph(num_nodes=500, num_steps=40, events_per_step=20).events()
    graph = generated(TransactionGraph(num_nodes=500, num_steps=40, events_per_step=20))
    expected = np.full(500, 40)
    received = np.full(500, 99)
    for source, target, step, bad in zip(events.source, events.target, events.time, events.laundering, strict=True):
        if bad and received[source] < step:
            expected[source] = min(expected[source], step)
        if bad:
            received[target] = min(received[target], step)
    assert graph.guilty_from is not None
    assert np.array_equal(graph.guilty_from, expected)
    assert 10 < (expected < 40).sum() < 400


def test_digests_tell_contents_apart() -> None:
    assert GRAPH.digest == replace(GRAPH).digest
    others = [
        replace(GRAPH, target=np.array([1, 1, 2, 0, 2])),
        replace(GRAPH, weight=None),
        replace(GRAPH, num_nodes=4),
        replace(GRAPH, edge_label=GRAPH.edge_label[::-1]),  # type: ignore[index]
    ]
    assert len({GRAPH.digest, *(other.digest for other in others)}) == 5


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return write


def test_amlsim_in_its_own_steps_and_in_wider_ones(folder: Callable[..., Path]) -> None:
    root = folder(**{name.replace(".", "__"): text for name, text in TINY_AML.items()})
    with pytest.raises(ValueError, match="got 1 empty steps of 4, the first is step 2 from time 3"):
        read_event_graph(root)
    own = read_event_graph(root, empty_steps="keep")
    assert own.step.tolist() == [0, 1, 3]
    assert own.told == ("1 steps without events kept",)
    assert own.guilty_from is not None
    assert own.guilty_from.tolist() == [1, 4, 4]
    assert own.edge_label is not None
    assert own.edge_label.tolist() == [0, 1, 0]
    assert read_event_graph(root, empty_steps="drop").step.tolist() == [0, 1, 2]
    wide = read_event_graph(root, bin_width=2)
    assert wide.step.tolist() == [0, 0, 1]
    assert wide.guilty_from is not None
    assert wide.guilty_from.tolist() == [0, 2, 2]
    with pytest.raises(ValueError, match="line 4: got time 4; expected 3 or earlier"):
        read_event_graph(root, until=3)


@pytest.mark.parametrize("steps", [6, 10, 12, 24, 30, 37, 149])
def test_an_account_is_guilty_in_the_step_of_the_transfer_that_makes_it_so(
    steps: int, folder: Callable[..., Path]
) -> None:
    # Account k sends at time k only, as fraudStep says.
    nodes = "".join(f"{k},1,9,{k or -1}\n" for k in range(150))
    transfers = "".join(f"{k},0,7,{k}\n" for k in range(1, 150))
    root = folder(
        nodes__csv="nodeid,isFraud,init_balance,fraudStep\n" + nodes,
        transactions__csv="sourceNodeId,targetNodeId,value,time\n" + transfers,
    )
    graph = read_event_graph(root, steps=steps)
    assert graph.guilty_from is not None
    assert graph.guilty_from[graph.source].tolist() == graph.step.tolist()
    assert graph.guilty_from[0] == steps


def test_guilt_after_the_last_transfer_is_not_seen(folder: Callable[..., Path]) -> None:
    text = {name.replace(".", "__"): text for name, text in TINY_AML.items()}
    root = folder(**{**text, "nodes__csv": text["nodes__csv"].replace("1.5,2", "1.5,5")})
    graph = read_event_graph(root, steps=2)
    assert graph.guilty_from is not None
    assert graph.guilty_from.tolist() == [2, 2, 2]


def test_text_needs_steps_and_has_its_own_numbers(folder: Callable[..., Path]) -> None:
    root = folder(a__csv="7,5,1,100\n5,9,1,200\n7,9,2,300\n")
    with pytest.raises(ValueError, match="got neither steps nor bin_width"):
        read_event_graph(root)
    graph = read_event_graph(root, steps=2)
    assert (graph.step.tolist(), graph.num_nodes) == ([0, 1, 1], 3)
    assert graph.vertices is not None
    assert graph.vertices.tolist() == [5, 7, 9]
    assert read_event_graph(root / "a.csv", bin_width=100).num_snapshots == 3


def test_what_could_be_meant_must_be_one(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no data in .*; give file"):
        read_event_graph(tmp_path)
    root = folder(a__csv="0,1,5\n1,0,6\n", b__csv="0,1,5\n1,0,7\n")
    with pytest.raises(ValueError, match=r"2 files that could be meant \(a.csv, b.csv\)"):
        read_event_graph(root, steps=2)
    assert read_event_graph(root, steps=2, file="b.csv").num_snapshots == 2
    with pytest.raises(ValueError, match="is not there"):
        read_event_graph(root / "no")
    with pytest.raises(ValueError, match="for form='amlsim'; expected the folder"):
        read_event_graph(root / "a.csv", form="amlsim")


def test_json_has_its_own_steps(folder: Callable[..., Path]) -> None:
    step = '{"edges": [[0, 1]], "weights": [2], "X": [[1], [2]], "y": [3, 0]}'
    bare = '{"edges": [], "weights": [], "X": [[1], [2]], "y": [3, 0]}'
    root = folder(a__json=f'{{"0": {step}, "1": {bare}}}')
    with pytest.raises(ValueError, match="1 empty steps of 2"):
        read_event_graph(root)
    graph = read_event_graph(root, empty_steps="keep")
    assert graph.num_snapshots == 2
    assert graph.values is not None
    assert graph.values.tolist() == [[3, 0], [3, 0]]
    with pytest.raises(ValueError, match="has its own steps"):
        read_event_graph(root, steps=2)
    folder(a__json=f'{{"0": {step}}}')
    with pytest.raises(ValueError, match="one snapshot is no timeline"):
        read_event_graph(root)
