"""Levels, cycles and sorted edges of a graph, by compiled loops: no Python loop runs over nodes or edges."""

import numpy as np
from numpy.typing import NDArray

from fulgurite.plugins.compiled import compiled

Ints = NDArray[np.int32]


@compiled()
def counting_sort(keys: Ints, num_keys: int) -> tuple[NDArray[np.int64], Ints]:
    """Sort by whole numbers 0 … num_keys − 1, in one pass over them.

    Args:
        keys: (K,) int32, contiguous.
        num_keys: how many different keys there may be.

    Returns:
        ``ptr`` (num_keys + 1,) and ``order`` (K,): the places of key i are ``order[ptr[i]:ptr[i + 1]]``, ascending.

    Example:
        >>> counting_sort(np.array([2, 0, 2], dtype=np.int32), 3)[1].tolist()
        [1, 0, 2]
    """
    ptr = np.zeros(num_keys + 1, np.int64)
    for key in keys:
        ptr[key + 1] += 1
    for i in range(num_keys):
        ptr[i + 1] += ptr[i]
    place = ptr[:-1].copy()
    order = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        order[place[keys[i]]] = i
        place[keys[i]] += 1
    return ptr, order


def sort_edges(src: Ints, dst: Ints, num_nodes: int) -> Ints:
    """The order of edges by (target, source), equal ones as they were given.

    Args:
        src: (E,) sources.
        dst: (E,) targets.
        num_nodes: more than the largest of both.

    Example:
        >>> sort_edges(np.array([1, 0, 0], dtype=np.int32), np.array([2, 2, 1], dtype=np.int32), 3).tolist()
        [2, 1, 0]
    """
    _, by_source = counting_sort(src, num_nodes)
    _, by_target = counting_sort(dst[by_source], num_nodes)
    return by_source[by_target]


@compiled()
def longest_path_levels(ptr: NDArray[np.int64], targets: Ints, fan_in: Ints, num_inputs: int) -> tuple[Ints, Ints]:
    """The dependency group of every node: 0 for inputs, else one more than the highest of its sources.

    A node without sources that is no input has level 1. Kahn's algorithm, O(N + E).

    Args:
        ptr: (N + 1,) where each node's out-edges begin.
        targets: (E,) of the edges by source.
        fan_in: (N,) number of in-edges.
        num_inputs: the first so many nodes are inputs.

    Returns:
        ``level`` (N,), and ``waiting`` (N,): all 0, unless there is a cycle; then it is over 0 for the nodes of all
        cycles and those that depend on them, whose levels mean nothing.

    Example:
        >>> ptr, targets = np.array([0, 2, 3, 3]), np.array([1, 2, 2], dtype=np.int32)
        >>> longest_path_levels(ptr, targets, np.array([0, 1, 2], dtype=np.int32), 1)[0].tolist()
        [0, 1, 2]
    """
    num_nodes = len(fan_in)
    level = np.zeros(num_nodes, np.int32)
    level[num_inputs:] = 1
    waiting = fan_in.copy()
    queue = np.empty(num_nodes, np.int32)
    tail = 0
    for v in range(num_nodes):
        if waiting[v] == 0:
            queue[tail] = v
            tail += 1
    head = 0
    while head < tail:
        u = queue[head]
        head += 1
        for k in range(ptr[u], ptr[u + 1]):
            v = targets[k]
            level[v] = max(level[v], level[u] + 1)
            waiting[v] -= 1
            if waiting[v] == 0:
                queue[tail] = v
                tail += 1
    return level, waiting


@compiled()
def find_cycle(ptr: NDArray[np.int64], targets: Ints, waiting: Ints) -> NDArray[np.int64]:
    """One cycle, a shortest of those through some node, for people to read.

    Args:
        ptr: (N + 1,) where each node's out-edges begin.
        targets: (E,) of the edges by source.
        waiting: as :func:`longest_path_levels` left it, not all 0.

    Returns:
        The nodes of the cycle, each with an edge to the next, and the last with one to the first.

    Example:
        >>> ptr, targets = np.array([0, 1, 2, 3]), np.array([1, 2, 1], dtype=np.int32)
        >>> find_cycle(ptr, targets, np.array([0, 2, 1], dtype=np.int32)).tolist()
        [2, 1]
    """
    num_nodes = len(waiting)
    source = np.full(num_nodes, -1, np.int32)
    start = -1
    for u in range(num_nodes):
        if waiting[u] > 0:
            start = u
            for k in range(ptr[u], ptr[u + 1]):
                source[targets[k]] = u
    # A node waits for one that waits too: going back from any of them comes round to a node of a cycle.
    seen = np.zeros(num_nodes, np.bool_)
    while not seen[start]:
        seen[start] = True
        start = source[start]

    came_from = np.full(num_nodes, -1, np.int32)
    queue = np.empty(num_nodes, np.int32)
    queue[0] = start
    head, tail, last = 0, 1, -1
    while last < 0:
        u = queue[head]
        head += 1
        for k in range(ptr[u], ptr[u + 1]):
            v = targets[k]
            if v == start:
                last = u
                break
            if came_from[v] < 0:
                came_from[v] = u
                queue[tail] = v
                tail += 1
    length = 1
    u = last
    while u != start:
        u = came_from[u]
        length += 1
    cycle = np.empty(length, np.int64)
    for i in range(length - 1, -1, -1):
        cycle[i] = last
        last = came_from[last]
    return cycle


@compiled()
def count_sources(src: Ints, block: Ints, num_blocks: int) -> NDArray[np.int64]:
    """How many different nodes each block of edges reads.

    Args:
        src: (E,) source of each edge.
        block: (E,) the block that each edge belongs to, ascending.
        num_blocks: more than the largest of them.

    Example:
        >>> src, block = np.array([0, 1, 0, 0], dtype=np.int32), np.array([0, 0, 1, 1], dtype=np.int32)
        >>> count_sources(src, block, 3).tolist()
        [2, 1, 0]
    """
    counts = np.zeros(num_blocks, np.int64)
    last = np.full(src.max() + 1 if len(src) else 0, -1, np.int32)
    for e in range(len(src)):
        if last[src[e]] != block[e]:
            last[src[e]] = block[e]
            counts[block[e]] += 1
    return counts
