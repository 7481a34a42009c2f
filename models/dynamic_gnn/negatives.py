"""Vertex pairs that are no edge, drawn for each edge of a step: the same ones on whatever rank the step lies."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Corrupt = Literal["target", "both"]
IntArray = NDArray[np.int64]

# A draw that hits edges this often in a row lies in a row (or graph) so full that its free places are counted instead,
# and one of them is drawn.
_ROUNDS = 16


@dataclass(frozen=True, eq=False)
class Negatives:
    """Pairs that are no edge of a step.

    Attributes:
        index: (2, M′) int64, source and target.
        missing: how many of the wanted pairs there are not, for every pair that could be drawn is an edge.
    """

    index: IntArray
    missing: int


def sample_negatives(
    edges: IntArray, *, num_nodes: int, per_edge: int, seed: tuple[int, ...], corrupt: Corrupt = "target"
) -> Negatives:
    r"""Draw pairs of vertices that are no edge of one step; uniform, with replacement, never a self-loop.

    For an edge u → v and ``corrupt="target"`` the pairs are u → v′ with v′ uniform on
    :math:`\{0 … N-1\} \setminus \{u\} \setminus \{w : u → w\}`: every source is asked to tell its targets from others,
    which is what the reciprocal rank of a source measures, and how active a source is helps nothing. With ``"both"``
    they are uniform over all pairs that are no edge.

    Drawing and rejecting is vectorised: a drawn pair is looked up among the sorted keys u·N + v of the edges. What was
    rejected sixteen times is drawn by its number among what is free, so that a nearly complete graph ends too, and has
    the same distribution; memory is that of the edges.

    Args:
        edges: (2, M) distinct or repeated pairs of one step; a pair that occurs twice asks for as many negatives more.
        num_nodes: N.
        per_edge: negatives for each edge.
        seed: whole numbers ≥ 0 that name the draw, such as (seed, epoch, step). Nothing else decides it: not the rank,
            not the order of the edges, no global random state.
        corrupt: which end of an edge is replaced.

    Returns:
        The pairs, by the order of the sorted edges.

    Example:
        >>> import numpy as np
        >>> edges = np.array([[0, 0, 2], [1, 2, 0]])
        >>> drawn = sample_negatives(edges, num_nodes=4, per_edge=2, seed=(0, 3, 7))
        >>> drawn.index[0].tolist(), drawn.missing
        ([0, 0, 0, 0, 2, 2], 0)
        >>> set(drawn.index[1][:4].tolist())  # 0 → 3 is the only pair that is free
        {3}
    """
    keys = np.sort(edges[0].astype(np.int64) * num_nodes + edges[1])
    sources = np.repeat(keys // num_nodes, per_edge)
    if num_nodes < 2 or not len(sources):
        return Negatives(np.empty((2, 0), dtype=np.int64), len(sources))
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = _draw(generator, sources, num_nodes, corrupt)
    rejected = np.flatnonzero(_contains(keys, drawn))
    for _ in range(_ROUNDS - 1):
        if not len(rejected):
            break
        drawn[rejected] = again = _draw(generator, sources[rejected], num_nodes, corrupt)
        rejected = rejected[_contains(keys, again)]
    if len(rejected):
        drawn[rejected] = _draw_numbered(generator, sources[rejected], keys, num_nodes, corrupt)
        drawn = drawn[drawn >= 0]
    return Negatives(np.stack(np.divmod(drawn, num_nodes)), len(sources) - len(drawn))


def _draw(generator: np.random.Generator, sources: IntArray, num_nodes: int, corrupt: Corrupt) -> IntArray:
    """Keys of pairs that are no self-loop: of N − 1 targets, those from the source on are moved up by one."""
    if corrupt == "both":
        sources = generator.integers(num_nodes, size=len(sources))
    targets = generator.integers(num_nodes - 1, size=len(sources))
    targets += targets >= sources
    return sources * num_nodes + targets


def _contains(keys: IntArray, drawn: IntArray) -> NDArray[np.bool_]:
    """Whether a drawn key is one of the sorted keys."""
    places = np.searchsorted(keys, drawn)
    return keys[np.minimum(places, len(keys) - 1)] == drawn


def _draw_numbered(
    generator: np.random.Generator, sources: IntArray, keys: IntArray, num_nodes: int, corrupt: Corrupt
) -> IntArray:
    """Keys drawn from the free ones of each source (or of the graph), which are counted, not listed; -1: none is."""
    drawn = np.full(len(sources), -1, dtype=np.int64)
    taken = np.unique(keys)
    row, column = np.divmod(taken, num_nodes)
    # Without the diagonal a row has N − 1 places; those of its columns behind it move up by one.
    taken = (row * (num_nodes - 1) + column - (column > row))[row != column]
    if corrupt == "both":
        rows = [(0, num_nodes, 0, len(sources))]
    else:
        present, starts = np.unique(sources, return_index=True)
        stops = np.append(starts[1:], len(sources))
        rows = [(u, u + 1, a, b) for u, a, b in zip(*(x.tolist() for x in (present, starts, stops)), strict=True)]
    for first, last, start, stop in rows:
        begin, end = first * (num_nodes - 1), last * (num_nodes - 1)
        low, high = np.searchsorted(taken, [begin, end])
        free = end - begin - int(high - low)
        if free:
            number = generator.integers(free, size=stop - start)
            # Before the n-th free place lie those taken places that have no more than n free ones before them.
            place = begin + number + np.searchsorted(taken[low:high] - begin - np.arange(high - low), number, "right")
            u, v = np.divmod(place, num_nodes - 1)
            drawn[start:stop] = u * num_nodes + v + (v >= u)
    return drawn
