import pickle

import numpy as np
import pytest
import torch

from fulgurite.models.sparse_network.edge_list import TopologyError, cycle_error, read_edge_list, whole_numbers

EDGES = [(0, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    "edges",
    [
        EDGES,
        np.array(EDGES, dtype=np.int16),
        np.array(EDGES, dtype=np.uint64),
        torch.tensor(EDGES, dtype=torch.int32),
        torch.tensor(EDGES).T.contiguous().T,
        tuple(list(edge) for edge in EDGES),
    ],
)
def test_takes_any_array_of_whole_numbers(edges):
    graph = read_edge_list(edges, num_inputs=2, outputs=[3])
    assert graph.src.tolist() == [0, 1, 2]
    assert graph.dst.tolist() == [2, 3, 3]
    assert graph.src.dtype == graph.dst.dtype == np.int32
    assert (graph.num_inputs, graph.num_nodes, graph.outputs.tolist()) == (2, 4, [3])


@pytest.mark.parametrize("edges", [[], np.empty((0, 2)), torch.empty(0, 2, dtype=torch.long), np.empty(0, np.int64)])
def test_there_may_be_no_edges(edges):
    graph = read_edge_list(edges, num_inputs=2, outputs=torch.tensor([4, 0]))
    assert (len(graph.src), graph.num_nodes, graph.outputs.tolist()) == (0, 5, [4, 0])


def test_nodes_without_edges_may_be_asked_for():
    assert read_edge_list(EDGES, num_inputs=2, outputs=[3], num_nodes=9).num_nodes == 9
    assert read_edge_list([(0, 7)], num_inputs=2, outputs=[3]).num_nodes == 8
    assert read_edge_list([], num_inputs=6, outputs=[3]).num_nodes == 6


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        (np.zeros((2, 5), np.int64), {}, r"edges has shape \(2, 5\), expected \(E, 2\).*pass edges.T"),
        ([0, 2], {}, r"edges has shape \(2,\), expected \(E, 2\), rows of \(source, target\)$"),
        ([(0.0, 2.0)], {}, "edges must be an array of whole numbers, got float64"),
        (torch.tensor([[0.0, 2.0]]).bfloat16(), {}, "whole numbers, got torch.bfloat16"),
        ([(True, True)], {}, "whole numbers, got bool"),
        (torch.ones(1, 2).bool(), {}, "whole numbers, got torch.bool"),
        ([(0, 2), (1,)], {}, "whole numbers, got rows of different lengths"),
        ({(0, 2)}, {}, "whole numbers, got set"),
        ([(0, "a")], {}, "edges must be an array of whole numbers"),
        ([(0, 2), (-1, 2)], {}, r"edge -1 → 2 \(row 1\) names node -1; nodes are numbered 0 … 2: pass another id$"),
        ([(0, 2), (4, 2)], {"num_nodes": 4}, r"edge 4 → 2 \(row 1\) names node 4; .* 0 … 3: .* or a larger num_nodes"),
        ([(0, 2), (2, 9)], {"num_nodes": 4}, r"edge 2 → 9 \(row 1\) names node 9"),
        ([(0, 2), (2, 1)], {}, r"edge 2 → 1 \(row 1\) leads into input 1; nodes 0 … 1 are inputs, "),
        ([(0, 2), (0, 0)], {}, r"edge 0 → 0 \(row 1\) leads into input 0"),
        (EDGES, {"outputs": []}, r"outputs has shape \(0,\), expected \(O,\)"),
        (EDGES, {"outputs": 3}, r"outputs has shape \(\), expected \(O,\)"),
        (EDGES, {"outputs": [[3]]}, r"outputs has shape \(1, 1\)"),
        (EDGES, {"outputs": [3, 4], "num_nodes": 4}, "output 1 is node 4; nodes are numbered 0 … 3"),
        (EDGES, {"outputs": [3, -1]}, "output 1 is node -1"),
        (EDGES, {"outputs": [2.5]}, "outputs must be an array of whole numbers, got float64"),
        (EDGES, {"num_inputs": 0}, "num_inputs is 0; a network needs at least one input"),
        (EDGES, {"num_inputs": -3}, "num_inputs is -3"),
        (EDGES, {"num_inputs": 2.0}, "num_inputs must be a whole number, got 2.0"),
        (EDGES, {"num_nodes": 1}, "num_nodes is 1, fewer than the 2 inputs"),
        (EDGES, {"num_nodes": 2**31}, "got 2,147,483,648 nodes; nodes are numbered by int32"),
        ([(0, 2**31)], {}, "got 2,147,483,649 nodes"),
        (np.broadcast_to(np.array([0, 2]), (2**31, 2)), {}, "got 2,147,483,648 edges; edges are numbered by int32"),
    ],
)
def test_bad_graphs_are_named(edges, options, message):
    with pytest.raises(TopologyError, match=message):
        read_edge_list(edges, **{"num_inputs": 2, "outputs": [2], **options})


def test_duplicates_are_named_by_their_rows():
    graph = read_edge_list([(1, 3), (0, 2), (1, 2), (0, 2), (0, 2)], num_inputs=2, outputs=[3])
    order, fresh = graph.duplicates()
    assert order.tolist() == [1, 3, 4, 2, 0]
    assert fresh.tolist() == [True, False, False, True, True]
    with pytest.raises(TopologyError, match=r'edge 0 → 2 is given more than once, in rows 1 and 3; .*duplicates="sum"'):
        graph.refuse_duplicates()
    read_edge_list(EDGES, num_inputs=2, outputs=[3]).refuse_duplicates()


def test_a_short_cycle_is_named_whole_and_from_its_smallest_node():
    error = cycle_error(np.array([9, 7, 5]))
    assert "the network has a cycle, 5 → 9 → 7 → 5; " in str(error)
    assert "steps=k" in str(error)
    assert error.cycle == (5, 9, 7)
    assert "a cycle, 4 → 4; " in str(cycle_error(np.array([4])))


def test_a_long_cycle_is_shortened_in_the_text_alone():
    error = cycle_error(np.arange(1000, 0, -1))
    assert len(str(error)) < 350
    assert "1 → 1000 → 999 → " in str(error)
    assert "(1000 nodes in all)" in str(error)
    assert " → 3 → 2 → 1; " in str(error)
    assert len(error.cycle) == 1000
    twenty = str(cycle_error(np.arange(20)))
    assert "…" not in twenty
    assert twenty.count("→") == 20


def test_the_error_survives_other_processes():
    error = pickle.loads(pickle.dumps(cycle_error(np.array([2, 3]))))
    assert isinstance(error, ValueError)
    assert error.cycle == (2, 3)


def test_whole_numbers_are_not_copied_in_vain():
    array = np.arange(6)
    assert np.shares_memory(whole_numbers(array, "edges"), array)
