"""Activation functions and their derivatives over a node's row of samples, or of one number.

The branch is taken once a row; each loop is plain enough to become vector instructions, but for those that call the C
library (gelu, sin and log).
"""

from typing import Any

from numpy.typing import NDArray

from fulgurite.models.sparse_network.cpu_activations import (
    ABS,
    CLAMP,
    CUBE,
    ELU,
    EXP,
    EXP_CLAMPED,
    GAUSS,
    GELU,
    HAT,
    IDENTITY,
    INVERSE,
    LEAKY,
    LOG,
    SIGMOID,
    SILU,
    SIN,
    SOFTPLUS,
    SOFTPLUS_SCALED,
    SQUARE,
    TANH,
    absolute_slope,
    clamp,
    clamp_slope,
    elu,
    elu_slope,
    exp_clamped,
    exp_clamped_slope,
    gauss,
    gauss_slope,
    gelu,
    gelu_slope,
    hat,
    hat_slope,
    inverse,
    leaky,
    leaky_slope,
    log,
    log_slope,
    sigmoid,
    sigmoid_slope,
    silu,
    silu_slope,
    sine,
    sine_slope,
    softplus,
    softplus_scaled,
    softplus_scaled_slope,
    softplus_slope,
    tanh,
    tanh_slope,
)
from fulgurite.models.sparse_network.cpu_compile import kernel
from fulgurite.models.sparse_network.cpu_elementwise import exponential

Real = NDArray[Any]


@kernel()
def activate_row(family: int, p: float, q: float, z: Real, table: Real, row: int, columns: int) -> None:
    """``table[row, :columns] = φ(z)``; z (T,), table (N, T), p and q of the table's type."""
    one = table.dtype.type(1)
    if family == IDENTITY:
        for j in range(columns):
            table[row, j] = z[j]
    elif family == CLAMP:
        for j in range(columns):
            table[row, j] = clamp(z[j], p, q, one)
    elif family == LEAKY:
        for j in range(columns):
            table[row, j] = leaky(z[j], p, q, one)
    elif family == ELU:
        for j in range(columns):
            table[row, j] = elu(z[j], p, q, one)
    elif family == GELU:
        for j in range(columns):
            table[row, j] = gelu(z[j], p, q, one)
    elif family == SILU:
        for j in range(columns):
            table[row, j] = silu(z[j], p, q, one)
    elif family == SOFTPLUS:
        for j in range(columns):
            table[row, j] = softplus(z[j], p, q, one)
    elif family == SIGMOID:
        for j in range(columns):
            table[row, j] = sigmoid(z[j], p, q, one)
    elif family == TANH:
        for j in range(columns):
            table[row, j] = tanh(z[j], p, q, one)
    elif family == SIN:
        for j in range(columns):
            table[row, j] = sine(z[j], p, q, one)
    elif family == GAUSS:
        for j in range(columns):
            table[row, j] = gauss(z[j], p, q, one)
    elif family == ABS:
        for j in range(columns):
            table[row, j] = abs(z[j])
    elif family == SQUARE:
        for j in range(columns):
            table[row, j] = z[j] * z[j]
    elif family == CUBE:
        for j in range(columns):
            table[row, j] = z[j] * z[j] * z[j]
    elif family == EXP:
        for j in range(columns):
            table[row, j] = exponential(z[j])
    elif family == EXP_CLAMPED:
        for j in range(columns):
            table[row, j] = exp_clamped(z[j], p, q, one)
    elif family == SOFTPLUS_SCALED:
        for j in range(columns):
            table[row, j] = softplus_scaled(z[j], p, q, one)
    elif family == INVERSE:
        for j in range(columns):
            table[row, j] = inverse(z[j], p, q, one)
    elif family == LOG:
        for j in range(columns):
            table[row, j] = log(z[j], p, q, one)
    elif family == HAT:
        for j in range(columns):
            table[row, j] = hat(z[j], p, q, one)


@kernel()
def slope_row(
    family: int, p: float, q: float, y: Real, z: Real, grad: Real, table: Real, row: int, columns: int
) -> None:
    """``table[row, :columns] = grad ∘ φ′``, with y's row (N, T) and, where φ′ is of the input, z (T,)."""
    one = table.dtype.type(1)
    if family == IDENTITY:
        for j in range(columns):
            table[row, j] = grad[j]
    elif family == CLAMP:
        for j in range(columns):
            table[row, j] = grad[j] * clamp_slope(y[row, j], z[j], p, q, one)
    elif family == LEAKY:
        for j in range(columns):
            table[row, j] = grad[j] * leaky_slope(y[row, j], z[j], p, q, one)
    elif family == ELU:
        for j in range(columns):
            table[row, j] = grad[j] * elu_slope(y[row, j], z[j], p, q, one)
    elif family == GELU:
        for j in range(columns):
            table[row, j] = grad[j] * gelu_slope(y[row, j], z[j], p, q, one)
    elif family == SILU:
        for j in range(columns):
            table[row, j] = grad[j] * silu_slope(y[row, j], z[j], p, q, one)
    elif family == SOFTPLUS:
        for j in range(columns):
            table[row, j] = grad[j] * softplus_slope(y[row, j], z[j], p, q, one)
    elif family == SIGMOID:
        for j in range(columns):
            table[row, j] = grad[j] * sigmoid_slope(y[row, j], z[j], p, q, one)
    elif family == TANH:
        for j in range(columns):
            table[row, j] = grad[j] * tanh_slope(y[row, j], z[j], p, q, one)
    elif family == SIN:
        for j in range(columns):
            table[row, j] = grad[j] * sine_slope(y[row, j], z[j], p, q, one)
    elif family == GAUSS:
        for j in range(columns):
            table[row, j] = grad[j] * gauss_slope(y[row, j], z[j], p, q, one)
    elif family == ABS:
        for j in range(columns):
            table[row, j] = grad[j] * absolute_slope(y[row, j], z[j], p, q, one)
    elif family == SQUARE:
        for j in range(columns):
            table[row, j] = grad[j] * (z[j] + z[j])
    elif family == CUBE:
        for j in range(columns):
            table[row, j] = grad[j] * (one + one + one) * z[j] * z[j]
    elif family == EXP:
        for j in range(columns):
            table[row, j] = grad[j] * y[row, j]
    elif family == EXP_CLAMPED:
        for j in range(columns):
            table[row, j] = grad[j] * exp_clamped_slope(y[row, j], z[j], p, q, one)
    elif family == SOFTPLUS_SCALED:
        for j in range(columns):
            table[row, j] = grad[j] * softplus_scaled_slope(y[row, j], z[j], p, q, one)
    elif family == INVERSE:
        for j in range(columns):
            table[row, j] = -grad[j] * y[row, j] * y[row, j]
    elif family == LOG:
        for j in range(columns):
            table[row, j] = grad[j] * log_slope(y[row, j], z[j], p, q, one)
    elif family == HAT:
        for j in range(columns):
            table[row, j] = grad[j] * hat_slope(y[row, j], z[j], p, q, one)


@kernel()
def activate_one(family: int, p: float, q: float, z: float, one: float) -> float:
    """φ(z) of one number."""
    if family == CLAMP:
        return clamp(z, p, q, one)
    if family == LEAKY:
        return leaky(z, p, q, one)
    if family == ELU:
        return elu(z, p, q, one)
    if family == GELU:
        return gelu(z, p, q, one)
    if family == SILU:
        return silu(z, p, q, one)
    if family == SOFTPLUS:
        return softplus(z, p, q, one)
    if family == SIGMOID:
        return sigmoid(z, p, q, one)
    if family == TANH:
        return tanh(z, p, q, one)
    if family == SIN:
        return sine(z, p, q, one)
    if family == GAUSS:
        return gauss(z, p, q, one)
    if family == ABS:
        return abs(z)
    if family == SQUARE:
        return z * z
    if family == CUBE:
        return z * z * z
    if family == EXP:
        return exponential(z)
    if family == EXP_CLAMPED:
        return exp_clamped(z, p, q, one)
    if family == SOFTPLUS_SCALED:
        return softplus_scaled(z, p, q, one)
    if family == INVERSE:
        return inverse(z, p, q, one)
    if family == LOG:
        return log(z, p, q, one)
    if family == HAT:
        return hat(z, p, q, one)
    return z
