"""Activation functions as the CPU kernels compute them: a few families, each with two numbers of its own.

``FAMILIES`` and ``KNOBS`` give the family and the numbers p, q of every activation by its id. Of each family there are
two functions of one number: its value, of (z, p, q, one), and its slope φ′, of (y, z, p, q, one) with y = φ(z); z is
right only where ``NEEDS_INPUT`` says so. ``one`` is 1 of z's type, as every constant here has to be: a float64 among
float32 would make the sum one.
"""

import math

import numpy as np

from fulgurite.models.sparse_network.activations import ACTIVATIONS, SELU_ALPHA, SELU_SCALE
from fulgurite.models.sparse_network.cpu.compile import kernel
from fulgurite.models.sparse_network.cpu.elementwise import (
    NEARBY,
    cosine_nearby,
    exponential,
    exponential_minus_one,
    logarithm_of_one_plus,
    sine_nearby,
)

# Families up to CLAMP are clamps.
IDENTITY, CLAMP, LEAKY, ELU, GELU, SILU, SOFTPLUS, SIGMOID, TANH, SIN, GAUSS, ABS, SQUARE, CUBE = range(14)
EXP, EXP_CLAMPED, SOFTPLUS_SCALED, INVERSE, LOG, HAT = range(14, 20)

# name: family, p, q. A clamp's missing bound is NaN, which no number is beyond;
# the identity is a clamp without any.
_TABLE: dict[str, tuple[int, float, float]] = {
    "identity": (IDENTITY, math.nan, math.nan),
    "relu": (CLAMP, 0.0, math.nan),
    "relu32": (CLAMP, 0.0, 32.0),
    "leaky_relu": (LEAKY, 0.01, 0.0),
    "elu": (ELU, 1.0, 1.0),
    "gelu": (GELU, math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)),
    "silu": (SILU, 0.0, 0.0),
    "softplus": (SOFTPLUS, 20.0, 0.0),
    "sigmoid": (SIGMOID, 1.0, math.inf),
    "tanh": (TANH, 1.0, math.inf),
    "sin": (SIN, 1.0, math.inf),
    "gauss": (GAUSS, 1.0, math.inf),
    "abs": (ABS, 0.0, 0.0),
    "square": (SQUARE, 0.0, 0.0),
    "exp": (EXP, 0.0, 0.0),
    "hardtanh": (CLAMP, -1.0, 1.0),
    "neat_sigmoid": (SIGMOID, 5.0, 60.0),
    "neat_tanh": (TANH, 2.5, 60.0),
    "neat_sin": (SIN, 5.0, 60.0),
    "neat_gauss": (GAUSS, 5.0, 3.4),
    "neat_relu": (CLAMP, 0.0, math.nan),
    "neat_elu": (ELU, 1.0, 1.0),
    "neat_lelu": (LEAKY, 0.005, 0.0),
    "neat_selu": (ELU, SELU_SCALE, SELU_SCALE * SELU_ALPHA),
    "neat_softplus": (SOFTPLUS_SCALED, 5.0, 60.0),
    "neat_identity": (IDENTITY, math.nan, math.nan),
    "neat_clamped": (CLAMP, -1.0, 1.0),
    "neat_inv": (INVERSE, 0.0, 0.0),
    "neat_log": (LOG, 1e-7, 0.0),
    "neat_exp": (EXP_CLAMPED, 0.0, 60.0),
    "neat_abs": (ABS, 0.0, 0.0),
    "neat_hat": (HAT, 0.0, 0.0),
    "neat_square": (SQUARE, 0.0, 0.0),
    "neat_cube": (CUBE, 0.0, 0.0),
}
_BY_ID = sorted(ACTIVATIONS.values(), key=lambda activation: activation.id)
FAMILIES = np.array([_TABLE[activation.name][0] for activation in _BY_ID], dtype=np.int64)
KNOBS = np.array([_TABLE[activation.name][1:] for activation in _BY_ID], dtype=np.float64)
NEEDS_INPUT = np.array([activation.needs_input for activation in _BY_ID])


@kernel(forceinline=True)
def _bounded(number: float, limit: float) -> float:
    return -limit if number < -limit else (limit if number > limit else number)


@kernel(forceinline=True)
def _log_one_plus_exp(z: float, one: float) -> float:
    return (z if z > 0 else one - one) + logarithm_of_one_plus(exponential(-abs(z)))


@kernel(forceinline=True)
def clamp(z: float, p: float, q: float, one: float) -> float:
    """Into [p, q]."""
    return p if z <= p else (q if z >= q else z)


@kernel(forceinline=True)
def clamp_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """1 inside."""
    return one - one if y <= p or y >= q else one


@kernel(forceinline=True)
def leaky(z: float, p: float, q: float, one: float) -> float:
    """p·z below 0."""
    return z if z > 0 else p * z


@kernel(forceinline=True)
def leaky_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """Below 0 it is p."""
    return one if y > 0 else p


@kernel(forceinline=True)
def elu(z: float, p: float, q: float, one: float) -> float:
    """p·z above 0, q·(eᶻ − 1) below."""
    return p * z if z > 0 else q * exponential_minus_one(z)


@kernel(forceinline=True)
def elu_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """Below 0 it is q·eᶻ, which is y + q; above, p."""
    return y + q if y <= 0 else p


@kernel(forceinline=True)
def gelu(z: float, p: float, q: float, one: float) -> float:
    """z·Φ(z), p = 1/√2."""
    return z * (one + math.erf(z * p)) / (one + one)


@kernel(forceinline=True)
def gelu_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """Φ(z) + z·Φ′(z), q = 1/√(2π)."""
    return (one + math.erf(z * p)) / (one + one) + z * q * exponential(-z * z / (one + one))


@kernel(forceinline=True)
def sigmoid(z: float, p: float, q: float, one: float) -> float:
    """The logistic function of p·z, held in ±q."""
    return one / (one + exponential(-_bounded(p * z, q)))


@kernel(forceinline=True)
def sigmoid_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """p·σ·(1 − σ)."""
    return p * y * (one - y)


@kernel(forceinline=True)
def silu(z: float, p: float, q: float, one: float) -> float:
    """z·σ(z)."""
    return z / (one + exponential(-z))


@kernel(forceinline=True)
def silu_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """σ·(1 + z·(1 − σ))."""
    gate = one / (one + exponential(-z))
    return gate * (one + z * (one - gate))


@kernel(forceinline=True)
def softplus(z: float, p: float, q: float, one: float) -> float:
    """ln(1 + eᶻ), and z above p."""
    return z if z > p else _log_one_plus_exp(z, one)


@kernel(forceinline=True)
def softplus_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """1 − e⁻ʸ."""
    return one if y > p else -exponential_minus_one(-y)


@kernel(forceinline=True)
def tanh(z: float, p: float, q: float, one: float) -> float:
    """The hyperbolic tangent of p·z, held in ±q."""
    c = _bounded(p * z, q)
    # Of −2|c|, whose exponential cannot overflow; exact to rounding near 0, where 1 − 2/(e^2c + 1) is not.
    t = exponential_minus_one(-(one + one) * abs(c))
    y = -t / (t + one + one)
    return y if c >= 0 else -y


@kernel(forceinline=True)
def tanh_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """p·(1 − tanh²)."""
    return p * (one - y * y)


@kernel(forceinline=True)
def sine(z: float, p: float, q: float, one: float) -> float:
    """The sine of p·z, held in ±q."""
    return math.sin(_bounded(p * z, q))


@kernel(forceinline=True)
def sine_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """p·cos(p·z) within."""
    return p * math.cos(p * z) if abs(p * z) <= q else one - one


@kernel(forceinline=True)
def is_nearby(z: float, p: float, q: float) -> bool:
    """Whether the functions right below hold."""
    return abs(_bounded(p * z, q)) <= NEARBY


@kernel(forceinline=True)
def sine_close(z: float, p: float, q: float, one: float) -> float:
    """As :func:`sine`, in vector instructions."""
    return sine_nearby(_bounded(p * z, q))


@kernel(forceinline=True)
def sine_close_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """As :func:`sine_slope`, in vector instructions."""
    return p * cosine_nearby(_bounded(p * z, q)) if abs(p * z) <= q else one - one


@kernel(forceinline=True)
def gauss(z: float, p: float, q: float, one: float) -> float:
    """A bell, exp(−p·z²), z held in ±q."""
    c = _bounded(z, q)
    return exponential(-p * c * c)


@kernel(forceinline=True)
def gauss_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """−2p·z·exp(−p·z²) within."""
    return -(p + p) * z * exponential(-p * z * z) if abs(z) <= q else one - one


@kernel(forceinline=True)
def absolute_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """The sign."""
    return one if z > 0 else (-one if z < 0 else one - one)


@kernel(forceinline=True)
def exp_clamped(z: float, p: float, q: float, one: float) -> float:
    """eᶻ, z held in ±q."""
    return exponential(_bounded(z, q))


@kernel(forceinline=True)
def exp_clamped_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """eᶻ within."""
    return y if abs(z) <= q else one - one


@kernel(forceinline=True)
def softplus_scaled(z: float, p: float, q: float, one: float) -> float:
    """ln(1 + e^{p·z})/p, p·z held in ±q."""
    return _log_one_plus_exp(_bounded(p * z, q), one) / p


@kernel(forceinline=True)
def softplus_scaled_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """σ(p·z) within."""
    return one / (one + exponential(-p * z)) if abs(p * z) <= q else one - one


@kernel(forceinline=True)
def inverse(z: float, p: float, q: float, one: float) -> float:
    """1/z, and 0 of 0."""
    return z if z == 0 else one / z


@kernel(forceinline=True)
def log(z: float, p: float, q: float, one: float) -> float:
    """The logarithm of at least p."""
    return math.log(p if z < p else z)


@kernel(forceinline=True)
def log_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """1/z above p."""
    return one / z if z >= p else one - one


@kernel(forceinline=True)
def hat(z: float, p: float, q: float, one: float) -> float:
    """1 − |z|, and 0 where that is negative."""
    h = one - abs(z)
    return one - one if h <= 0 else h


@kernel(forceinline=True)
def hat_slope(y: float, z: float, p: float, q: float, one: float) -> float:
    """Up on the left, down on the right."""
    return (-one if z > 0 else (one if z < 0 else one - one)) if abs(z) < one else one - one
