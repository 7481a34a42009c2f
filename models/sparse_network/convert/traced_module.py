"""Reads a module that ``torch.fx`` has traced, operation by operation, into nodes and edges."""

import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fulgurite.models.sparse_network.activations import ACTIVATIONS
from fulgurite.models.sparse_network.convert.wiring import Wired, Wiring

SUPPORTED = (
    "Linear, BatchNorm1d, Identity, Dropout, Flatten, ReLU, LeakyReLU(0.01), ELU, SELU, GELU (exact), SiLU, Softplus, "
    "Sigmoid, Tanh, Hardtanh(-1, 1), + - * / and @ with constants, + - * of features, torch.cat and slices of features"
)
# Names are without case and underscores: torch spells its modules, functions and methods alike then.
_DROPPING = {"dropout", "alphadropout", "featurealphadropout"}
_PASSING_ON = {"identity", "contiguous"} | _DROPPING
_FLATTENING = {"flatten", "view", "reshape"}
_MOVING = {"cat", "concat", "concatenate", "chunk", "split", "narrow", "indexselect", "getitem", "clone"} | _FLATTENING
# What it is called → which of our activations it may be, depending on its arguments.
_ELEMENTWISE = {
    "relu": ("relu",),
    "leakyrelu": ("leaky_relu", "neat_lelu"),
    "elu": ("elu",),
    "selu": ("neat_selu",),
    "gelu": ("gelu",),
    "silu": ("silu",),
    "softplus": ("softplus",),
    "sigmoid": ("sigmoid",),
    "tanh": ("tanh",),
    "hardtanh": ("hardtanh", "relu32"),
    "clamp": ("hardtanh", "relu32", "relu"),
    "sin": ("sin",),
    "abs": ("abs",),
    "exp": ("exp",),
    "square": ("square",),
    "pow": ("square", "neat_cube"),
}


@dataclass(frozen=True, eq=False)
class _Features:
    """Stands for a (batch, features) tensor: ``nodes`` (features,) says which node each feature is."""

    nodes: Tensor

    def __len__(self) -> int:
        return len(self.nodes)


class _BatchSize(int):
    """The number of samples: nothing to calculate with, or the network would depend on it."""


class TracedModule:
    """A traced module as nodes and edges.

    :func:`~fulgurite.models.sparse_network.convert.sequential.from_sequential` says how.

    Args:
        graph: what ``torch.fx.Tracer().trace(root)`` gave.
        root: the module that was traced.
        dtype: of the weights.

    Example:
        >>> from torch import fx, nn
        >>> root = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU())
        >>> TracedModule(fx.Tracer().trace(root), root).read().edges.tolist()
        [[0, 2], [1, 2]]
    """

    def __init__(self, graph: fx.Graph, root: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        self.graph = graph
        self.modules = dict(root.named_modules())
        self.dtype = dtype
        # Read at once: tracing leaves the constants that forward makes in root, where they do not stay.
        attributes = [node for node in graph.nodes if node.op == "get_attr"]
        self.values: dict[fx.Node, Any] = {node: operator.attrgetter(str(node.target))(root) for node in attributes}

    def read(self, num_inputs: int | None = None) -> Wired:
        """Read the whole graph.

        Args:
            num_inputs: features of the input, if the module does not tell.

        Raises:
            ValueError: see :func:`~fulgurite.models.sparse_network.convert.sequential.from_sequential`.
        """
        source = self._input()
        self._compute_constants()
        count = num_inputs or self._width(source)
        self.wiring = Wiring(count, self.dtype)
        self.values[source] = _Features(torch.arange(count))
        for node in self.graph.nodes:
            if node.op == "output":
                break
            if node not in self.values:
                self.values[node] = self._call(node)
        result = self._filled_in(node.args[0])
        if not isinstance(result, _Features):
            raise ValueError(f"the module returns {type(result).__name__}; want one tensor of features")
        return self.wiring.finish(result.nodes)

    def _input(self) -> fx.Node:
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.values |= {node: node.args[0] for node in inputs if node.args}  # arguments with a default
        required = [node for node in inputs if not node.args]
        if len(required) != 1:
            raise ValueError(f"the module takes {len(required)} inputs {required}; want one tensor of features")
        return required[0]

    def _compute_constants(self) -> None:
        """What is made of attributes alone: masks times weights."""
        for node in self.graph.nodes:
            if node.op.startswith("call") and all(needed in self.values for needed in node.all_input_nodes):
                self.values[node] = self._function(node)(*self._filled_in(node.args), **self._filled_in(node.kwargs))

    def _width(self, source: fx.Node) -> int:
        """Features of the input, by the first operation on it for which they matter."""
        strange = None
        for node in self.graph.nodes:
            if not node.op.startswith("call") or self._origin(node) is not source:
                continue
            name, module = _name(node, self.modules), self.modules.get(str(node.target))
            if node.op == "call_module" and isinstance(module, nn.Linear | nn.BatchNorm1d):
                return module.in_features if isinstance(module, nn.Linear) else module.num_features
            weight = self.values.get(node.args[1]) if len(node.args) > 1 and isinstance(node.args[1], fx.Node) else None
            if name in ("linear", "matmul", "mm") and isinstance(weight, Tensor):
                return weight.shape[1 if name == "linear" else 0]
            if name in ("view", "reshape") and isinstance(last := node.args[-1], int) and last > 0:
                return last
            if node.op == "call_module" and name not in _PASSING_ON | _ELEMENTWISE.keys() | _FLATTENING:
                strange = strange or node
        if strange is not None:
            raise self._unsupported(strange)
        raise ValueError("the module does not tell how many features its input has; pass num_inputs=")

    def _origin(self, node: fx.Node) -> Any:
        """What an operation reads, seen through others that leave the number of features as it is."""
        origin = node.args[0] if node.args else None
        while isinstance(origin, fx.Node) and origin.op.startswith("call"):
            if _name(origin, self.modules) not in _PASSING_ON | _ELEMENTWISE.keys() | {"clone"} | _FLATTENING:
                return None
            origin = origin.args[0] if origin.args else None
        return origin

    def _filled_in(self, arguments: Any) -> Any:
        return fx.node.map_arg(arguments, self.values.__getitem__)

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            return self.modules[str(node.target)]
        if node.op == "call_method":
            return lambda self, *args, **kwargs: getattr(self, str(node.target))(*args, **kwargs)
        return node.target  # type: ignore[return-value]

    def _call(self, node: fx.Node) -> Any:
        name, args, kwargs = _name(node, self.modules), self._filled_in(node.args), self._filled_in(node.kwargs)
        leaves = list(_leaves([args, kwargs]))
        features = [leaf for leaf in leaves if isinstance(leaf, _Features)]
        if name not in _MOVING and any(isinstance(leaf, _BatchSize) for leaf in leaves):
            raise self._unsupported(node, "depends on the size of the batch")
        if not features:
            return self._function(node)(*args, **kwargs)
        if name in _MOVING:
            return self._move(node, args, kwargs)
        if not args or (not isinstance(args[0], _Features) and name not in ("add", "sub", "mul")):
            raise self._unsupported(node)
        if name in _PASSING_ON:
            if name in _DROPPING:
                self._warn_of_training(node, bool(kwargs.get("training", args[2] if len(args) > 2 else True)))
            return args[0]
        if name in ("size", "getattr"):
            return self._shape(node, name, *args[1:])
        if name in _ELEMENTWISE and len(features) == 1:
            return self._elementwise(node, _ELEMENTWISE[name], args, kwargs)
        if node.op == "call_module":
            return self._layer(node, args[0])
        return self._arithmetic(node, name, args, kwargs)

    def _shape(self, node: fx.Node, name: str, which: Any = None) -> Any:
        shape = (_BatchSize(2), len(self._filled_in(node.args[0])))
        if name == "size":
            return shape if which is None else shape[which]
        if which == "shape":
            return shape
        raise self._unsupported(node, f"reads .{which}")

    def _move(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Move the nodes' numbers as the operation would move features, in two samples: one could hide a mix-up."""
        try:
            moved = self._function(node)(*_as_numbers(args), **_as_numbers(kwargs))
        except (RuntimeError, IndexError, TypeError) as error:
            raise self._unsupported(node, str(error)) from error
        parts = moved if isinstance(moved, tuple | list) else (moved,)
        for part in parts:
            numbers = isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 2
            if not numbers or len(part) != 2 or not torch.equal(part[0], part[1]):
                raise self._unsupported(node, "does not keep samples apart, or gives other than (batch, features)")
        found = tuple(_Features(part[0]) for part in parts)
        return found if isinstance(moved, tuple | list) else found[0]

    def _elementwise(self, node: fx.Node, candidates: tuple[str, ...], args: Any, kwargs: Any) -> _Features:
        """An activation, told by what it does to numbers: arguments may make it another than its name says."""
        points = torch.linspace(-50, 50, 4001, dtype=torch.float64)
        given = points.clone()
        try:
            got = self._function(node)(given, *args[1:], **kwargs)
        except (RuntimeError, TypeError) as error:
            raise self._unsupported(node, str(error)) from error
        for name in candidates:
            if torch.allclose(got, ACTIVATIONS[name].function(points), rtol=1e-7, atol=1e-12):
                made = _Features(self.wiring.elementwise(args[0].nodes, name))
                if not torch.equal(given, points):
                    self._overwrite(args[0], made)
                return made
        raise self._unsupported(node, "its arguments make it none of ours")

    def _layer(self, node: fx.Node, features: _Features) -> _Features:
        module = self.modules[str(node.target)]
        if isinstance(module, nn.Linear):
            weight, kept = _pruned(module, "weight")
            return self._linear(
                node, features, weight, None if module.bias is None else _pruned(module, "bias")[0], kept
            )
        if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None and module.running_var is not None:
            self._same_width(node, len(features), module.num_features)
            self._warn_of_training(node, module.training)
            factor = torch.rsqrt(module.running_var.double() + module.eps)
            factor = factor if module.weight is None else factor * module.weight
            shift = -factor * module.running_mean + (0.0 if module.bias is None else module.bias)
            return _Features(self.wiring.affine(features.nodes, factor, shift))
        raise self._unsupported(node)

    def _arithmetic(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> _Features:
        if name == "linear":
            given = dict(zip(("weight", "bias"), args[1:], strict=False)) | kwargs
            return self._linear(node, args[0], given["weight"], given.get("bias"))
        if name == "neg":
            return _Features(self.wiring.affine(args[0].nodes, -1.0))
        if len(args) != 2 or not kwargs.keys() <= {"alpha"}:
            raise self._unsupported(node)
        left, right = args
        if name in ("matmul", "mm") and isinstance(right, Tensor) and right.dim() == 2:
            return self._linear(node, left, right.T)
        if name in ("add", "iadd", "sub", "isub"):
            made = self._sum(node, left, right, (-1.0 if "sub" in name else 1.0) * kwargs.get("alpha", 1))
        elif name in ("mul", "imul"):
            made = self._product(node, left, right)
        elif name in ("truediv", "itruediv", "div") and not isinstance(right, _Features):
            made = _Features(self.wiring.affine(left.nodes, 1 / self._constant(node, right, len(left))))
        else:
            raise self._unsupported(node)
        in_place = name.startswith("i") or (node.op == "call_method" and str(node.target).endswith("_"))
        if in_place and isinstance(left, _Features):
            self._overwrite(left, made)
        return made

    def _linear(
        self, node: fx.Node, features: _Features, weight: Any, bias: Tensor | None = None, kept: Tensor | None = None
    ) -> _Features:
        if not isinstance(weight, Tensor):
            raise self._unsupported(node, "its weights depend on the input")
        self._same_width(node, len(features), weight.shape[1])
        return _Features(self.wiring.linear(features.nodes, weight, bias, kept=kept))

    def _sum(self, node: fx.Node, left: Any, right: Any, factor: float) -> _Features:
        if not isinstance(right, _Features):
            return _Features(self.wiring.affine(left.nodes, 1.0, factor * self._constant(node, right, len(left))))
        if not isinstance(left, _Features):
            return _Features(self.wiring.affine(right.nodes, factor, self._constant(node, left, len(right))))
        self._same_width(node, len(right), len(left))
        return _Features(self.wiring.add(left.nodes, right.nodes, factor=factor))

    def _product(self, node: fx.Node, left: Any, right: Any) -> _Features:
        if isinstance(left, _Features) and isinstance(right, _Features):
            self._same_width(node, len(right), len(left))
            return _Features(self.wiring.multiply(left.nodes, right.nodes))
        features, constant = (left, right) if isinstance(left, _Features) else (right, left)
        return _Features(self.wiring.affine(features.nodes, self._constant(node, constant, len(features))))

    def _constant(self, node: fx.Node, value: Any, width: int) -> Tensor:
        constant = torch.as_tensor(value, dtype=torch.float64)  # 1 / 3 should be as exact as the network
        if constant.numel() not in (1, width) or constant.shape[-1:].numel() != constant.numel():
            raise self._unsupported(node, f"combines {width} features with a constant of shape {tuple(constant.shape)}")
        return constant.reshape(-1)

    def _overwrite(self, old: _Features, new: _Features) -> None:
        """An operation in place: whoever reads its input later reads the result."""
        for node, value in self.values.items():
            if value is old:
                self.values[node] = new

    def _same_width(self, node: fx.Node, got: int, wanted: int) -> None:
        if got != wanted:
            raise self._unsupported(node, f"got {got} features where it wants {wanted}")

    def _warn_of_training(self, node: fx.Node, training: bool) -> None:
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if training if module is None else module.training:
            warnings.warn(
                f"{node.name} is in training mode, and is converted as in evaluation mode; call .eval() to agree",
                stacklevel=2,
            )

    def _unsupported(self, node: fx.Node, why: str = "") -> ValueError:
        what = self.modules[str(node.target)] if node.op == "call_module" else _name(node, self.modules)
        reason = f": {why}" if why else ""
        return ValueError(
            f"{what} ({node.name} in the module) cannot become nodes and edges{reason}; supported: {SUPPORTED}"
        )


def _name(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return "linear" if isinstance(module, nn.Linear) else type(module).__name__.lower()
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name.lower().replace("_", "")


def _pruned(module: nn.Module, name: str) -> tuple[Tensor, Tensor | None]:
    """A parameter, and what of it is kept. A pruned one is made here: it is renewed only when the module is called."""
    mask, original = getattr(module, f"{name}_mask", None), getattr(module, f"{name}_orig", None)
    if mask is None or original is None:
        return getattr(module, name), None
    return original * mask, mask != 0


def _leaves(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _leaves(argument)
    else:
        yield arguments


def _as_numbers(arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return {key: _as_numbers(argument) for key, argument in arguments.items()}
    if isinstance(arguments, tuple | list):
        return type(arguments)(_as_numbers(argument) for argument in arguments)
    return arguments.nodes.expand(2, -1).contiguous() if isinstance(arguments, _Features) else arguments
