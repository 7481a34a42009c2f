from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulgurite.callbacks.seqpoint.paper import seqpoints


def naive(lengths, seconds, tolerance, points=None):
    """The algorithm step by step, with loops; times are whole 1/1024 s, so that sums do not depend on their order."""
    counts = Counter(lengths)
    means = {u: sum(t for x, t in zip(lengths, seconds, strict=True) if x == u) / counts[u] for u in counts}
    unique = sorted(counts)
    if len(unique) <= (10 if points is None else points):
        return [(u, counts[u], [i for i, x in enumerate(lengths) if x == u]) for u in unique]
    low, span = unique[0], unique[-1] + 1 - unique[0]
    k = 5 if points is None else points
    while True:
        found = []
        for j in range(k):
            mine = [i for i, x in enumerate(lengths) if j * span <= (x - low) * k < (j + 1) * span]
            if not mine:
                continue
            mean = sum(seconds[i] for i in mine) / len(mine)
            candidates = sorted({lengths[i] for i in mine})
            chosen = min(candidates, key=lambda u: (abs(means[u] - mean), -counts[u], u))
            found.append((chosen, len(mine), mine))
        projected = sum(weight * means[length] for length, weight, _ in found)
        total = sum(seconds)
        if points is not None or abs(projected - total) <= tolerance * total or k >= span:
            return found
        k += 1


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4096)), min_size=1, max_size=120),
    st.sampled_from([0.2, 0.01, 1e-4, 1e-9]),
    st.one_of(st.none(), st.integers(1, 12)),
)
def test_equals_a_naive_loop(steps, tolerance, points):
    lengths = [length for length, _ in steps]
    seconds = [ticks / 1024 for _, ticks in steps]
    found = seqpoints(np.array(lengths), np.array(seconds), tolerance=tolerance, points=points)
    expected = naive(lengths, seconds, tolerance, points)
    assert [(b.length, b.weight, list(b.indices)) for b in found] == expected


def test_every_length_is_a_point_where_there_are_at_most_ten():
    lengths = np.repeat(np.arange(10) * 50, 3)
    found = seqpoints(lengths, np.random.default_rng(0).random(30) + 0.1)
    assert [(b.length, b.weight) for b in found] == [(50 * i, 3) for i in range(10)]


def test_the_stop_test_holds_in_sample():
    rng = np.random.default_rng(1)
    lengths = rng.integers(5, 200, 1000)
    seconds = (0.01 + 1e-5 * lengths**2) * rng.normal(1, 0.03, 1000)
    found = seqpoints(lengths, seconds, tolerance=0.001)
    means = {length: seconds[lengths == length].mean() for length in np.unique(lengths)}
    assert sum(b.weight * means[b.length] for b in found) == pytest.approx(seconds.sum(), rel=0.001)
    assert 5 <= len(found) < 100


def test_a_length_on_a_border_is_in_the_upper_bin():
    found = seqpoints(np.arange(10), np.ones(10), points=5)
    assert [b.indices for b in found] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


def test_ties_go_to_the_commoner_then_the_shorter_length():
    assert seqpoints(np.array([1, 2, 2, 3]), np.ones(4), points=1)[0].length == 2
    assert seqpoints(np.array([3, 2, 1]), np.ones(3), points=1)[0].length == 1
