"""Activation functions and their derivatives over a node's row of samples, or of one number.

The branch is taken once a row; each loop is plain enough to become vector instructions, but for those that call the C
library (gelu, log, and sin of large numbers).
"""

from typing import Any

from numpy.typing import NDArray

from fulgurite.models.sparse_network.cpu import activations as phi
from fulgurite.models.sparse_network.cpu.compile import kernel
from fulgurite.models.sparse_network.cpu.elementwise import exponential

Real = NDArray[Any]


@kernel(forceinline=True)
def _all_nearby(z: Real, p: float, q: float, columns: int) -> bool:
    far = 0
    for j in range(columns):
        far += 0 if phi.is_nearby(z[j], p, q) else 1
    return far == 0


@kernel()
def activate_row(family: int, p: float, q: float, z: Real, table: Real, row: int, columns: int) -> None:
    """``table[row, :columns] = φ(z)``; z (T,), table (N, T), p and q of the table's type."""
    one = table.dtype.type(1)
    if family == phi.IDENTITY:
        for j in range(columns):
            table[row, j] = z[j]
    elif family == phi.CLAMP:
        for j in range(columns):
            table[row, j] = phi.clamp(z[j], p, q, one)
    elif family == phi.LEAKY:
        for j in range(columns):
            table[row, j] = phi.leaky(z[j], p, q, one)
    elif family == phi.ELU:
        for j in range(columns):
            table[row, j] = phi.elu(z[j], p, q, one)
    elif family == phi.GELU:
        for j in range(columns):
            table[row, j] = phi.gelu(z[j], p, q, one)
    elif family == phi.SILU:
        for j in range(columns):
            table[row, j] = phi.silu(z[j], p, q, one)
    elif family == phi.SOFTPLUS:
        for j in range(columns):
            table[row, j] = phi.softplus(z[j], p, q, one)
    elif family == phi.SIGMOID:
        for j in range(columns):
            table[row, j] = phi.sigmoid(z[j], p, q, one)
    elif family == phi.TANH:
        for j in range(columns):
            table[row, j] = phi.tanh(z[j], p, q, one)
    elif family == phi.SIN:
        if _all_nearby(z, p, q, columns):
            for j in range(columns):
                table[row, j] = phi.sine_close(z[j], p, q, one)
        else:
            for j in range(columns):
                table[row, j] = phi.sine(z[j], p, q, one)
    elif family == phi.GAUSS:
        for j in range(columns):
            table[row, j] = phi.gauss(z[j], p, q, one)
    elif family == phi.ABS:
        for j in range(columns):
            table[row, j] = abs(z[j])
    elif family == phi.SQUARE:
        for j in range(columns):
            table[row, j] = z[j] * z[j]
    elif family == phi.CUBE:
        for j in range(columns):
            table[row, j] = z[j] * z[j] * z[j]
    elif family == phi.EXP:
        for j in range(columns):
            table[row, j] = exponential(z[j])
    elif family == phi.EXP_CLAMPED:
        for j in range(columns):
            table[row, j] = phi.exp_clamped(z[j], p, q, one)
    elif family == phi.SOFTPLUS_SCALED:
        for j in range(columns):
            table[row, j] = phi.softplus_scaled(z[j], p, q, one)
    elif family == phi.INVERSE:
        for j in range(columns):
            table[row, j] = phi.inverse(z[j], p, q, one)
    elif family == phi.LOG:
        for j in range(columns):
            table[row, j] = phi.log(z[j], p, q, one)
    elif family == phi.HAT:
        for j in range(columns):
            table[row, j] = phi.hat(z[j], p, q, one)


@kernel()
def slope_row(
    family: int, p: float, q: float, y: Real, z: Real, grad: Real, table: Real, row: int, columns: int
) -> None:
    """``table[row, :columns] = grad ∘ φ′``, with y's row (N, T) and, where φ′ is of the input, z (T,)."""
    one = table.dtype.type(1)
    if family == phi.IDENTITY:
        for j in range(columns):
            table[row, j] = grad[j]
    elif family == phi.CLAMP:
        for j in range(columns):
            table[row, j] = grad[j] * phi.clamp_slope(y[row, j], z[j], p, q, one)
    elif family == phi.LEAKY:
        for j in range(columns):
            table[row, j] = grad[j] * phi.leaky_slope(y[row, j], z[j], p, q, one)
    elif family == phi.ELU:
        for j in range(columns):
            table[row, j] = grad[j] * phi.elu_slope(y[row, j], z[j], p, q, one)
    elif family == phi.GELU:
        for j in range(columns):
            table[row, j] = grad[j] * phi.gelu_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SILU:
        for j in range(columns):
            table[row, j] = grad[j] * phi.silu_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SOFTPLUS:
        for j in range(columns):
            table[row, j] = grad[j] * phi.softplus_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SIGMOID:
        for j in range(columns):
            table[row, j] = grad[j] * phi.sigmoid_slope(y[row, j], z[j], p, q, one)
    elif family == phi.TANH:
        for j in range(columns):
            table[row, j] = grad[j] * phi.tanh_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SIN:
        if _all_nearby(z, p, q, columns):
            for j in range(columns):
                table[row, j] = grad[j] * phi.sine_close_slope(y[row, j], z[j], p, q, one)
        else:
            for j in range(columns):
                table[row, j] = grad[j] * phi.sine_slope(y[row, j], z[j], p, q, one)
    elif family == phi.GAUSS:
        for j in range(columns):
            table[row, j] = grad[j] * phi.gauss_slope(y[row, j], z[j], p, q, one)
    elif family == phi.ABS:
        for j in range(columns):
            table[row, j] = grad[j] * phi.absolute_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SQUARE:
        for j in range(columns):
            table[row, j] = grad[j] * (z[j] + z[j])
    elif family == phi.CUBE:
        for j in range(columns):
            table[row, j] = grad[j] * (one + one + one) * z[j] * z[j]
    elif family == phi.EXP:
        for j in range(columns):
            table[row, j] = grad[j] * y[row, j]
    elif family == phi.EXP_CLAMPED:
        for j in range(columns):
            table[row, j] = grad[j] * phi.exp_clamped_slope(y[row, j], z[j], p, q, one)
    elif family == phi.SOFTPLUS_SCALED:
        for j in range(columns):
            table[row, j] = grad[j] * phi.softplus_scaled_slope(y[row, j], z[j], p, q, one)
    elif family == phi.INVERSE:
        for j in range(columns):
            table[row, j] = -grad[j] * y[row, j] * y[row, j]
    elif family == phi.LOG:
        for j in range(columns):
            table[row, j] = grad[j] * phi.log_slope(y[row, j], z[j], p, q, one)
    elif family == phi.HAT:
        for j in range(columns):
            table[row, j] = grad[j] * phi.hat_slope(y[row, j], z[j], p, q, one)


@kernel()
def activate_one(family: int, p: float, q: float, z: float, one: float) -> float:
    """φ(z) of one number."""
    if family == phi.CLAMP:
        return phi.clamp(z, p, q, one)
    if family == phi.LEAKY:
        return phi.leaky(z, p, q, one)
    if family == phi.ELU:
        return phi.elu(z, p, q, one)
    if family == phi.GELU:
        return phi.gelu(z, p, q, one)
    if family == phi.SILU:
        return phi.silu(z, p, q, one)
    if family == phi.SOFTPLUS:
        return phi.softplus(z, p, q, one)
    if family == phi.SIGMOID:
        return phi.sigmoid(z, p, q, one)
    if family == phi.TANH:
        return phi.tanh(z, p, q, one)
    if family == phi.SIN:
        return phi.sine(z, p, q, one)
    if family == phi.GAUSS:
        return phi.gauss(z, p, q, one)
    if family == phi.ABS:
        return abs(z)
    if family == phi.SQUARE:
        return z * z
    if family == phi.CUBE:
        return z * z * z
    if family == phi.EXP:
        return exponential(z)
    if family == phi.EXP_CLAMPED:
        return phi.exp_clamped(z, p, q, one)
    if family == phi.SOFTPLUS_SCALED:
        return phi.softplus_scaled(z, p, q, one)
    if family == phi.INVERSE:
        return phi.inverse(z, p, q, one)
    if family == phi.LOG:
        return phi.log(z, p, q, one)
    if family == phi.HAT:
        return phi.hat(z, p, q, one)
    return z
