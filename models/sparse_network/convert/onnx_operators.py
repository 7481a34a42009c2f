"""Activations and aggregations in standard ONNX operators, as rows of the tables in their modules."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fulgurite.models.sparse_network.activations import SELU_ALPHA, SELU_SCALE


class Operators(Protocol):
    """Writes operators into a graph; values go by their names."""

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator, and name its value."""

    def constant(self, value: Any) -> str:
        """Keep a number or an array in the graph, and name it; Python floats are float32."""


def _clip(g: Operators, z: str, low: float, high: float) -> str:
    return g.op("Clip", z, g.constant(low), g.constant(high))


def _scaled(g: Operators, z: str, scale: float) -> str:
    return _clip(g, g.op("Mul", z, g.constant(scale)), -60.0, 60.0)


def _square(g: Operators, z: str) -> str:
    return g.op("Mul", z, z)


def _gauss(g: Operators, z: str, scale: float = -1.0) -> str:
    return g.op("Exp", g.op("Mul", _square(g, z), g.constant(scale)))


def _gelu(g: Operators, z: str) -> str:
    gate = g.op("Add", g.op("Erf", g.op("Mul", z, g.constant(math.sqrt(0.5)))), g.constant(1.0))
    return g.op("Mul", g.op("Mul", z, g.constant(0.5)), gate)


def _hat(g: Operators, z: str) -> str:
    return g.op("Relu", g.op("Sub", g.constant(1.0), g.op("Abs", z)))


def _inverse(g: Operators, z: str) -> str:
    zero = g.constant(0.0)
    return g.op("Where", g.op("Equal", z, zero), zero, g.op("Reciprocal", z))


# Written out: the operator Gelu came with opset 20, later than everything else that is needed.
ACTIVATIONS: dict[str, Callable[[Operators, str], str]] = {
    "identity": lambda g, z: z,
    "relu": lambda g, z: g.op("Relu", z),
    "relu32": lambda g, z: _clip(g, z, 0.0, 32.0),
    "leaky_relu": lambda g, z: g.op("LeakyRelu", z, alpha=0.01),
    "elu": lambda g, z: g.op("Elu", z, alpha=1.0),
    "gelu": _gelu,
    "silu": lambda g, z: g.op("Mul", z, g.op("Sigmoid", z)),
    "softplus": lambda g, z: g.op("Softplus", z),
    "sigmoid": lambda g, z: g.op("Sigmoid", z),
    "tanh": lambda g, z: g.op("Tanh", z),
    "sin": lambda g, z: g.op("Sin", z),
    "gauss": _gauss,
    "abs": lambda g, z: g.op("Abs", z),
    "square": _square,
    "exp": lambda g, z: g.op("Exp", z),
    "hardtanh": lambda g, z: _clip(g, z, -1.0, 1.0),
    "neat_sigmoid": lambda g, z: g.op("Sigmoid", _scaled(g, z, 5.0)),
    "neat_tanh": lambda g, z: g.op("Tanh", _scaled(g, z, 2.5)),
    "neat_sin": lambda g, z: g.op("Sin", _scaled(g, z, 5.0)),
    "neat_gauss": lambda g, z: _gauss(g, _clip(g, z, -3.4, 3.4), -5.0),
    "neat_relu": lambda g, z: g.op("Relu", z),
    "neat_elu": lambda g, z: g.op("Elu", z, alpha=1.0),
    "neat_lelu": lambda g, z: g.op("LeakyRelu", z, alpha=0.005),
    "neat_selu": lambda g, z: g.op("Selu", z, alpha=SELU_ALPHA, gamma=SELU_SCALE),
    "neat_softplus": lambda g, z: g.op("Mul", g.op("Softplus", _scaled(g, z, 5.0)), g.constant(0.2)),
    "neat_identity": lambda g, z: z,
    "neat_clamped": lambda g, z: _clip(g, z, -1.0, 1.0),
    "neat_inv": _inverse,
    "neat_log": lambda g, z: g.op("Log", g.op("Max", z, g.constant(1e-7))),
    "neat_exp": lambda g, z: g.op("Exp", _clip(g, z, -60.0, 60.0)),
    "neat_abs": lambda g, z: g.op("Abs", z),
    "neat_hat": _hat,
    "neat_square": _square,
    "neat_cube": lambda g, z: g.op("Mul", _square(g, z), z),
}


def _reduced(kind: str) -> Callable[[Operators, str, int], str]:
    return lambda g, messages, count: g.op(kind, messages, g.constant(np.array([2])), keepdims=0)


def _maxabs(g: Operators, messages: str, count: int) -> str:
    winner = g.op("ArgMax", g.op("Abs", messages), axis=2, keepdims=1)
    return g.op("Squeeze", g.op("GatherElements", messages, winner, axis=2), g.constant(np.array([2])))


def _median(g: Operators, messages: str, count: int) -> str:
    ordered = g.op("TopK", messages, g.constant(np.array([count])), axis=2, largest=0)
    middle = g.op("Gather", ordered, g.constant(np.arange((count - 1) // 2, count // 2 + 1)), axis=2)
    return g.op("ReduceMean", middle, g.constant(np.array([2])), keepdims=0)


# Each takes messages (batch, nodes, count), count at least 1, and gives (batch, nodes).
AGGREGATIONS: dict[str, Callable[[Operators, str, int], str]] = {
    "sum": _reduced("ReduceSum"),
    "mean": _reduced("ReduceMean"),
    "product": _reduced("ReduceProd"),
    "max": _reduced("ReduceMax"),
    "min": _reduced("ReduceMin"),
    "maxabs": _maxabs,
    "median": _median,
}
