"""Random numbers without a state: each is a function of a seed and of what it is for, so none need be kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from fulgurite.plugins.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
ONE = 1 << 32  # a probability is a threshold in 0 … ONE for 32 random bits


@compiled()
def mix(x: Any) -> Any:
    """SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014): a permutation of the 64-bit numbers."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@compiled()
def draw(key: Any, a: Any, b: Any) -> Any:
    """64 random bits for the counters a, b ≥ 0 under a key."""
    return mix(mix(key + np.uint64(a) * _GOLDEN) + np.uint64(b) * _GOLDEN)


@compiled()
def high(bits: Any) -> Any:
    """The upper 32 bits, to be held against a threshold."""
    return np.int64(bits >> _32)


@compiled()
def below(bits: Any, count: Any) -> Any:
    """A number in 0 … count − 1 from the lower 32 bits."""
    return np.int64(((bits & _LOW) * np.uint64(count)) >> _32)


def key(seed: int, what: str) -> np.uint64:
    """The key of one of a seed's streams."""
    number = (seed * int(_GOLDEN) + int.from_bytes(what.encode()[:8].ljust(8), "little")) % 2**64
    return np.uint64(mix(np.uint64(number)))


def threshold(probability: float) -> int:
    """What 32 random bits are below with the probability."""
    return round(probability * ONE)
