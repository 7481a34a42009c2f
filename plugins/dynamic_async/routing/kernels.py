"""The compiled evaluation of a router's row: routes of one number, and routes with paths.

A row holds a route for each destination, one after another. Numbers of kinds, labels and policies are those of the
algebras' ``compiled_form`` and ``compiled_labels``; their ``extend`` is what this is held against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fulgurite.plugins.compiled import compiled
from fulgurite.plugins.dynamic_async.routing.metrics import SHORTEST, UNBOUNDED, WIDEST
from fulgurite.plugins.dynamic_async.routing.path_vector import PATHS
from fulgurite.plugins.dynamic_async.routing.policy import ACTIONS, TESTS
from fulgurite.plugins.dynamic_async.routing.policy_paths import DEFAULT_PREFERENCE, POLICY

_REJECT, _LOWER, _PREFER, _TAG = (ACTIONS.index(name) for name in ("reject", "lower", "prefer", "tag"))
_IF_TAG, _IF_THROUGH = TESTS.index("tag"), TESTS.index("through")


@compiled()
def extend_number(kind: int, limit: int, label: int, route: int) -> int:
    """▷ of an algebra whose routes are one number."""
    if kind == SHORTEST:
        return route if route >= UNBOUNDED else route + label
    if kind == WIDEST:
        return max(route, -label)
    return min(limit, route + label)


@compiled()
def evaluate_numbers(
    i: int,
    epoch: int,
    present: Any,
    inputs: Any,
    out: Any,
    indptr: Any,
    labels: Any,
    destinations: Any,
    kind: int,
    limit: int,
) -> None:
    """Fᵢ for routes of one number; ``labels`` (E, nnz), −1 where there is no link."""
    first = indptr[i]
    out[:] = limit
    for k in range(inputs.shape[0]):
        label = labels[epoch, first + k]
        if label >= 0 and present[k]:
            for c in range(out.shape[0]):
                out[c] = min(out[c], extend_number(kind, limit, label, inputs[k, c]))
    for c in range(out.shape[0]):
        if destinations[c] == i:
            out[c] = -UNBOUNDED if kind == WIDEST else 0


@compiled()
def apply_policy(policies: Any, row: int, preference: int, tags: int, path: Any, target: int) -> tuple[int, int]:
    """What a policy makes of preference and communities; preference −1: it rejects the route."""
    nodes = max(1, len(path))
    place = 1
    for _ in range(policies[row, 0]):
        action, value, conditions = policies[row, place], policies[row, place + 1], policies[row, place + 2]
        place += 3
        applies = True
        for _ in range(conditions):
            negated, test, count = policies[row, place], policies[row, place + 1], policies[row, place + 2]
            place += 3
            if test == _IF_TAG:
                holds = (tags >> policies[row, place]) & 1 == 1
            else:
                through = test == _IF_THROUGH
                holds = not through and count == nodes
                for k in range(nodes):
                    node = path[k] if len(path) else target
                    if through:
                        holds = holds or node == policies[row, place]
                    elif holds:
                        holds = node == policies[row, place + k]
            place += count
            applies = applies and holds != (negated == 1)
        if not applies:
            continue
        if action == _REJECT:
            return -1, tags
        if action == _LOWER:
            preference = max(0, preference - value)
        elif action == _PREFER:
            preference = value
        elif action == _TAG:
            tags |= 1 << value
        else:
            tags &= ~(1 << value)
    return preference, tags


@compiled()
def extend_path(
    kind: int, limit: int, longest: int, policies: Any, i: int, j: int, label: int, route: Any, out: Any
) -> bool:
    """▷ of a path algebra into ``out``; False, and nothing of use in ``out``, if the result is ∞."""
    length = route[1]
    if route[0] == limit or i == j or max(length, 1) + 1 > longest or (length > 0 and route[2] != j):
        return False
    for k in range(length):
        if route[2 + k] == i:
            return False
    if kind == POLICY:
        preference = -route[0] if length else DEFAULT_PREFERENCE
        preference, out[2 + longest] = apply_policy(
            policies, label, preference, route[2 + longest], route[2 : 2 + length], j
        )
        if preference < 0:
            return False
        out[0] = -preference
    else:
        out[0] = extend_number(kind - PATHS, limit, label, route[0])
        if out[0] == limit:
            return False
    out[1] = max(length, 1) + 1
    out[2] = i
    out[3] = j
    for k in range(1, longest - 1):
        out[3 + k] = route[2 + k] if k < length else -1
    return True


@compiled()
def evaluate_paths(
    i: int,
    epoch: int,
    present: Any,
    inputs: Any,
    out: Any,
    indptr: Any,
    indices: Any,
    labels: Any,
    destinations: Any,
    bottom: Any,
    policies: Any,
    kind: int,
    limit: int,
    longest: int,
) -> None:
    """Fᵢ for routes with paths; ``bottom`` is a row of ∞, then 0, and gives the widths."""
    first = indptr[i]
    width = bottom.shape[1]
    candidate = np.empty(width, dtype=np.int64)
    for c in range(destinations.shape[0]):
        best = out[c * width : (c + 1) * width]
        best[:] = bottom[1] if destinations[c] == i else bottom[0]
        if destinations[c] == i:
            continue
        for k in range(inputs.shape[0]):
            label = labels[epoch, first + k]
            if label < 0 or not present[k]:
                continue
            route = inputs[k, c * width : (c + 1) * width]
            if extend_path(kind, limit, longest, policies, i, indices[first + k], label, route, candidate):
                for x in range(width):
                    if candidate[x] != best[x]:
                        if candidate[x] < best[x]:
                            best[:] = candidate
                        break
