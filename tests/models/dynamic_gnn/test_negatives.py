import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.models.dynamic_gnn import negatives
from fulgurite.models.dynamic_gnn.negatives import sample_negatives


def random_edges(seed: int, num_nodes: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_nodes, size=(2, count))


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_nodes=st.integers(1, 12),
    count=st.integers(0, 160),
    per_edge=st.integers(0, 5),
    corrupt=st.sampled_from(["target", "both"]),
)
def test_what_is_drawn_is_no_edge_and_what_is_missing_could_not_be_drawn(seed, num_nodes, count, per_edge, corrupt):
    edges = random_edges(seed, num_nodes, count)
    drawn = sample_negatives(edges, num_nodes=num_nodes, per_edge=per_edge, seed=(seed, 1, 2), corrupt=corrupt)
    present = set(zip(*edges.tolist(), strict=True))
    pairs = list(zip(*drawn.index.tolist(), strict=True))
    assert not present & set(pairs)
    assert all(u != v and 0 <= u < num_nodes and 0 <= v < num_nodes for u, v in pairs)
    free = {u: [v for v in range(num_nodes) if v != u and (u, v) not in present] for u in range(num_nodes)}
    if corrupt == "target":
        wanted = sum(per_edge for u in edges[0].tolist() if free[u])
        sources = sorted(u for u in edges[0].tolist() if free[u])
        assert drawn.index[0].tolist() == [u for u in sources for _ in range(per_edge)]
    else:
        wanted = per_edge * count if any(free.values()) else 0
    assert (drawn.index.shape, drawn.missing) == ((2, wanted), per_edge * count - wanted)


@pytest.mark.parametrize("corrupt", ["target", "both"])
def test_every_free_pair_is_drawn_as_often(corrupt):
    # Vertex 0 has every target but 5 and 6; the graph's other rows are empty but for an edge each.
    edges = np.array([[0] * 5 + [1, 2], [1, 2, 3, 4, 7, 0, 0]])
    drawn = sample_negatives(edges, num_nodes=8, per_edge=3000, seed=(0,), corrupt=corrupt)
    counts = np.bincount(drawn.index[0] * 8 + drawn.index[1], minlength=64).reshape(8, 8)
    if corrupt == "target":
        assert counts[0].nonzero()[0].tolist() == [5, 6]
        assert counts[1].nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7]
        rows = [counts[0][[5, 6]] / 7500, counts[1][[2, 3, 4, 5, 6, 7]] / 500, counts[2][[1, 3, 4, 5, 6, 7]] / 500]
        assert all(abs(row - 1).max() < 0.15 for row in rows)
    else:
        free = counts[counts > 0]
        assert len(free) == 64 - 8 - 7
        assert abs(free / free.mean() - 1).max() < 0.25


def test_a_nearly_full_row_is_drawn_evenly_from_its_list():
    num_nodes = 400
    edges = np.stack([np.zeros(397, dtype=np.int64), np.arange(1, 398)])  # all but 398 and 399: rejected 199 of 200
    drawn = sample_negatives(edges, num_nodes=num_nodes, per_edge=20, seed=(3,))
    assert drawn.missing == 0
    counts = np.bincount(drawn.index[1], minlength=num_nodes)
    assert counts.nonzero()[0].tolist() == [398, 399]
    assert abs(counts[398] / counts[399] - 1) < 0.1


@pytest.mark.parametrize("corrupt", ["target", "both"])
def test_what_was_rejected_is_drawn_in_memory_of_the_edges(corrupt, monkeypatch):
    # With every draw rejected all pairs come from what is counted free: N² numbers would be 800 MB.
    monkeypatch.setattr(negatives, "_contains", lambda keys, drawn: np.ones(len(drawn), dtype=bool))
    edges = random_edges(0, 10_000, 50)
    tracemalloc.start()
    try:
        drawn = sample_negatives(edges, num_nodes=10_000, per_edge=19, seed=(0,), corrupt=corrupt)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert drawn.missing == 0
    assert (drawn.index[0] != drawn.index[1]).all()
    assert not {*zip(*edges.tolist(), strict=True)} & {*zip(*drawn.index.tolist(), strict=True)}


def test_a_full_graph_ends_without_negatives():
    u, v = np.divmod(np.arange(49), 7)
    edges = np.stack([u, v])[:, u != v]
    for corrupt in ("target", "both"):
        drawn = sample_negatives(edges, num_nodes=7, per_edge=19, seed=(1,), corrupt=corrupt)
        assert (drawn.index.shape, drawn.missing) == ((2, 0), 42 * 19)


def test_the_draw_is_named_by_its_seed_alone():
    edges = random_edges(0, 50, 200)
    first = sample_negatives(edges, num_nodes=50, per_edge=3, seed=(1, 2, 3))
    np.random.seed(7)
    again = sample_negatives(edges[:, ::-1], num_nodes=50, per_edge=3, seed=(1, 2, 3))
    np.testing.assert_array_equal(first.index, again.index)
    others = [sample_negatives(edges, num_nodes=50, per_edge=3, seed=s) for s in ((1, 3, 3), (1, 2, 4), (2, 2, 3))]
    assert all((first.index != other.index).any() for other in others)


def test_keys_beyond_32_bits():
    num_nodes = 3_000_000
    edges = np.array([[num_nodes - 1], [num_nodes - 2]])
    drawn = sample_negatives(edges, num_nodes=num_nodes, per_edge=19, seed=(0,))
    assert (drawn.index[0] == num_nodes - 1).all()
    assert drawn.index[1].max() < num_nodes - 1
