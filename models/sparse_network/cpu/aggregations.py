"""Aggregations other than a sum, as the CPU kernels compute them: one sample at a time, from its messages.

``messages``, ``slopes`` and ``ranks`` are scratch of the caller's, of k numbers or more; k = ``count`` may be 0.
Messages stand in edge order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fulgurite.models.sparse_network.aggregations import AGGREGATIONS
from fulgurite.models.sparse_network.cpu.compile import kernel

Ints = NDArray[Any]
Real = NDArray[Any]

SUM, MEAN, PRODUCT, MAX, MIN, MAXABS, MEDIAN = range(7)
_KINDS = {"sum": SUM, "mean": MEAN, "product": PRODUCT, "max": MAX, "min": MIN, "maxabs": MAXABS, "median": MEDIAN}
KINDS = np.array(
    [_KINDS[name] for name in sorted(AGGREGATIONS, key=lambda name: AGGREGATIONS[name].id)], dtype=np.int64
)


@kernel()
def winner(kind: int, messages: Real, count: int) -> int:
    """The first of the largest (smallest, largest in size) messages, or the first NaN; −1 where there are none."""
    best = -1
    for i in range(count):
        m = messages[i]
        if best < 0:
            best = i
            continue
        b = messages[best]
        if b != b:
            continue
        if kind == MAX:
            ahead = m > b
        elif kind == MIN:
            ahead = m < b
        else:
            ahead = abs(m) > abs(b)
        if ahead or m != m:
            best = i
    return best


@kernel()
def middle(messages: Real, count: int, ranks: Ints) -> bool:
    """Put the number of the middle message (of two, the upper one) in the middle of ``ranks``, smaller ones before it.

    Equal messages are ranked as they stand. False where one is NaN, which no order holds for. ``ranks``: (k,) scratch.
    """
    for i in range(count):
        ranks[i] = i
        if messages[i] != messages[i]:
            return False
    # Hoare's selection; in its worst case, which no usual order of messages is, it takes k² steps.
    low, high, wanted = 0, count - 1, count // 2
    while low < high:
        pivot = ranks[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while _before(messages, ranks[i], pivot):
                i += 1
            while _before(messages, pivot, ranks[j]):
                j -= 1
            if i <= j:
                ranks[i], ranks[j] = ranks[j], ranks[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return True


@kernel(forceinline=True)
def _before(messages: Real, i: int, j: int) -> bool:
    return messages[i] < messages[j] or (messages[i] == messages[j] and i < j)


@kernel()
def lower_middle(messages: Real, count: int, ranks: Ints) -> int:
    """After :func:`middle`, the number of the message that comes right before the upper middle one."""
    best = ranks[0]
    for i in range(1, count // 2):
        if _before(messages, best, ranks[i]):
            best = ranks[i]
    return best


@kernel()
def combine(kind: int, messages: Real, count: int, ranks: Ints) -> float:
    """The aggregate a of the messages."""
    real = messages.dtype.type
    if kind == PRODUCT:
        product = real(1)
        for i in range(count):
            product *= messages[i]
        return product
    if count == 0:
        return real(0)
    if kind != MEDIAN:
        return messages[winner(kind, messages, count)]
    if not middle(messages, count, ranks):
        return real(np.nan)
    upper = messages[ranks[count // 2]]
    return upper if count % 2 else (messages[lower_middle(messages, count, ranks)] + upper) / real(2)


@kernel()
def spread(kind: int, messages: Real, count: int, slopes: Real, ranks: Ints) -> None:
    """``slopes[i] = ∂a/∂m_i``."""
    real = messages.dtype.type
    if kind == PRODUCT:
        # From the left the product of those before, from the right of those after: no division, so 0 is no trouble.
        product = real(1)
        for i in range(count):
            slopes[i] = product
            product *= messages[i]
        product = real(1)
        for i in range(count - 1, -1, -1):
            slopes[i] *= product
            product *= messages[i]
        return
    for i in range(count):
        slopes[i] = real(0)
    if count == 0:
        return
    if kind != MEDIAN:
        slopes[winner(kind, messages, count)] = real(1)
    elif middle(messages, count, ranks):
        share = real(1) if count % 2 else real(0.5)
        slopes[ranks[count // 2]] = share
        if count % 2 == 0:
            slopes[lower_middle(messages, count, ranks)] = share
