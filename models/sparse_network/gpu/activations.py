"""The activation functions and their derivatives in Triton, after the table of ``activations.py``.

Triton offers neither tanh, expm1 nor log1p outside the vendors' libraries, which its interpreter does not know, so they
are made here. A maximum or minimum of the device drops NaN; selections by comparison keep it, and nothing else is used.
"""
# ruff: noqa: ANN001, ANN201, D103
# mypy: disallow-untyped-defs=False
# Triton's compiler takes the annotation of a kernel's parameter for its type, so there are none but ``tl.constexpr``.

import triton  # type: ignore[import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, unused-ignore]

from fulgurite.models.sparse_network.activations import ACTIVATIONS, SELU_ALPHA, SELU_SCALE

KINDS = tl.constexpr(len(ACTIVATIONS))
NEEDS_INPUT = tl.constexpr(sum(1 << kind.id for kind in ACTIVATIONS.values() if kind.needs_input))
SCALE = tl.constexpr(SELU_SCALE)
SCALE_ALPHA = tl.constexpr(SELU_SCALE * SELU_ALPHA)


@triton.jit
def expm1(z):
    """eᶻ − 1 without cancellation (Kahan): the error of u = eᶻ is the same in u − 1 and in ln u, and leaves with it."""
    u = tl.exp(z)
    less = u - 1.0
    small = (tl.abs(less) < 0.5) & (less != 0)
    exact = less * z / tl.log(tl.where(small, u, 2.0))
    return tl.where(small, exact, tl.where(less == 0, z, less))


@triton.jit
def log1p(x):
    """ln(1 + x) for finite x ≥ 0, without cancellation (Kahan)."""
    u = 1.0 + x
    less = u - 1.0
    return tl.where(less == 0, x, tl.log(u) * x / tl.where(less == 0, 1.0, less))


@triton.jit
def sigmoid(z):
    e = tl.exp(-tl.abs(z))
    return tl.where(z < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(z):
    e = expm1(-2.0 * tl.abs(z))
    size = -e / (2.0 + e)
    return tl.where(z < 0, -size, size)


@triton.jit
def clamp(z, LOW: tl.constexpr, HIGH: tl.constexpr):
    return tl.where(z < LOW, LOW, tl.where(z > HIGH, HIGH, z))


@triton.jit
def sign(z):
    return tl.where(z > 0, 1.0, tl.where(z < 0, -1.0, 0.0))


@triton.jit
def value(z, KIND: tl.constexpr):
    """φ(z) of one kind; ``KIND`` is the id in the table."""
    y = z  # 0 and 25: identity
    if KIND == 1 or KIND == 20:  # relu
        y = tl.where(z <= 0, 0.0, z)
    elif KIND == 2:  # relu32
        y = clamp(z, 0.0, 32.0)
    elif KIND == 3:  # leaky_relu
        y = tl.where(z > 0, z, 0.01 * z)
    elif KIND == 4 or KIND == 21:  # elu
        y = tl.where(z > 0, z, expm1(tl.where(z > 0, 0.0, z)))
    elif KIND == 5:  # gelu
        y = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif KIND == 6:  # silu
        y = z * sigmoid(z)
    elif KIND == 7:  # softplus
        y = tl.where(z > 20, z, log1p(tl.exp(tl.where(z > 20, 0.0, z))))
    elif KIND == 8:  # sigmoid
        y = sigmoid(z)
    elif KIND == 9:  # tanh
        y = tanh(z)
    elif KIND == 10:  # sin
        y = tl.sin(z)
    elif KIND == 11:  # gauss
        y = tl.exp(-z * z)
    elif KIND == 12 or KIND == 30:  # abs
        y = tl.abs(z)
    elif KIND == 13 or KIND == 32:  # square
        y = z * z
    elif KIND == 14:  # exp
        y = tl.exp(z)
    elif KIND == 15 or KIND == 26:  # hardtanh
        y = clamp(z, -1.0, 1.0)
    elif KIND == 16:  # neat_sigmoid
        y = sigmoid(clamp(5.0 * z, -60.0, 60.0))
    elif KIND == 17:  # neat_tanh
        y = tanh(clamp(2.5 * z, -60.0, 60.0))
    elif KIND == 18:  # neat_sin
        y = tl.sin(clamp(5.0 * z, -60.0, 60.0))
    elif KIND == 19:  # neat_gauss
        inner = clamp(z, -3.4, 3.4)
        y = tl.exp(-5.0 * inner * inner)
    elif KIND == 22:  # neat_lelu
        y = tl.where(z > 0, z, 0.005 * z)
    elif KIND == 23:  # neat_selu
        y = tl.where(z > 0, z * SCALE, expm1(tl.where(z > 0, 0.0, z)) * SCALE_ALPHA)
    elif KIND == 24:  # neat_softplus
        y = 0.2 * log1p(tl.exp(clamp(5.0 * z, -60.0, 60.0)))
    elif KIND == 27:  # neat_inv
        y = tl.where(z == 0, 0.0, 1.0 / tl.where(z == 0, 1.0, z))
    elif KIND == 28:  # neat_log
        y = tl.log(tl.where(z < 1e-7, 1e-7, z))
    elif KIND == 29:  # neat_exp
        y = tl.exp(clamp(z, -60.0, 60.0))
    elif KIND == 31:  # neat_hat
        y = tl.where(tl.abs(z) >= 1, 0.0, 1.0 - tl.abs(z))
    elif KIND == 33:  # neat_cube
        y = z * z * z
    return y.to(z.dtype)


@triton.jit
def derivative(z, y, KIND: tl.constexpr):
    """φ′ of one kind, of the input z where the table says so, else of the output y alone."""
    d = tl.full(y.shape, 1.0, y.dtype)  # 0 and 25: identity
    if KIND == 1 or KIND == 20:  # relu
        d = tl.where(y <= 0, 0.0, 1.0)
    elif KIND == 2:  # relu32
        d = tl.where((y <= 0) | (y >= 32), 0.0, 1.0)
    elif KIND == 3:  # leaky_relu
        d = tl.where(y > 0, d, 0.01)
    elif KIND == 4 or KIND == 21:  # elu
        d = tl.where(y <= 0, y + 1.0, 1.0)
    elif KIND == 5:  # gelu
        d = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
    elif KIND == 6:  # silu
        gate = sigmoid(z)
        d = gate * (1.0 + z * (1.0 - gate))
    elif KIND == 7:  # softplus
        d = -expm1(-y)
    elif KIND == 8:  # sigmoid
        d = y * (1.0 - y)
    elif KIND == 9:  # tanh
        d = 1.0 - y * y
    elif KIND == 10:  # sin
        d = tl.cos(z)
    elif KIND == 11:  # gauss
        d = -2.0 * z * tl.exp(-z * z)
    elif KIND == 12 or KIND == 30:  # abs
        d = sign(z)
    elif KIND == 13 or KIND == 32:  # square
        d = 2.0 * z
    elif KIND == 14:  # exp
        d = y
    elif KIND == 15 or KIND == 26:  # hardtanh
        d = tl.where((y <= -1) | (y >= 1), 0.0, 1.0)
    elif KIND == 16:  # neat_sigmoid
        d = 5.0 * y * (1.0 - y)
    elif KIND == 17:  # neat_tanh
        d = 2.5 * (1.0 - y * y)
    elif KIND == 18:  # neat_sin
        d = tl.where(tl.abs(z) <= 12, 5.0 * tl.cos(5.0 * z), 0.0)
    elif KIND == 19:  # neat_gauss
        d = tl.where(tl.abs(z) <= 3.4, -10.0 * z * tl.exp(-5.0 * z * z), 0.0)
    elif KIND == 22:  # neat_lelu
        d = tl.where(y > 0, d, 0.005)
    elif KIND == 23:  # neat_selu
        d = tl.where(y <= 0, y + SCALE_ALPHA, d * SCALE)
    elif KIND == 24:  # neat_softplus
        d = tl.where(tl.abs(z) <= 12, sigmoid(5.0 * z), 0.0)
    elif KIND == 27:  # neat_inv
        d = -y * y
    elif KIND == 28:  # neat_log
        d = tl.where(z >= 1e-7, 1.0 / tl.where(z >= 1e-7, z, 1.0), 0.0)
    elif KIND == 29:  # neat_exp
        d = tl.where(tl.abs(z) <= 60, tl.exp(clamp(z, -60.0, 60.0)), 0.0)
    elif KIND == 31:  # neat_hat
        d = tl.where(tl.abs(z) < 1, -sign(z), 0.0)
    elif KIND == 33:  # neat_cube
        d = 3.0 * z * z
    return d.to(y.dtype)


@triton.jit
def activate(z, act, ACTS: tl.constexpr, ROWS: tl.constexpr):
    """φ(z) (rows, samples), each row by its own kind ``act`` (rows,); ``ACTS`` has a bit set for each kind there is."""
    y = z
    if ROWS == 1:
        # One node: a branch that the whole program takes alike.
        only = tl.max(act, axis=0)
        for kind in tl.static_range(KINDS):
            if (ACTS >> kind) & 1:
                if (1 << kind) == ACTS:
                    y = value(z, kind)
                else:
                    if only == kind:
                        y = value(z, kind)
    else:
        for kind in tl.static_range(KINDS):
            if (ACTS >> kind) & 1:
                y = tl.where((act == kind)[:, None], value(z, kind), y)
    return y


@triton.jit
def slope(z, y, act, ACTS: tl.constexpr, ROWS: tl.constexpr):
    """φ′ (rows, samples), chosen as by :func:`activate`."""
    d = y
    if ROWS == 1:
        only = tl.max(act, axis=0)
        for kind in tl.static_range(KINDS):
            if (ACTS >> kind) & 1:
                if (1 << kind) == ACTS:
                    d = derivative(z, y, kind)
                else:
                    if only == kind:
                        d = derivative(z, y, kind)
    else:
        for kind in tl.static_range(KINDS):
            if (ACTS >> kind) & 1:
                d = tl.where((act == kind)[:, None], derivative(z, y, kind), d)
    return d
