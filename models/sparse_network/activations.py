"""Activation functions of a sparse network's nodes: torch's own by their names, neat-python's as ``neat_*``.

Every kernel mirrors :data:`ACTIVATIONS`; its rows, with the ids that kernels branch on, are::

    id  name           value φ(z)                        derivative, of the output y or of the input z
     0  identity       z                                 1
     1  relu           max(z, 0)                         0 where y ≤ 0, else 1
     2  relu32         min(max(z, 0), 32)                0 where y ≤ 0 or y ≥ 32, else 1
     3  leaky_relu     z where z > 0, else 0.01·z        1 where y > 0, else 0.01
     4  elu            z where z > 0, else eᶻ − 1        y + 1 where y ≤ 0, else 1
     5  gelu           z·Φ(z), Φ(z) = ½(1 + erf(z/√2))   Φ(z) + z·exp(−z²/2)/√(2π)                     of z
     6  silu           z·σ(z), σ(z) = 1/(1 + e⁻ᶻ)        σ(z)·(1 + z·(1 − σ(z)))                       of z
     7  softplus       z where z > 20, else ln(1 + eᶻ)   1 − e⁻ʸ, within 2.1·10⁻⁹ over z = 20
     8  sigmoid        σ(z)                              y·(1 − y)
     9  tanh           tanh z                            1 − y²
    10  sin            sin z                             cos z                                         of z
    11  gauss          exp(−z²)                          −2z·exp(−z²)                                  of z
    12  abs            |z|                               sign z                                        of z
    13  square         z²                                2z                                            of z
    14  exp            eᶻ                                y
    15  hardtanh       min(max(z, −1), 1)                0 where y ≤ −1 or y ≥ 1, else 1
    16  neat_sigmoid   σ(c), c = clamp(5z, ±60)          5y·(1 − y)
    17  neat_tanh      tanh(clamp(2.5z, ±60))            2.5·(1 − y²)
    18  neat_sin       sin(clamp(5z, ±60))               5·cos(5z) where |5z| ≤ 60, else 0             of z
    19  neat_gauss     exp(−5·clamp(z, ±3.4)²)           −10z·exp(−5z²) where |z| ≤ 3.4, else 0        of z
    20  neat_relu      max(z, 0)                         0 where y ≤ 0, else 1
    21  neat_elu       z where z > 0, else eᶻ − 1        y + 1 where y ≤ 0, else 1
    22  neat_lelu      z where z > 0, else 0.005·z       1 where y > 0, else 0.005
    23  neat_selu      λz where z > 0, else λα(eᶻ − 1)   y + λα where y ≤ 0, else λ
    24  neat_softplus  0.2·ln(1 + eᶜ), c = clamp(5z, ±60)  σ(5z) where |5z| ≤ 60, else 0               of z
    25  neat_identity  z                                 1
    26  neat_clamped   min(max(z, −1), 1)                0 where y ≤ −1 or y ≥ 1, else 1
    27  neat_inv       1/z, and 0 at z = 0               −y²
    28  neat_log       ln(max(z, 10⁻⁷))                  1/z where z ≥ 10⁻⁷, else 0                    of z
    29  neat_exp       exp(clamp(z, ±60))                eᶻ where |z| ≤ 60, else 0                     of z
    30  neat_abs       |z|                               sign z                                        of z
    31  neat_hat       max(0, 1 − |z|)                   −sign z where |z| < 1, else 0                 of z
    32  neat_square    z²                                2z                                            of z
    33  neat_cube      z³                                3z²                                           of z

A derivative of the output costs training no memory; a row marked "of z" has ``needs_input`` set, and z is kept or made
again. At kinks the derivatives are torch's own (relu′(0) = 0, hardtanh′(±1) = 0, a clamped argument counts at its
bounds). The ``neat_*`` functions are neat-python's with its scalings and clamps, and differ from torch's of the same
name; but NaN stays NaN where neat-python's ``max`` and ``min`` would turn it into a number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fulgurite.plugins.registry import nearest

Elementwise = Callable[[Tensor], Tensor]

# Klambauer et al., arXiv:1706.02515, with as many digits as torch and neat-python use.
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717


@dataclass(frozen=True)
class Activation:
    """One activation function.

    Args:
        id: the number that kernels know it by; never changed once given.
        name: what users call it.
        function: φ, elementwise, differentiable by autograd.
        derivative: φ′, of the input z where ``needs_input``, else of the output y = φ(z).
        needs_input: whether φ′ cannot be had from the output alone.

    Example:
        >>> import torch
        >>> tanh = ACTIVATIONS["tanh"]
        >>> y = tanh.function(torch.tensor([0.0, 0.5]))
        >>> tanh.derivative(y), tanh.needs_input
        (tensor([1.0000, 0.7864]), False)
    """

    id: int
    name: str
    function: Elementwise
    derivative: Elementwise
    needs_input: bool


def _between(low: float, high: float) -> Elementwise:
    return lambda y: torch.where((y <= low) | (y >= high), 0.0, torch.ones_like(y))


def _rectified(y: Tensor) -> Tensor:
    return torch.where(y <= 0, 0.0, torch.ones_like(y))


def _leaky(slope: float) -> Elementwise:
    return lambda y: torch.where(y > 0, 1.0, torch.full_like(y, slope))


def _elu_slope(y: Tensor) -> Tensor:
    return torch.where(y <= 0, y + 1, 1.0)


def _gelu_slope(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z * math.sqrt(0.5))) + z * torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _silu_slope(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1 + z * (1 - gate))


def _clamped(z: Tensor, bound: float) -> Tensor:
    # Not torch.clamp, whose gradient at its bounds differs between releases.
    return torch.where(z > bound, bound, torch.where(z < -bound, -bound, z))


def _scaled(z: Tensor, scale: float) -> Tensor:
    return _clamped(scale * z, 60.0)


def _inverse(z: Tensor) -> Tensor:
    # The inner where keeps the gradient at 0 from becoming 0·∞.
    return torch.where(z == 0, 0.0, 1 / torch.where(z == 0, 1.0, z))


def _within(bound: float, slope: Elementwise) -> Elementwise:
    """A derivative that is 0 where |z| is over the clamp's bound."""
    return lambda z: torch.where(z.abs() <= bound, slope(z), 0.0)


# name, φ, φ′, whether φ′ is of z; the place in the list is the id, so new ones go to the end.
_TABLE: list[tuple[str, Elementwise, Elementwise, bool]] = [
    ("identity", torch.clone, torch.ones_like, False),
    ("relu", torch.relu, _rectified, False),
    ("relu32", lambda z: functional.hardtanh(z, 0.0, 32.0), _between(0.0, 32.0), False),
    ("leaky_relu", functional.leaky_relu, _leaky(0.01), False),
    ("elu", functional.elu, _elu_slope, False),
    ("gelu", functional.gelu, _gelu_slope, True),
    ("silu", functional.silu, _silu_slope, True),
    ("softplus", functional.softplus, lambda y: -torch.expm1(-y), False),
    ("sigmoid", torch.sigmoid, lambda y: y * (1 - y), False),
    ("tanh", torch.tanh, lambda y: 1 - y * y, False),
    ("sin", torch.sin, torch.cos, True),
    ("gauss", lambda z: torch.exp(-z * z), lambda z: -2 * z * torch.exp(-z * z), True),
    ("abs", torch.abs, torch.sign, True),
    ("square", torch.square, lambda z: 2 * z, True),
    ("exp", torch.exp, torch.clone, False),
    ("hardtanh", functional.hardtanh, _between(-1.0, 1.0), False),
    ("neat_sigmoid", lambda z: torch.sigmoid(_scaled(z, 5.0)), lambda y: 5 * y * (1 - y), False),
    ("neat_tanh", lambda z: torch.tanh(_scaled(z, 2.5)), lambda y: 2.5 * (1 - y * y), False),
    ("neat_sin", lambda z: torch.sin(_scaled(z, 5.0)), _within(12.0, lambda z: 5 * torch.cos(5 * z)), True),
    (
        "neat_gauss",
        lambda z: torch.exp(-5 * _clamped(z, 3.4).square()),
        _within(3.4, lambda z: -10 * z * torch.exp(-5 * z * z)),
        True,
    ),
    ("neat_relu", torch.relu, _rectified, False),
    ("neat_elu", functional.elu, _elu_slope, False),
    ("neat_lelu", lambda z: functional.leaky_relu(z, 0.005), _leaky(0.005), False),
    (
        "neat_selu",
        functional.selu,
        lambda y: torch.where(y <= 0, y + SELU_SCALE * SELU_ALPHA, SELU_SCALE),
        False,
    ),
    # A threshold of 60, which the clamp never lets pass: torch's 20 would cut the logarithm short.
    (
        "neat_softplus",
        lambda z: 0.2 * functional.softplus(_scaled(z, 5.0), threshold=60),
        _within(12.0, lambda z: torch.sigmoid(5 * z)),
        True,
    ),
    ("neat_identity", torch.clone, torch.ones_like, False),
    ("neat_clamped", functional.hardtanh, _between(-1.0, 1.0), False),
    ("neat_inv", _inverse, lambda y: -y * y, False),
    (
        "neat_log",
        lambda z: torch.log(torch.where(z < 1e-7, 1e-7, z)),
        lambda z: torch.where(z >= 1e-7, 1 / z, 0.0),
        True,
    ),
    ("neat_exp", lambda z: torch.exp(_clamped(z, 60.0)), _within(60.0, torch.exp), True),
    ("neat_abs", torch.abs, torch.sign, True),
    ("neat_hat", lambda z: torch.relu(1 - z.abs()), lambda z: torch.where(z.abs() < 1, -torch.sign(z), 0.0), True),
    ("neat_square", torch.square, lambda z: 2 * z, True),
    ("neat_cube", lambda z: z**3, lambda z: 3 * z * z, True),
]

ACTIVATIONS: dict[str, Activation] = {
    name: Activation(id=number, name=name, function=function, derivative=derivative, needs_input=needs_input)
    for number, (name, function, derivative, needs_input) in enumerate(_TABLE)
}


def activation_id(name: str) -> int:
    """The id of an activation function.

    Args:
        name: one of :data:`ACTIVATIONS`.

    Raises:
        ValueError: there is none of that name; the nearest ones are told.

    Example:
        >>> activation_id("relu"), activation_id("neat_sigmoid")
        (1, 16)
    """
    if name not in ACTIVATIONS:
        hint = nearest(str(name), ACTIVATIONS) or f"; choose from {', '.join(ACTIVATIONS)}"
        raise ValueError(f"no activation {name!r}{hint}")
    return ACTIVATIONS[name].id
