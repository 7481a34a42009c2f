"""Choosing, of many sampled boundaries, the few that shut out the strangers and lose few images of the own class."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import or_
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fulgurite.plugins.compiled import compiled

Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]  # 64 images each, image i in bit i mod 64
Counts = NDArray[np.int64]

_WORD = 64
# numba makes a float of an unsigned and a signed number, so every constant below is unsigned.
_ONE, _TWO, _FOUR, _SHIFT = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)
_PAIRS, _NIBBLES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_BYTES, _SUMS = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@dataclass(frozen=True)
class Cover:
    """Which planes were chosen, and how many images lie on x's side of all of them.

    Attributes:
        planes: their columns, in order of choice.
        own: images of x's predicted class that are covered, by weight.
        strangers: images of other predicted classes that are covered nevertheless, by weight; at most ``delta``.
        delta: δ, the strangers that were tolerated.
        least: τ, the strangers left when all planes are used; no choice leaves fewer.

    Example:
        >>> Cover(planes=(2, 0), own=90, strangers=1, delta=1, least=1).own
        90
    """

    planes: tuple[int, ...]
    own: int
    strangers: int
    delta: int
    least: int


def covered(off: Bools, planes: Sequence[int]) -> Bools:
    """Which images lie on x's side of all the given planes.

    Args:
        off: (N, Q) true where an image is off x's side of a plane.
        planes: columns of ``off``; none cover everything.

    Returns:
        (N,) true where covered.

    Example:
        >>> covered(np.array([[True, False], [False, False]]), [0]).tolist()
        [False, True]
    """
    inside: Bools = ~np.logical_or.reduce(off[:, list(planes)], axis=1)
    return inside


def greedy_cover(
    off: ArrayLike, own: ArrayLike, *, delta: int | None = None, weights: ArrayLike | None = None
) -> Cover:
    """Choose planes by the greedy algorithm for submodular cost submodular cover.

    After P. C.-H. Lam, L. Chu, M. Torgonskiy, J. Pei, Y. Zhang, L. Wang, "Finding Representative Interpretations on
    Convolutional Neural Networks", https://arxiv.org/abs/2108.06384, Algorithm 1: while more than δ strangers are
    covered, add the plane h that loses the fewest own images for each stranger that it shuts out,

        h = argmin Δown(h) / Δstrangers(h),

    ties going to the larger Δstrangers, then to the first column. The ratios are of whole numbers and are compared
    exactly, by cross-multiplication. Afterwards every plane that turns out superfluous is dropped, newest first; that
    can only bring own images back.

    Own coverage is never below that of all planes together, and never above that of
    :func:`~fulgurite.callbacks.representative_interpretation.optimum.optimal_cover` with the same arguments.

    Args:
        off: (N, Q) bool, true where an image is off x's side of a plane.
        own: (N,) bool, true where an image has x's predicted class.
        delta: how many strangers to tolerate; raised to τ, below which no choice can get. None: τ.
        weights: (N,) whole numbers ≥ 0, how many images each row stands for. None: one each.

    Returns:
        The chosen planes and what they cover. Without strangers no plane is needed, and all is covered.

    Raises:
        ValueError: arrays of the wrong type or shape, a negative δ or weight.

    Example:
        >>> off = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 1]], dtype=bool)
        >>> greedy_cover(off, np.array([True, True, False, False]))
        Cover(planes=(0, 1), own=2, strangers=0, delta=0, least=0)
        >>> greedy_cover(off, np.array([True, True, False, False]), delta=1).planes
        (0,)
    """
    sides = Sides.of(off, own, weights)
    least = sides.least
    delta = max(tolerated(delta), least)
    inside = np.full(len(sides.bits), ~np.uint64(0))
    own_cut, strangers_cut = sides.cut(inside)
    left, chosen = sides.num_strangers, []
    while left > delta:
        # All that a chosen plane cuts off is gone, so it cuts off no stranger more and is not found again.
        plane = _best(own_cut.tolist(), strangers_cut.tolist())
        chosen.append(plane)
        left -= int(strangers_cut[plane])
        gone = sides.bits[:, plane] & inside
        inside &= ~gone
        for cut, change in zip((own_cut, strangers_cut), sides.cut(gone), strict=True):
            cut -= change
    return sides.cover(chosen, delta, least)


def _best(own: list[int], strangers: list[int]) -> int:
    best = -1
    for plane, count in enumerate(strangers):
        if count == 0:
            continue
        if best >= 0:
            here, there = own[plane] * strangers[best], own[best] * count
            if here > there or (here == there and count <= strangers[best]):
                continue
        best = plane
    return best


class Sides:
    """On which side of Q planes N images lie, 64 images a word.

    Attributes:
        bits: (⌈N / 64⌉, Q) a bit is set where an image is off x's side of a plane.
        own: (⌈N / 64⌉, B) bit b of the weight of each image of x's predicted class; B is 1 where all weigh one.
        strangers: (⌈N / 64⌉, B) the same of the other images.
        num_own: images of x's predicted class, by weight.
        num_strangers: the others, by weight.

    Example:
        >>> sides = Sides.of(np.array([[True], [False]]), np.array([False, True]), None)
        >>> sides.num_own, sides.num_strangers, sides.least
        (1, 1, 0)
    """

    def __init__(self, bits: Words, own: Words, strangers: Words) -> None:
        self.bits, self.own, self.strangers = bits, own, strangers
        every = np.full(len(bits), ~np.uint64(0))
        self.num_own, self.num_strangers = _weight(every, own), _weight(every, strangers)

    @classmethod
    def of(cls, off: ArrayLike, own: ArrayLike, weights: ArrayLike | None) -> "Sides":
        """Pack what :func:`greedy_cover` is given, after holding it to its types and shapes."""
        off, own = np.asarray(off), np.asarray(own)
        if off.dtype != bool or off.ndim != 2:
            raise ValueError(f"got off of {off.dtype} {off.shape}; expected bool (images, planes), true off x's side")
        if own.dtype != bool or own.shape != off.shape[:1]:
            raise ValueError(f"got own of {own.dtype} {own.shape}; expected bool {off.shape[:1]}, one a row of off")
        if weights is None:
            return cls(_packed(off), _packed(own[:, None]), _packed(~own[:, None]))
        weights = np.asarray(weights)
        if not np.issubdtype(weights.dtype, np.integer) or weights.shape != own.shape:
            raise ValueError(f"got weights of {weights.dtype} {weights.shape}; expected whole numbers {own.shape}")
        if weights.size and weights.min() < 0:
            raise ValueError(f"got a weight of {weights.min()}; expected 0 or more, how many images a row stands for")
        if weights.sum(dtype=np.float64) >= 2**62:
            raise ValueError("got weights that sum to 2⁶² or more; divide them all by a number")
        bit = np.arange(max(1, int(weights.max(initial=1)).bit_length()))
        digits = (weights[:, None].astype(np.int64) >> bit & 1).astype(bool)
        return cls(_packed(off), _packed(digits & own[:, None]), _packed(digits & ~own[:, None]))

    def cut(self, rows: Words) -> tuple[Counts, Counts]:
        """Of the given images, the weight that each plane cuts off: (Q,) own ones and (Q,) strangers."""
        return _weights(self.bits, rows, self.own), _weights(self.bits, rows, self.strangers)

    @property
    def least(self) -> int:
        """τ, the weight of the strangers on x's side of every plane."""
        return self.num_strangers - _weight(np.bitwise_or.reduce(self.bits, axis=1), self.strangers)

    def cover(self, planes: Sequence[int], delta: int, least: int) -> Cover:
        """The cover by these planes without the superfluous ones, of which the newest go first."""
        columns = [np.ascontiguousarray(self.bits[:, plane]) for plane in planes]
        nothing = np.zeros(len(self.bits), np.uint64)
        before = list(accumulate(columns, or_, initial=nothing))
        after, kept = nothing, []
        for number in reversed(range(len(planes))):
            # What is cut off without it: by all that are older, and by the newer ones that had to stay.
            if self.num_strangers - _weight(before[number] | after, self.strangers) > delta:
                after = after | columns[number]
                kept.append(int(planes[number]))
        own, strangers = self.num_own - _weight(after, self.own), self.num_strangers - _weight(after, self.strangers)
        return Cover(tuple(reversed(kept)), own, strangers, delta, least)


def tolerated(delta: int | None) -> int:
    """The number of strangers that a user's δ stands for, before it is raised to τ.

    Raises:
        ValueError: no whole number from 0 on.

    Example:
        >>> tolerated(None), tolerated(3)
        (0, 3)
    """
    if delta is None:
        return 0
    if isinstance(delta, bool) or int(delta) != delta or delta < 0:
        raise ValueError(
            f"got delta={delta!r}; expected how many strangers to tolerate, 0 or more, or None for the least"
        )
    return int(delta)


def _packed(rows: Bools) -> Words:
    words = np.zeros((-(-len(rows) // _WORD), rows.shape[1]), np.uint64)
    _pack(np.ascontiguousarray(rows), words)
    return words


def _weights(bits: Words, rows: Words, digits: Words) -> Counts:
    totals = np.zeros(bits.shape[1], np.int64)
    _weigh(bits, rows, digits, totals)
    return totals


def _weight(rows: Words, digits: Words) -> int:
    return int(_weights(rows[:, None], rows, digits)[0])


@compiled()
def _pack(rows: Any, words: Any) -> None:
    for word in range(words.shape[0]):
        first = _WORD * word
        for row in range(first, min(first + _WORD, rows.shape[0])):
            for column in range(rows.shape[1]):
                words[word, column] |= np.uint64(rows[row, column]) << np.uint64(row - first)


@compiled()
def _popcount(word: Any) -> Any:
    # The sequence that compilers know and turn into one instruction.
    word -= (word >> _ONE) & _PAIRS
    word = (word & _NIBBLES) + ((word >> _TWO) & _NIBBLES)
    return (((word + (word >> _FOUR)) & _BYTES) * _SUMS) >> _SHIFT


@compiled()
def _weigh(bits: Any, rows: Any, digits: Any, totals: Any) -> None:
    """Add to each column of ``bits`` the weight of its images that are among ``rows``."""
    for word in range(bits.shape[0]):
        if rows[word] == 0:
            continue
        for digit in range(digits.shape[1]):
            some = rows[word] & digits[word, digit]
            if some == 0:
                continue
            for column in range(bits.shape[1]):
                totals[column] += np.int64(_popcount(bits[word, column] & some)) << digit
