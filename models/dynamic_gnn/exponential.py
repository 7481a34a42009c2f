"""Sigmoid and tanh that a compiler turns into vector instructions; the C library's would be called lane by lane.

Sigmoid is within two units in the last place of 1, tanh within four of its own; NaN stays NaN.
"""
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False
# numba hands types and LLVM values to these functions; none has a type that a checker knows.

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba.core import types
from numba.extending import intrinsic, overload, register_jitable

_intrinsic: Any = intrinsic
_CONTRACT = {"contract"}  # a·b + c in one step; nothing is reordered, which would undo the rounding by addition


def sigmoid(x: Any) -> Any:
    r""":math:`1 / (1 + e^{-x})` of a float32 or float64, inside compiled code."""
    return 1 / (1 + np.exp(-x))


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of a float32 or float64, inside compiled code."""
    return np.tanh(x)


@_intrinsic
def _power_of_two(typingctx, shifted, delta, bits):
    """The float whose bits are those of ``shifted``, as a whole number, plus delta, moved up by ``bits``."""

    def build(context, builder, signature, arguments):
        real = arguments[0].type
        whole = ir.IntType(shifted.bitwidth)
        added = builder.add(builder.bitcast(arguments[0], whole), builder.trunc(arguments[1], whole))
        moved = builder.shl(added, builder.trunc(arguments[2], whole))
        return builder.bitcast(moved, real)

    return shifted(shifted, types.int64, types.int64), build


def _parts(
    real: Any, whole: Any, bits: int, bias: int, limit: float, high: float, low: float, terms: int
) -> Callable[[Any], Any]:
    """A function of x that gives (s, p) with e^x = s·p + s, s a power of two."""
    magic, reciprocal = real(1.5 * 2.0**bits), real(1 / np.log(2))
    # The bits of `shifted` are those of the magic number plus the count; a power's are (count + bias) << bits.
    delta = bias - int(np.asarray(magic).view(whole))
    limit, high, low = real(limit), real(high), real(low)
    half = real(0.5)
    # 1/k!, the series of (e^r - 1 - r) / r² from its last term; |r| is at most ln(2) / 2.
    series = tuple(real(1 / np.prod(np.arange(1.0, k + 1))) for k in range(terms, 2, -1))

    @register_jitable(fastmath=_CONTRACT, forceinline=True)
    def parts(x):
        x = limit if x > limit else x
        x = -limit if x < -limit else x
        # Adding 1.5·2^bits leaves the nearest whole number in the last digits.
        shifted = x * reciprocal + magic
        count = shifted - magic
        r = (x - count * high) - count * low
        q = series[0]
        for factor in series[1:]:
            q = q * r + factor
        p = (q * r + half) * r * r + r
        return _power_of_two(shifted, delta, bits), p

    return parts


_SINGLE = _parts(np.float32, np.int32, 23, 127, 87.0, 0.693359375, -2.12194440e-4, 7)
_DOUBLE = _parts(np.float64, np.int64, 52, 1023, 708.0, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13)


@overload(sigmoid, jit_options={"fastmath": _CONTRACT, "forceinline": True})
def _sigmoid(x):
    if x not in (types.float32, types.float64):
        return None
    parts, one = (_SINGLE, np.float32(1)) if x == types.float32 else (_DOUBLE, np.float64(1))

    def compute(x):
        s, p = parts(-x)
        return one / (one + (s * p + s))

    return compute


@overload(tanh, jit_options={"fastmath": _CONTRACT, "forceinline": True})
def _tanh(x):
    if x not in (types.float32, types.float64):
        return None
    real = np.float32 if x == types.float32 else np.float64
    parts, one, two = (_SINGLE if x == types.float32 else _DOUBLE), real(1), real(2)

    def compute(x):
        # e^(2x) - 1, without the loss of digits near zero.
        s, p = parts(two * x)
        less = s * p + (s - one)
        return less / (less + two)

    return compute
